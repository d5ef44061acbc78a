//! The last good state on disk, so that a node that boots without the API has its services.
//!
//! One line of header (format, version, checksum, length), then JSON. Written beside the old
//! one and renamed over it: a crash leaves the old or the new file, never half of one.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::cluster::{Cluster, EndpointSlice, Names, Node, Pod, Service, ServiceCidr, Slices};

const MAGIC: &str = "svcnat-state";
/// Counted up when the objects' form changes: another version's file is not read.
const VERSION: u32 = 2;
const FILE: &str = "state.json";

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

#[derive(Serialize)]
struct Outgoing<'a> {
    services: Vec<&'a Service>,
    slices: Vec<&'a EndpointSlice>,
    pods: Vec<&'a Pod>,
    nodes: Vec<&'a Node>,
    service_cidrs: Vec<&'a ServiceCidr>,
}

#[derive(Deserialize)]
struct Incoming {
    services: Vec<Service>,
    slices: Vec<EndpointSlice>,
    pods: Vec<Pod>,
    nodes: Vec<Node>,
    service_cidrs: Vec<ServiceCidr>,
}

/// 64-bit FNV-1a: finds torn and damaged files; it is no protection against forgers, who
/// could write the rules themselves if they can write here.
fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// A state folder.
#[derive(Clone, Debug)]
pub struct Saved {
    path: PathBuf,
}

impl Saved {
    /// The state file in `folder`, which is made if it does not exist.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn in_folder(folder: &Path) -> Result<Self, SavedError> {
        fs::create_dir_all(folder).map_err(|source| SavedError::Io {
            path: folder.display().to_string(),
            source,
        })?;
        Ok(Self {
            path: folder.join(FILE),
        })
    }

    fn io(&self) -> impl Fn(std::io::Error) -> SavedError {
        let path = self.path.display().to_string();
        move |source| SavedError::Io {
            path: path.clone(),
            source,
        }
    }

    /// Writes the objects. O(cluster).
    ///
    /// # Errors
    /// If the file cannot be written; the old one stays.
    pub fn write(&self, cluster: &Cluster) -> Result<usize, SavedError> {
        let outgoing = Outgoing {
            services: cluster.services.values().map(|s| &**s).collect(),
            slices: cluster.slices.values().flat_map(Slices::iter).collect(),
            pods: cluster.pods.values().collect(),
            nodes: cluster.nodes.values().collect(),
            service_cidrs: cluster.service_cidrs.values().collect(),
        };
        let body = serde_json::to_vec(&outgoing).map_err(|e| self.content(&e.to_string()))?;
        let new = self.path.with_extension("new");
        let io = self.io();
        let mut file = fs::File::create(&new).map_err(&io)?;
        let sum = checksum(&body);
        writeln!(file, "{MAGIC} {VERSION} {sum:016x} {}", body.len()).map_err(&io)?;
        file.write_all(&body).map_err(&io)?;
        file.sync_all().map_err(&io)?;
        fs::rename(&new, &self.path).map_err(&io)?;
        Ok(body.len())
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
    /// If the file cannot be read, is damaged or of another version.
    pub fn read(&self) -> Result<Option<Cluster>, SavedError> {
        let bytes = match fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(self.io()(e)),
        };
        let end = bytes.iter().position(|b| *b == b'\n');
        let (header, body) = bytes.split_at(end.ok_or_else(|| self.content("has no header"))?);
        let body = body.get(1..).unwrap_or_default();
        let header = String::from_utf8_lossy(header).into_owned();
        let expected = format!("{MAGIC} {VERSION} {:016x} {}", checksum(body), body.len());
        if header != expected {
            let version = header.split(' ').nth(1).unwrap_or_default();
            return Err(self.content(&if version == VERSION.to_string() {
                "is damaged: the checksum does not agree".to_owned()
            } else {
                format!("is of version {version:?}, and this program reads {VERSION}")
            }));
        }
        let saved: Incoming =
            serde_json::from_slice(body).map_err(|e| self.content(&e.to_string()))?;
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
        Ok(Some(cluster))
    }
}

#[cfg(test)]
mod tests {
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
}
