//! Working on one item: claim it, then finish it one way or another, under the claim's fence.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::postgres::PgConnection;
use sqlx::types::Json;
use sqlx::{AssertSqlSafe, Row};

use super::account;
use super::answering::{answering_or, keep_answering};
use super::copy::Rows;
use super::{
    EmbeddingModel, Store, StoreError, Transient, Upgraded, clean, is_transient, locator, retrying, upgrade,
};
use crate::media::{Failure, FailureClass, Item, MediaId, Metadata, Passage, Transcript};

/// The right to write an item's results, until somebody claims it anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Claimed {
    /// The item.
    pub media_id: MediaId,
    /// The number drawn by this claim.
    pub fence: i64,
}

/// A claimed item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Work {
    /// What to work on.
    pub item: Item,
    /// Needed to finish it.
    pub claimed: Claimed,
    /// Counted from 1; retries asked for by a person start over.
    pub attempt: u32,
    /// How often a worker went away with the item in its hand, without finishing or releasing it.
    pub crashes: u32,
    /// It was done before and is done again: a failure leaves the stored results as they are.
    pub again: bool,
    /// The language that was asked for; none: as configured.
    pub language: Option<String>,
}

/// The answer to [`Store::claim`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    /// It is yours.
    Work(Box<Work>),
    /// Its segments and vectors are stored.
    AlreadyDone,
    /// It failed for good and nobody asked for a retry; or somebody did, and another job is there for that.
    GivenUp,
    /// There is no such item (any more).
    Gone,
    /// Where it is cannot be read: another version of the program wrote it. It is given up with this reason.
    Unreadable {
        /// Untrusted text.
        title: String,
        /// What a person would open. Untrusted text.
        source: String,
        /// What was stored.
        failure: Failure,
    },
}

/// Whether a delayed attempt counts against the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// It does.
    Counts,
    /// It does not: the site asked everybody to wait, the item had no part in it.
    Free,
}

/// Why a result was not written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SaveError {
    /// Somebody else claimed the item meanwhile; what they write counts.
    #[error("the item was given to another worker meanwhile")]
    LeaseLost,
    /// The parts do not fit together (as many vectors as passages, each of the model's dimension and finite, each
    /// passage within the segments).
    #[error("the results contradict each other: {0}")]
    Invalid(String),
    /// Another embedding model answers searches: vectors of this one would not be found.
    #[error("searches are answered by the embedding model {answers}, not by {given}")]
    OtherModel {
        /// The one that answers.
        answers: String,
        /// The one of the vectors.
        given: String,
    },
    /// The server or the connection.
    #[error("database: {0}")]
    Database(#[from] sqlx::Error),
}

impl SaveError {
    /// True where writing the same again may succeed later.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Database(e) if is_transient(e))
    }
}

impl Transient for SaveError {
    fn transient(&self) -> bool {
        self.is_transient()
    }
}

impl From<StoreError> for SaveError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Database(e) => Self::Database(e),
            other => Self::Database(sqlx::Error::Configuration(Box::new(other))),
        }
    }
}

