//! Clients of the API servers, and the files that say how to reach them and who we are.
//!
//! The token is read from its file for each request (there are few: a list or a watch each).
//! Everything else is read once; a server that no longer accepts what we show makes the files
//! be looked at, and clients be made anew if one of them changed. So whatever is rotated is
//! used at once.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::header::{AUTHORIZATION, HeaderValue};
use kube::client::{Body, ClientBuilder};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tower::BoxError;
use tower::filter::FilterLayer;

use super::api::{ApiError, Settings, chain};

/// What tells one content of a file from the next; `None` if there is no file.
type Stamp = Option<(u64, u64, i64, i64)>;

/// A client for each server.
pub(super) struct Clients {
    settings: Settings,
    servers: Vec<(String, Client)>,
    /// Files the clients were made from, and what they looked like before.
    files: Vec<(PathBuf, Stamp)>,
    /// Counts how often they were made.
    version: u64,
    /// What we show the servers, for messages.
    shown: String,
}

impl Clients {
    /// Reads the settings' files and makes clients.
    ///
    /// # Errors
    /// If the settings cannot be used. No server is asked.
    pub async fn make(settings: &Settings) -> Result<Self, ApiError> {
        let mut files = Vec::new();
        let base = base(settings, &mut files).await?;
        let shown = shown(&base, settings);
        let client = |config: Config| {
            let server = config.cluster_url.to_string();
            let client = client(config).map_err(|e| ApiError::Client(chain(&e)))?;
            Ok((server, client))
        };
        let servers = if settings.servers.is_empty() {
            vec![client(base)?]
        } else {
            let with_url = |server: &String| {
                let mut config = base.clone();
                config.cluster_url = uri(server)?;
                client(config)
            };
            let made: Result<Vec<_>, ApiError> = settings.servers.iter().map(with_url).collect();
            made?
        };
        Ok(Self {
            settings: settings.clone(),
            servers,
            files,
            version: 0,
            shown,
        })
    }

    /// How many servers there are.
    pub const fn len(&self) -> usize {
        self.servers.len()
    }

    /// The server whose turn it is, its client, and how often clients were made before.
    pub fn turn(&self, turn: usize) -> (String, Client, u64) {
        let (server, client) = &self.servers[turn % self.servers.len()];
        (server.clone(), client.clone(), self.version)
    }

    /// What we show the servers, for messages.
    pub fn shown(&self) -> &str {
        &self.shown
    }

    /// True if there are, or could be made, newer clients than those of this version.
    pub fn outdated(&self, version: u64) -> bool {
        self.version != version || self.files.iter().any(|(path, was)| stamp(path) != *was)
    }

    /// Makes clients anew if a file changed since those of this version were made.
    ///
    /// # Errors
    /// If the files cannot be used as they are now; the clients stay.
    pub async fn renew(&mut self, version: u64) -> Result<(), ApiError> {
        if self.version == version && self.outdated(version) {
            let next = Self::make(&self.settings).await?;
            *self = Self {
                version: self.version + 1,
                ..next
            };
        }
        Ok(())
    }
}

/// A client that reads the token file itself: `kube` would use what it read for up to a
/// minute, and takes the line feed that most programs write after a token for a part of it.
fn client(mut config: Config) -> Result<Client, kube::Error> {
    let user = &mut config.auth_info;
    let file = user.token_file.take_if(|_| user.token.is_none());
    let builder = ClientBuilder::try_from(config)?;
    let Some(file) = file else {
        return Ok(builder.build());
    };
    let with_token = move |mut request: http::Request<Body>| -> Result<_, BoxError> {
        let token = std::fs::read_to_string(&file)
            .map_err(|e| format!("cannot read the token in {file}: {e}"))?;
        let mut value = HeaderValue::try_from(format!("Bearer {}", token.trim()))
            .map_err(|_| format!("{file} holds no token"))?;
        value.set_sensitive(true);
        request.headers_mut().insert(AUTHORIZATION, value);
        Ok(request)
    };
    let layer = FilterLayer::new(with_token);
    Ok(builder.with_layer(&layer).build())
}

/// The configuration all servers share. Files are looked at before they are read, so that a
/// change in between is seen.
async fn base(settings: &Settings, files: &mut Vec<(PathBuf, Stamp)>) -> Result<Config, ApiError> {
    let mut look = |path: &Path| files.push((path.to_owned(), stamp(path)));
    let mut base = match &settings.kubeconfig {
        Some(path) => {
            let error = |message: String| ApiError::Kubeconfig {
                path: path.display().to_string(),
                message,
            };
            look(path);
            let file = Kubeconfig::read_from(path).map_err(|e| error(chain(&e)))?;
            let clusters = file.clusters.iter().filter_map(|c| c.cluster.as_ref());
            let users = file.auth_infos.iter().filter_map(|u| u.auth_info.as_ref());
            let named = users
                .flat_map(|user| [&user.token_file, &user.client_certificate, &user.client_key]);
            for path in clusters
                .map(|c| &c.certificate_authority)
                .chain(named)
                .flatten()
            {
                look(Path::new(path));
            }
            Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
                .await
                .map_err(|e| error(chain(&e)))?
        }
        None => match (Config::incluster(), settings.servers.first()) {
            (Ok(config), _) => {
                let token = config.auth_info.token_file.as_deref().map(Path::new);
                for path in token.into_iter().chain(config.root_cert_file.as_deref()) {
                    look(path);
                }
                config
            }
            (Err(_), Some(server)) => Config::new(uri(server)?),
            (Err(e), None) => return Err(ApiError::InCluster(chain(&e))),
        },
    };
    base.connect_timeout = Some(Duration::from_secs(5));
    Ok(base)
}

fn stamp(path: &Path) -> Stamp {
    let found = path.metadata().ok()?;
    Some((found.ino(), found.len(), found.mtime(), found.mtime_nsec()))
}

fn shown(config: &Config, settings: &Settings) -> String {
    let user = &config.auth_info;
    match (&user.token, &user.token_file, &user.client_certificate) {
        (None, Some(file), _) => format!("the token in {file}"),
        (None, None, Some(file)) => format!("the certificate in {file}"),
        _ => match &settings.kubeconfig {
            Some(file) => format!("what {} says of us", file.display()),
            None => "that we show nothing at all (there is no --kubeconfig)".to_owned(),
        },
    }
}

fn uri(server: &str) -> Result<http::Uri, ApiError> {
    let error = |message: &str| ApiError::Server(server.to_owned(), message.to_owned());
    let uri: http::Uri = server
        .parse()
        .map_err(|e: http::uri::InvalidUri| error(&e.to_string()))?;
    match uri.scheme_str() {
        Some("http" | "https") => Ok(uri),
        _ => Err(error("must begin with https:// or http://")),
    }
}
