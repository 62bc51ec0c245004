//! The thread that owns the model and forms batches across all who ask.

use std::{
    collections::{HashMap, VecDeque},
    panic::{AssertUnwindSafe, catch_unwind},
};

use async_channel::Receiver;
use tokio::sync::oneshot;

use crate::media::{Failure, FailureClass};

/// Texts, in order, and where their vectors go.
pub(super) struct Request {
    pub texts: Vec<String>,
    /// Goes before what is waiting: somebody looks at a screen.
    pub urgent: bool,
    pub reply: oneshot::Sender<Result<Vec<Vec<f32>>, Failure>>,
}

/// What turns texts into vectors; a trait so that the batching can be tested without a model.
pub(super) trait Embed {
    /// One vector a text.
    fn embed(&mut self, texts: &[&str]) -> Result<Vec<Vec<f32>>, String>;
}

impl Embed for fastembed::TextEmbedding {
    fn embed(&mut self, texts: &[&str]) -> Result<Vec<Vec<f32>>, String> {
        // The batch is the caller's: no second splitting.
        self.embed(texts, None).map_err(|e| e.to_string())
    }
}

/// A request in work.
struct Job {
    texts: Vec<String>,
    vectors: Vec<Vec<f32>>,
    missing: usize,
    reply: oneshot::Sender<Result<Vec<Vec<f32>>, Failure>>,
}

/// Embeds requests until nobody can send any more.
pub(super) struct Worker<E> {
    model: E,
    batch: usize,
    dimension: usize,
    jobs: HashMap<u64, Job>,
    /// Texts to embed: job and position in it.
    waiting: VecDeque<(u64, usize)>,
    next_job: u64,
}

impl<E: Embed> Worker<E> {
    /// A worker that embeds up to `batch` texts at once into vectors of `dimension` numbers.
    pub fn new(model: E, batch: usize, dimension: usize) -> Self {
        Self {
            model,
            batch: batch.max(1),
            dimension,
            jobs: HashMap::new(),
            waiting: VecDeque::new(),
            next_job: 0,
        }
    }

    /// Works until the channel is closed and empty.
    pub fn run(mut self, requests: &Receiver<Request>) {
        loop {
            if self.waiting.is_empty() {
                let Ok(request) = requests.recv_blocking() else { return };
                self.accept(request);
            }
            while let Ok(request) = requests.try_recv() {
                self.accept(request);
            }
            let batch = self.take();
            self.embed(&batch);
        }
    }

    fn accept(&mut self, request: Request) {
        let Request { texts, urgent, reply } = request;
        let id = self.next_job;
        self.next_job += 1;
        if texts.is_empty() {
            // An asker who left needs no answer, here and below.
            let _ = reply.send(Ok(Vec::new()));
            return;
        }
        let places = (0..texts.len()).map(|i| (id, i));
        if urgent {
            places.rev().for_each(|p| self.waiting.push_front(p));
        } else {
            self.waiting.extend(places);
        }
        let missing = texts.len();
        self.jobs.insert(id, Job { vectors: vec![Vec::new(); missing], missing, texts, reply });
    }

    /// The next batch: the text that waits longest, and of those behind it the ones nearest to it in length, since all
    /// are padded to the longest.
    fn take(&mut self) -> Vec<(u64, usize)> {
        let jobs = &mut self.jobs;
        jobs.retain(|_, job| !job.reply.is_closed());
        self.waiting.retain(|(id, _)| jobs.contains_key(id));
        let length = |place: &(u64, usize)| jobs.get(&place.0).map_or(0, |job| job.texts[place.1].len());
        let Some(first) = self.waiting.front() else { return Vec::new() };
        let wanted = length(first);
        let mut window: Vec<_> = (0..self.waiting.len().min(self.batch * 4)).collect();
        window.sort_by_key(|&i| (i > 0, length(&self.waiting[i]).abs_diff(wanted), i));
        window.truncate(self.batch);
        window.sort_unstable();
        let batch = window.iter().map(|&i| self.waiting[i]).collect();
        for i in window.into_iter().rev() {
            self.waiting.remove(i);
        }
        batch
    }

