//! What the figures say about the settings: which one to raise, and where the time went.

use std::time::{Duration, Instant};

use super::figures::{duration, percent};
use super::model::Model;
use crate::event::RunSummary;
use crate::stage::StageSummary;

/// A GPU may idle this long before anybody is told.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a stage does, for people.
pub fn stage_title(name: &str) -> &str {
    match name {
        "io" => "download and decoding",
        "speech" => "speech detection",
        "asr" => "transcription",
        "db" => "embedding and storing",
        other => other,
    }
}

/// True where nothing more fits into the stage's input.
pub fn is_full(stage: &StageSummary) -> bool {
    stage.capacity > 0 && stage.queued >= stage.capacity
}

/// Which setting to raise while the GPU idles and work waits; `None` while there is nothing to say.
pub fn raise(model: &Model, now: Instant) -> Option<String> {
    if model.gpu_low_for(now) < PATIENCE {
        return None;
    }
    let stage = |name| model.stages.iter().find(|s| s.name == name);
    let (io, asr, db) = (stage("io")?, stage("asr")?, stage("db"));
    if db.is_some_and(is_full) {
        return Some("the GPU waits for the database: raise DB_WORKERS".into());
    }
    if is_full(asr) {
        return Some("the GPU has room: raise WHISPER_BATCH_SIZE or ASR_WORKERS".into());
    }
    if asr.queued == 0 && stage("speech").is_some_and(is_full) {
        return Some("the GPU waits for speech detection: raise ASR_WORKERS".into());
    }
    (asr.queued == 0 && io.workers > 0 && io.in_hand >= io.workers)
        .then(|| format!("the GPU waits for audio: raise IO_WORKERS (all {} are busy)", io.workers))
}

/// Share of the stage's worker time that was work, percent.
pub fn busy_percent(stage: &StageSummary, wall_ms: u64) -> u64 {
    percent(stage.busy_ms, wall_ms.saturating_mul(stage.workers as u64))
}

/// The stage whose workers were busiest.
pub fn busiest(summary: &RunSummary) -> Option<(usize, &StageSummary)> {
    let share = |s: &StageSummary| s.busy_ms as f64 / s.workers as f64;
    summary
        .stages
        .iter()
        .enumerate()
        .filter(|(_, s)| s.workers > 0 && s.busy_ms > 0)
        .max_by(|(_, a), (_, b)| share(a).total_cmp(&share(b)))
}

/// Where the time went, in one sentence; `None` where nothing was measured.
pub fn bottleneck(summary: &RunSummary) -> Option<String> {
    let (at, stage) = busiest(summary)?;
    let share = busy_percent(stage, summary.wall_ms);
    let title = stage_title(stage.name);
    let who = if stage.workers == 1 { "its worker was" } else { "its workers were" };
    if share < 50 {
        return Some(format!(
            "No stage was the bottleneck: the busiest, {title}, worked {share} % of the time (few items, or starting up)."
        ));
    }
    let (before, after) = (&summary.stages[..at], &summary.stages[at + 1..]);
    let blocked: u64 = before.iter().map(|s| s.wait_out_ms).sum();
    let starved: u64 = after.iter().map(|s| s.wait_in_ms).sum();
    let stages = |side: &[StageSummary]| if side.len() == 1 { "stage" } else { "stages" };
    let evidence = if blocked >= 1000 {
        format!("; the {} before it waited {} for room", stages(before), duration(blocked))
    } else if starved >= 1000 {
        format!("; the {} after it waited {} for input", stages(after), duration(starved))
    } else {
        String::new()
    };
    Some(format!("Bottleneck: {title} ({who} busy {share} % of the time){evidence}."))
}

