use super::*;

const SECOND: u64 = SAMPLE_RATE as u64;

fn packer(chunk_s: u64) -> Packer {
    Packer::new(Params::new(&SpeechOptions {
        chunk: Duration::from_secs(chunk_s),
        ..SpeechOptions::default()
    }))
}

/// Cuts a recording of `length` with speech at `spans` (both in seconds), all frames alike but those at `quiet`;
/// windows as (start, end, spans in it).
fn cut(packer: &mut Packer, length: f64, spans: &[(f64, f64)], quiet: f64) -> Vec<(f64, f64, usize)> {
    let at = |s: f64| (s * SECOND as f64) as u64;
    let seconds = |n: u64| (n as f64 / SECOND as f64 * 100.0).round() / 100.0;
    let mut windows = Vec::new();
    let mut told = 0;
    let frames = at(length) / FRAME as u64;
    for i in 0..frames {
        let end = (i + 1) * FRAME as u64;
        packer.push_samples(&[i as i16; FRAME]);
        let near = (end as f64 / SECOND as f64 - quiet).abs() < 0.06;
        packer.push_frame(if near { 0.1 } else { 0.9 });
        while let Some(span) = spans.get(told).filter(|s| at(s.1) + at(0.16) <= end) {
            packer.push_span(Span { start: at(span.0), end: at(span.1) });
            told += 1;
        }
        packer.note_open(spans.get(told).map(|s| at(s.0)).filter(|&s| s < end));
        if i + 1 == frames {
            if let Some(span) = spans.get(told) {
                packer.push_span(Span { start: at(span.0), end: at(span.1).min(end) });
                packer.note_open(None);
            }
            packer.end();
        }
        while let Some(window) = packer.next_window() {
            assert!(window.samples.len() <= MAX_WINDOW);
            for (k, sample) in window.samples.iter().enumerate() {
                let position = window.span.start + k as u64;
                assert_eq!(*sample, (position / FRAME as u64) as i16, "samples are those of the file");
            }
            for span in &window.speech {
                assert!(span.start >= window.span.start && span.end <= window.span.end && !span.is_empty());
            }
            windows.push((seconds(window.span.start), seconds(window.span.end), window.speech.len()));
        }
    }
    windows
}

#[test]
fn what_fits_is_one_window_with_its_padding() {
    assert_eq!(cut(&mut packer(30), 12.0, &[(1.0, 3.0), (4.0, 9.0)], -1.0), [(0.8, 9.2, 2)]);
    assert_eq!(cut(&mut packer(30), 12.0, &[], -1.0), []);
}

#[test]
fn the_longest_late_pause_ends_a_window() {
    let spans = [(0.5, 9.0), (12.0, 22.0), (22.8, 26.0), (26.2, 35.0), (35.5, 40.0)];
    // 3 s of pause at 9 would leave the window nearly empty, 0.2 s at 26 is hardly one: 0.8 s at 22.
    assert_eq!(cut(&mut packer(30), 41.0, &spans, -1.0), [(0.3, 22.2, 2), (22.6, 40.2, 3)]);
}

#[test]
fn padding_meets_in_the_middle_of_a_short_pause() {
    let spans = [(0.5, 25.0), (25.2, 40.0)];
    assert_eq!(cut(&mut packer(30), 41.0, &spans, -1.0), [(0.3, 25.1, 1), (25.1, 40.2, 1)]);
}

#[test]
fn endless_speech_is_cut_where_it_is_least_like_speech() {
    let windows = cut(&mut packer(30), 50.0, &[(0.5, 49.0)], 27.0);
    assert_eq!(windows.len(), 2);
    assert!((windows[0].1 - 27.0).abs() < 0.07, "{windows:?}");
    assert_eq!(windows[1], (windows[0].1, 49.2, 1));
}

#[test]
fn speech_at_the_very_edge_goes_to_the_next_window() {
    // Ends at 30.15, less than its padding before the 30.3 that the first window could reach.
    let spans = [(0.5, 20.0), (20.5, 30.15), (31.0, 33.0)];
    assert_eq!(cut(&mut packer(30), 34.0, &spans, -1.0), [(0.3, 20.2, 1), (20.3, 33.2, 2)]);
}

#[test]
fn speech_that_just_fits_is_not_cut() {
    assert_eq!(cut(&mut packer(30), 31.0, &[(0.1, 29.95)], 27.0), [(0.0, 30.0, 1)]);
}

/// What stays of a recording with speech at `spans` (in tenths of a second), 40 s long.
fn shortened(spans: &[(u64, u64)]) -> (Timeline, Vec<u64>) {
    let mut timeline = Timeline::new(0);
    let mut kept = Vec::new();
    for position in (0..40 * SECOND).step_by(FRAME) {
        let speaking = spans.iter().any(|s| s.0 * SECOND / 10 <= position && position < s.1 * SECOND / 10);
        // Frames stay in order, also those that were held back.
        timeline.feed(position, &[position as i16; FRAME], 0.0, speaking, |samples, _| {
            kept.push(samples[0] as u64)
        });
    }
    (timeline, kept)
}

