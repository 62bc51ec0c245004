//! Files that are broken, empty, protected, hostile, or no media at all.

use std::ffi::OsStr;

use super::*;

fn class(result: Result<(Audio, Samples), Failure>) -> FailureClass {
    let failure = result.unwrap_err();
    assert!(!failure.message.is_empty() && !failure.message.ends_with('.'), "{failure:?}");
    failure.class
}

#[test]
fn nothing_and_not_media_are_told_apart() {
    let bench = Bench::new();
    let write = |name: &str, content: &[u8]| {
        fs::write(bench.path(name), content).unwrap();
        bench.path(name)
    };
    assert_eq!(class(bench.decode(&write("zero.mp4", b""))), FailureClass::Empty);
    assert_eq!(class(bench.decode(&bench.path("absent.mp4"))), FailureClass::Unreadable);
    assert_eq!(class(bench.decode(bench.dir.path())), FailureClass::NotMedia);
    let text = "It was a bright cold day, and the clocks were striking.\n".repeat(500);
    assert_eq!(class(bench.decode(&write("text.mp4", text.as_bytes()))), FailureClass::NotMedia);
    assert_eq!(class(bench.decode(&write("text.mp3", text.as_bytes()))), FailureClass::NotMedia);
    assert_eq!(class(bench.decode(&write("short", b"x"))), FailureClass::NotMedia);
    assert_eq!(class(bench.decode(&write("zeros.wav", &[0; 100_000]))), FailureClass::NotMedia);
    let json = recognise(&write("data.json", b"{\"a\": [1, 2, 3]}")).unwrap_err();
    assert_eq!(json.class, FailureClass::NotMedia);
    let html = "<!DOCTYPE html><html><head><title>404</title></head><body>gone</body></html>";
    assert_eq!(class(bench.decode(&write("page.mp4", html.as_bytes()))), FailureClass::NotMedia);
    assert_eq!(
        fs::read_dir(bench.dir.path())
            .unwrap()
            .filter(|e| e.as_ref().unwrap().path().extension() == Some(OsStr::new("part")))
            .count(),
        0
    );
}

#[test]
fn lists_that_name_other_files_are_refused_unopened() {
    let bench = Bench::new();
    let canary = bench.make("canary.wav", "-c:a pcm_s16le");
    let at = canary.to_str().unwrap();
    let before = fs::metadata(&canary).unwrap().accessed().unwrap();
    let lists = [
        ("concat.mp4", format!("ffconcat version 1.0\nfile '{at}'\n")),
        ("concat2.mp4", "ffconcat version 1.0\nfile 'canary.wav'\n".to_owned()),
        ("hls.mp4", format!("#EXTM3U\n#EXT-X-TARGETDURATION:6\n#EXTINF:6,\nfile://{at}\n#EXT-X-ENDLIST\n")),
        ("hls.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:6\n#EXTINF:6,\ncanary.wav\n#EXT-X-ENDLIST\n".to_owned()),
        (
            "a.sdp",
            "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 9 RTP/AVP 0\n".to_owned(),
        ),
        (
            "dash.mp4",
            format!(
                "<?xml version=\"1.0\"?><MPD xmlns=\"urn:mpeg:dash:schema:mpd:2011\" type=\"static\" mediaPresentationDuration=\"PT6S\"><Period><AdaptationSet mimeType=\"audio/wav\"><Representation id=\"1\" bandwidth=\"1\"><BaseURL>file://{at}</BaseURL></Representation></AdaptationSet></Period></MPD>"
            ),
        ),
        ("a.ffmeta", ";FFMETADATA1\ntitle=x\n".to_owned()),
    ];
    for (name, content) in lists {
        fs::write(bench.path(name), content).unwrap();
        let failure = recognise(&bench.path(name)).unwrap_err();
        assert_eq!(failure.class, FailureClass::NotMedia, "{name}: {failure}");
        assert_eq!(class(bench.decode(&bench.path(name))), FailureClass::NotMedia, "{name}");
    }
    assert_eq!(fs::metadata(&canary).unwrap().accessed().unwrap(), before);
    let failure = recognise(&bench.path("concat.mp4")).unwrap_err();
    assert!(failure.message.contains("concat"), "{failure}");
}

