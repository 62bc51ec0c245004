use super::*;

fn key(name: &str) -> &'static Key {
    Key::find(name).unwrap()
}

fn report(wall_ms: u64, failed: usize, peak: u64) -> Report {
    Report {
        model: "m".into(),
        plan: "p".into(),
        reasons: Vec::new(),
        files: 2,
        silent: 0,
        failed,
        load_ms: 500,
        wall_ms,
        audio_ms: 60_000,
        speech_ms: 50_000,
        windows: 4,
        model_workers: 2,
        model_busy_ms: wall_ms,
        model_waited_ms: 10,
        speech_busy_ms: 5,
        decode_busy_ms: 5,
        peak_rss_bytes: Some(peak),
        vram_bytes: None,
        sm_percent: None,
        texts: Vec::new(),
    }
}

fn configuration(value: &str, wer: Option<f64>, walls: &[u64], peak: u64) -> Configuration {
    let rounds =
        walls.iter().map(|&wall| Round { wer, ..Round::new(report(wall, 0, peak), &Truths::default()) });
    Configuration {
        settings: vec![(key("beam_size"), value.to_owned())],
        rounds: rounds.collect(),
        failure: None,
    }
}

#[test]
fn every_combination_is_a_configuration() {
    let values = |list: &[&str]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
    let axes = [(key("whisper_model"), values(&["a", "b"])), (key("beam_size"), values(&["1", "5"]))];
    let all = configurations(&axes);
    let names: Vec<String> = all.iter().map(Configuration::name).collect();
    assert_eq!(names[..2], ["whisper_model=a beam_size=1", "whisper_model=a beam_size=5"]);
    assert_eq!(names.len(), 4);
    assert_eq!(all[3].environment(), ["WHISPER_MODEL=b", "BEAM_SIZE=5"]);
    assert_eq!(configurations(&[])[0].name(), "as configured");
}

#[test]
fn figures_of_a_round() {
    let round = Round::new(report(2_000, 0, 1), &Truths::default());
    assert_eq!(round.realtime, 30.0);
    assert_eq!(round.hours_per_hour, 24.0);
    assert_eq!(round.model_busy, 0.5);
    assert_eq!(round.wer, None);
}

#[test]
fn the_median_round_stands_for_a_configuration() {
    let c = configuration("1", None, &[4_000, 1_000, 2_000], 7);
    assert_eq!(c.median().unwrap().report.wall_ms, 2_000);
    assert_eq!(configuration("1", None, &[4_000, 1_000], 7).median().unwrap().report.wall_ms, 4_000);
    assert!(configuration("1", None, &[], 7).median().is_none());
}

#[test]
fn the_fastest_of_the_good_is_recommended() {
    let all = [
        configuration("1", Some(9.0), &[1_000], 10),
        configuration("2", Some(5.1), &[3_000], 10),
        configuration("3", Some(5.0), &[4_000], 10),
    ];
    assert_eq!(recommend(&all, 1_000), Some(1));
    let unknown = all.map(|c| Configuration {
        rounds: c.rounds.into_iter().map(|r| Round { wer: None, ..r }).collect(),
        ..c
    });
    assert_eq!(recommend(&unknown, 1_000), Some(0));
}

#[test]
fn what_does_not_fit_or_fails_is_not_recommended() {
    let mut all = [
        configuration("1", None, &[1_000], 950),
        configuration("2", None, &[2_000], 800),
        configuration("3", None, &[2_010], 500),
        configuration("4", None, &[2_500], 100),
    ];
    // The second and third are as fast as each other.
    assert_eq!(recommend(&all, 1_000), Some(2));
    all[2].failure = Some("was killed".into());
    all[1].rounds[0].report.failed = 1;
    assert_eq!(recommend(&all, 1_000), Some(3));
    assert_eq!(recommend(&all, 50), None);
}
