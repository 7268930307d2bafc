//! The key of an upstream: given once, or in a file that changes.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use crate::config::Secret;
use crate::log_limit::LogLimit;
use crate::sync::lock;

/// Bytes of a file that are read for its key.
const LONGEST: u64 = 64 * 1024;

/// A key that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// It can't be sent in a header.
    #[error(
        "has characters that no key has (a space or line break, perhaps at its end), or none at all"
    )]
    Characters,
    /// Its file can't be read.
    #[error("can't be read from {path}: {error}")]
    File {
        /// Where it should be.
        path: PathBuf,
        /// Why not.
        error: std::io::Error,
    },
}

/// An upstream's API key, if it needs one.
#[derive(Debug, Clone, Default)]
pub enum ApiKey {
    /// It needs none.
    #[default]
    None,
    /// The same for as long as the process lives.
    Fixed(Secret),
    /// In a file, read before each call.
    File(Arc<KeyFile>),
}

/// A file with a key.
#[derive(Debug)]
pub struct KeyFile {
    path: PathBuf,
    /// The last one that could be read.
    last: Mutex<Secret>,
}

impl ApiKey {
    /// A key that is given.
    ///
    /// # Errors
    /// When it has characters other than visible ASCII.
    pub fn fixed(key: Secret) -> Result<Self, KeyError> {
        check(key.expose()).map(|()| Self::Fixed(key))
    }

    /// The key in a file, without the white space around it.
    ///
    /// # Errors
    /// When it can't be read now, or is none.
    pub fn file(path: PathBuf) -> Result<Self, KeyError> {
        let last = Mutex::new(read(&path)?);
        Ok(Self::File(Arc::new(KeyFile { path, last })))
    }

    /// The key for a call that is made now. A file that can't be read leaves the last
    /// key: it may be in the middle of being replaced.
    pub(super) async fn current(&self) -> Option<Secret> {
        match self {
            Self::None => None,
            Self::Fixed(key) => Some(key.clone()),
            Self::File(file) => {
                let path = file.path.clone();
                match tokio::task::spawn_blocking(move || read(&path)).await {
                    Ok(Ok(key)) => *lock(&file.last) = key,
                    Ok(Err(error)) => {
                        // Each call would say so.
                        static LIMIT: LogLimit = LogLimit::new();
                        if let Some(skipped) = LIMIT.pass() {
                            tracing::warn!(%error, skipped, "an upstream's key: the last one is used");
                        }
                    }
                    Err(_) => {}
                }
                Some(lock(&file.last).clone())
            }
        }
    }

    /// A key that was refused may have been replaced since.
    pub(super) const fn may_change(&self) -> bool {
        matches!(self, Self::File(_))
    }
}

fn read(path: &Path) -> Result<Secret, KeyError> {
    let failed = |error| KeyError::File { path: path.to_owned(), error };
    let mut text = String::new();
    let file = File::open(path).map_err(failed)?;
    file.take(LONGEST).read_to_string(&mut text).map_err(failed)?;
    let key = text.trim();
    check(key).map(|()| Secret::from(key))
}

fn check(key: &str) -> Result<(), KeyError> {
    let sound = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_graphic());
    sound.then_some(()).ok_or(KeyError::Characters)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_key_in_a_file_is_the_newest_that_could_be_read() {
        let path = std::env::temp_dir().join(format!("rill-key-{}", uuid::Uuid::new_v4()));
        assert!(matches!(ApiKey::file(path.clone()), Err(KeyError::File { .. })));
        std::fs::write(&path, "two words\n").expect("written");
        assert!(matches!(ApiKey::file(path.clone()), Err(KeyError::Characters)));
        std::fs::write(&path, "first\n").expect("written");
        let key = ApiKey::file(path.clone()).expect("a key");
        let current = async || key.current().await.map(|key| key.expose().to_owned());
        assert_eq!(current().await.as_deref(), Some("first"));
        std::fs::write(&path, "second").expect("written");
        assert_eq!(current().await.as_deref(), Some("second"));
        std::fs::write(&path, "").expect("written");
        assert_eq!(current().await.as_deref(), Some("second"));
        std::fs::remove_file(&path).expect("removed");
        assert_eq!(current().await.as_deref(), Some("second"));
    }
}