/// How well the stages overlapped: busy milliseconds a worker of the busiest stage, and the wall time as a multiple
/// of them (1.0 is perfect).
pub fn overlap(summary: &RunSummary) -> Option<(u64, f64)> {
    let (_, stage) = busiest(summary)?;
    let busy = stage.busy_ms / stage.workers as u64;
    (busy > 0).then(|| (busy, summary.wall_ms as f64 / busy as f64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Event, Gpu, Machine};
    use crate::media::MediaId;

    fn stage(name: &'static str, workers: usize, busy_ms: u64) -> StageSummary {
        StageSummary {
            name,
            workers,
            busy_ms,
            wait_in_ms: 0,
            wait_out_ms: 0,
            items: 1,
            in_hand: 0,
            queued: 0,
            capacity: 4,
        }
    }

    fn idle_gpu(stages: Vec<StageSummary>) -> (Model, Instant) {
        let t0 = Instant::now();
        let later = t0 + Duration::from_secs(31);
        let mut model = Model::new(t0);
        let low = Event::MachineSampled(Machine {
            gpus: vec![Gpu { sm_percent: 12, ..Gpu::default() }],
            ..Machine::default()
        });
        model.apply(&Event::ItemQueued { media_id: MediaId::new("t", "1"), title: String::new() }, t0);
        model.apply(&low, t0);
        model.apply(&Event::StagesSampled { stages }, later);
        model.apply(&low, later);
        (model, later)
    }

    #[test]
    fn advice_names_the_setting_that_the_queues_point_at() {
        let mut io = stage("io", 24, 1);
        io.in_hand = 24;
        let asr = stage("asr", 2, 1);
        let (model, now) = idle_gpu(vec![io.clone(), asr.clone(), stage("db", 12, 1)]);
        assert_eq!(raise(&model, now - Duration::from_secs(2)), None, "not before its time");
        assert!(raise(&model, now).expect("advice").contains("IO_WORKERS (all 24"));

        let full = StageSummary { queued: 4, ..asr.clone() };
        let (model, now) = idle_gpu(vec![io.clone(), full.clone(), stage("db", 12, 1)]);
        assert!(raise(&model, now).expect("advice").contains("WHISPER_BATCH_SIZE"));

        let db = StageSummary { queued: 4, ..stage("db", 12, 1) };
        let (model, now) = idle_gpu(vec![io.clone(), full, db]);
        assert!(raise(&model, now).expect("advice").contains("DB_WORKERS"));

        let speech = StageSummary { queued: 4, ..stage("speech", 2, 1) };
        let (model, now) = idle_gpu(vec![io.clone(), speech, asr.clone(), stage("db", 12, 1)]);
        assert!(raise(&model, now).expect("advice").ends_with("raise ASR_WORKERS"));

        io.in_hand = 3;
        let (model, now) = idle_gpu(vec![io, asr, stage("db", 12, 1)]);
        assert_eq!(raise(&model, now), None, "workers are free: more of them would not help");
    }

    #[test]
    fn the_bottleneck_is_named_from_measured_time() {
        let mut io = stage("io", 2, 10_000);
        io.wait_out_ms = 150_000;
        let mut db = stage("db", 4, 4_000);
        db.wait_in_ms = 300_000;
        let mut run = RunSummary {
            wall_ms: 100_000,
            stages: vec![io, stage("asr", 2, 188_000), db],
            ..RunSummary::default()
        };
        assert_eq!(
            bottleneck(&run).expect("measured"),
            "Bottleneck: transcription (its workers were busy 94 % of the time); \
             the stage before it waited 2 min 30 s for room."
        );
        assert_eq!(overlap(&run), Some((94_000, 100.0 / 94.0)));

        run.stages[0].busy_ms = 198_000;
        assert_eq!(
            bottleneck(&run).expect("measured"),
            "Bottleneck: download and decoding (its workers were busy 99 % of the time); \
             the stages after it waited 5 min for input."
        );
        run.stages.iter_mut().for_each(|s| s.busy_ms /= 10);
        assert!(bottleneck(&run).expect("measured").starts_with("No stage was the bottleneck"));
        run.stages.clear();
        assert_eq!((bottleneck(&run), overlap(&run)), (None, None));
    }
}