/// How an attempt ends that did not end well.
enum Ending<'a> {
    Failed(&'a Failure),
    Delayed { failure: &'a Failure, after: Duration, attempt: Attempt },
    Released,
}

impl Store {
    /// Takes an item that is queued, or active in the hand of a worker that is gone: draws the next fence, so that
    /// whatever the former worker still writes is refused.
    ///
    /// Whether the former worker *is* gone is the queue's to know; calling this for an item that is being worked
    /// on takes it away. Taking over an active item counts no new attempt; deaths are the queue's to count, too.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn claim(&self, media_id: MediaId, worker: &str) -> Result<Claim, StoreError> {
        retrying(|| self.try_claim(media_id, None, worker)).await
    }

    /// As [`Self::claim`], for a job: only while the item is of the job's generation. After that another job is there for it,
    /// and what that has begun is not taken away.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn claim_for_job(
        &self,
        media_id: MediaId,
        generation: i32,
        worker: &str,
    ) -> Result<Claim, StoreError> {
        retrying(|| self.try_claim(media_id, Some(generation), worker)).await
    }

    async fn try_claim(
        &self,
        media_id: MediaId,
        generation: Option<i32>,
        worker: &str,
    ) -> Result<Claim, StoreError> {
        let row = sqlx::query(
            "UPDATE media SET
                 fence = fence + 1,
                 attempts = attempts + CASE WHEN state = 'active' THEN 0 ELSE 1 END,
                 state = 'active', worker = $2, retry_at = NULL, started_at = now(), updated_at = now()
             WHERE media_id = $1 AND generation = coalesce($3, generation) AND state IN ('queued', 'active')
             RETURNING extractor, source_id, locator, source, title, duration_ms, fence, attempts, crashes,
                 segments IS NOT NULL AS again, language_wanted",
        )
        .bind(media_id.0)
        .bind(&*clean(worker))
        .bind(generation)
        .fetch_optional(&self.pool)
        .await?;
        let Some(row) = row else {
            let state: Option<String> = sqlx::query_scalar("SELECT state FROM media WHERE media_id = $1")
                .bind(media_id.0)
                .fetch_optional(&self.pool)
                .await?;
            return Ok(match state.as_deref() {
                Some("done") => Claim::AlreadyDone,
                // Or queued again since, and so of another generation: that one's job is on its way.
                Some(_) => Claim::GivenUp,
                None => Claim::Gone,
            });
        };
        let claimed = Claimed { media_id, fence: row.try_get("fence")? };
        let (source, title) = (row.try_get("source")?, row.try_get("title")?);
        let locator = match locator::from_json(&row.try_get("locator")?) {
            Ok(locator) => locator,
            Err(why) => return self.give_up_unreadable(&claimed, why, title, source).await,
        };
        let item = Item {
            media_id,
            extractor: row.try_get("extractor")?,
            source_id: row.try_get("source_id")?,
            locator,
            source,
            title,
            duration_ms: row.try_get("duration_ms")?,
        };
        Ok(Claim::Work(Box::new(Work {
            item,
            claimed,
            attempt: row.try_get::<i32, _>("attempts")?.max(1) as u32,
            crashes: row.try_get::<i32, _>("crashes")?.max(0) as u32,
            again: row.try_get("again")?,
            language: row.try_get("language_wanted")?,
        })))
    }

    /// Fails a claimed item whose place cannot be read: claimed again it could be read no better.
    async fn give_up_unreadable(
        &self,
        claimed: &Claimed,
        why: String,
        title: String,
        source: String,
    ) -> Result<Claim, StoreError> {
        let failure = Failure::new(FailureClass::Setup, why)
            .with_remedy("a newer spoken wrote it: update this one, then `spoken retry --class setup`");
        match self.fail(claimed, &failure).await {
            Ok(()) => Ok(Claim::Unreadable { title, source, failure }),
            Err(SaveError::Database(error)) => Err(error.into()),
            // Taken by another worker meanwhile.
            Err(_) => Ok(Claim::GivenUp),
        }
    }

    /// Stores the results and sets the item done, in one transaction; whatever was stored for it before is replaced.
    ///
    /// `vectors[i]` belongs to `passages[i]` and has `embedding.dimension` elements; they are stored as halves.
    /// Repeating the call after an unclear answer is safe: it succeeds if the first one was committed.
    ///
    /// # Errors
    /// [`SaveError::LeaseLost`] without having changed anything; [`SaveError::Invalid`] before asking the server.
    pub async fn complete(
        &self,
        claimed: &Claimed,
        metadata: &Metadata,
        transcript: &Transcript,
        passages: &[Passage],
        vectors: &[Vec<f32>],
        embedding: &EmbeddingModel,
    ) -> Result<(), SaveError> {
        let results = Results { metadata, transcript, passages, vectors, embedding };
        self.store(claimed, &results, Terms { again: None, must_answer: false }).await
    }

    /// As [`Self::complete`], but only where the vectors are of the model that answers searches (or none does yet).
    ///
    /// # Errors
    /// As for [`Self::complete`]; [`SaveError::OtherModel`] without having changed anything.
    pub async fn complete_answering(
        &self,
        claimed: &Claimed,
        results: &Results<'_>,
    ) -> Result<(), SaveError> {
        self.store(claimed, results, Terms { again: None, must_answer: true }).await
    }

    /// Puts new results in the place of those of an item that is done, while it stays done. `former` is the item and the fence
    /// under which the former results were stored; where others have taken their place meanwhile, or are about to, nothing is
    /// changed.
    ///
    /// # Errors
    /// As for [`Self::complete_answering`].
    pub async fn replace(
        &self,
        former: &Claimed,
        results: &Results<'_>,
        upgraded: &Upgraded,
    ) -> Result<(), SaveError> {
        self.store(former, results, Terms { again: Some(upgraded), must_answer: true }).await
    }

    async fn store(
        &self,
        claimed: &Claimed,
        results: &Results<'_>,
        terms: Terms<'_>,
    ) -> Result<(), SaveError> {
        let Results { metadata, transcript, passages, vectors, embedding } = *results;
        check(transcript, passages, vectors, embedding)?;
        let mut dropped = false;
        loop {
            let table = self.ensure_embedding_model(embedding).await?;
            let job = Completion {
                claimed,
                terms,
                metadata,
                transcript,
                passages,
                vectors,
                embedding,
                table: &table,
            };
            match retrying(|| self.try_complete(&job)).await {
                // Dropped by another process; made anew where it is still wanted.
                Err(SaveError::Database(error)) if is_undefined_table(&error) && !dropped => {
                    dropped = true;
                    if let Ok(mut seen) = self.seen.tables.write() {
                        seen.remove(embedding);
                    }
                }
                other => return other,
            }
        }
    }

    async fn try_complete(&self, job: &Completion<'_>) -> Result<(), SaveError> {
        let mut tx = self.pool.begin().await?;
        keep_answering(&mut tx).await?;
        let answers = answering_or(&mut tx, job.embedding).await?;
        if job.terms.must_answer && answers != clean(&job.embedding.model_id) {
            return Err(SaveError::OtherModel { answers, given: job.embedding.model_id.clone() });
        }
        if !job.set_done(&mut tx).await? {
            if job.terms.again.is_some() {
                return job.replaced_before(&mut tx).await;
            }
            return outcome(&mut tx, job.claimed, &["done"]).await;
        }
        job.remove_former(&mut tx).await?;
        if let Some(upgraded) = job.terms.again {
            upgrade::note(&mut tx, job.claimed.media_id.0, upgraded).await?;
        }
        sqlx::query("DELETE FROM handovers WHERE media_id = $1")
            .bind(job.claimed.media_id.0)
            .execute(&mut *tx)
            .await?;
        job.copy_segments(&mut tx).await?;
        job.copy_passages(&mut tx).await?;
        job.copy_vectors(&mut tx).await?;
        let new = self.note_languages(&mut tx, job.transcript).await?;
        tx.commit().await?;
        if let Ok(mut seen) = self.seen.languages.write() {
            seen.extend(new);
        }
        Ok(())
    }

    /// Adds languages met for the first time; those that this process did not know of.
    async fn note_languages(
        &self,
        conn: &mut PgConnection,
        transcript: &Transcript,
    ) -> Result<Vec<String>, sqlx::Error> {
        let mut new: Vec<String> = {
            let seen = self.seen.languages.read();
            let known = |language: &String| seen.as_ref().is_ok_and(|seen| seen.contains(language));
            transcript.segments.iter().map(|s| &s.language).filter(|l| !known(l)).cloned().collect()
        };
        // Sorted, so that two transactions cannot wait for each other.
        new.sort_unstable();
        new.dedup();
        if !new.is_empty() {
            let cleaned: Vec<String> = new.iter().map(|l| clean(l).into_owned()).collect();
            sqlx::query("INSERT INTO languages SELECT unnest($1::text[]) ON CONFLICT DO NOTHING")
                .bind(cleaned)
                .execute(conn)
                .await?;
        }
        Ok(new)
    }

    /// Gives the item up, with the reason. One that was done before is done as before: its results are still stored.
    ///
    /// # Errors
    /// [`SaveError::LeaseLost`], [`SaveError::Database`].
    pub async fn fail(&self, claimed: &Claimed, failure: &Failure) -> Result<(), SaveError> {
        let ending = Ending::Failed(failure);
        retrying(|| self.try_end(claimed, &ending)).await.map(drop)
    }

    /// Puts the item back until `after` has passed; the time of the next attempt, by the database's clock.
    ///
    /// # Errors
    /// [`SaveError::LeaseLost`], [`SaveError::Database`].
    pub async fn delay(
        &self,
        claimed: &Claimed,
        failure: &Failure,
        after: Duration,
        attempt: Attempt,
    ) -> Result<DateTime<Utc>, SaveError> {
        let ending = Ending::Delayed { failure, after, attempt };
        let at = retrying(|| self.try_end(claimed, &ending)).await?;
        // None only when an earlier, committed try was answered by a broken connection and the item has moved on.
        Ok(at.unwrap_or_else(Utc::now))
    }

    /// Puts the item back as if it had not been claimed: the program is stopping. The attempt is not consumed.
    ///
    /// # Errors
    /// [`SaveError::LeaseLost`], [`SaveError::Database`].
    pub async fn release(&self, claimed: &Claimed) -> Result<(), SaveError> {
        retrying(|| self.try_end(claimed, &Ending::Released)).await.map(drop)
    }

    async fn try_end(
        &self,
        claimed: &Claimed,
        ending: &Ending<'_>,
    ) -> Result<Option<DateTime<Utc>>, SaveError> {
        let (state, failure, after, consumed) = match ending {
            Ending::Failed(failure) => ("failed", Some(*failure), None, true),
            Ending::Delayed { failure, after, attempt } => {
                ("queued", Some(*failure), Some(after.as_secs_f64()), *attempt == Attempt::Counts)
            }
            Ending::Released => ("queued", None, None, false),
        };
        let mut tx = self.pool.begin().await?;
        let row: Option<(Option<DateTime<Utc>>,)> = sqlx::query_as(
            "UPDATE media SET
                 state = CASE WHEN $3 = 'failed' AND segments IS NOT NULL THEN 'done' ELSE $3 END,
                 attempts = attempts - CASE WHEN $4 THEN 0 ELSE 1 END,
                 retry_at = now() + make_interval(secs => $5),
                 error_class = coalesce($6, error_class),
                 error = coalesce($7, error),
                 remedy = CASE WHEN $6 IS NULL THEN remedy ELSE $8 END,
                 worker = CASE WHEN $3 = 'queued' THEN NULL ELSE worker END,
                 finished_at = CASE WHEN $3 = 'failed' THEN now() END,
                 updated_at = now()
             WHERE media_id = $1 AND fence = $2 AND state = 'active'
             RETURNING retry_at",
        )
        .bind(claimed.media_id.0)
        .bind(claimed.fence)
        .bind(state)
        .bind(consumed)
        .bind(after)
        .bind(failure.map(|f| f.class.as_str()))
        .bind(failure.map(|f| clean(&f.message).into_owned()))
        .bind(failure.and_then(|f| f.remedy.as_deref()).map(|r| clean(r).into_owned()))
        .fetch_optional(&mut *tx)
        .await?;
        let Some((retry_at,)) = row else {
            let ended: &[&str] = if state == "failed" { &["failed", "done"] } else { &["queued"] };
            outcome(&mut tx, claimed, ended).await?;
            return Ok(None);
        };
        tx.commit().await?;
        Ok(retry_at)
    }
}

