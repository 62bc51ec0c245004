//! Every container and codec that Debian's ffmpeg writes into an allowed container.

use super::*;

/// File name, encoder arguments, and by how many milliseconds the length may differ (encoders pad).
const FORMATS: &[(&str, &str, i64)] = &[
    // mp4 and its relatives
    ("a.mp4", "-c:a aac", 60),
    ("a.m4a", "-c:a aac -b:a 64k -movflags +faststart", 60),
    ("frag.mp4", "-c:a aac -movflags frag_keyframe+empty_moov+default_base_moof -frag_duration 1000000", 60),
    ("alac.m4a", "-c:a alac", 1),
    ("flac.mp4", "-c:a flac -strict -2", 1),
    ("opus.mp4", "-c:a libopus", 60),
    ("mp3.mp4", "-c:a libmp3lame", 60),
    ("ac3.mp4", "-c:a ac3", 60),
    ("eac3.mp4", "-c:a eac3", 60),
    ("mp2.mp4", "-c:a mp2", 60),
    ("dts.mp4", "-c:a dca -strict -2", 60),
    ("vorbis.mp4", "-c:a libvorbis -strict -2", 60),
    ("a.3gp", "-c:a aac", 60),
    ("a.3g2", "-c:a aac", 60),
    ("pcm.mov", "-c:a pcm_s16be", 1),
    ("pcm24.mov", "-c:a pcm_s24le", 1),
    ("ulaw.mov", "-c:a pcm_mulaw -ar 8000", 2),
    ("ima.mov", "-c:a adpcm_ima_qt", 60),
    // Matroska
    ("opus.webm", "-c:a libopus", 60),
    ("vorbis.webm", "-c:a libvorbis", 60),
    ("aac.mkv", "-c:a aac", 60),
    ("flac.mkv", "-c:a flac", 2),
    ("mp3.mkv", "-c:a libmp3lame", 60),
    ("ac3.mka", "-c:a ac3", 60),
    ("pcm.mkv", "-c:a pcm_s16le", 2),
    ("f32.mka", "-c:a pcm_f32le", 2),
    ("tta.mka", "-c:a tta", 60),
    ("wavpack.mka", "-c:a wavpack", 2),
    ("truehd.mka", "-c:a truehd -strict -2", 60),
    ("alac.mka", "-c:a alac", 60),
    ("dts.mka", "-c:a dca -strict -2", 60),
    ("mp2.mka", "-c:a libtwolame", 60),
    // Ogg
    ("vorbis.ogg", "-c:a libvorbis", 60),
    ("opus.ogg", "-c:a libopus", 60),
    ("a.opus", "-c:a libopus -b:a 24k -application voip", 60),
    ("flac.oga", "-c:a flac", 1),
    ("speex.spx", "-c:a libspeex -ar 16000", 60),
    // MPEG streams
    ("aac.ts", "-c:a aac", 60),
    ("mp2.ts", "-c:a mp2", 60),
    ("mp3.ts", "-c:a libmp3lame", 60),
    ("ac3.ts", "-c:a ac3", 60),
    ("eac3.ts", "-c:a eac3", 60),
    ("opus.ts", "-c:a libopus", 60),
    ("dts.ts", "-c:a dca -strict -2", 60),
    ("latm.ts", "-c:a aac -mpegts_flags latm", 60),
    ("s302m.ts", "-c:a s302m -strict -2 -ac 2", 60),
    ("mp2.mpg", "-c:a mp2 -f mpeg", 60),
    ("ac3.vob", "-c:a ac3 -f vob", 60),
    ("lpcm.vob", "-c:a pcm_dvd -f vob -ac 2", 60),
    // FLV, AVI, ASF
    ("aac.flv", "-c:a aac", 60),
    ("mp3.flv", "-c:a libmp3lame -ar 44100", 80),
    ("nelly.flv", "-c:a nellymoser -ar 22050", 100),
    ("speex.flv", "-c:a libspeex -ar 16000", 60),
    ("pcm.flv", "-c:a pcm_s16le -ar 44100", 60),
    ("mp3.avi", "-c:a libmp3lame", 80),
    ("ac3.avi", "-c:a ac3", 60),
    ("aac.avi", "-c:a aac", 80),
    ("pcm.avi", "-c:a pcm_s16le", 10),
    ("ms.avi", "-c:a adpcm_ms", 100),
    ("v2.wma", "-c:a wmav2", 120),
    ("v1.asf", "-c:a wmav1", 120),
    ("mp3.asf", "-c:a libmp3lame", 80),
    // Bare audio
    ("a.mp3", "-c:a libmp3lame", 60),
    ("vbr.mp3", "-c:a libmp3lame -q:a 5", 60),
    ("noxing.mp3", "-c:a libmp3lame -b:a 64k -write_xing 0", 100),
    ("shine.mp3", "-c:a libshine -ar 44100 -b:a 128k", 60),
    ("a.mp2", "-c:a mp2", 60),
    ("a.aac", "-c:a aac", 80),
    ("a.flac", "-c:a flac", 1),
    ("a.ac3", "-c:a ac3", 60),
    ("a.eac3", "-c:a eac3", 60),
    ("s16.wav", "-c:a pcm_s16le", 1),
    ("s24.wav", "-c:a pcm_s24le", 1),
    ("f64.wav", "-c:a pcm_f64le", 1),
    ("u8.wav", "-c:a pcm_u8", 1),
    ("alaw.wav", "-c:a pcm_alaw -ar 8000", 2),
    ("ms.wav", "-c:a adpcm_ms", 60),
    ("ima.wav", "-c:a adpcm_ima_wav", 60),
    ("gsm.wav", "-c:a libgsm_ms -ar 8000", 60),
    ("mp3.wav", "-c:a libmp3lame", 80),
    ("g722.wav", "-c:a g722 -ar 16000", 2),
    ("g726.wav", "-c:a g726 -ar 8000", 2),
    ("rf64.wav", "-c:a pcm_s16le -rf64 always", 1),
    ("a.w64", "-c:a pcm_s16le", 1),
    ("s16.caf", "-c:a pcm_s16be", 1),
    ("alac.caf", "-c:a alac", 60),
    ("opus.caf", "-c:a libopus", 60),
    ("a.aiff", "-c:a pcm_s16be", 1),
    ("s24.aiff", "-c:a pcm_s24be", 1),
    ("a.au", "-c:a pcm_s16be", 1),
    ("ulaw.au", "-c:a pcm_mulaw -ar 8000", 2),
];

