//! The last good state on disk, so that a node that boots without the API has its services.
//!
//! One line of header (format, version, checksum, length), then JSON. Written beside the old
//! one and renamed over it: a crash leaves the old or the new file, never half of one. Both
//! ways the objects go by as a stream, without a copy of the file in memory.
//!
//! Nothing but a regular file is opened, and no link is followed: whoever else can write to
//! the folder can spoil the state, but not have another file read or overwritten.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, renameat};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, fsync, unlinkat};
use serde::ser::SerializeStruct;
use serde::{Deserialize, Serialize, Serializer};

use crate::cluster::{Cluster, EndpointSlice, Names, Node, Pod, Service, ServiceCidr, Slices};

const MAGIC: &str = "svcnat-state";
/// Counted up when the objects' form changes: another version's file is not read.
pub const VERSION: u32 = 4;
const FILE: &str = "state.json";
/// What is written before it is renamed.
const NEW: &str = "state.json.new";
/// A longer header is none.
const HEADER: u64 = 256;
/// A file larger than this is not read: 100,000 Services with five endpoints each take a
/// fifth of it.
const MAX_BYTES: u64 = 512 << 20;

/// Why a saved state cannot be used or written.
#[derive(Debug, thiserror::Error)]
pub enum SavedError {
    /// Reading or writing failed.
    #[error("{path}: {source}")]
    Io {
        /// File.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// Not a state file of this version, or damaged.
    #[error("{path}: {message}")]
    Content {
        /// File.
        path: String,
        /// What is wrong.
        message: String,
    },
}

/// The objects, written one after the other.
struct Outgoing<'a>(&'a Cluster);

impl Serialize for Outgoing<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let cluster = self.0;
        let mut state = serializer.serialize_struct("State", 5)?;
        state.serialize_field("services", &Each(|| cluster.services.values()))?;
        let slices = || cluster.slices.values().flat_map(Slices::iter);
        state.serialize_field("slices", &Each(slices))?;
        state.serialize_field("pods", &Each(|| cluster.pods.values()))?;
        state.serialize_field("nodes", &Each(|| cluster.nodes.values()))?;
        state.serialize_field("service_cidrs", &Each(|| cluster.service_cidrs.values()))?;
        state.end()
    }
}

struct Each<F>(F);

impl<F: Fn() -> I, I: IntoIterator<Item: Serialize>> Serialize for Each<F> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq((self.0)())
    }
}

#[derive(Deserialize)]
struct Incoming {
    services: Vec<Service>,
    slices: Vec<EndpointSlice>,
    pods: Vec<Pod>,
    nodes: Vec<Node>,
    service_cidrs: Vec<ServiceCidr>,
}

/// 64-bit FNV-1a of all that went by, and how much that was: finds torn and damaged files; it
/// is no protection against forgers, who could write the rules themselves if they can write
/// here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sum {
    hash: u64,
    bytes: u64,
}

impl Sum {
    const EMPTY: Self = Self {
        hash: 0xcbf2_9ce4_8422_2325,
        bytes: 0,
    };