/// What it means that a fenced update changed nothing. Nobody but the holder of a fence ends the attempt under it,
/// so an attempt that ended under our fence, in one of the `wanted` states, was ended by us: by a try whose answer
/// got lost.
async fn outcome(conn: &mut PgConnection, claimed: &Claimed, wanted: &[&str]) -> Result<(), SaveError> {
    let ended: bool = sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM media WHERE media_id = $1 AND fence = $2 AND state = ANY($3))",
    )
    .bind(claimed.media_id.0)
    .bind(claimed.fence)
    .bind(wanted)
    .fetch_one(conn)
    .await?;
    if ended { Ok(()) } else { Err(SaveError::LeaseLost) }
}

fn check(
    transcript: &Transcript,
    passages: &[Passage],
    vectors: &[Vec<f32>],
    embedding: &EmbeddingModel,
) -> Result<(), SaveError> {
    let invalid = |message: String| Err(SaveError::Invalid(message));
    if passages.len() != vectors.len() {
        return invalid(format!("{} passages, {} vectors", passages.len(), vectors.len()));
    }
    for (i, (passage, vector)) in passages.iter().zip(vectors).enumerate() {
        if passage.first_segment >= passage.end_segment || passage.end_segment > transcript.segments.len() {
            return invalid(format!(
                "passage {i} spans segments {} to {} of {}",
                passage.first_segment,
                passage.end_segment,
                transcript.segments.len()
            ));
        }
        check_vector(i32::try_from(i).unwrap_or(i32::MAX), vector, embedding)?;
    }
    Ok(())
}

