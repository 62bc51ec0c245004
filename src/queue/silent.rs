//! What becomes of the jobs of a worker that was not heard of for longer than the lease.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use graphile_worker::{FailureReason, JobRecoveryContext, JobRecoveryResult};
use serde::Deserialize;
use sqlx::postgres::PgPool;

use super::contact::Contact;
use super::crash;
use super::worker::Payload;

/// Whose silence it is, and what to do with the jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Silence {
    /// Our own, or everybody's: the jobs stay where they are.
    Excused,
    /// That of a worker of this process that failed: the jobs go back, and nobody is to blame.
    Former,
    /// That of a dead process.
    Death,
}

/// Judges the silence of the worker `silent`. `early` is when others have not had the time to be heard of.
fn judge(silent: &str, us: &str, former: &[String], early: bool) -> Silence {
    match () {
        // After an outage we may look before our own next heartbeat; who looks lives.
        () if silent == us => Silence::Excused,
        () if former.iter().any(|worker| worker == silent) => Silence::Former,
        () if early => Silence::Excused,
        () => Silence::Death,
    }
}

/// What happens to a job whose worker is found dead by its heartbeat: its item is charged, and the job waits a
/// little longer each time (the library's default would give the attempt back and let it loop for ever). Not for the
/// first moments (`grace`), nor for those after an outage, which a worker survives that asks for no jobs meanwhile (see
/// `contact.rs`): when the database was away for all, the others come back as we do.
pub(super) fn recovery_hook(
    pool: PgPool,
    contact: Arc<Contact>,
    former: Vec<String>,
    grace: Duration,
) -> impl Fn(JobRecoveryContext) -> Pin<Box<dyn Future<Output = JobRecoveryResult> + Send>> + Clone {
    let started = Instant::now();
    move |context| {
        let pool = pool.clone();
        let silent = &context.previous_worker_id;
        let early = started.elapsed() < grace || !contact.is_steady();
        let silence = (context.reason == FailureReason::WorkerCrashed)
            .then(|| judge(silent, &context.worker_id, &former, early));
        Box::pin(async move {
            if silence == Some(Silence::Excused) {
                let worker = context.previous_worker_id;
                tracing::debug!(worker, "silent, as the database may have been: not taken for dead yet");
                return JobRecoveryResult::Skip;
            }
            if silence == Some(Silence::Death)
                && let Ok(job) = Payload::deserialize(context.job.payload())
                && let Err(error) =
                    crash::charge_swept(&pool, &context.previous_worker_id, job.media_id).await
            {
                tracing::warn!(%error, media_id = %job.media_id, "cannot count a crash");
            }
            JobRecoveryResult::FailWithBackoff
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_takes_himself_for_dead_and_nobody_others_too_early() {
        let former = ["former".to_owned()];
        for early in [false, true] {
            assert_eq!(judge("us", "us", &former, early), Silence::Excused);
            assert_eq!(judge("former", "us", &former, early), Silence::Former);
        }
        assert_eq!(judge("another", "us", &former, true), Silence::Excused);
        assert_eq!(judge("another", "us", &former, false), Silence::Death);
    }
}