    fn embed(&mut self, batch: &[(u64, usize)]) {
        if batch.is_empty() {
            return;
        }
        let texts: Vec<_> = batch.iter().map(|(id, i)| self.jobs[id].texts[*i].as_str()).collect();
        match run_model(&mut self.model, &texts) {
            Ok(vectors) => {
                for (place, vector) in batch.iter().zip(vectors) {
                    self.deliver(*place, Ok(vector));
                }
            }
            // Whose text it is shows when each is tried alone.
            Err(_) if batch.len() > 1 => {
                for place in batch {
                    if self.jobs.contains_key(&place.0) {
                        self.embed(&[*place]);
                    }
                }
            }
            Err(why) => self.deliver(batch[0], Err(why)),
        }
    }

    fn deliver(&mut self, (id, i): (u64, usize), result: Result<Vec<f32>, String>) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let result = result.and_then(|mut vector| {
            normalise(&mut vector, self.dimension)?;
            Ok(vector)
        });
        match result {
            Ok(vector) => {
                job.vectors[i] = vector;
                job.missing -= 1;
                if job.missing == 0
                    && let Some(job) = self.jobs.remove(&id)
                {
                    let _ = job.reply.send(Ok(job.vectors));
                }
            }
            Err(why) => {
                let opening: String = job.texts[i].chars().take(40).collect();
                let message = format!(
                    "text {} of {} ({opening:?}) could not be embedded: {why}",
                    i + 1,
                    job.texts.len()
                );
                if let Some(job) = self.jobs.remove(&id) {
                    let _ = job.reply.send(Err(Failure::new(FailureClass::Internal, message)));
                }
                self.waiting.retain(|(waiting, _)| *waiting != id);
            }
        }
    }
}

/// Runs the model; a panic in it is an error like any other.
pub(super) fn run_model(model: &mut impl Embed, texts: &[&str]) -> Result<Vec<Vec<f32>>, String> {
    let vectors = catch_unwind(AssertUnwindSafe(|| model.embed(texts)))
        .unwrap_or_else(|_| Err("the model panicked".to_owned()))?;
    if vectors.len() == texts.len() {
        Ok(vectors)
    } else {
        Err(format!("{} vectors for {} texts", vectors.len(), texts.len()))
    }
}

