//! The real model and the real ONNX Runtime, from the tools directory that the set-up fills.

use std::{env, fs, process::Command, time::Instant};

use super::*;

fn tools_dir() -> PathBuf {
    match env::var_os("SPOKEN_TOOLS_DIR") {
        Some(dir) => dir.into(),
        None => PathBuf::from(env::var_os("HOME").unwrap()).join(".cache/spoken/tools"),
    }
}

fn model_dir() -> PathBuf {
    tools_dir().join("models/all-minilm-l6-v2")
}

fn embedder() -> Embedder {
    let options = EmbedOptions::new(model_dir().to_str().unwrap(), "/nonexistent", tools_dir());
    Embedder::load(&options).unwrap()
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|t| (*t).to_owned()).collect()
}

#[tokio::test]
async fn sentences_of_one_meaning_are_near() {
    let embedder = embedder();
    assert_eq!(embedder.dimension(), 384);
    assert!(embedder.model_id().starts_with("all-minilm-l6-v2-"), "{}", embedder.model_id());
    let texts = [
        "My cat sleeps on the sofa.",
        "A kitten naps on the couch.",
        "The central bank raised interest rates by half a percent.",
        "Interest rates were increased by the central bank.",
        "To bake bread you need flour, water, salt and yeast.",
    ];
    let v = embedder.embed_passages(strings(&texts)).await.unwrap();
    assert!(dot(&v[0], &v[1]) >= 0.6, "{}", dot(&v[0], &v[1]));
    assert!(dot(&v[2], &v[3]) >= 0.6, "{}", dot(&v[2], &v[3]));
    for (a, b) in [(0, 2), (0, 4), (1, 3), (2, 4)] {
        assert!(dot(&v[a], &v[b]) < 0.3, "{} {}: {}", texts[a], texts[b], dot(&v[a], &v[b]));
    }
    let query = embedder.embed_query("Where does the cat sleep?").await.unwrap();
    let best = (0..5).max_by(|a, b| dot(&query, &v[*a]).total_cmp(&dot(&query, &v[*b]))).unwrap();
    assert_eq!(best, 0);
}

#[tokio::test]
async fn any_text_has_a_vector_of_length_one() {
    let embedder = embedder();
    let texts = vec![
        String::new(),
        "   ".to_owned(),
        "word ".repeat(10_000),
        "👩‍🚀🎬🔥".to_owned(),
        "日本語の文章です。".to_owned(),
        "\u{202e}abc\0\u{1b}[31m".to_owned(),
        "x".repeat(100_000),
    ];
    let vectors = embedder.embed_passages(texts).await.unwrap();
    for v in &vectors {
        assert_eq!(v.len(), 384);
        assert!((dot(v, v) - 1.0).abs() < 1e-4);
    }
    assert!(embedder.embed_passages(Vec::new()).await.unwrap().is_empty());
    embedder.embed_query("").await.unwrap();
}

