//! Network namespaces by name, as `ip netns` keeps them (ip-netns(8)).

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::sched::{CloneFlags, setns};

use super::error::HostError;
use crate::text::did_you_mean;

/// Where `ip netns add` mounts them.
const FOLDER: &str = "/run/netns";

/// Where the namespace of this name is: a path if there is a slash in it.
fn place(name: &str) -> PathBuf {
    if name.contains('/') {
        PathBuf::from(name)
    } else {
        Path::new(FOLDER).join(name)
    }
}

/// Moves this thread, and all that it will start, into the network namespace `name`: sockets
/// opened from then on are of it, and `/proc/sys/net` shows its values. Files are still those of
/// the caller's mount namespace.
///
/// # Errors
/// Naming the namespace and why, if it cannot be entered.
pub fn enter(name: &str) -> Result<(), HostError> {
    let path = place(name);
    // What is a pipe is not waited for.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(&path);
    let entered = file.and_then(|file| Ok(setns(file, CloneFlags::CLONE_NEWNET)?));
    entered.map_err(|source| {
        let hint = match source.raw_os_error() {
            Some(libc::ENOENT) => {
                let names: Vec<String> = fs::read_dir(FOLDER)
                    .into_iter()
                    .flatten()
                    .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
                    .collect();
                did_you_mean(name, names.iter().map(String::as_str))
            }
            Some(libc::EINVAL) => ": it is no network namespace".to_owned(),
            Some(libc::EPERM) => ": CAP_SYS_ADMIN is needed".to_owned(),
            _ => String::new(),
        };
        HostError::Namespace { path, source, hint }
    })
}

/// Whether the fault is the name's: there is nothing there, or no network namespace.
#[must_use]
pub fn is_misnamed(error: &HostError) -> bool {
    let HostError::Namespace { source, .. } = error else {
        return false;
    };
    use io::ErrorKind::{InvalidInput, NotADirectory, NotFound};
    matches!(source.kind(), NotFound | NotADirectory | InvalidInput)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_of_ip_netns_and_a_path_is_itself() {
        assert_eq!(place("blue"), Path::new("/run/netns/blue"));
        assert_eq!(place("/proc/1/ns/net"), Path::new("/proc/1/ns/net"));
        assert_eq!(place("./blue"), Path::new("./blue"));
    }

    #[test]
    fn what_is_no_namespace_is_named_with_the_reason() {
        let absent = enter("svcnat-no-such-namespace").unwrap_err();
        assert!(is_misnamed(&absent));
        let text = absent.to_string();
        assert!(
            text.contains("/run/netns/svcnat-no-such-namespace"),
            "{text}"
        );
        let other = enter("/dev/null").unwrap_err();
        assert!(is_misnamed(&other) && other.to_string().contains("/dev/null"));
        assert!(is_misnamed(&enter("/dev/null/x").unwrap_err()));
    }
}
