//! `spoken limits`: how hard sites were asked in the last hour, which are left alone, and why.

use std::io::Write;

use console::style;
use serde_json::json;

use super::{steps, world::World};
use crate::cli::{EXIT_OK, LimitsArgs};
use crate::govern::{self, Limits, Site, Standing};
use crate::telemetry::sanitize;

/// `spoken limits`.
///
/// # Errors
/// The database's, or standard output's.
pub async fn limits(world: &World, args: &LimitsArgs) -> anyhow::Result<u8> {
    let rules = steps::rules(&world.config)?;
    let sites = govern::standing(world.store.pool()).await?;
    let mut out = std::io::stdout().lock();
    if args.json {
        let rows: Vec<_> = sites
            .iter()
            .map(|s| {
                let limits = rules.limits(&Site::of_name(&s.site)).map(|l| {
                    json!({
                        "videos": l.videos, "requests": l.requests, "downloads": l.downloads,
                        "interval_s": l.interval.as_secs_f64(), "window_s": l.window.as_secs_f64(),
                    })
                });
                let mut row = json!(s);
                row["limits"] = json!(limits);
                row
            })
            .collect();
        writeln!(out, "{}", serde_json::to_string_pretty(&json!({ "sites": rows }))?)?;
        return Ok(EXIT_OK);
    }
    if sites.is_empty() {
        eprintln!("no site was asked for anything in the last hour, and none is left alone");
        return Ok(EXIT_OK);
    }
    for site in &sites {
        for line in lines(site, rules.limits(&Site::of_name(&site.site))) {
            writeln!(out, "{line}")?;
        }
    }
    Ok(EXIT_OK)
}

/// Lines about sites that are left alone, for whoever wonders why nothing happens.
pub fn resting(sites: &[Standing]) -> Vec<String> {
    sites.iter().filter(|s| s.open_s.is_some() || s.half_open).flat_map(breaker).collect()
}

fn lines(site: &Standing, limits: Option<Limits>) -> Vec<String> {
    let of = |used: i64, most: Option<u32>| match most {
        Some(most) if most > 0 => format!("{used} of {most}"),
        _ => used.to_string(),
    };
    let identity = if site.identity == "none" { String::new() } else { format!(" with {}", site.identity) };
    let mut lines = vec![format!(
        "{}{identity}  {} videos, {} requests in the last hour; {} downloads run",
        style(sanitize(&site.site)).bold(),
        of(site.videos, limits.map(|l| l.videos)),
        of(site.requests, limits.map(|l| l.requests)),
        of(site.downloads, limits.map(|l| l.downloads)),
    )];
    lines.extend(breaker(site));
    lines
}

fn breaker(site: &Standing) -> Vec<String> {
    let reason = sanitize(site.reason.as_deref().unwrap_or_default()).into_owned();
    let name = sanitize(&site.site).into_owned();
    let mut lines = match site.open_s {
        Some(seconds) => {
            let minutes = (seconds / 60.0).ceil();
            vec![format!("  {} {name} is left alone for another {minutes} min: {reason}", style("└").dim())]
        }
        None if site.half_open => {
            vec![format!("  {} {name} is tried with one item next: {reason}", style("└").dim())]
        }
        None => return Vec::new(),
    };
    lines.extend(site.remedy.as_ref().map(|r| format!("    {}", style(sanitize(r)).dim())));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_site_that_is_left_alone_says_why_and_for_how_long() {
        let mut site = Standing {
            site: "example.org".into(),
            identity: "none".into(),
            videos: 3,
            requests: 40,
            downloads: 1,
            open_s: Some(90.0),
            half_open: false,
            reason: Some("429 \u{1b}[31m".into()),
            remedy: Some("wait".into()),
        };
        let text = lines(&site, None).join("\n");
        assert!(text.contains("3 videos, 40 requests"), "{text}");
        assert!(text.contains("left alone for another 2 min: 429") && text.contains("wait"), "{text}");
        assert!(!text.contains("\u{1b}[31m"), "{text:?}");
        assert_eq!(resting(std::slice::from_ref(&site)).len(), 2);
        site.open_s = None;
        assert!(resting(&[site]).is_empty());
    }
}
