use super::*;
use crate::event::{Events, Step};

fn library() -> Uuid {
    Uuid::from_u128(7)
}

fn directory() -> (tempfile::TempDir, Handover) {
    let dir = tempfile::tempdir().unwrap();
    let url = url::Url::from_directory_path(dir.path()).unwrap();
    let handover = Handover::open(url.as_str(), library(), []).unwrap();
    (dir, handover)
}

fn progress() -> Progress {
    Events::channel().0.progress(MediaId::new("test", "1"), Step::HandOver)
}

fn files(dir: &Path) -> Vec<PathBuf> {
    walkdir::WalkDir::new(dir)
        .into_iter()
        .flatten()
        .filter(|e| e.file_type().is_file())
        .map(|e| e.into_path())
        .collect()
}

#[test]
fn a_key_is_read_back_and_nothing_else_is_one() {
    let key = Key { library: library(), media_id: MediaId::new("test", "1"), fence: 12 };
    assert_eq!(key.to_string().parse::<Key>().unwrap(), key);
    assert_eq!(format!("{key}#3").parse::<Key>().unwrap(), key);
    for other in
        ["", "a/b/c.flac", "notes.txt", &format!("{key}/more"), &key.to_string().replace(".flac", ".pcm")]
    {
        assert!(other.parse::<Key>().is_err(), "{other}");
    }
}

#[tokio::test]
async fn what_is_left_comes_back_as_it_was() {
    let (store, handover) = directory();
    handover.check().await.unwrap();
    let local = tempfile::tempdir().unwrap();
    let (from, to) = (local.path().join("from"), local.path().join("to"));
    // More than one part, so that it is an upload of several.
    let bytes: Vec<u8> = (0..2 * PART + 77_777).map(|n| (n * n / 251) as u8).collect();
    std::fs::write(&from, &bytes).unwrap();
    let key = handover.key(MediaId::new("test", "1"), 3);
    let sent = handover.put(&key, &from, &mut progress()).await.unwrap();
    assert_eq!((sent.bytes, sent.sha256), (bytes.len() as u64, Sha256::digest(&bytes).into()));
    handover.get(&key, &sent, &to, &mut progress()).await.unwrap();
    assert_eq!(std::fs::read(&to).unwrap(), bytes);
    assert_eq!(handover.list().await.unwrap(), [Left { key, interrupted: None }]);

    // Damaged in the store: one byte, then its length.
    let object = files(store.path()).pop().unwrap();
    let mut damaged = bytes.clone();
    damaged[PART] ^= 1;
    std::fs::write(&object, &damaged).unwrap();
    let error = handover.get(&key, &sent, &to, &mut progress()).await.unwrap_err();
    assert!(matches!(error, HandoverError::Damaged(_)), "{error}");
    std::fs::write(&object, &bytes[1..]).unwrap();
    let error = handover.get(&key, &sent, &to, &mut progress()).await.unwrap_err();
    assert!(matches!(error, HandoverError::Damaged(_)), "{error}");

    handover.remove(&key).await.unwrap();
    handover.remove(&key).await.unwrap();
    let error = handover.get(&key, &sent, &to, &mut progress()).await.unwrap_err();
    assert!(matches!(error, HandoverError::Absent { .. }), "{error}");
    assert_eq!(files(store.path()), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn interrupted_uploads_and_only_our_own_objects_are_listed() {
    let (store, handover) = directory();
    let key = handover.key(MediaId::new("test", "1"), 3);
    let folder = store.path().join(key.library.to_string()).join(key.media_id.to_string());
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("3.flac#1"), b"part").unwrap();
    std::fs::write(folder.join("notes.txt"), b"somebody else's").unwrap();
    let foreign = store.path().join(Uuid::from_u128(8).to_string()).join(key.media_id.to_string());
    std::fs::create_dir_all(&foreign).unwrap();
    std::fs::write(foreign.join("3.flac"), b"another library's").unwrap();
    let left = handover.list().await.unwrap();
    assert_eq!(left.iter().map(|l| l.key).collect::<Vec<_>>(), [key]);
    handover.clear(&left[0]).await.unwrap();
    assert_eq!(handover.list().await.unwrap(), []);
    assert_eq!(files(store.path()).len(), 2);
}

#[test]
fn a_wrong_address_is_told() {
    let open = |url: &str| Handover::open(url, library(), []).unwrap_err().to_string();
    assert!(open("file:///no/such/directory").contains("there is no directory /no/such/directory"));
    assert!(open("not an address").contains("is no address"));
    assert!(open("ftp://host/x").contains("ftp://host/x"));
}

#[test]
fn stores_of_all_kinds_are_opened_with_their_variables() {
    let open = |url: &str, variables: &[(&str, &str)]| {
        let variables = variables.iter().map(|&(name, value)| (name.to_owned(), value.to_owned()));
        Handover::open(url, library(), variables).map(|h| h.prefix.to_string())
    };
    let aws = [("AWS_ACCESS_KEY_ID", "a"), ("AWS_SECRET_ACCESS_KEY", "b"), ("AWS_REGION", "eu-west-1")];
    assert_eq!(open("s3://bucket/a/b", &aws).unwrap(), "a/b");
    let azure = [("AZURE_STORAGE_ACCOUNT_NAME", "account"), ("AZURE_STORAGE_ACCOUNT_KEY", "a2V5")];
    assert_eq!(open("az://container/a", &azure).unwrap(), "a");
    assert_eq!(open("gs://bucket", &[("GOOGLE_SKIP_SIGNATURE", "true")]).unwrap(), "");
}