/// Checks a vector and makes its length 1: finite, of the right dimension, and no further from length 1 than 0.001, since
/// the model should have done it.
pub(super) fn normalise(vector: &mut [f32], dimension: usize) -> Result<(), String> {
    if vector.len() != dimension {
        return Err(format!("a vector of {} numbers instead of {dimension}", vector.len()));
    }
    let norm = vector.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    if !norm.is_finite() || (norm - 1.0).abs() >= 1e-3 {
        return Err(format!("a vector of length {norm} instead of 1"));
    }
    for x in vector {
        *x = (f64::from(*x) / norm) as f32;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers with the text's length as an angle; fails, panics or gives rubbish when asked to.
    #[derive(Default)]
    struct Fake {
        batches: std::sync::Arc<std::sync::Mutex<Vec<usize>>>,
    }

    fn vector(text: &str) -> Vec<f32> {
        let angle = text.len() as f32 / 100.0;
        vec![angle.cos(), angle.sin()]
    }

    impl Embed for Fake {
        fn embed(&mut self, texts: &[&str]) -> Result<Vec<Vec<f32>>, String> {
            self.batches.lock().unwrap().push(texts.len());
            assert!(!texts.contains(&"panic"), "asked to");
            if texts.contains(&"fail") {
                return Err("asked to".to_owned());
            }
            Ok(texts
                .iter()
                .map(|t| match *t {
                    "nan" => vec![f32::NAN, 0.0],
                    "long" => vec![2.0, 0.0],
                    "wide" => vec![1.0, 0.0, 0.0],
                    t => vector(t),
                })
                .collect())
        }
    }

    type Answer = oneshot::Receiver<Result<Vec<Vec<f32>>, Failure>>;

    fn request(texts: &[&str], urgent: bool) -> (Request, Answer) {
        let (reply, answer) = oneshot::channel();
        (Request { texts: texts.iter().map(|t| (*t).to_owned()).collect(), urgent, reply }, answer)
    }

    /// Queues all requests, then runs the worker to the end.
    fn run(batch: usize, requests: Vec<Request>) -> Vec<usize> {
        let fake = Fake::default();
        let batches = fake.batches.clone();
        let (tx, rx) = async_channel::unbounded();
        requests.into_iter().for_each(|r| tx.send_blocking(r).unwrap());
        drop(tx);
        Worker::new(fake, batch, 2).run(&rx);
        std::mem::take(&mut *batches.lock().unwrap())
    }

    #[test]
    fn batches_are_formed_across_requests_and_answers_keep_their_order() {
        let texts: Vec<Vec<String>> =
            (0..10).map(|r| (0..r).map(|i| "x".repeat((i * 7 + r) % 50)).collect()).collect();
        let (requests, answers): (Vec<_>, Vec<_>) =
            texts.iter().map(|t| request(&t.iter().map(String::as_str).collect::<Vec<_>>(), false)).unzip();
        let batches = run(8, requests);
        assert_eq!(batches, [8, 8, 8, 8, 8, 5]);
        for (texts, mut answer) in texts.iter().zip(answers) {
            let vectors = answer.try_recv().unwrap().unwrap();
            assert_eq!(vectors.len(), texts.len());
            for (t, v) in texts.iter().zip(vectors) {
                let truth = vector(t);
                assert!((truth[0] - v[0]).abs() < 1e-6 && (truth[1] - v[1]).abs() < 1e-6);
            }
        }
    }

    #[test]
    fn one_bad_text_fails_its_own_request_only() {
        for bad in ["fail", "panic", "nan", "long", "wide"] {
            let (a, mut first) = request(&["fine", "too"], false);
            let (b, mut second) = request(&["ok", bad, "more", "and more"], false);
            let (c, mut third) = request(&["good"], false);
            run(16, vec![a, b, c]);
            assert_eq!(first.try_recv().unwrap().unwrap().len(), 2, "{bad}");
            let failure = second.try_recv().unwrap().unwrap_err();
            assert_eq!(failure.class, FailureClass::Internal);
            assert!(failure.message.contains("text 2 of 4") && failure.message.contains(bad), "{failure}");
            assert_eq!(third.try_recv().unwrap().unwrap().len(), 1, "{bad}");
        }
    }

    #[test]
    fn texts_of_like_length_go_together_and_nobody_starves() {
        let (a, mut answer) = request(&["x", &"y".repeat(1000), "z", &"w".repeat(990), "v"], false);
        let batches = run(2, vec![a]);
        assert_eq!(batches, [2, 2, 1]);
        assert!(answer.try_recv().unwrap().is_ok());
    }

    #[test]
    fn an_urgent_request_goes_first() {
        let fake = Fake::default();
        let mut worker = Worker::new(fake, 2, 2);
        let (a, _keep) = request(&["a", "b", "c"], false);
        let (b, _keep_too) = request(&["query"], true);
        worker.accept(a);
        worker.accept(b);
        assert!(worker.take().contains(&(1, 0)));
    }

    #[test]
    fn nothing_is_computed_for_an_asker_who_left() {
        let (a, answer) = request(&["a", "b"], false);
        drop(answer);
        let (empty, mut none) = request(&[], false);
        assert!(run(4, vec![a, empty]).is_empty());
        assert!(none.try_recv().unwrap().unwrap().is_empty());
    }
}
