//! What people read.

use chrono::{TimeZone, Utc};

use super::*;
use crate::store::Counts;
use crate::store::stats::{Failed, Ran, Storage, Totals, Vectors};

fn share(name: Option<&str>, items: i64, hours: i64, others: i64) -> Share {
    Share { name: name.map(str::to_owned), items, audio_ms: hours * 3_600_000, words: 0, others }
}

fn some() -> Stats {
    let at = |day: u32| Utc.with_ymd_and_hms(2026, 3, day, 0, 0, 0).unwrap();
    let bucket = |day, items, hours: i64| Bucket { from: at(day), items, audio_ms: hours * 3_600_000 };
    Stats {
        at: at(4),
        items: Counts { queued: 3, active: 0, done: 1_200, failed: 4 },
        totals: Totals {
            transcripts: 1_200,
            audio_ms: 412 * 3_600_000,
            speech_ms: 300 * 3_600_000,
            transcribed_ms: 297 * 3_600_000,
            words: 3_512_000,
            segments: 240_000,
            dropped: 1,
            flagged: 2,
        },
        languages: vec![share(Some("en"), 900, 300, 0), share(Some("\u{1b}[31mde"), 300, 112, 0)],
        sources: vec![share(Some("file"), 1_200, 412, 0)],
        channels: (0..9)
            .map(|n| share(Some(["a", "b", "c", "d", "e", "f", "g", "h", "i"][n]), 10, 2, 0))
            .chain([share(None, 5, 3, 7)])
            .collect(),
        models: vec![share(None, 3, 1, 0)],
        failures: vec![Failed { class: "network".into(), items: 4 }],
        doubtful: Doubtful { avg_logprob: -1.0, segments: 12, passages: 7, of_passages: 40_000, items: 3 },
        storage: Storage {
            database: 5_200_000_000,
            text: 3_100_000_000,
            vectors: vec![Vectors { model: "small".into(), dimension: 384, bytes: 1_900_000_000 }],
        },
        runs: vec![Ran {
            started_at: at(1),
            finished_at: at(2),
            items: 41,
            audio_ms: 12 * 3_600_000,
            wall_ms: 3_600_000,
        }],
        activity: vec![bucket(1, 8, 8), bucket(2, 0, 0), bucket(3, 1, 0), bucket(4, 4, 4)],
        unit: Unit::Day,
    }
}

#[test]
fn every_figure_has_a_line() {
    let text: Vec<String> = lines(&some()).iter().map(|(name, line)| format!("{name} {line}")).collect();
    let text = text.join("\n");
    for line in [
        "items 1200 done, 4 failed, 3 queued, 2 incomplete by the look of it",
        "audio 412 h, 300 h of it speech, 99 % of which has text",
        "text 3 512 000 words in 240 000 segments; 1 text not believed",
        "doubtful 12 segments in 7 passages of 3 items (0.0 % of the passages) below a mean log-probability of -1",
        "channels a 2.0 h (10), b 2.0 h (10), c 2.0 h (10), d 2.0 h (10), e 2.0 h (10), f 2.0 h (10), 10 more 9.0 h",
        "failures network 4",
        "storage 5.2 GB: 3.1 GB of text, 1.9 GB of vectors (small)",
        "41 items, 12.0 h in 1 h, 12 × realtime",
        "activity █·▁▄",
        " audio transcribed a day, 2026-03-01 to 2026-03-04; at most 8.0 h",
    ] {
        assert!(text.contains(line), "{line:?} is not in\n{text}");
    }
    assert!(!text.contains('\u{1b}') && !text.contains("models"), "{text:?}");
}

#[test]
fn the_picture_has_a_bar_for_whatever_was_done() {
    let picture = chart::svg(&some());
    assert_eq!(picture.matches("fill=\"#2f6f9f\"").count(), 3);
    assert!(picture.contains("2026-03-01: 8 h, 8 items"), "{picture}");
    let mut none = some();
    none.activity.clear();
    assert!(chart::svg(&none).ends_with("</svg>\n"));
}