/// Whether a vector can be stored.
pub(super) fn check_vector(seq: i32, vector: &[f32], model: &EmbeddingModel) -> Result<(), SaveError> {
    if vector.len() != model.dimension {
        let message = format!("vector {seq} has {} elements, not {}", vector.len(), model.dimension);
        return Err(SaveError::Invalid(message));
    }
    // pgvector refuses what is not finite as a half: 65,504 is the largest.
    if vector.iter().any(|v| !v.is_finite() || v.abs() > half::f16::MAX.to_f32()) {
        return Err(SaveError::Invalid(format!("vector {seq} has elements that are no finite halves")));
    }
    Ok(())
}

/// <https://www.postgresql.org/docs/current/errcodes-appendix.html>
fn is_undefined_table(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(|e| e.code().as_deref() == Some("42P01"))
}

/// What is stored of an item.
#[derive(Clone, Copy, Debug)]
pub struct Results<'a> {
    /// What fetching learned.
    pub metadata: &'a Metadata,
    /// What was said.
    pub transcript: &'a Transcript,
    /// Its passages.
    pub passages: &'a [Passage],
    /// Of each passage.
    pub vectors: &'a [Vec<f32>],
    /// The model that made them.
    pub embedding: &'a EmbeddingModel,
}

/// On which terms results are stored.
#[derive(Clone, Copy, Debug)]
struct Terms<'a> {
    /// In the place of those of an item that is done and was not claimed, and what to note of it.
    again: Option<&'a Upgraded>,
    /// Only vectors of the model that answers.
    must_answer: bool,
}