#[test]
fn an_mp4_that_points_at_another_file_reads_nothing_of_it() {
    let bench = Bench::new();
    let mov = bench.make("a.mov", "-c:a pcm_s16le -ar 16000");
    // The data reference "url " with its self-contained flag becomes an alias naming the canary.
    let mut bytes = fs::read(&mov).unwrap();
    let at = bytes.windows(4).position(|w| w == b"url ").unwrap();
    bytes[at + 7] = 0;
    fs::write(&mov, bytes).unwrap();
    // Whether it decodes is ffmpeg's choice; what it decodes can only be its own bytes.
    if let Ok((_, samples)) = bench.decode(&mov) {
        check_pattern("own bytes", &samples, 0.0, 0, SECONDS);
    }
}

#[test]
fn images_and_subtitles_are_no_media() {
    let bench = Bench::new();
    bench.ffmpeg("-f lavfi -i testsrc=s=64x64:d=1:r=1 -frames:v 1 a.png");
    bench.ffmpeg("-f lavfi -i testsrc=s=64x64:d=1:r=1 -frames:v 1 a.jpg");
    bench.ffmpeg("-f lavfi -i testsrc=s=64x64:d=1:r=5 a.gif");
    fs::write(bench.path("a.srt"), "1\n00:00:00,000 --> 00:00:01,000\nhello\n").unwrap();
    for name in ["a.png", "a.jpg", "a.gif", "a.srt"] {
        let fake = bench.path(&format!("{name}.mp4"));
        fs::copy(bench.path(name), &fake).unwrap();
        assert_eq!(recognise(&fake).unwrap_err().class, FailureClass::NotMedia, "{name}");
    }
}

#[test]
fn odd_names_are_only_names() {
    let bench = Bench::new();
    let wav = bench.make("plain.wav", "-c:a pcm_s16le -ar 16000");
    let names: [&[u8]; 6] = [
        b"concat:plain.wav|plain.wav",
        b"-i",
        b"http:x.wav",
        b"pipe:0",
        b"latin\xe9\xff.wav",
        "日本 🎬%03d.wav".as_bytes(),
    ];
    for name in names {
        let path = bench.dir.path().join(OsStr::from_bytes(name));
        fs::copy(&wav, &path).unwrap();
        assert!(recognise(&path).is_ok(), "{name:?}");
        let (audio, _) = bench.decode(&path).unwrap();
        assert_eq!(audio.samples, 96_000, "{name:?}");
    }
}

#[test]
fn a_file_without_sound_says_so() {
    let bench = Bench::new();
    bench.ffmpeg("-f lavfi -i testsrc=s=64x64:d=2 -c:v libx264 -preset ultrafast mute.mp4");
    let probe = recognise(&bench.path("mute.mp4")).unwrap();
    assert_eq!((probe.audio.len(), probe.chosen), (0, None));
    assert_eq!(class(bench.decode(&bench.path("mute.mp4"))), FailureClass::NoAudio);
    bench.ffmpeg("-f lavfi -i anullsrc=r=16000:cl=mono -t 0 -c:a pcm_s16le none.wav");
    assert_eq!(class(bench.decode(&bench.path("none.wav"))), FailureClass::NoAudio);
    bench.ffmpeg("-f lavfi -i anullsrc=r=16000:cl=mono -t 1 -c:a pcm_s16le silent.wav");
    assert_eq!(bench.decoded("silent.wav").0.samples, 16_000);
}

/// Cuts `path` to a share of its length.
fn cut(path: &Path, share: f64) {
    let len = fs::metadata(path).unwrap().len();
    fs::OpenOptions::new().write(true).open(path).unwrap().set_len((len as f64 * share) as u64).unwrap();
}