#[test]
fn long_silences_are_shortened_and_times_lead_back() {
    let (timeline, kept) = shortened(&[(50, 80), (200, 210)]);
    // A fifth of a second before and after both.
    let seconds = kept.len() as f64 * FRAME as f64 / SECOND as f64;
    assert!((seconds - 4.8).abs() < 0.1, "{seconds}");
    let speech = Span { start: 20 * SECOND, end: 21 * SECOND };
    let short = timeline.shorten(speech);
    assert!((short.start as f64 / SECOND as f64 - 3.6).abs() < 0.1, "{short:?}");
    assert_eq!(timeline.real(short), [speech]);
    let both = timeline.real(Span { start: 0, end: kept.len() as u64 * FRAME as u64 });
    assert_eq!(both.len(), 2);
    assert_eq!(both.iter().map(Span::len).sum::<u64>(), kept.len() as u64 * FRAME as u64);
    assert!(both[0].start.abs_diff(5 * SECOND - SECOND / 5) <= FRAME as u64);
    assert!(both[0].end.abs_diff(8 * SECOND + SECOND / 5) <= FRAME as u64);
}

#[test]
fn short_pauses_stay_as_they_are() {
    let (timeline, kept) = shortened(&[(50, 80), (83, 100)]);
    assert_eq!(timeline.real(Span { start: 0, end: kept.len() as u64 * FRAME as u64 }).len(), 1);
}

#[test]
fn windows_are_pieces_of_the_file() {
    // The sample's speech three times, half a minute and a minute apart.
    let speech = voice_memo();
    let mut sound = speech.clone();
    for pause in [20, 60] {
        sound.resize(sound.len() + 2 * pause * SAMPLE_RATE as usize, 0);
        sound.extend(&speech[..2 * 6 * SAMPLE_RATE as usize]);
    }
    let windows: Vec<Window> =
        Windows::new(&sound[..], &SpeechOptions::default()).collect::<io::Result<_>>().unwrap();
    let mut reached = 0;
    for window in &windows {
        let mut samples = Vec::new();
        for piece in &window.pieces {
            assert!(piece.start >= reached && !piece.is_empty());
            reached = piece.end;
            let bytes = &sound[2 * piece.start as usize..2 * piece.end as usize];
            samples.extend(bytes.chunks_exact(2).map(|b| i16::from_le_bytes([b[0], b[1]])));
        }
        assert_eq!(samples, window.samples);
        for span in &window.speech {
            assert!(window.pieces.iter().any(|p| p.start <= span.start && span.end <= p.end));
        }
    }
    // After the minute a new scene begins.
    let last = windows.last().unwrap();
    assert!(last.start_sample() > sound.len() as u64 / 2 - 7 * SECOND, "{:?}", last.pieces);
}

fn voice_memo() -> Vec<u8> {
    let fixtures = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let wav = std::fs::read(fixtures.join("media/voice-memo.wav")).unwrap();
    let data = wav.windows(4).position(|w| w == b"data").unwrap() + 8;
    wav[data..].to_vec()
}

#[test]
fn a_smaller_chunk_is_kept_to() {
    for window in cut(&mut packer(10), 60.0, &[(1.0, 30.0), (31.0, 39.0), (39.5, 59.0)], -1.0) {
        assert!(window.1 - window.0 <= 10.0, "{window:?}");
    }
}

#[test]
fn memory_does_not_grow_with_silence_or_speech() {
    let mut packer = packer(30);
    cut(&mut packer, 20.0, &[], -1.0);
    assert!(packer.held() < SECOND as usize);
}

#[test]
fn digital_silence_and_dither_are_no_speech() {
    let mut noise = 1u32;
    let dither: Vec<u8> = (0..16_000 * 20)
        .flat_map(|_| {
            noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            ((noise >> 30) as i16 - 1).to_le_bytes()
        })
        .collect();
    for sound in [vec![0u8; 2 * 16_000 * 20], dither, vec![]] {
        assert_eq!(Windows::new(&sound[..], &SpeechOptions::default()).count(), 0);
    }
}

#[test]
fn made_speech_is_found_where_it_is() {
    let fixtures = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let truth = std::fs::read(fixtures.join("media-truth/voice-memo.wav.json")).unwrap();
    let truth: serde_json::Value = serde_json::from_slice(&truth).unwrap();
    let windows: Vec<Window> =
        Windows::new(&voice_memo()[..], &SpeechOptions::default()).collect::<io::Result<_>>().unwrap();
    for sentence in truth["sentences"].as_array().unwrap() {
        let at = |key: &str| (sentence[key].as_f64().unwrap() * SECOND as f64) as u64;
        let whole = windows.iter().any(|w| w.start_sample() <= at("start") && at("end") <= w.end_sample());
        assert!(whole, "{sentence} is in no window as a whole");
    }
}