    fn add(&mut self, bytes: &[u8]) {
        self.hash = bytes.iter().fold(self.hash, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
        self.bytes += bytes.len() as u64;
    }

    /// Of one length whatever the sum: it is written over once the sum is known.
    fn header(self) -> String {
        format!("{MAGIC} {VERSION} {:016x} {:012}", self.hash, self.bytes)
    }
}

struct Summing<W> {
    to: W,
    sum: Sum,
}

impl<W: Write> Write for Summing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.to.write(bytes)?;
        self.sum.add(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// A state folder.
#[derive(Debug)]
pub struct Saved {
    folder: OwnedFd,
    path: PathBuf,
}

impl Saved {
    /// The state file in `folder`, which is made, for its owner alone, if it does not exist.
    ///
    /// # Errors
    /// If it cannot be made, or is a link or no folder.
    pub fn in_folder(folder: &Path) -> Result<Self, SavedError> {
        let io = |source| SavedError::Io {
            path: folder.display().to_string(),
            source,
        };
        let mut make = std::fs::DirBuilder::new();
        make.recursive(true).mode(0o700);
        // Whatever else is there already does not open as a folder.
        let made = make.create(folder);
        let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW;
        let opened = File::options()
            .read(true)
            .custom_flags(flags.bits())
            .open(folder);
        let opened = match (opened, made) {
            (Ok(opened), _) => opened,
            (Err(_), Err(error)) => return Err(io(error)),
            (Err(error), Ok(())) => return Err(io(error)),
        };
        Ok(Self {
            folder: opened.into(),
            path: folder.join(FILE),
        })
    }

    fn io(&self) -> impl Fn(io::Error) -> SavedError {
        let path = self.path.display().to_string();
        move |source| SavedError::Io {
            path: path.clone(),
            source,
        }
    }

    fn open(&self, name: &str, flags: OFlag) -> io::Result<File> {
        let flags = flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let mode = Mode::S_IRUSR | Mode::S_IWUSR;
        Ok(openat(&self.folder, name, flags, mode)?.into())
    }

    /// Writes the objects; returns how many bytes they take. O(cluster), in constant memory.
    ///
    /// # Errors
    /// If the file cannot be written; the old one stays.
    pub fn write(&self, cluster: &Cluster) -> Result<u64, SavedError> {
        self.try_write(cluster).map_err(self.io())
    }

    fn try_write(&self, cluster: &Cluster) -> io::Result<u64> {
        // Left behind by one that was killed, or put there by somebody.
        match unlinkat(&self.folder, NEW, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(error) => return Err(error.into()),
        }
        let mut file = self.open(NEW, OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL)?;
        writeln!(file, "{}", Sum::EMPTY.header())?;
        let mut body = Summing {
            to: BufWriter::new(&mut file),
            sum: Sum::EMPTY,
        };
        serde_json::to_writer(&mut body, &Outgoing(cluster))?;
        body.flush()?;
        let sum = body.sum;
        drop(body);
        file.seek(SeekFrom::Start(0))?;
        writeln!(file, "{}", sum.header())?;
        file.sync_all()?;
        renameat(&self.folder, NEW, &self.folder, FILE)?;
        // The name lasts as long as what it names.
        fsync(&self.folder)?;
        Ok(sum.bytes)
    }

    fn content(&self, message: &str) -> SavedError {
        SavedError::Content {
            path: self.path.display().to_string(),
            message: message.to_owned(),
        }
    }

    /// Reads the objects; `None` if nothing was saved yet.
    ///
    /// # Errors
    /// If the file cannot be read, is no regular file, too large, damaged or of another
    /// version.
    pub fn read(&self) -> Result<Option<Cluster>, SavedError> {
        // Opening a FIFO waits for nobody this way.
        let file = match self.open(FILE, OFlag::O_RDONLY | OFlag::O_NONBLOCK) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) if e.raw_os_error() == Some(Errno::ELOOP as i32) => {
                return Err(self.content("is a link, which is not followed"));
            }
            Err(e) => return Err(self.io()(e)),
        };
        let found = file.metadata().map_err(self.io())?;
        if !found.is_file() {
            return Err(self.content("is no regular file"));
        }
        if found.size() > MAX_BYTES {
            let message = format!("is larger than {MAX_BYTES} bytes ({})", found.size());
            return Err(self.content(&message));
        }
        self.decode(BufReader::new(file)).map(Some)
    }