#[test]
fn truncated_files_are_noticed() {
    let bench = Bench::new();
    let long = "-f lavfi -i sine=300:d=60:r=44100";
    for (name, arguments, share) in [
        ("front.mp4", "-c:a aac -movflags +faststart", 0.7),
        ("front5.mp4", "-c:a aac -movflags +faststart", 0.95),
        ("end.mp4", "-c:a aac", 0.7),
        (
            "frag.mp4",
            "-c:a aac -movflags frag_keyframe+empty_moov+global_sidx+dash -frag_duration 2000000",
            0.5,
        ),
        ("a.mkv", "-c:a libopus", 0.6),
        ("a.webm", "-c:a libvorbis", 0.6),
        ("a.flac", "-c:a flac", 0.6),
        ("a.wav", "-c:a pcm_s16le", 0.6),
        ("xing.mp3", "-c:a libmp3lame -q:a 4", 0.6),
        ("a.flv", "-c:a aac", 0.6),
        ("a.avi", "-c:a libmp3lame", 0.6),
        ("a.wma", "-c:a wmav2", 0.6),
        ("a.w64", "-c:a pcm_s16le", 0.6),
        ("a.aiff", "-c:a pcm_s16be", 0.6),
    ] {
        bench.ffmpeg(&format!("{long} {arguments} {name}"));
        assert!(bench.decode(&bench.path(name)).is_ok(), "{name} before the cut");
        cut(&bench.path(name), share);
        let failure = bench.decode(&bench.path(name)).unwrap_err();
        assert_eq!(failure.class, FailureClass::Truncated, "{name}: {failure}");
        assert!(!bench.path("out.pcm.part").exists());
    }
    let failure = bench.decode(&bench.path("end.mp4")).unwrap_err();
    assert!(failure.message.contains("moov atom not found"), "{failure}");
    let failure = bench.decode(&bench.path("front.mp4")).unwrap_err();
    assert!(failure.message.contains("0:01:00"), "{failure}");
}

#[test]
fn files_without_a_length_are_checked_against_the_sites() {
    let bench = Bench::new();
    for (name, arguments) in [
        ("a.ts", "-c:a aac"),
        ("a.mp3", "-c:a libmp3lame -write_xing 0"),
        ("a.ogg", "-c:a libvorbis"),
        ("a.aac", "-c:a aac"),
    ] {
        bench.ffmpeg(&format!("-f lavfi -i sine=300:d=60:r=44100 {arguments} {name}"));
        assert!(bench.decode_expecting(&bench.path(name), Some(61_000)).is_ok(), "{name}");
        cut(&bench.path(name), 0.6);
        assert!(bench.decode(&bench.path(name)).is_ok(), "{name}: nothing to compare with");
        assert_eq!(
            class(bench.decode_expecting(&bench.path(name), Some(60_000))),
            FailureClass::Truncated,
            "{name}"
        );
    }
}

#[test]
fn audio_that_ends_before_the_video_is_complete() {
    let bench = Bench::new();
    for name in ["a.mkv", "a.mp4", "a.ts", "a.avi", "a.flv"] {
        bench.ffmpeg(&format!(
            "-f lavfi -i testsrc=s=160x120:r=25:d=20 -f lavfi -i {PATTERN} -c:v libx264 -preset ultrafast -c:a aac {name}"
        ));
        let (audio, _) = bench.decode_expecting(&bench.path(name), Some(20_000)).unwrap();
        assert!((audio.duration_ms() - 6000).abs() < 100, "{name}");
    }
}

#[test]
fn a_wav_written_into_a_pipe_has_no_length() {
    let bench = Bench::new();
    let path = bench.make("a.wav", "-c:a pcm_s16le -ar 16000");
    let mut bytes = fs::read(&path).unwrap();
    let at = bytes.windows(4).position(|w| w == b"data").unwrap() + 4;
    for unknown in [0xffff_ffffu32, 0x7fff_f000, 0xffff_ffdb, 0x7fff_ffff] {
        bytes[4..8].copy_from_slice(&unknown.to_le_bytes());
        bytes[at..at + 4].copy_from_slice(&unknown.to_le_bytes());
        fs::write(&path, &bytes).unwrap();
        let (audio, samples) = bench.decode(&path).unwrap_or_else(|f| panic!("{unknown:x}: {f}"));
        check_whole("streamed", &audio, &samples, 1);
    }
}