#[test]
fn every_container_and_codec_decodes_to_the_pattern() {
    let bench = Bench::new();
    let mut failed = Vec::new();
    for (name, arguments, slack) in FORMATS {
        let path = bench.make(name, arguments);
        let result = std::panic::catch_unwind(|| {
            let probe = recognise(&path).unwrap();
            assert_eq!((probe.audio.len(), probe.chosen), (1, Some(0)), "{name}");
            let (audio, samples) = bench.decode(&path).unwrap();
            check_whole(name, &audio, &samples, *slack);
            assert!(audio.offset_ms <= 90, "{name}: offset {}", audio.offset_ms);
        });
        if let Err(e) = result {
            failed.push(format!("{name}: {:?}", e.downcast_ref::<String>()));
        }
    }
    assert!(failed.is_empty(), "{} of {}:\n{}", failed.len(), FORMATS.len(), failed.join("\n"));
}

#[test]
fn every_rate_and_layout_is_mixed_to_mono() {
    let bench = Bench::new();
    for (rate, channels) in
        [(8000, 1), (11025, 2), (22050, 1), (44100, 2), (96000, 2), (192000, 1), (12345, 2)]
    {
        let name = format!("r{rate}.wav");
        let path = bench.make(&name, &format!("-ar {rate} -ac {channels} -c:a pcm_s16le"));
        let (audio, samples) = bench.decode(&path).unwrap();
        check_whole(&name, &audio, &samples, 1);
    }
    // A tone in any one speaker is heard, only the subwoofer is left out.
    for (layout, speakers) in [("stereo", 2), ("5.1", 6), ("7.1", 8)] {
        for speaker in 0..speakers {
            let name = format!("{layout}-{speaker}.flac");
            let pan = format!("pan={layout}|c{speaker}=c0");
            bench.ffmpeg_args(&["-f", "lavfi", "-i", PATTERN, "-af", &pan, "-c:a", "flac", &name]);
            let (audio, samples) = bench.decoded(&name);
            assert_eq!(audio.samples, 96_000);
            let loud = power(&samples, 0.1, 0.4).sqrt();
            if speakers > 2 && speaker == 3 {
                assert!(loud < 10.0, "{name}: {loud}");
            } else {
                check_pattern(&name, &samples, 0.0, 0, SECONDS);
            }
        }
    }
    // More channels than there are names for: all count the same.
    bench.make("mono.raw", "-f s16le -ac 1");
    let mono = fs::read(bench.path("mono.raw")).unwrap();
    let ten: Vec<u8> = mono.chunks_exact(2).flat_map(|s| [[0; 18].as_slice(), s].concat()).collect();
    fs::write(bench.path("ten.raw"), ten).unwrap();
    bench.ffmpeg("-f s16le -ar 48000 -ac 10 -i ten.raw -c:a pcm_s16le ten.wav");
    let (audio, samples) = bench.decoded("ten.wav");
    assert_eq!(audio.samples, 96_000);
    check_pattern("10 channels", &samples, 0.0, 0, SECONDS);
}

#[test]
fn samples_that_need_no_conversion_are_kept_exactly() {
    let bench = Bench::new();
    let path = bench.make("a.wav", "-ar 16000 -ac 1 -c:a pcm_s16le");
    bench.ffmpeg("-i a.wav -f s16le truth.raw");
    let (_, samples) = bench.decode(&path).unwrap();
    let truth = fs::read(bench.path("truth.raw")).unwrap();
    let truth: Vec<_> = truth.chunks_exact(2).map(|b| i16::from_le_bytes([b[0], b[1]])).collect();
    assert_eq!(*samples, truth);
}

