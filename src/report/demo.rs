//! A made-up run to look at, in real time on the terminal at hand:
//!
//! ```sh
//! cargo test --release --lib report::demo -- --ignored --nocapture --exact report::demo::look
//! ```
//!
//! `DEMO_ITEMS` (60), `DEMO_GPUS` (0) and `DEMO_SPEED` (1.0) change it, `DEMO_PANIC=N` panics once
//! in the Nth tenth of a second. Ctrl-C drains, a second one quits.

use std::collections::VecDeque;
use std::str::FromStr;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

use super::{Mode, Options, Terminal, run};
use crate::event::{Event, Events, FailedItem, Gpu, Machine, RunSummary, Step};
use crate::media::{FailureClass, MediaId};
use crate::stage::StageSummary;

const TITLES: [&str; 10] = [
    "A short one",
    "日本語のとても長いタイトル：東京の夏祭りを歩いて花火を見る、屋台の味と人の声、そして夜の帰り道まで全部入り",
    "שיחה ארוכה מאוד על תכנות, מוזיקה ומזג האוויר בירושלים בחורף 2023 עם שלושה אורחים",
    "👨‍👩‍👧 Family vlog 🎬🎬🎬 – we moved to the countryside!! ❤️ (part 2) 👍🏽 with a very long tail of words that never ends",
    "محاضرة عن تاريخ العلوم في العصر الذهبي – الجزء الأول",
    "Z\u{336}a\u{337}\u{336}\u{338}l\u{335}g\u{334}o and e\u{301}le\u{300}ves de l'e\u{301}cole",
    "evil \u{1b}[31mred\u{1b}[0m \u{1b}[2J\u{7} \u{202E}txt.exe\u{202C} title\r\nwith breaks",
    "Lecture 14: Distributed consensus, Raft and the art of agreeing on anything at all (with questions)",
    "한국어 강의: 데이터베이스 시스템의 이해",
    "interview_2024-03-11_final_v2(3)",
];

struct Playing {
    id: MediaId,
    title: String,
    audio: f64,
    bytes: f64,
    step: Step,
    done: f64,
    began: f64,
}

#[derive(Default)]
struct Stage {
    name: &'static str,
    workers: usize,
    hands: Vec<Playing>,
    queue: VecDeque<Playing>,
    capacity: usize,
    busy: f64,
    wait_in: f64,
    wait_out: f64,
    items: u64,
}

impl Stage {
    fn new(name: &'static str, workers: usize, capacity: usize) -> Self {
        Self { name, workers, capacity, ..Self::default() }
    }

    fn summary(&self) -> StageSummary {
        StageSummary {
            name: self.name,
            workers: self.workers,
            busy_ms: (self.busy * 1000.0) as u64,
            wait_in_ms: (self.wait_in * 1000.0) as u64,
            wait_out_ms: (self.wait_out * 1000.0) as u64,
            items: self.items,
            in_hand: self.hands.len(),
            queued: self.queue.len(),
            capacity: self.capacity,
        }
    }
}