#[test]
fn containers_written_into_a_pipe_decode_whole() {
    let bench = Bench::new();
    for (muxer, codec) in [
        ("webm", "libopus"),
        ("matroska", "flac"),
        ("flac", "flac"),
        ("wav", "pcm_s16le"),
        ("flv", "aac"),
        ("mp3", "libmp3lame"),
        ("avi", "libmp3lame"),
        ("caf", "pcm_s16be"),
        ("au", "pcm_s16be"),
        ("asf", "wmav2"),
        ("mpegts", "aac"),
        ("adts", "aac"),
        ("ogg", "libvorbis"),
    ] {
        let output = Command::new("ffmpeg")
            .args([
                "-loglevel",
                "error",
                "-nostdin",
                "-f",
                "lavfi",
                "-i",
                PATTERN,
                "-c:a",
                codec,
                "-f",
                muxer,
                "pipe:1",
            ])
            .output()
            .unwrap();
        assert!(output.status.success(), "{muxer}");
        fs::write(bench.path(muxer), output.stdout).unwrap();
        let (audio, samples) = bench.decoded(muxer);
        check_whole(muxer, &audio, &samples, 120);
    }
}

#[test]
fn damaged_packets_are_skipped_and_their_place_kept() {
    let bench = Bench::new();
    for (name, codec) in [("a.ts", "aac"), ("a.mkv", "libmp3lame"), ("a.mp4", "aac")] {
        bench.make("whole.mkv", &format!("-c:a {codec}"));
        // About a byte in 2,000 is changed: single packets break.
        bench.ffmpeg(&format!("-i whole.mkv -c copy -bsf:a noise=2000 {name}"));
        let (audio, _) = bench.decoded(name);
        assert!((audio.duration_ms() - 6000).abs() < 150, "{name}: {}", audio.duration_ms());
    }
}

#[test]
fn mostly_noise_is_called_damaged() {
    let bench = Bench::new();
    let path = bench.make("a.mp4", "-c:a aac -movflags +faststart");
    let mut bytes = fs::read(&path).unwrap();
    let at = bytes.windows(4).position(|w| w == b"mdat").unwrap() + 4;
    let mut x = 1u32;
    for b in &mut bytes[at..] {
        // A linear congruential generator (Numerical Recipes): noise without a dependency.
        x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        *b = (x >> 24) as u8;
    }
    fs::write(&path, bytes).unwrap();
    assert_eq!(class(bench.decode(&path)), FailureClass::Truncated);
}

#[test]
fn encrypted_audio_is_called_so() {
    let bench = Bench::new();
    bench.make(
        "cenc.mp4",
        "-c:a aac -encryption_scheme cenc-aes-ctr -encryption_key 00112233445566778899aabbccddeeff \
         -encryption_kid 112233445566778899aabbccddeeff00",
    );
    assert_eq!(class(bench.decode(&bench.path("cenc.mp4"))), FailureClass::Drm);
    let mut head = vec![0u8; 4096];
    head[..12].copy_from_slice(b"\0\0\0\x20ftypaax ");
    fs::write(bench.path("a.aax"), head).unwrap();
    assert_eq!(recognise(&bench.path("a.aax")).unwrap_err().class, FailureClass::Drm);
}

