//! `spoken queue`: look at the queue and steer it.

mod drill;
mod show;

use anyhow::bail;

use super::library::the_one;
use super::world::World;
use crate::cli::{BumpArgs, CancelArgs, EXIT_FAILED, EXIT_OK, PauseArgs, QueueArgs, QueueCommand};
use crate::media::MediaId;
use crate::queue::{Cancel, Control, Pause, PauseEnd, Steered};

/// `spoken queue` and its commands.
///
/// # Errors
/// Where an item is not known or not unique, the database's, or standard output's.
pub async fn queue(world: &World, args: &QueueArgs) -> anyhow::Result<u8> {
    let control = Control::open(world.store.pool()).await?;
    match &args.command {
        None => show::show(&control.overview(args.limit).await?, args.json),
        Some(QueueCommand::Pause(args)) => pause(&control, args).await,
        Some(QueueCommand::Resume) => {
            let was = control.resume().await?;
            eprintln!("{}", if was { "the queue goes on" } else { "the queue was not paused" });
            Ok(EXIT_OK)
        }
        Some(QueueCommand::Bump(args)) => bump(world, &control, args).await,
        Some(QueueCommand::Cancel(args)) => cancel(world, &control, args).await,
        Some(QueueCommand::Drill(args)) => drill::drill(world, &control, args).await,
    }
}

async fn pause(control: &Control, args: &PauseArgs) -> anyhow::Result<u8> {
    let end = match (args.after, args.until) {
        (Some(after), _) => PauseEnd::After(after),
        (None, Some(until)) => {
            let now = control.now().await?;
            let at = until.after(now);
            if at <= now {
                bail!("{} is over", show::local(at));
            }
            PauseEnd::At(at)
        }
        (None, None) => PauseEnd::Open,
    };
    let Pause { until, .. } = control.pause(end).await?;
    let until = until.map_or_else(
        || "until `spoken queue resume`".to_owned(),
        |until| format!("until {} or `spoken queue resume`", show::local(until)),
    );
    eprintln!("the queue is paused {until}; what runs is finished");
    Ok(EXIT_OK)
}

async fn ids(world: &World, media: &[String]) -> anyhow::Result<Vec<MediaId>> {
    let mut ids = Vec::with_capacity(media.len());
    for what in media {
        let id = the_one(&world.store, what).await?.media_id;
        if !ids.contains(&id) {
            ids.push(id);
        }
    }
    Ok(ids)
}

/// `1 item is`, `2 items are`.
fn items_are(n: usize) -> String {
    if n == 1 { "1 item is".to_owned() } else { format!("{n} items are") }
}

async fn bump(world: &World, control: &Control, args: &BumpArgs) -> anyhow::Result<u8> {
    let ids = ids(world, &args.media).await?;
    let steered = control.bump(&ids).await?;
    let count = |what: Steered| steered.iter().filter(|s| **s == what).count();
    let (first, active, neither) = (count(Steered::Waited), count(Steered::Active), count(Steered::Neither));
    if first > 0 {
        eprintln!("{} next", items_are(first));
    }
    if active > 0 {
        eprintln!("{} being worked on already", items_are(active));
    }
    if neither > 0 {
        eprintln!("{} not waiting: done, failed or cancelled; see `spoken retry --help`", items_are(neither));
    }
    Ok(if first + active > 0 { EXIT_OK } else { EXIT_FAILED })
}

async fn cancel(world: &World, control: &Control, args: &CancelArgs) -> anyhow::Result<u8> {
    let what =
        if args.all_waiting { Cancel::AllWaiting } else { Cancel::Ids(ids(world, &args.media).await?) };
    let taken = control.cancel(&what).await?;
    let running = taken.iter().filter(|(_, how)| *how == Steered::Active).count();
    if taken.is_empty() {
        eprintln!("nothing to cancel: what was named neither waits nor runs");
        return Ok(if args.all_waiting { EXIT_OK } else { EXIT_FAILED });
    }
    let stopping = match running {
        0 => String::new(),
        n if n == taken.len() => "; work on it stops now".to_owned(),
        n => format!("; work on {n} of them stops now"),
    };
    eprintln!("{} cancelled{stopping}; `spoken retry` brings back what was", items_are(taken.len()));
    Ok(EXIT_OK)
}