    /// Twice through the file: nothing is made of what is not whole.
    fn decode(&self, mut file: impl BufRead + Seek) -> Result<Cluster, SavedError> {
        let mut header = Vec::new();
        let mut start = file.by_ref().take(HEADER);
        start.read_until(b'\n', &mut header).map_err(self.io())?;
        if header.pop() != Some(b'\n') {
            return Err(self.content("has no header"));
        }
        let mut sum = Sum::EMPTY;
        // It may grow while it is read.
        let mut body = file.by_ref().take(MAX_BYTES);
        loop {
            let bytes = body.fill_buf().map_err(self.io())?;
            if bytes.is_empty() {
                break;
            }
            sum.add(bytes);
            let length = bytes.len();
            body.consume(length);
        }
        let header = String::from_utf8_lossy(&header).into_owned();
        if header != sum.header() {
            let version = header.split(' ').nth(1).unwrap_or_default();
            return Err(self.content(&if version == VERSION.to_string() {
                "is damaged: the checksum does not agree".to_owned()
            } else {
                format!("is of version {version:?}, and this program reads {VERSION}")
            }));
        }
        let after_header = SeekFrom::Start(header.len() as u64 + 1);
        file.seek(after_header).map_err(self.io())?;
        let saved: Incoming = serde_json::from_reader(file.take(sum.bytes))
            .map_err(|e| self.content(&e.to_string()))?;
        Ok(cluster_of(saved))
    }
}

