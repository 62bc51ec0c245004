//! `spoken index`: the index of the vectors.

mod drill;
mod made;

use super::world::World;
use crate::cli::{IndexArgs, IndexCommand};

/// `spoken index` and its commands.
///
/// # Errors
/// The database's, or standard output's.
pub async fn index(world: &World, args: &IndexArgs) -> anyhow::Result<u8> {
    match &args.command {
        IndexCommand::Drill(args) => drill::drill(world, args).await,
        _ => Ok(0),
    }
}
