//! An item whose transcript looks incomplete is marked wherever it is listed, and says what is missing.

use serde_json::{Value, json};
use spoken::media::{Coverage, DropReason, Dropped, Flag, Gap, Metadata, Transcript, Word};
use spoken::store::{Store, StoreOptions};

use super::cli::Library;
use super::store::{claim, database, item, model, passages, segment, transcript};

/// A library with two items that are done: half of the speech of "talk" has no text, "fine" is fine. An escape sequence is
/// among what was not believed.
async fn library() -> Library {
    let url = database().await;
    let store = Store::connect(&url, &StoreOptions::default()).await.unwrap();
    store.migrate().await.unwrap();
    let mut said = segment(1_000, 31_000, "en", "Half of it.");
    said.words = ["Half", "of", "it."]
        .iter()
        .zip(1..)
        .map(|(text, n)| Word {
            start_ms: n * 1_000,
            end_ms: n * 1_000 + 900,
            text: (*text).into(),
            prob: 0.5,
        })
        .collect();
    let dropped = |n: i64, reason, text: &str| Dropped {
        start_ms: n * 60_000,
        end_ms: n * 60_000 + 2_000,
        text: text.into(),
        language: "en".into(),
        reason,
    };
    let half = Transcript {
        speech_ms: 60_000,
        dropped: vec![
            dropped(1, DropReason::Phantom, "Thanks for watching!"),
            dropped(2, DropReason::RepeatedPhrase, "\u{1b}[2Jla la la la"),
            dropped(3, DropReason::Phantom, "Subscribe."),
            dropped(4, DropReason::Phantom, "See you."),
        ],
        coverage: Coverage {
            transcribed_ms: 30_000,
            words: 60,
            gaps: vec![Gap { start_ms: 31_000, end_ms: 61_000 }],
            flags: vec![Flag::LowCoverage],
        },
        ..transcript(vec![said])
    };
    let fine = Transcript {
        coverage: Coverage { transcribed_ms: 1_000, words: 2, ..Coverage::default() },
        ..transcript(vec![segment(0, 1_000, "en", "All here.")])
    };
    for (name, transcript) in [("talk", half), ("fine", fine)] {
        let item = item(name);
        store.upsert(&item, "x").await.unwrap();
        let work = claim(&store, &item).await;
        let passages = passages(&transcript.segments, 1);
        let metadata = Metadata { published_at: Some(1_700_000_000), ..Metadata::default() };
        store
            .complete(&work.claimed, &metadata, &transcript, &passages, &[vec![0.5; 4]], &model())
            .await
            .unwrap();
    }
    store.close().await;
    Library::on(&url)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_looks_incomplete_is_marked_and_explained() {
    let library = library().await;
    let status = library.ok(&["status"]);
    assert!(status.stdout.contains("└ much of the detected speech has no text"), "{status}");
    assert!(status.stdout.contains("2 done (1 looks incomplete), 0 failed"), "{status}");
    assert!(status.stderr.contains("spoken show ID"), "{status}");
    let [fine, talk] = &library.items()[..] else { panic!("{:?}", library.items()) };
    assert_eq!((&fine["flags"], &fine["dropped"], &fine["gaps"]), (&json!([]), &json!(0), &json!(0)));
    assert_eq!(
        (&talk["flags"], &talk["dropped"], &talk["gaps"]),
        (&json!(["low_coverage"]), &json!(4), &json!(1))
    );
    assert_eq!((&talk["speech_ms"], &talk["transcribed_ms"]), (&json!(60_000), &json!(30_000)));

    let shown = library.ok(&["show", "talk"]);
    for said in [
        "coverage   50 % of the speech has text, 120 words a minute\n",
        "gaps       0:31–1:01 (0:30 without text)\n",
        "! much of the detected speech has no text\n  → listen at the gaps",
        "dropped    4 texts were not believed: repeated phrase 1, written where nobody speaks 3\n",
        "    1:00  Thanks for watching!  written where nobody speaks\n",
        "… and 1 more: spoken show ",
        "    0:01  Half of it.\n",
    ] {
        assert!(shown.stdout.contains(said), "{said:?} is not in {shown}");
    }
    assert!(!shown.stdout.contains('\u{1b}') && !shown.stdout.contains("See you."), "{shown}");
    let dropped = library.ok(&["show", "talk", "--dropped"]);
    assert!(dropped.stdout.contains("See you.") && !dropped.stdout.contains("Half of it."), "{dropped}");
    let fine = library.ok(&["show", "fine"]);
    assert!(fine.stdout.contains("100 % of the speech") && !fine.stdout.contains("gaps"), "{fine}");

    let shown = library.ok(&["show", "talk", "--json"]).json();
    assert_eq!(shown["coverage"]["gaps"], json!([{"start_ms": 31_000, "end_ms": 61_000}]));
    assert_eq!(
        (&shown["dropped_count"], &shown["dropped"][1]["reason"]),
        (&json!(4), &json!("repeated_phrase"))
    );
    let export = library.export("talk");
    assert_eq!(
        (&shown["published_at"], &export["media"]["published_at"]),
        (&json!("2023-11-14T22:13:20Z"), &json!("2023-11-14T22:13:20Z"))
    );
    assert_eq!((&export["coverage"], &export["dropped"]), (&shown["coverage"], &shown["dropped"]));
    let words: Vec<&Value> = export["segments"][0]["words"].as_array().unwrap().iter().collect();
    assert_eq!(*words[2], json!({"start_ms": 3_000, "end_ms": 3_900, "text": "it.", "prob": 0.5}));
    assert_eq!(library.export("fine")["segments"][0].get("words"), None);
}