fn setting<T: FromStr>(name: &str, default: T) -> T {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

/// Plays the run, a tenth of a second of it at a time.
async fn play(events: Events, terminal: Terminal) {
    let (items, gpus) = (setting("DEMO_ITEMS", 60_usize), setting("DEMO_GPUS", 0_usize));
    let dt = 0.1 * setting("DEMO_SPEED", 1.0);
    let mut source: VecDeque<Playing> = (0..items)
        .map(|n| {
            let audio = 120.0 + (n * 7919 % 3600) as f64;
            let title = format!("{} #{n}", TITLES[n % TITLES.len()]);
            let id = MediaId::new("demo", &n.to_string());
            Playing { id, title, audio, bytes: audio * 16_000.0, step: Step::Fetch, done: 0.0, began: 0.0 }
        })
        .collect();
    events.send(Event::SourceListed { source: "https://example.org/talks".into(), items, new: items - 4 });
    for item in &source {
        events.send(Event::ItemQueued { media_id: item.id, title: item.title.clone() });
    }
    let mut io = Stage::new("io", 24, 0);
    let mut asr = Stage::new("asr", 2, 4);
    let mut db = Stage::new("db", 12, 4);
    let mut outcome = RunSummary::default();
    let mut time = 0.0;
    let mut stopping = false;
    let mut ticks = tokio::time::interval(Duration::from_millis(100));
    let mut interrupts = signal(SignalKind::interrupt()).expect("a handler for Ctrl-C");
    for n in 0_u64.. {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = interrupts.recv() => {
                if std::mem::replace(&mut stopping, true) {
                    terminal.close();
                    std::process::exit(130);
                }
                events.send(Event::StopRequested);
                outcome.interrupted = true;
                source.clear();
            }
        }
        time += dt;
        while io.hands.len() < io.workers
            && let Some(mut item) = source.pop_front()
        {
            item.began = time;
            events.send(Event::ItemStarted { media_id: item.id, title: item.title.clone() });
            events.send(Event::StepStarted { media_id: item.id, step: Step::Fetch });
            io.hands.push(item);
        }
        for stage in [&mut asr, &mut db] {
            while stage.hands.len() < stage.workers
                && let Some(mut item) = stage.queue.pop_front()
            {
                item.done = 0.0;
                item.step = if stage.name == "asr" { Step::Transcribe } else { Step::Embed };
                events.send(Event::StepStarted { media_id: item.id, step: item.step });
                stage.hands.push(item);
            }
        }
        for stage in [&mut io, &mut asr, &mut db] {
            stage.busy += dt * stage.hands.len() as f64;
            stage.wait_in += dt * (stage.workers - stage.hands.len()) as f64;
            for (i, item) in stage.hands.iter_mut().enumerate() {
                let (total, speed) = match item.step {
                    Step::Fetch | Step::HandOver | Step::Receive => {
                        (item.bytes, 900_000.0 * (1.0 + i as f64 / 9.0))
                    }
                    Step::Decode => (item.audio * 1000.0, 400_000.0),
                    Step::Transcribe => (item.audio * 1000.0, 90_000.0),
                    Step::Embed | Step::Store => (item.audio / 20.0, 150.0),
                };
                item.done = (item.done + speed * dt).min(total);
                let total = (item.step != Step::Fetch || i % 5 != 0).then_some(total as u64);
                let done = item.done as u64;
                events.send(Event::StepProgressed { media_id: item.id, step: item.step, done, total });
            }
        }
        for i in (0..io.hands.len()).rev() {
            let item = &mut io.hands[i];
            if item.step == Step::Fetch && item.done >= item.bytes {
                (item.step, item.done) = (Step::Decode, 0.0);
                events.send(Event::StepStarted { media_id: item.id, step: Step::Decode });
            } else if item.step == Step::Decode && item.done >= item.audio * 1000.0 {
                if asr.queue.len() < asr.capacity {
                    io.items += 1;
                    asr.queue.push_back(io.hands.remove(i));
                } else {
                    io.wait_out += dt;
                    io.busy -= dt;
                }
            }
        }
        for i in (0..asr.hands.len()).rev() {
            if asr.hands[i].done >= asr.hands[i].audio * 1000.0 && db.queue.len() < db.capacity {
                asr.items += 1;
                db.queue.push_back(asr.hands.remove(i));
            }
        }
        for i in (0..db.hands.len()).rev() {
            if db.hands[i].done < db.hands[i].audio / 20.0 {
                continue;
            }
            let item = db.hands.remove(i);
            db.items += 1;
            let (media_id, title) = (item.id, item.title);
            if (db.items + 3).is_multiple_of(9) {
                let (class, message) = (FailureClass::Truncated, "the audio ends at 3:12 of 48:40");
                let remedy = Some("download it again, then `spoken retry`".to_owned());
                let (message, source) =
                    (message.to_owned(), format!("https://example.org/watch?v={}", db.items));
                outcome.failed += 1;
                outcome.failures.push(FailedItem {
                    media_id,
                    title: title.clone(),
                    source: source.clone(),
                    class,
                    message: message.clone(),
                    remedy: remedy.clone(),
                });
                events.send(Event::ItemFailed { media_id, title, source, class, message, remedy });
                continue;
            }
            outcome.done += 1;
            outcome.audio_ms += (item.audio * 1000.0) as u64;
            events.send(Event::ItemFinished {
                media_id,
                title,
                audio_ms: (item.audio * 1000.0) as i64,
                segments: item.audio as usize / 4,
                took_ms: ((time - item.began) * 1000.0) as u64,
            });
        }
        let stages = vec![io.summary(), asr.summary(), db.summary()];
        if setting("DEMO_PANIC", 0) == n && n > 0 {
            // In a thread of its own, as a worker's: the run goes on.
            let _ = std::thread::spawn(|| panic!("a worker panicked")).join();
        }
        if n.is_multiple_of(5) {
            events.send(Event::StagesSampled { stages: stages.clone() });
        }
        if n.is_multiple_of(10) {
            let gpu = |i: usize| Gpu {
                name: "NVIDIA H100 80GB HBM3".into(),
                sm_percent: 25 + (n as u32 / 10 + i as u32 * 3) % 12,
                vram_used: 52 << 30,
                vram_total: 80 << 30,
                power_percent: Some(70),
                temperature: Some(64),
            };
            events.send(Event::MachineSampled(Machine {
                cpu_busy: 1.9,
                cores: 2,
                rss_bytes: 412_000_000,
                gpus: (0..gpus).map(gpu).collect(),
            }));
        }
        let in_hand = [&io, &asr, &db].iter().map(|s| s.hands.len() + s.queue.len()).sum::<usize>();
        if source.is_empty() && in_hand == 0 {
            outcome.wall_ms = (time * 1000.0) as u64;
            outcome.stages = stages;
            break;
        }
    }
    events.send(Event::RunFinished(outcome));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "to be looked at: takes minutes and draws on the terminal"]
async fn look() {
    let mode = if std::env::var_os("DEMO_JSON").is_some() { Mode::Json } else { Mode::detect() };
    let terminal = Terminal::stderr(mode);
    terminal.guard_panics();
    let (events, told) = Events::channel();
    let player = tokio::spawn(play(events, terminal.clone()));
    run(terminal, told, Options::default()).await;
    player.await.expect("played to the end");
}
