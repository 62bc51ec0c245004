//! What an error means to whoever started the command: to put something right, or to try again later.
//!
//! A service manager starts again what ended with [`EXIT_NOT_NOW`], and leaves alone what ended with [`EXIT_USAGE`].

use std::error::Error;
use std::io;

use crate::cli::{EXIT_NOT_NOW, EXIT_USAGE};
use crate::embed::EmbedError;
use crate::handover::HandoverError;
use crate::postgres::ServerError;
use crate::queue::QueueError;
use crate::store;
use crate::transcribe::{ModelError, TranscribeError};

/// What cannot be done for now, through no fault of the command: another process has what is needed, or nobody answers.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct NotNow(pub String);

/// The exit code that an error means: [`EXIT_NOT_NOW`] where the same command may succeed later with nothing about it changed.
pub fn exit_code(error: &anyhow::Error) -> u8 {
    if error.chain().any(passes) { EXIT_NOT_NOW } else { EXIT_USAGE }
}

/// Whether the cause may go away by itself. Each is asked for itself: what it came from follows in the chain.
fn passes(cause: &(dyn Error + 'static)) -> bool {
    // A wrapper without words of its own stands in the chain instead of what it wraps.
    let model = match cause.downcast_ref::<TranscribeError>() {
        Some(TranscribeError::Model(model)) => Some(model),
        _ => cause.downcast_ref::<ModelError>(),
    };
    cause.is::<NotNow>()
        || cause.downcast_ref::<sqlx::Error>().is_some_and(store::is_transient)
        || cause.downcast_ref::<ServerError>().is_some_and(ServerError::is_transient)
        || matches!(cause.downcast_ref(), Some(QueueError::Library(_)))
        || matches!(cause.downcast_ref(), Some(HandoverError::Store { transient: true, .. }))
        || matches!(model, Some(ModelError::Offline { .. }))
        || matches!(cause.downcast_ref(), Some(EmbedError::Unavailable { .. }))
        || cause.downcast_ref::<io::Error>().is_some_and(|error| {
            matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::StoreError;

    #[test]
    fn what_may_pass_is_told_from_what_has_to_be_put_right() {
        let refused = || sqlx::Error::Io(io::ErrorKind::ConnectionRefused.into());
        let away = || StoreError::Connect { place: "h:5432/d".into(), source: refused() };
        let offline = || ModelError::Offline {
            name: "small".into(),
            cache: "/c".into(),
            endpoint: "https://h".into(),
            reason: "no address".into(),
            advice: "",
        };
        for later in [
            anyhow::Error::from(away()),
            anyhow::Error::from(away()).context("failed to open the library"),
            StoreError::Database(sqlx::Error::PoolTimedOut).into(),
            QueueError::Database(refused()).into(),
            ServerError::InUse.into(),
            ServerError::Start("out of memory".into()).into(),
            offline().into(),
            TranscribeError::Model(offline()).into(),
            NotNow("process 7 works in this data directory already".into()).into(),
            anyhow::Error::from(io::Error::from(io::ErrorKind::StorageFull)).context("failed to write x"),
        ] {
            assert_eq!(exit_code(&later), EXIT_NOT_NOW, "{later:#}");
        }
        for wrong in [
            anyhow::anyhow!("no item is called x"),
            StoreError::Address { reason: "no host".into() }.into(),
            StoreError::PgvectorPermission.into(),
            ServerError::MissingBinaries("/tools".into()).into(),
            anyhow::Error::from(io::Error::from(io::ErrorKind::NotFound)).context("failed to read x"),
            TranscribeError::Device("built without CUDA".into()).into(),
        ] {
            assert_eq!(exit_code(&wrong), EXIT_USAGE, "{wrong:#}");
        }
    }
}