#[test]
fn a_conversion_is_what_the_command_line_makes() {
    let bench = Bench::new();
    let path = bench.make("a.m4a", "-ar 44100 -ac 2 -c:a aac");
    bench.ffmpeg("-i a.m4a -ar 16000 -ac 1 -f s16le truth.raw");
    let (_, samples) = bench.decode(&path).unwrap();
    let truth = fs::read(bench.path("truth.raw")).unwrap();
    let truth: Vec<_> = truth.chunks_exact(2).map(|b| i16::from_le_bytes([b[0], b[1]])).collect();
    assert!(samples.len().abs_diff(truth.len()) <= 32, "{} {}", samples.len(), truth.len());
    let most = samples.iter().zip(&truth).map(|(a, b)| a.abs_diff(*b)).max();
    assert!(most <= Some(2), "{most:?}");
}

#[test]
fn the_default_track_is_chosen() {
    let bench = Bench::new();
    let tone = "aevalsrc=0.3*sin(2*PI*2500*t):s=48000:d=6";
    let inputs = format!("-f lavfi -i {tone} -f lavfi -i {PATTERN} -map 0 -map 1 -c:a aac");
    // Matroska: the flag decides, then the order.
    bench.ffmpeg(&format!("{inputs} -disposition:a:0 0 -disposition:a:1 default second.mkv"));
    bench.ffmpeg(&format!("{inputs} -disposition:a:0 default -disposition:a:1 0 first.mkv"));
    bench.ffmpeg(&format!("{inputs} -disposition:a:0 0 -disposition:a:1 0 none.mkv"));
    bench.ffmpeg(&format!("{inputs} -disposition:a:0 comment -disposition:a:1 0 comment.mkv"));
    bench.ffmpeg(&format!("{inputs} -disposition:a:0 0 -disposition:a:1 default second.mp4"));
    for (name, chosen) in
        [("second.mkv", 1), ("first.mkv", 0), ("none.mkv", 0), ("comment.mkv", 1), ("second.mp4", 1)]
    {
        let probe = recognise(&bench.path(name)).unwrap();
        assert_eq!((probe.audio.len(), probe.chosen), (2, Some(chosen)), "{name}");
        let (audio, samples) = bench.decoded(name);
        assert!((audio.duration_ms() - 6000).abs() < 60, "{name}");
        if chosen == 1 {
            check_pattern(name, &samples, 0.0, 0, SECONDS);
        } else {
            assert!(share(&samples, 0.1, 5.9, 2500.0) > 0.9, "{name}");
        }
    }
}

#[test]
fn an_empty_preferred_track_gives_way_to_the_next() {
    let bench = Bench::new();
    bench.ffmpeg(&format!("-f lavfi -i {PATTERN} -map 0 -map 0 -c:a pcm_s16le two.mkv"));
    bench.ffmpeg(
        "-i two.mkv -map 0 -c copy -bsf:a:0 noise=drop=1 -disposition:a:0 default -disposition:a:1 0 a.mkv",
    );
    let (audio, samples) = bench.decoded("a.mkv");
    check_whole("a.mkv", &audio, &samples, 60);
}

#[test]
fn video_beside_the_audio_changes_nothing() {
    let bench = Bench::new();
    let video = "-f lavfi -i testsrc=s=320x240:r=25:d=6";
    for name in ["v.mp4", "v.mkv", "v.ts", "v.avi", "v.flv"] {
        bench.ffmpeg(&format!(
            "{video} -f lavfi -i {PATTERN} -c:v libx264 -preset ultrafast -c:a libmp3lame -ar 44100 {name}"
        ));
        let (audio, samples) = bench.decoded(name);
        assert!((0..=80).contains(&audio.offset_ms), "{name}: {}", audio.offset_ms);
        let ms = audio.duration_ms();
        assert!((ms - 6000).abs() < 100, "{name}: {ms}");
        check_pattern(name, &samples, 0.0, 0, SECONDS);
    }
}

#[test]
fn a_format_that_changes_midway_is_followed() {
    let bench = Bench::new();
    // Glued ADTS streams of other rates and channel counts: the decoder reports the change.
    bench.ffmpeg("-f lavfi -i aevalsrc=0.4*sin(2*PI*500*t):s=44100:d=2 -ac 2 -c:a aac one.aac");
    bench.ffmpeg("-f lavfi -i aevalsrc=0.4*sin(2*PI*1500*t):s=22050:d=2 -ac 1 -c:a aac two.aac");
    let mut glued = fs::read(bench.path("one.aac")).unwrap();
    glued.extend(fs::read(bench.path("two.aac")).unwrap());
    fs::write(bench.path("glued.aac"), glued).unwrap();
    let (audio, samples) = bench.decoded("glued.aac");
    assert!((audio.duration_ms() - 4000).abs() < 250, "{}", audio.duration_ms());
    assert!(share(&samples, 0.2, 1.8, 500.0) > 0.9);
    assert!(share(&samples, 2.4, 3.8, 1500.0) > 0.9);
}