#[test]
fn limits_stop_the_decoder() {
    let bench = Bench::new();
    let path = bench.make("a.wav", "-ac 4 -ar 48000 -c:a pcm_s16le");
    let ts = bench.make("a.ts", "-c:a aac");
    let with = |path: &Path, change: fn(&mut DecodeOptions)| {
        let mut options = DecodeOptions::default();
        change(&mut options);
        class(decode_with(path, &bench.path("out.pcm"), &options, None))
    };
    assert_eq!(with(&path, |o| o.max_duration_ms = 3000), FailureClass::TooLarge);
    assert_eq!(with(&ts, |o| o.max_duration_ms = 3000), FailureClass::TooLarge);
    assert_eq!(with(&path, |o| o.max_channels = 2), FailureClass::TooLarge);
    assert_eq!(with(&path, |o| o.max_sample_rate = 44_100), FailureClass::TooLarge);
    assert_eq!(with(&path, |o| o.max_output_bytes = 50_000), FailureClass::TooLarge);
    assert!(!bench.path("out.pcm").exists() && !bench.path("out.pcm.part").exists());
}

#[test]
fn a_duration_that_is_a_lie_costs_nothing() {
    let bench = Bench::new();
    // mvhd, tkhd and mdhd of an mp4 state 2^31 units: refused before anything is written.
    let path = bench.make("a.mp4", "-c:a aac -movflags +faststart");
    let mut bytes = fs::read(&path).unwrap();
    let at = bytes.windows(4).position(|w| w == b"mvhd").unwrap();
    bytes[at + 20..at + 24].copy_from_slice(&0x7fff_ffffu32.to_be_bytes());
    fs::write(&path, &bytes).unwrap();
    match bench.decode(&path) {
        Ok((audio, _)) => assert!(audio.duration_ms() < 7000),
        Err(f) => assert!(matches!(f.class, FailureClass::TooLarge | FailureClass::Truncated), "{f:?}"),
    }
}

#[test]
fn cutting_and_flipping_anywhere_never_panics() {
    let bench = Bench::new();
    for (name, arguments) in [
        ("a.mp4", "-c:a aac -t 1"),
        ("a.mkv", "-c:a libopus -t 1"),
        ("a.ogg", "-c:a libvorbis -t 1"),
        ("a.mp3", "-c:a libmp3lame -t 1"),
        ("a.flv", "-c:a aac -t 1"),
        ("a.ts", "-c:a aac -t 1"),
        ("a.wav", "-c:a adpcm_ms -t 1"),
        ("a.flac", "-c:a flac -t 1"),
        ("a.wma", "-c:a wmav2 -t 1"),
        ("a.avi", "-c:a ac3 -t 1"),
        ("a.caf", "-c:a alac -t 1"),
    ] {
        let whole = fs::read(bench.make(name, arguments)).unwrap();
        let mut x = 7u32;
        let mut next = || {
            x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (x >> 8) as usize
        };
        for round in 0..24 {
            let mut bytes = whole.clone();
            if round % 2 == 0 {
                bytes.truncate(next() % whole.len());
            }
            for _ in 0..round {
                if let Some(i) = next().checked_rem(bytes.len()) {
                    // Headers first: that is where damage is interesting.
                    let i = if round % 3 == 0 { i } else { i % 600.min(bytes.len()) };
                    bytes[i] = next() as u8;
                }
            }
            let path = bench.path("fuzzed");
            fs::write(&path, bytes).unwrap();
            if let Ok((audio, _)) = bench.decode(&path) {
                assert!(audio.duration_ms() < 3_600_000, "{name} {round}");
            }
        }
    }
}

#[test]
fn cancelling_stops_at_once_and_leaves_nothing() {
    let bench = Bench::new();
    let path = bench.make("a.m4a", "-c:a aac");
    let (mut progress, _receiver) = progress();
    let token = CancellationToken::new();
    token.cancel();
    let output = bench.path("out.pcm");
    let failure = decode(&path, &output, &DecodeOptions::default(), None, &mut progress, &token).unwrap_err();
    assert_eq!(failure.class, FailureClass::Internal);
    assert!(!output.exists() && !bench.path("out.pcm.part").exists());
}

#[test]
fn an_output_that_cannot_be_written_is_our_failure() {
    let bench = Bench::new();
    let path = bench.make("a.m4a", "-c:a aac");
    let failure =
        decode_with(&path, &bench.path("no/such/dir/out.pcm"), &DecodeOptions::default(), None).unwrap_err();
    assert_eq!(failure.class, FailureClass::Internal);
}
