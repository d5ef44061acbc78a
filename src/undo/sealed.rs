//! Files of ours that must be whole: JSON with what it is, its version and a digest, written
//! beside the old one and renamed over it, for their owner alone.
//!
//! The digest finds damage and edits. It is no protection from forgers: who can write the
//! file is its owner, and could do what it says without it. Files that others can write are
//! not read.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::unistd::geteuid;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use super::fingerprint::hex;
use crate::text::Printable;

/// A larger file is none of ours.
const MOST_BYTES: u64 = 1 << 30;

/// Why such a file cannot be used or written.
#[derive(Debug, thiserror::Error)]
pub enum SealedError {
    /// Reading or writing failed.
    #[error("{}: {source}", path.display())]
    Io {
        /// File.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is not what it should be.
    #[error("{}: {message}", path.display())]
    Content {
        /// File.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
}

impl SealedError {
    /// True if there is no room for it.
    #[must_use]
    pub fn is_full(&self) -> bool {
        use io::ErrorKind::{QuotaExceeded, StorageFull};
        matches!(self, Self::Io { source, .. } if matches!(source.kind(), StorageFull | QuotaExceeded))
    }

    /// True if there is no such file.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope<'a> {
    kind: String,
    version: u32,
    sha256: String,
    #[serde(borrow)]
    content: &'a RawValue,
}

/// The SHA-256 of these bytes, as `sha256sum` writes it.
#[must_use]
pub fn digest(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Writes `content`; an old file is replaced as a whole.
///
/// # Errors
/// If it cannot be written, or there is something else than a regular file in its place.
pub fn write(
    path: &Path,
    kind: &str,
    version: u32,
    content: &impl Serialize,
) -> Result<(), SealedError> {
    let io = |source| SealedError::Io {
        path: path.to_owned(),
        source,
    };
    match fs::symlink_metadata(path) {
        Ok(found) if !found.is_file() => {
            let is_none = io::Error::other("is there, and is no regular file");
            return Err(io(is_none));
        }
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(io(error)),
    }
    // Names in it are others' text: nothing of it acts on a terminal that shows the file.
    let mut body = Printable::new(Vec::new());
    serde_json::to_writer(&mut body, content).map_err(|error| io(error.into()))?;
    let body = String::from_utf8(body.into_inner()).map_err(|e| io(io::Error::other(e)))?;
    let sha256 = digest(body.as_bytes());
    let content: &RawValue = serde_json::from_str(&body).map_err(|error| io(error.into()))?;
    let envelope = Envelope {
        kind: kind.to_owned(),
        version,
        sha256,
        content,
    };
    let name = path
        .file_name()
        .ok_or_else(|| io(io::ErrorKind::IsADirectory.into()))?;
    let mut beside = std::ffi::OsString::from(".");
    beside.push(name);
    beside.push(format!(".{}.new", std::process::id()));
    let beside = path.with_file_name(beside);
    replace(&beside, path, &envelope).map_err(|error| {
        // It may not be there.
        let _ = fs::remove_file(&beside);
        io(error)
    })
}

fn replace(beside: &Path, path: &Path, envelope: &Envelope<'_>) -> io::Result<()> {
    let mut new = File::options();
    new.write(true).create_new(true).mode(0o600);
    new.custom_flags(OFlag::O_NOFOLLOW.bits());
    let mut to = io::BufWriter::new(new.open(beside)?);
    serde_json::to_writer(&mut to, envelope)?;
    to.write_all(b"\n")?;
    to.into_inner()?.sync_all()?;
    fs::rename(beside, path)
}

/// Reads what [`write`] wrote.
///
/// # Errors
/// If it cannot be read, others could have written it, or it is not whole.
pub fn read<T: DeserializeOwned>(path: &Path, kind: &str, version: u32) -> Result<T, SealedError> {
    let io = |source| SealedError::Io {
        path: path.to_owned(),
        source,
    };
    let wrong = |message: String| SealedError::Content {
        path: path.to_owned(),
        message,
    };
    let mut open = File::options();
    // Opening a FIFO waits for nobody this way.
    open.read(true).custom_flags(OFlag::O_NONBLOCK.bits());
    let file = open.open(path).map_err(io)?;
    let found = file.metadata().map_err(io)?;
    if !found.is_file() {
        return Err(wrong("is no regular file".to_owned()));
    }
    if (found.uid() != 0 && found.uid() != geteuid().as_raw()) || found.mode() & 0o022 != 0 {
        return Err(wrong(format!(
            "belongs to user {} with mode {:o}: others than its owner could have written it, or \
             its owner is somebody else",
            found.uid(),
            found.mode() & 0o7777
        )));
    }
    if found.size() > MOST_BYTES {
        return Err(wrong(format!("is larger than {MOST_BYTES} bytes")));
    }
    let mut text = Vec::new();
    file.take(MOST_BYTES).read_to_end(&mut text).map_err(io)?;
    let text = std::str::from_utf8(&text).map_err(|_| wrong(format!("is no {kind}: no text")))?;
    let envelope: Envelope<'_> = serde_json::from_str(text)
        .map_err(|error| wrong(format!("is no {kind}, or not all of it is there: {error}")))?;
    if envelope.kind != kind {
        return Err(wrong(format!("is no {kind}: it says {:?}", envelope.kind)));
    }
    if envelope.version != version {
        return Err(wrong(format!(
            "is of version {}, and this program reads {version}",
            envelope.version
        )));
    }
    if digest(envelope.content.get().as_bytes()) != envelope.sha256 {
        return Err(wrong(
            "was changed after it was written, or is damaged: its digest does not agree".to_owned(),
        ));
    }
    serde_json::from_str(envelope.content.get()).map_err(|error| wrong(error.to_string()))
}
