//! The node's ed25519 key: made, written, loaded. The format is OpenSSH's (PROTOCOL.key), so that the usual tools can
//! show it; no passphrase, because an agent starts without a person.

use crate::config::types::PublicKey;
use russh::keys::ssh_key::private::{Ed25519Keypair, KeypairData};
use russh::keys::ssh_key::public::{Ed25519PublicKey, KeyData};
use russh::keys::ssh_key::{self, LineEnding};
use russh::keys::{Algorithm, PrivateKey};
use std::fmt;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// An OpenSSH file of one ed25519 key has about 400 bytes.
const FILE_BOUND: u64 = 16 << 10;

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// No such file.
    #[error("there is no key {}: make one with `tandem keygen`", .0.display())]
    Missing(PathBuf),
    /// The file exists already and is not overwritten.
    #[error("{} exists and is not overwritten: a new key means that both nodes' configurations change", .0.display())]
    Exists(PathBuf),
    /// Somebody else could read or write the file.
    #[error("{} must be a regular file of its user with mode 0600, {reason}", .path.display())]
    Permission {
        /// The file.
        path: PathBuf,
        /// What it is instead.
        reason: String,
    },
    /// It is not what it should be.
    #[error("{} is not an unencrypted ed25519 key in OpenSSH format: {reason}", .path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// The system refused.
    #[error("{}: {source}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A private key with its public half. Its debug form shows the public half only.
#[derive(Clone)]
pub struct NodeKey {
    private: PrivateKey,
    pair: Ed25519Keypair,
}

impl NodeKey {
    /// Makes a new one from the system's random numbers.
    pub fn generate() -> io::Result<Self> {
        let mut seed = [0; 32];
        let mut filled = 0;
        while filled < seed.len() {
            // Short answers are possible only for larger requests, but the interface allows them.
            let flags = rustix::rand::GetRandomFlags::empty();
            filled += rustix::rand::getrandom(&mut seed[filled..], flags)?;
        }
        Ok(Self::from_seed(&seed))
    }

    /// The key of a seed (RFC 8032: the 32 secret bytes).
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        let pair = Ed25519Keypair::from_seed(seed);
        Self {
            private: PrivateKey::from(pair.clone()),
            pair,
        }
    }

    /// Loads the key of `path`. Refuses a file that anybody but its owner, who is root or this process's user, could
    /// read or write.
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        let io = |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound => KeyError::Missing(path.to_owned()),
            _ => KeyError::Io {
                path: path.to_owned(),
                source,
            },
        };
        // Without O_NONBLOCK a fifo in its place would stop the agent here.
        let mut file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open(path)
            .map_err(io)?;
        check_permission(path, &file.metadata().map_err(io)?)?;
        let mut text = String::new();
        (&mut file)
            .take(FILE_BOUND)
            .read_to_string(&mut text)
            .map_err(io)?;
        Self::from_openssh(&text).map_err(|reason| KeyError::Format {
            path: path.to_owned(),
            reason,
        })
    }

    fn from_openssh(text: &str) -> Result<Self, String> {
        let private = PrivateKey::from_openssh(text).map_err(|e| e.to_string())?;
        match private.key_data() {
            KeypairData::Ed25519(pair) => Ok(Self {
                pair: pair.clone(),
                private,
            }),
            KeypairData::Encrypted(_) => Err("it has a passphrase".to_owned()),
            _ => Err(format!("it is a {} key", private.algorithm())),
        }
    }

    /// Writes the key to a new file with mode 0600, durably, and its directory if that is missing. Never overwrites.
    pub fn write_new(&self, path: &Path, comment: &str) -> Result<(), KeyError> {
        let io = |source: io::Error| match source.kind() {
            io::ErrorKind::AlreadyExists => KeyError::Exists(path.to_owned()),
            _ => KeyError::Io {
                path: path.to_owned(),
                source,
            },
        };
        let mut private = self.private.clone();
        private.set_comment(comment);
        let text = private
            .to_openssh(LineEnding::LF)
            .map_err(|e| io(io::Error::other(e.to_string())))?;
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        if !directory.exists() {
            DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(directory)
                .map_err(io)?;
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .map_err(io)?;
        file.write_all(text.as_bytes())
            .and_then(|()| file.sync_all())
            .map_err(io)?;
        File::open(directory).and_then(|d| d.sync_all()).map_err(io)
    }

    /// The public half.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.pair.public.0)
    }

    /// For the ssh sessions of the link.
    pub fn ssh(&self) -> &PrivateKey {
        &self.private
    }

    /// The 32 secret bytes (RFC 8032), for the signatures of heartbeats.
    pub fn seed(&self) -> [u8; 32] {
        self.pair.private.to_bytes()
    }
}

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeKey({})", public_line(&self.public(), ""))
    }
}

fn check_permission(path: &Path, metadata: &std::fs::Metadata) -> Result<(), KeyError> {
    let refuse = |reason: String| {
        Err(KeyError::Permission {
            path: path.to_owned(),
            reason,
        })
    };
    if !metadata.is_file() {
        return refuse("it is something else than a file".to_owned());
    }
    let me = rustix::process::geteuid().as_raw();
    if metadata.uid() != me && metadata.uid() != 0 {
        return refuse(format!("it belongs to user {}", metadata.uid()));
    }
    if metadata.mode() & 0o077 != 0 {
        return refuse(format!("its mode is {:04o}", metadata.mode() & 0o7777));
    }
    Ok(())
}