fn cluster_of(saved: Incoming) -> Cluster {
    let mut cluster = Cluster::default();
    let mut names = Names::default();
    let services = saved.services.into_iter().map(|mut service| {
        names.share_service(&mut service);
        (service.name.clone(), Box::new(service))
    });
    cluster.services = services.collect();
    for mut slice in saved.slices {
        let service = cluster.services.get_key_value(&slice.service);
        names.share_slice(&mut slice, service.map(|(name, _)| name));
        let slices = cluster.slices.entry(slice.service.clone()).or_default();
        slices.insert(slice);
    }
    let pods = saved.pods.into_iter();
    cluster.pods = pods.map(|p| (p.name.clone(), p)).collect();
    let nodes = saved.nodes.into_iter();
    cluster.nodes = nodes.map(|n| (n.name.clone(), n)).collect();
    let cidrs = saved.service_cidrs.into_iter();
    cluster.service_cidrs = cidrs.map(|c| (c.name.clone(), c)).collect();
    cluster
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;
    use crate::source::{Loaded, load_str};

    fn sample() -> Cluster {
        let mut loaded = Loaded::default();
        load_str(
            r#"{"apiVersion":"v1","kind":"Service","metadata":{"name":"a","annotations":{"svcnat.io/weights":"pod/x=3"}},
                "spec":{"clusterIP":"10.254.0.1","sessionAffinity":"ClientIP","ports":[{"name":"p","port":80,"targetPort":"web"}]}}
---
{"apiVersion":"discovery.k8s.io/v1","kind":"EndpointSlice","metadata":{"name":"a-1","labels":{"kubernetes.io/service-name":"a"}},
 "addressType":"IPv4","ports":[{"name":"p","port":80}],"endpoints":[{"addresses":["172.17.0.2"],"hints":{"forZones":[{"name":"z"}]}}]}
---
{"apiVersion":"v1","kind":"Node","metadata":{"name":"n"},"spec":{"podCIDRs":["172.17.0.0/24"]}}
---
{"apiVersion":"networking.k8s.io/v1","kind":"ServiceCIDR","metadata":{"name":"c"},"spec":{"cidrs":["10.254.0.0/16"]}}"#,
            "test",
            &mut loaded,
        );
        assert!(loaded.problems.is_empty(), "{:?}", loaded.problems);
        loaded.cluster
    }

    fn folder(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("svcnat-saved-{name}-{}", std::process::id()))
    }

    #[test]
    fn what_is_written_is_read_back() {
        let folder = folder("whole");
        let saved = Saved::in_folder(&folder).unwrap();
        assert_eq!(saved.read().unwrap(), None);
        saved.write(&sample()).unwrap();
        assert_eq!(saved.read().unwrap(), Some(sample()));
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_torn_damaged_or_foreign_file_is_an_error() {
        let folder = folder("torn");
        let saved = Saved::in_folder(&folder).unwrap();
        saved.write(&sample()).unwrap();
        let whole = fs::read(&saved.path).unwrap();
        for end in [0, 5, whole.len() / 2, whole.len() - 1] {
            fs::write(&saved.path, &whole[..end]).unwrap();
            assert!(saved.read().is_err(), "cut at {end}");
        }
        let mut flipped = whole.clone();
        let at = flipped.len() - 10;
        flipped[at] ^= 1;
        fs::write(&saved.path, flipped).unwrap();
        assert!(saved.read().unwrap_err().to_string().contains("damaged"));
        let (ours, next) = (format!(" {VERSION} "), format!(" {} ", VERSION + 1));
        let other = String::from_utf8(whole).unwrap().replacen(&ours, &next, 1);
        fs::write(&saved.path, other).unwrap();
        assert!(saved.read().unwrap_err().to_string().contains("version"));
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn it_is_written_and_read_in_pieces() {
        // Many small writes reach the file in few; none of them is the whole.
        struct Largest(usize, usize);
        impl Write for Largest {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0 = self.0.max(bytes.len());
                self.1 += bytes.len();
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut cluster = sample();
        let service = cluster.services.values().next().unwrap().clone();
        for n in 0..2_000 {
            let mut service = service.clone();
            service.name = crate::cluster::ObjectName::new("default", format!("s{n}"));
            cluster.services.insert(service.name.clone(), service);
        }
        let mut largest = Largest(0, 0);
        let mut to = BufWriter::new(&mut largest);
        serde_json::to_writer(&mut to, &Outgoing(&cluster)).unwrap();
        drop(to);
        assert!(largest.1 > 500_000, "{}", largest.1);
        assert!(largest.0 <= 64 << 10, "{} at once", largest.0);
    }

    #[test]
    fn only_its_owner_may_read_it_and_a_file_left_behind_is_replaced() {
        let folder = folder("mode");
        let saved = Saved::in_folder(&folder).unwrap();
        fs::write(folder.join(NEW), "half of one").unwrap();
        fs::set_permissions(folder.join(NEW), fs::Permissions::from_mode(0o666)).unwrap();
        saved.write(&sample()).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&saved.path), 0o600);
        assert_eq!(mode(&folder), 0o700);
        assert!(!folder.join(NEW).exists());
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn links_are_not_followed_and_what_they_lead_to_is_not_written() {
        let folder = folder("links");
        let victim = folder.with_extension("victim");
        let link = folder.with_extension("link");
        let saved = Saved::in_folder(&folder).unwrap();
        fs::write(&victim, "precious").unwrap();
        symlink(&victim, folder.join(NEW)).unwrap();
        symlink(&victim, folder.join(FILE)).unwrap();
        let error = saved.read().unwrap_err().to_string();
        assert!(error.contains("is a link"), "{error}");
        saved.write(&sample()).unwrap();
        assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
        assert_eq!(saved.read().unwrap(), Some(sample()));
        symlink(&folder, &link).unwrap();
        assert!(Saved::in_folder(&link).is_err(), "the folder is a link");
        assert!(Saved::in_folder(&victim).is_err(), "the folder is a file");
        fs::remove_dir_all(folder).unwrap();
        fs::remove_file(victim).unwrap();
        fs::remove_file(link).unwrap();
    }

    #[test]
    fn a_pipe_a_folder_and_a_file_without_end_are_refused_at_once() {
        let folder = folder("kinds");
        let saved = Saved::in_folder(&folder).unwrap();
        nix::unistd::mkfifo(&saved.path, Mode::S_IRWXU).unwrap();
        let error = saved.read().unwrap_err().to_string();
        assert!(error.contains("no regular file"), "{error}");
        saved.write(&sample()).unwrap();
        assert_eq!(saved.read().unwrap(), Some(sample()), "a pipe is replaced");
        let file = File::create(&saved.path).unwrap();
        file.set_len(MAX_BYTES + 1).unwrap();
        let error = saved.read().unwrap_err().to_string();
        assert!(error.contains("is larger than"), "{error}");
        fs::write(&saved.path, [b'x'; 10_000]).unwrap();
        assert!(saved.read().unwrap_err().to_string().contains("header"));
        fs::remove_file(&saved.path).unwrap();
        fs::create_dir(&saved.path).unwrap();
        let error = saved.read().unwrap_err().to_string();
        assert!(error.contains("no regular file"), "{error}");
        assert!(saved.write(&sample()).is_err(), "a folder is not replaced");
        fs::remove_dir_all(folder).unwrap();
    }
}
