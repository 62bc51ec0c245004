//! As whom Postgres runs, and with which powers.

use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::unistd::{Gid, Uid, User, chown, geteuid};

use super::ServerError;

/// Linux's numbers, `linux/capability.h`.
const CAP_DAC_OVERRIDE: u32 = 1;
const CAP_DAC_READ_SEARCH: u32 = 2;

/// The user that owns the cluster and runs the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Account {
    /// Ourselves: not root.
    Own,
    /// We are root and run it as somebody else.
    Other {
        /// For messages.
        name: String,
        uid: Uid,
        gid: Gid,
    },
}

/// What the other user must be given to get at its files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Power {
    /// Nothing.
    None,
    /// `CAP_DAC_READ_SEARCH`: directories on the way are closed.
    ReadSearch,
    /// `CAP_DAC_OVERRIDE`: a file may not be executed, or the lesser capability is not ours.
    Override,
}

impl Account {
    /// The owner of an existing cluster in `data`; else ourselves, or as root `postgres` or `nobody`.
    pub(super) fn choose(data: &Path) -> Result<Self, ServerError> {
        if !geteuid().is_root() {
            return Ok(Self::Own);
        }
        if let Ok(meta) = fs::metadata(data)
            && meta.uid() != 0
        {
            let (uid, gid) = (Uid::from_raw(meta.uid()), Gid::from_raw(meta.gid()));
            let name = User::from_uid(uid).ok().flatten().map_or_else(|| uid.to_string(), |u| u.name);
            return Ok(Self::Other { name, uid, gid });
        }
        ["postgres", "nobody"]
            .iter()
            .find_map(|name| User::from_name(name).ok().flatten())
            .filter(|user| !user.uid.is_root())
            .map(|user| Self::Other { name: user.name, uid: user.uid, gid: user.gid })
            .ok_or(ServerError::NoAccount)
    }

    /// Makes `path` (no link is followed at its end in the directories we use) belong to the account.
    pub(super) fn give(&self, path: &Path) -> Result<(), ServerError> {
        match self {
            Self::Own => Ok(()),
            Self::Other { uid, gid, .. } => {
                chown(path, Some(*uid), Some(*gid)).map_err(|e| ServerError::io("chown", path)(e.into()))
            }
        }
    }

    /// Whether files with `owner` belong to the account.
    pub(super) fn owns(&self, owner: &Metadata) -> bool {
        match self {
            Self::Own => owner.uid() == geteuid().as_raw(),
            Self::Other { uid, .. } => owner.uid() == uid.as_raw(),
        }
    }

    /// What the account needs to use the directory `data_root` and to run `binary`, both resolved.
    pub(super) fn power(&self, data_root: &Path, binary: &Path) -> Result<Power, ServerError> {
        let Self::Other { name, .. } = self else {
            return Ok(Power::None);
        };
        let closed_dir = [data_root.parent(), binary.parent()]
            .into_iter()
            .flatten()
            .find_map(|dir| self.first_closed(dir));
        let closed_file = (!self.may(binary, 0o5)).then(|| binary.to_owned());
        let capabilities = own_capabilities();
        let has = |bit: u32| capabilities & (1 << bit) != 0;
        match (closed_dir, closed_file) {
            (None, None) => Ok(Power::None),
            (Some(_), None) if has(CAP_DAC_READ_SEARCH) => Ok(Power::ReadSearch),
            (_, _) if has(CAP_DAC_OVERRIDE) => Ok(Power::Override),
            (Some(dir), _) | (None, Some(dir)) => Err(ServerError::Unreachable { user: name.clone(), dir }),
        }
    }

    /// The outermost directory from the root to `dir` that the account may not pass.
    fn first_closed(&self, dir: &Path) -> Option<PathBuf> {
        let mut way: Vec<&Path> = dir.ancestors().collect();
        way.reverse();
        way.into_iter().find(|d| !self.may(d, 0o1)).map(Path::to_owned)
    }

    /// Whether the permission bits (not access lists) grant `wanted` (of 0o7).
    fn may(&self, path: &Path, wanted: u32) -> bool {
        let Self::Other { uid, gid, .. } = self else {
            return true;
        };
        let Ok(meta) = fs::metadata(path) else {
            return false;
        };
        let granted = if meta.uid() == uid.as_raw() {
            meta.mode() >> 6
        } else if meta.gid() == gid.as_raw() {
            meta.mode() >> 3
        } else {
            meta.mode()
        };
        granted & wanted == wanted
    }

    /// The words to put before a command so that it runs as the account, with `power`.
    pub(super) fn prefix(&self, power: Power) -> Vec<OsString> {
        let Self::Other { uid, gid, .. } = self else {
            return Vec::new();
        };
        let mut words = vec![
            "setpriv".to_owned(),
            format!("--reuid={uid}"),
            format!("--regid={gid}"),
            "--clear-groups".to_owned(),
        ];
        let capability = match power {
            Power::None => None,
            Power::ReadSearch => Some("dac_read_search"),
            Power::Override => Some("dac_override"),
        };
        if let Some(capability) = capability {
            words.push("--securebits=+no_setuid_fixup".to_owned());
            words.push(format!("--inh-caps=+{capability}"));
            words.push(format!("--ambient-caps=+{capability}"));
        }
        words.into_iter().map(OsString::from).collect()
    }
}

/// The capabilities this process could pass on, as a bit set; none where `/proc` does not tell.
fn own_capabilities() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name: &str| {
        status
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .and_then(|value| u64::from_str_radix(value.trim(), 16).ok())
            .unwrap_or(0)
    };
    field("CapPrm:") & field("CapBnd:")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn stranger() -> Account {
        // An id that owns nothing.
        Account::Other { name: "stranger".into(), uid: Uid::from_raw(54_321), gid: Gid::from_raw(54_321) }
    }

    #[test]
    fn a_closed_directory_on_the_way_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let closed = dir.path().join("closed");
        let inner = closed.join("inner");
        fs::create_dir_all(&inner).unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).unwrap();
        assert_eq!(stranger().first_closed(&inner), Some(closed.clone()));
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o711)).unwrap();
        assert_eq!(stranger().first_closed(&inner), None);
    }

    #[test]
    fn the_prefix_drops_groups_and_names_one_capability_at_most() {
        assert!(Account::Own.prefix(Power::None).is_empty());
        let plain = stranger().prefix(Power::None);
        assert_eq!(plain, ["setpriv", "--reuid=54321", "--regid=54321", "--clear-groups"]);
        let strong = stranger().prefix(Power::ReadSearch);
        assert!(strong.contains(&OsString::from("--ambient-caps=+dac_read_search")));
        assert!(strong.contains(&OsString::from("--securebits=+no_setuid_fixup")));
    }
}
