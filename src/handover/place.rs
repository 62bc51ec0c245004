//! Which store an address means, and what it needs to be reached.

use std::path::PathBuf;
use std::sync::Arc;

use object_store::local::LocalFileSystem;
use object_store::{ObjectStore, path::Path as ObjectPath};
use url::Url;

use super::{HandoverError, reason};

/// Names of variables that configure a store begin so.
const VARIABLES: [&str; 3] = ["AWS_", "GOOGLE_", "AZURE_"];

/// Patience with a store; variables of the same meaning (`AWS_TIMEOUT`, …) win. The whole of a request may take long, since
/// an item of many hours comes in one; what may not is that nothing comes.
const PATIENCE: [(&str, &str); 3] =
    [("connect_timeout", "10 seconds"), ("read_timeout", "120 seconds"), ("timeout", "1 hour")];

/// What [`open`] makes of an address.
#[derive(Debug)]
pub(super) struct Opened {
    pub store: Arc<dyn ObjectStore>,
    pub prefix: ObjectPath,
    pub place: String,
    pub directory: Option<PathBuf>,
}

/// Opens the store that `url` means.
pub(super) fn open(
    url: &str,
    variables: impl IntoIterator<Item = (String, String)>,
) -> Result<Opened, HandoverError> {
    let address = |message: String| HandoverError::Address(message);
    let parsed = Url::parse(url).map_err(|e| address(format!("{url:?} is no address: {e}")))?;
    if parsed.scheme() == "file" {
        return directory(&parsed);
    }
    let given = variables
        .into_iter()
        .map(|(name, value)| (name.to_ascii_lowercase(), value))
        .filter(|(name, _)| VARIABLES.iter().any(|start| name.starts_with(&start.to_ascii_lowercase())));
    let options = PATIENCE.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).chain(given);
    let (store, prefix) = object_store::parse_url_opts(&parsed, options)
        .map_err(|e| address(format!("{parsed}: {}", reason(&e))))?;
    Ok(Opened { store: Arc::from(store), prefix, place: parsed.to_string(), directory: None })
}

/// A directory that all machines share. It has to be there: one that is made on the way is most likely a mount that is
/// missing, and what is left in it nobody else ever sees.
fn directory(url: &Url) -> Result<Opened, HandoverError> {
    let address = |message: String| HandoverError::Address(message);
    let path = url
        .to_file_path()
        .map_err(|()| address(format!("{url}: write file:///path/of/the/shared/directory")))?;
    if !path.is_dir() {
        return Err(address(format!(
            "there is no directory {}; make it, or mount it, on every machine",
            path.display()
        )));
    }
    let path = path.canonicalize().map_err(|e| address(format!("{}: {e}", path.display())))?;
    let store = LocalFileSystem::new_with_prefix(&path)
        .map_err(|e| address(reason(&e)))?
        // A folder an item would add up.
        .with_automatic_cleanup(true);
    Ok(Opened {
        store: Arc::new(store),
        prefix: ObjectPath::default(),
        place: path.display().to_string(),
        directory: Some(path),
    })
}