/// Everything that [`Store::complete`] writes.
struct Completion<'a> {
    claimed: &'a Claimed,
    terms: Terms<'a>,
    metadata: &'a Metadata,
    transcript: &'a Transcript,
    passages: &'a [Passage],
    vectors: &'a [Vec<f32>],
    embedding: &'a EmbeddingModel,
    table: &'a str,
}

impl Completion<'_> {
    /// First, so that the row is locked and nobody can claim the item until we are through; false: lease lost.
    async fn set_done(&self, conn: &mut PgConnection) -> Result<bool, sqlx::Error> {
        let published =
            self.metadata.published_at.and_then(|seconds| DateTime::<Utc>::from_timestamp(seconds, 0));
        let text = |value: &Option<String>| value.as_deref().map(|v| clean(v).into_owned());
        // Storing in the place of others is a claim and its end in one.
        let (fence, condition) = match self.terms.again.is_some() {
            false => ("fence", "fence = $2 AND state = 'active'"),
            true => ("fence + 1", "coalesce(stored_fence, 0) = $2 AND state = 'done'"),
        };
        let sql = format!(
            "UPDATE media SET
                 state = 'done', fence = {fence}, stored_fence = {fence}, embedded_also = '{{}}',
                 title = coalesce($3, title),
                 webpage_url = coalesce($4, webpage_url),
                 channel = coalesce($5, channel),
                 published_at = coalesce($6, published_at),
                 duration_ms = $7, speech_ms = $8, language = $9, model = $10,
                 embedding_model = $11, segments = $12,
                 coverage = $13, dropped = $14, dropped_count = $15, flags = $16,
                 error_class = NULL, error = NULL, remedy = NULL, retry_at = NULL,
                 finished_at = now(), updated_at = now()
             WHERE media_id = $1 AND {condition}"
        );
        let updated = sqlx::query(AssertSqlSafe(sql))
            .bind(self.claimed.media_id.0)
            .bind(self.claimed.fence)
            .bind(text(&self.metadata.title).filter(|t| !t.trim().is_empty()))
            .bind(text(&self.metadata.webpage_url))
            .bind(text(&self.metadata.channel))
            .bind(published)
            .bind(self.transcript.duration_ms)
            .bind(self.transcript.speech_ms)
            .bind(&*clean(&self.transcript.language))
            .bind(&*clean(&self.transcript.model))
            .bind(&*clean(&self.embedding.model_id))
            .bind(i32::try_from(self.transcript.segments.len()).unwrap_or(i32::MAX))
            .bind(Json(&self.transcript.coverage))
            .bind(account::dropped_json(&self.transcript.dropped))
            .bind(i32::try_from(self.transcript.dropped.len()).unwrap_or(i32::MAX))
            .bind(self.transcript.coverage.flags.iter().map(|flag| flag.as_str()).collect::<Vec<_>>())
            .execute(conn)
            .await?;
        Ok(updated.rows_affected() == 1)
    }

    /// What it means that nothing was replaced: it was, by a try whose answer got lost, or others were faster. Nobody else
    /// makes this fence of that one and names this model in the same breath.
    async fn replaced_before(&self, conn: &mut PgConnection) -> Result<(), SaveError> {
        let ours: bool = sqlx::query_scalar(
            "SELECT EXISTS (SELECT FROM media WHERE media_id = $1 AND stored_fence > $2 AND state = 'done'
                            AND model = $3 AND segments = $4)",
        )
        .bind(self.claimed.media_id.0)
        .bind(self.claimed.fence)
        .bind(&*clean(&self.transcript.model))
        .bind(i32::try_from(self.transcript.segments.len()).unwrap_or(i32::MAX))
        .fetch_one(conn)
        .await?;
        if ours { Ok(()) } else { Err(SaveError::LeaseLost) }
    }

    /// Of every model: vectors of another one would point at passages that no longer exist.
    async fn remove_former(&self, conn: &mut PgConnection) -> Result<(), sqlx::Error> {
        if self.terms.again.is_none() {
            sqlx::query("DELETE FROM upgrades WHERE media_id = $1")
                .bind(self.claimed.media_id.0)
                .execute(&mut *conn)
                .await?;
        }
        let tables: Vec<String> =
            sqlx::query_scalar("SELECT table_name FROM embedding_models").fetch_all(&mut *conn).await?;
        for table in tables.iter().map(String::as_str).chain(["passages", "segments"]) {
            sqlx::query(AssertSqlSafe(format!("DELETE FROM {table} WHERE media_id = $1")))
                .bind(self.claimed.media_id.0)
                .execute(&mut *conn)
                .await?;
        }
        Ok(())
    }

    async fn copy_segments(&self, conn: &mut PgConnection) -> Result<(), sqlx::Error> {
        let mut rows = Rows::new(11);
        for (seq, segment) in (0..).zip(&self.transcript.segments) {
            rows.row();
            rows.uuid(self.claimed.media_id.0);
            rows.text(&self.transcript.model);
            rows.int4(seq);
            rows.int8(segment.start_ms);
            rows.int8(segment.end_ms.max(segment.start_ms));
            rows.text(&segment.text);
            rows.text(&segment.language);
            rows.float4(segment.avg_logprob);
            rows.float4(segment.no_speech_prob);
            match account::words_json(&segment.words) {
                Some(words) => rows.jsonb(&words),
                None => rows.null(),
            }
            match &segment.speaker {
                Some(speaker) => rows.text(speaker),
                None => rows.null(),
            }
        }
        let statement = "COPY segments (media_id, model_id, seq, start_ms, end_ms, text, language, avg_logprob, \
                         no_speech_prob, words, speaker) FROM STDIN (FORMAT binary)";
        rows.send(conn, statement).await.map(drop)
    }

    async fn copy_passages(&self, conn: &mut PgConnection) -> Result<(), sqlx::Error> {
        let mut rows = Rows::new(9);
        for (seq, passage) in (0..).zip(self.passages) {
            rows.row();
            rows.uuid(self.claimed.media_id.0);
            rows.text(&self.transcript.model);
            rows.int4(seq);
            rows.int8(passage.start_ms);
            rows.int8(passage.end_ms.max(passage.start_ms));
            rows.int4(passage.first_segment as i32);
            rows.int4(passage.end_segment as i32);
            rows.text(&passage.text);
            rows.text(&passage.language);
        }
        let statement = "COPY passages (media_id, model_id, seq, start_ms, end_ms, first_segment, end_segment, text, \
                         language) FROM STDIN (FORMAT binary)";
        rows.send(conn, statement).await.map(drop)
    }

    async fn copy_vectors(&self, conn: &mut PgConnection) -> Result<(), sqlx::Error> {
        let mut rows = Rows::new(3);
        for (seq, vector) in (0..).zip(self.vectors) {
            rows.row();
            rows.uuid(self.claimed.media_id.0);
            rows.int4(seq);
            rows.halfvec(vector);
        }
        let statement = format!("COPY {} (media_id, seq, embedding) FROM STDIN (FORMAT binary)", self.table);
        rows.send(conn, &statement).await.map(drop)
    }
}
