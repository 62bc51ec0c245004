//! Offsets, gaps and clocks.

use super::*;

#[test]
fn an_offset_to_the_video_is_kept() {
    let bench = Bench::new();
    let inputs =
        format!("-f lavfi -i testsrc=s=160x120:r=25:d=10 -itsoffset 4 -f lavfi -i {PATTERN} -map 0 -map 1");
    for (name, codecs) in [
        ("a.mp4", "-c:v libx264 -preset ultrafast -c:a aac"),
        ("a.mkv", "-c:v libx264 -preset ultrafast -c:a libopus"),
        ("a.ts", "-c:v libx264 -preset ultrafast -c:a aac"),
        ("a.mpg", "-c:v mpeg2video -c:a mp2"),
        ("a.flv", "-c:v flv -c:a aac"),
        ("a.asf", "-c:v msmpeg4 -c:a wmav2"),
    ] {
        bench.ffmpeg(&format!("{inputs} {codecs} {name}"));
        let (audio, samples) = bench.decoded(name);
        assert!((audio.offset_ms - 4000).abs() <= 100, "{name}: {}", audio.offset_ms);
        let shift = (4000 - audio.offset_ms) as f64 / 1000.0;
        check_pattern(name, &samples, shift.max(0.0), 0, SECONDS - 1);
    }
}

#[test]
fn an_offset_of_audio_alone_is_the_containers() {
    let bench = Bench::new();
    for name in ["a.m4a", "a.mkv", "a.ts"] {
        bench.ffmpeg(&format!("-itsoffset 4 -f lavfi -i {PATTERN} -c:a aac {name}"));
        let (audio, _) = bench.decoded(name);
        assert!((0..=60).contains(&audio.offset_ms), "{name}: {}", audio.offset_ms);
    }
}

#[test]
fn a_clock_that_begins_at_ten_hours_plays_from_zero() {
    let bench = Bench::new();
    bench.ffmpeg(&format!(
        "-f lavfi -i testsrc=s=160x120:r=25:d=6 -f lavfi -i {PATTERN} -c:v libx264 -preset ultrafast -c:a aac \
         -output_ts_offset 36000 a.ts"
    ));
    let (audio, samples) = bench.decoded("a.ts");
    assert!((0..=100).contains(&audio.offset_ms), "{}", audio.offset_ms);
    check_whole("a.ts", &audio, &samples, 100);
}

#[test]
fn lost_packets_leave_silence_of_their_length() {
    let bench = Bench::new();
    for (name, codec) in [("b.mkv", "libopus"), ("a.ts", "mp2"), ("a.mp4", "aac"), ("a.flv", "aac")] {
        // Drops the packets from 2.0 s to 4.0 s, keeping everyone else's timestamps.
        bench.make("whole.mkv", &format!("-c:a {codec}"));
        bench.ffmpeg("-i whole.mkv -c copy -bsf:a noise=drop=between(pts*tb\\,2\\,3.999) lossy.mkv");
        bench.ffmpeg(&format!("-i lossy.mkv -c copy -pes_payload_size 0 {name}"));
        let (audio, samples) = bench.decoded(name);
        assert!((audio.duration_ms() - 6000).abs() < 100, "{name}: {}", audio.duration_ms());
        check_pattern(name, &samples, 0.0, 0, 2);
        let gap = power(&samples, 2.1, 3.9);
        assert!(gap < 10.0, "{name}: {gap}");
        check_pattern(name, &samples[4 * SAMPLE_RATE as usize..], 0.0, 4, SECONDS);
    }
}

#[test]
fn glued_recordings_go_on_after_the_clock_was_reset() {
    let bench = Bench::new();
    let one = bench.make("one.ts", "-c:a aac -output_ts_offset 500");
    let two = bench.make("two.ts", "-c:a aac");
    let mut glued = fs::read(one).unwrap();
    glued.extend(fs::read(two).unwrap());
    fs::write(bench.path("glued.ts"), glued).unwrap();
    let (audio, samples) = bench.decoded("glued.ts");
    assert!((audio.duration_ms() - 12_000).abs() < 200, "{}", audio.duration_ms());
    check_pattern("first", &samples, 0.0, 0, SECONDS);
    let rest = &samples[6 * SAMPLE_RATE as usize..];
    assert!(share(rest, 1.2, 1.4, 500.0) > 0.8);
}

#[test]
fn chained_ogg_of_another_rate_loses_nothing() {
    let bench = Bench::new();
    // The second part's timestamps count at the first one's rate: nonsense, which must cost no audio.
    for (rates, name) in [(["48000", "22050"], "down.ogg"), (["22050", "48000"], "up.ogg")] {
        let mut glued = Vec::new();
        for rate in rates {
            glued.extend(fs::read(bench.make("part.ogg", &format!("-ar {rate} -c:a libvorbis"))).unwrap());
        }
        fs::write(bench.path(name), glued).unwrap();
        let (audio, samples) = bench.decoded(name);
        assert!((audio.duration_ms() - 12_000).abs() < 1200, "{name}: {}", audio.duration_ms());
        check_pattern(name, &samples, 0.0, 0, SECONDS);
    }
}

#[test]
fn a_hostile_timestamp_fills_no_disk() {
    let bench = Bench::new();
    // The clock jumps by 100 hours in the middle of a file that states 6 s.
    bench.make("whole.mkv", "-c:a libopus");
    bench.ffmpeg("-i whole.mkv -c copy -bsf:a setts=ts=PTS+if(gt(PTS\\,3000)\\,360000000\\,0) jump.mkv");
    let path = bench.path("jump.mkv");
    match bench.decode(&path) {
        Ok((audio, _)) => assert!(audio.duration_ms() < 10_000, "{}", audio.duration_ms()),
        Err(f) => assert!(matches!(f.class, FailureClass::TooLarge | FailureClass::Truncated), "{f:?}"),
    }
    assert!(!bench.path("out.pcm.part").exists());
}

#[test]
fn progress_reaches_the_total() {
    let bench = Bench::new();
    let path = bench.make("a.m4a", "-c:a aac");
    let (mut progress, mut receiver) = progress();
    let token = CancellationToken::new();
    decode(&path, &bench.path("o"), &DecodeOptions::default(), None, &mut progress, &token).unwrap();
    drop(progress);
    let mut last = None;
    while let Ok(event) = receiver.try_recv() {
        if let Event::StepProgressed { done, total, .. } = event {
            assert!(last <= Some(done) && total == Some(6000), "{done} {total:?}");
            last = Some(done);
        }
    }
    assert!(last.is_some());
}
