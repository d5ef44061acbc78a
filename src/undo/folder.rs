//! Where the way back is kept: `/run/svcnat/INODE/`, a folder for each network namespace, for
//! root alone. It goes with the machine's start, as the rules do.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;

use super::record::{Record, Waiting};
use super::sealed::{self, SealedError};
use crate::netlink::namespace_cookie;

const ROOT: &str = "/run/svcnat";
/// So many namespaces have a way back: those of tests come and go by the thousand, and nobody
/// tells when.
const MOST: usize = 512;
const KIND: &str = "state before an installation of svcnat";
/// Counted up when the record's form changes: another version's is not read.
const VERSION: u32 = 1;

/// The folder of this thread's network namespace.
#[derive(Clone, Debug)]
pub struct Folder {
    path: PathBuf,
    namespace: u64,
}

/// A number of this thread's network namespace that no other has had since the machine started:
/// the kernel's cookie. Before Linux 5.14, which has none, the inode, which a later one may get.
///
/// # Errors
/// If the kernel does not tell.
pub fn network_namespace() -> io::Result<u64> {
    let socket = UnixDatagram::unbound()?;
    namespace_cookie(socket.as_fd()).or_else(|_| inode())
}

fn inode() -> io::Result<u64> {
    Ok(fs::metadata("/proc/thread-self/ns/net")?.ino())
}

/// The kernel's name for this start of the machine.
///
/// # Errors
/// If `/proc` does not tell.
pub fn boot_id() -> io::Result<String> {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    Ok(id.trim().to_owned())
}

/// When a process started, in clock ticks since the machine did; `None` if there is none.
#[must_use]
pub fn process_start(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold anything; starttime is the 20th field after it.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    // Ended, and not yet taken note of.
    let ended = matches!(fields.next()?, "Z" | "X");
    let started = fields.nth(18)?.parse().ok()?;
    (!ended).then_some(started)
}

impl Folder {
    /// The folder, whether or not it is there.
    ///
    /// # Errors
    /// If `/proc` does not tell the namespace.
    pub fn here() -> io::Result<Self> {
        Ok(Self {
            path: Path::new(ROOT).join(inode()?.to_string()),
            namespace: network_namespace()?,
        })
    }

    /// The same, made if it is not there.
    ///
    /// # Errors
    /// If it cannot be made, or others could write to it.
    pub fn make() -> io::Result<Self> {
        let folder = Self::here()?;
        let mut make = DirBuilder::new();
        make.recursive(true).mode(0o700).create(&folder.path)?;
        for path in [Path::new(ROOT), &folder.path] {
            let found = fs::symlink_metadata(path)?;
            let is_ours = found.uid() == geteuid().as_raw() && found.mode() & 0o022 == 0;
            if !found.is_dir() || !is_ours {
                let what = format!("{} is no folder that only we can write to", path.display());
                return Err(io::Error::other(what));
            }
        }
        prune(Path::new(ROOT), MOST);
        Ok(folder)
    }

    /// What [`network_namespace`] says.
    #[must_use]
    pub const fn namespace(&self) -> u64 {
        self.namespace
    }

    fn record(&self) -> PathBuf {
        self.path.join("before.json")
    }

    /// Where the guardian listens.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.path.join("guardian")
    }

    fn log(&self) -> PathBuf {
        self.path.join("guardian.log")
    }

    /// A new log of the guardian.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn new_log(&self) -> io::Result<File> {
        let path = self.log();
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => File::options()
                .append(true)
                .create_new(true)
                .mode(0o600)
                .open(path),
        }
    }

    /// What the guardian said last; nothing if it said nothing.
    #[must_use]
    pub fn last_log(&self) -> Option<String> {
        let log = fs::read_to_string(self.log()).ok()?;
        log.lines().last().map(str::to_owned)
    }

    /// Keeps this record instead of the last one.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn keep(&self, record: &Record) -> Result<(), SealedError> {
        sealed::write(&self.record(), KIND, VERSION, record)
    }

    /// The last record, if there is one of this namespace and this start of the machine.
    ///
    /// # Errors
    /// If it cannot be read, or is not whole.
    pub fn last(&self) -> Result<Option<Record>, SealedError> {
        let record: Record = match sealed::read(&self.record(), KIND, VERSION) {
            Ok(record) => record,
            Err(error) if error.is_missing() => return Ok(None),
            Err(error) => return Err(error),
        };
        let is_here = record.namespace == self.namespace
            && boot_id().is_ok_and(|boot_id| boot_id == record.boot_id);
        Ok(is_here.then_some(record))
    }

    /// Forgets the last record.
    ///
    /// # Errors
    /// If it cannot be removed.
    pub fn forget(&self) -> io::Result<()> {
        match fs::remove_file(self.record()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Removes all that is kept here.
    ///
    /// # Errors
    /// If it cannot be removed.
    pub fn remove(&self) -> io::Result<()> {
        match fs::remove_dir_all(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Who waits for a confirmation, if the process is still there.
    #[must_use]
    pub fn waiting(&self) -> Option<Waiting> {
        let waiting = self.last().ok()??.waiting?;
        waiting.is_alive().then_some(waiting)
    }
}

/// Removes the folders of namespaces that were installed into longest ago, but for the `most`
/// newest and those where somebody waits. What cannot be removed now will be later.
fn prune(root: &Path, most: usize) {
    let mut found = Vec::new();
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        let is_inode = entry
            .file_name()
            .to_str()
            .is_some_and(|name| name.parse::<u64>().is_ok());
        let changed = entry.metadata().and_then(|found| found.modified());
        if let (true, Ok(changed)) = (is_inode, changed) {
            found.push((changed, entry.path()));
        }
    }
    found.sort();
    for (_, path) in found.iter().take(found.len().saturating_sub(most)) {
        if !path.join("guardian").exists() {
            fs::remove_dir_all(path).ok();
        }
    }
}

impl Waiting {
    /// True if this very process is still there.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        process_start(self.pid) == Some(self.started)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_folders_stay_and_those_where_somebody_waits() {
        let root = std::env::temp_dir().join(format!("svcnat-undo-{}", std::process::id()));
        for (age, name) in ["1", "2", "3", "4", "labs"].iter().enumerate() {
            fs::create_dir_all(root.join(name)).unwrap();
            if *name == "2" {
                fs::write(root.join("2/guardian"), "").unwrap();
            }
            let when = std::time::UNIX_EPOCH + std::time::Duration::from_secs(age as u64);
            File::open(root.join(name))
                .unwrap()
                .set_modified(when)
                .unwrap();
        }
        prune(&root, 2);
        let mut left: Vec<_> = fs::read_dir(&root)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        fs::remove_dir_all(&root).unwrap();
        assert_eq!(left, ["2", "3", "4", "labs"]);
    }
}