/// Reads an OpenSSH public line: `ssh-ed25519 AAAA... [comment]`.
pub fn parse_public(line: &str) -> Result<PublicKey, String> {
    if line.contains("PRIVATE KEY") {
        return Err("this is a private key, which belongs into no configuration".to_owned());
    }
    let mut words = line.split_ascii_whitespace();
    match (words.next(), words.next()) {
        (Some("ssh-ed25519"), Some(_)) => {}
        (Some("ssh-ed25519"), None) => return Err("what follows ssh-ed25519 is missing".to_owned()),
        (Some(kind), _) if kind.starts_with("AAAA") => {
            return Err("the word ssh-ed25519 in front is missing".to_owned());
        }
        (Some(kind), _) => {
            return Err(format!("it is of the kind {kind:?}, not ssh-ed25519"));
        }
        (None, _) => return Err("it is empty".to_owned()),
    }
    let damaged = "it is damaged or cut: an ed25519 key has 68 characters after ssh-ed25519";
    let key = ssh_key::PublicKey::from_openssh(line).map_err(|_| damaged.to_owned())?;
    match key.key_data() {
        KeyData::Ed25519(key) => Ok(PublicKey(key.0)),
        _ => Err(damaged.to_owned()),
    }
}

/// Writes the OpenSSH public line of a key.
pub fn public_line(key: &PublicKey, comment: &str) -> String {
    let key = ssh_key::PublicKey::new(KeyData::Ed25519(Ed25519PublicKey(key.0)), comment);
    // An ed25519 key is always encodable: two length-prefixed fields in base64.
    key.to_openssh()
        .unwrap_or_else(|e| format!("{}: {e}", Algorithm::Ed25519))
}

/// Key files and public lines.
#[cfg(feature = "fuzz")]
pub(crate) fn fuzz(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(key) = NodeKey::from_openssh(&text) {
        assert_eq!(NodeKey::from_seed(&key.seed()).public(), key.public());
    }
    if let Ok(key) = parse_public(&text) {
        assert_eq!(parse_public(&public_line(&key, "")), Ok(key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_key_survives_its_file_and_is_not_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/key");
        let key = NodeKey::generate().unwrap();
        key.write_new(&path, "mirror1").unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        let loaded = NodeKey::load(&path).unwrap();
        assert_eq!(loaded.public(), key.public());
        assert_eq!(loaded.seed(), key.seed());
        let other = NodeKey::generate().unwrap();
        assert_ne!(other.public(), key.public());
        assert!(matches!(
            other.write_new(&path, ""),
            Err(KeyError::Exists(_))
        ));
        assert_eq!(NodeKey::load(&path).unwrap().public(), key.public());
    }

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        NodeKey::generate().unwrap().write_new(&path, "").unwrap();
        for mode in [0o644, 0o640, 0o620, 0o604] {
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
            assert!(
                matches!(NodeKey::load(&path), Err(KeyError::Permission { .. })),
                "{mode:o}"
            );
        }
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o400)).unwrap();
        NodeKey::load(&path).unwrap();
    }

    #[test]
    fn what_is_not_a_key_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(
            NodeKey::load(&dir.path().join("none")),
            Err(KeyError::Missing(_))
        ));
        let path = dir.path().join("key");
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .unwrap();
        file.write_all(b"-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n")
            .unwrap();
        assert!(matches!(NodeKey::load(&path), Err(KeyError::Format { .. })));
        assert!(matches!(
            NodeKey::load(dir.path()),
            Err(KeyError::Permission { .. })
        ));
    }

    #[test]
    fn the_seed_makes_the_key_of_rfc_8032() {
        // RFC 8032, 7.1, test 1.
        let hex = |text: &str| -> Vec<u8> {
            let nibble = |b: u8| char::from(b).to_digit(16).unwrap() as u8;
            text.as_bytes()
                .chunks(2)
                .map(|p| nibble(p[0]) << 4 | nibble(p[1]))
                .collect()
        };
        let seed = hex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60");
        let public = hex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a");
        let key = NodeKey::from_seed(&seed.try_into().unwrap());
        assert_eq!(key.public().0.as_slice(), public);
    }

    #[test]
    fn public_lines_are_read_and_written_alike() {
        let line = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHGRTsnVrif9xjxJLPq1WK8wBgrk1PM9X66g9TT2uFfs mirror1";
        assert_eq!(public_line(&parse_public(line).unwrap(), "mirror1"), line);
        let cut = &line[..60];
        let bare = &line["ssh-ed25519 ".len()..];
        for (bad, why) in [
            ("", "empty"),
            ("ssh-ed25519", "is missing"),
            ("ssh-ed25519 AAAA", "damaged or cut"),
            (cut, "damaged or cut"),
            (bare, "ssh-ed25519 in front"),
            ("ssh-rsa AAAAB3NzaC1yc2E=", "\"ssh-rsa\""),
            ("-----BEGIN OPENSSH PRIVATE KEY-----", "private key"),
        ] {
            let error = parse_public(bad).expect_err(bad);
            assert!(error.contains(why), "{bad}: {error}");
        }
    }
}