#[tokio::test]
async fn a_text_has_the_same_vector_in_any_company() {
    let embedder = embedder();
    let texts: Vec<_> =
        (0..20).map(|i| format!("Sentence number {i} talks about {}.", "things ".repeat(i * 3))).collect();
    let together = embedder.embed_passages(texts.clone()).await.unwrap();
    for (text, v) in texts.into_iter().zip(&together) {
        let alone = embedder.embed_passages(vec![text]).await.unwrap();
        let most = alone[0].iter().zip(v).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(most < 1e-3, "{most}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_callers_share_one_model() {
    let embedder = embedder();
    let tasks: Vec<_> = (0..50)
        .map(|i| {
            let embedder = embedder.clone();
            tokio::spawn(async move {
                let texts: Vec<_> = (0..i % 5 + 1).map(|k| format!("caller {i} says {k}")).collect();
                (i, embedder.embed_passages(texts).await.unwrap())
            })
        })
        .collect();
    for task in tasks {
        let (i, vectors) = task.await.unwrap();
        assert_eq!(vectors.len(), i % 5 + 1);
        let again = embedder.embed_passages(vec![format!("caller {i} says 0")]).await.unwrap();
        assert!(dot(&again[0], &vectors[0]) > 0.999);
    }
}

#[test]
fn what_is_missing_is_named() {
    let options = |model: &str| EmbedOptions::new(model, "/nonexistent", tools_dir());
    let load = |model: &str| Embedder::load(&options(model)).unwrap_err().to_string();
    for good in [model_dir().to_str().unwrap(), "intfloat/multilingual-e5-small"] {
        options(good).check().unwrap();
    }
    for bad in ["/no/such/model", "./model", "intfloat/multilingual-e5-tiny", env!("CARGO_MANIFEST_DIR")] {
        assert_eq!(options(bad).check().unwrap_err().to_string(), load(bad));
    }
    let message = load("/no/such/model");
    assert!(message.contains("/no/such/model"), "{message}");
    let message = load("intfloat/multilingual-e5-tiny");
    assert!(message.contains("intfloat/multilingual-e5-small"), "{message}");
    let dir = tempfile::tempdir().unwrap();
    let message = load(dir.path().to_str().unwrap());
    assert!(message.contains("model.onnx"), "{message}");
    fs::write(dir.path().join("model.onnx"), b"not a network").unwrap();
    let message = load(dir.path().to_str().unwrap());
    assert!(message.contains("tokenizer.json"), "{message}");
    for name in ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "config.json"] {
        fs::copy(model_dir().join(name), dir.path().join(name)).unwrap();
    }
    let message = load(dir.path().to_str().unwrap());
    assert!(message.contains("does not work"), "{message}");
    let failure = Failure::from(EmbedError::NoDirectory { path: "/x".into() });
    assert_eq!(failure.class, FailureClass::Setup);
}

/// Runs the ignored test `name` in a process of its own: ONNX Runtime is loaded once per process.
fn in_own_process(name: &str, variables: &[(&str, &str)]) {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", &format!("embed::tests::{name}"), "--ignored", "--nocapture"]);
    command.envs(variables.iter().copied());
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

#[test]
fn a_library_that_is_none_is_an_error_and_no_panic() {
    let dir = tempfile::tempdir().unwrap();
    let text = dir.path().join("text.so");
    fs::write(&text, "this is no library").unwrap();
    let absent = dir.path().join("absent.so");
    let onnx = env!("CARGO_MANIFEST_DIR");
    for path in [text.to_str().unwrap(), absent.to_str().unwrap(), onnx, "/lib/x86_64-linux-gnu/libc.so.6"] {
        in_own_process("child_reports_a_bad_library", &[("ORT_DYLIB_PATH", path)]);
    }
}

#[test]
#[ignore = "run by a_library_that_is_none_is_an_error_and_no_panic"]
fn child_reports_a_bad_library() {
    let message = Embedder::check_runtime(Path::new("/nonexistent")).unwrap_err().to_string();
    assert!(message.contains("ONNX Runtime") && message.contains("ORT_DYLIB_PATH"), "{message}");
}

#[test]
fn an_unreachable_hub_is_told_quickly_with_the_way_out() {
    in_own_process(
        "child_reports_an_unreachable_hub",
        &[("HF_ENDPOINT", "http://127.0.0.1:9"), ("HTTPS_PROXY", "")],
    );
}

#[test]
#[ignore = "run by an_unreachable_hub_is_told_quickly_with_the_way_out"]
fn child_reports_an_unreachable_hub() {
    let dir = tempfile::tempdir().unwrap();
    let start = Instant::now();
    let options = EmbedOptions::new("intfloat/multilingual-e5-small", dir.path(), tools_dir());
    let message = Embedder::load(&options).unwrap_err().to_string();
    assert!(message.contains("multilingual-e5-small") && message.contains("tokenizer.json"), "{message}");
    assert!(start.elapsed().as_secs() < 30);
}
