//! Clients of the API servers, and the files that say how to reach them and who we are.
//!
//! The token is read from its file for each request (there are few: a list or a watch each).
//! Everything else is read once; a server that no longer accepts what we show makes the files
//! be looked at, and clients be made anew if one of them changed. So whatever is rotated is
//! used at once.
//!
//! A client tries nothing again by itself: who asks decides when, and whom.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use http::header::{AUTHORIZATION, HeaderValue};
use hyper_timeout::TimeoutConnector;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::client::{Body, ClientBuilder, ConfigExt};
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};
use tower::filter::FilterLayer;
use tower::{BoxError, ServiceBuilder};

use super::api::{ApiError, Settings, chain};
use super::life::Life;
use super::limits::Limits;

/// What tells one content of a file from the next; `None` if there is no file.
type Stamp = Option<(u64, u64, i64, i64)>;

/// A server to talk to.
struct Server {
    name: String,
    config: Config,
    client: Client,
    life: Arc<Life>,
    /// Counts how often its client was made.
    made: u64,
}

/// The server whose turn it is.
pub(super) struct Target {
    /// Its address.
    pub server: String,
    /// Its client.
    pub client: Client,
    /// Its signs of life.
    pub life: Arc<Life>,
    /// How often all clients were made before, from newer files.
    pub version: u64,
    turn: usize,
    made: u64,
}

/// The token that is to be shown cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the token in {file}: {message}")]
pub(super) struct TokenError {
    file: String,
    message: String,
}

/// A client for each server.
pub(super) struct Clients {
    settings: Settings,
    servers: Vec<Server>,
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
            let client = client(config.clone(), &settings.limits)
                .map_err(|e| ApiError::Client(chain(&e)))?;
            Ok(Server {
                life: Arc::new(Life::new()),
                name: config.cluster_url.to_string(),
                config,
                client,
                made: 0,
            })
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

    /// The server whose turn it is.
    pub fn turn(&self, turn: usize) -> Target {
        let server = &self.servers[turn % self.servers.len()];
        Target {
            server: server.name.clone(),
            client: server.client.clone(),
            life: Arc::clone(&server.life),
            version: self.version,
            turn,
            made: server.made,
        }
    }

    /// Gives up the connections to a server that wait for the next request: what one of them
    /// has met, the others may have as well. Those on which it answers live on.
    pub fn reconnect(&mut self, target: &Target) {
        if self.version != target.version {
            return;
        }
        let servers = self.servers.len();
        let server = &mut self.servers[target.turn % servers];
        if server.made != target.made {
            return;
        }
        match client(server.config.clone(), &self.settings.limits) {
            Ok(client) => {
                server.client = client;
                server.made += 1;
            }
            // The client there is can still connect anew.
            Err(error) => tracing::debug!(error = chain(&error), "cannot make a client"),
        }
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
/// Its connections are probed by the kernel, which `kube` does not ask for.
fn client(mut config: Config, limits: &Limits) -> Result<Client, kube::Error> {
    if config.proxy_url.is_some() {
        // What kube makes of one, or why it cannot.
        return Ok(ClientBuilder::try_from(config)?.build());
    }
    let user = &mut config.auth_info;
    let file = user.token_file.take_if(|_| user.token.is_none());
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_keepalive(Some(limits.keepalive));
    tcp.set_keepalive_interval(Some(limits.keepalive_interval));
    tcp.set_keepalive_retries(Some(3));
    let mut connector = TimeoutConnector::new(config.rustls_https_connector_with_connector(tcp)?);
    connector.set_connect_timeout(Some(limits.connect));
    let http = hyper_util::client::legacy::Builder::new(TokioExecutor::new()).build(connector);
    let service = ServiceBuilder::new()
        .option_layer(file.map(|file| FilterLayer::new(with_token(file.into()))))
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(http);
    Ok(Client::new(service, config.default_namespace))
}

/// Puts the token in `file`, as it is now, into a request.
fn with_token(
    file: PathBuf,
) -> impl FnMut(http::Request<Body>) -> Result<http::Request<Body>, BoxError> + Clone {
    move |mut request| {
        let error = |message: String| TokenError {
            file: file.display().to_string(),
            message,
        };
        let token = std::fs::read_to_string(&file).map_err(|e| error(e.to_string()))?;
        let mut value = HeaderValue::try_from(format!("Bearer {}", token.trim()))
            .map_err(|_| error("it holds characters that no token has".to_owned()))?;
        value.set_sensitive(true);
        request.headers_mut().insert(AUTHORIZATION, value);
        Ok(request)
    }
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
            let file = Kubeconfig::read_from(path).map_err(|e| {
                error(match e {
                    // It has the path as well.
                    KubeconfigError::ReadConfig(source, _) => source.to_string(),
                    other => chain(&other),
                })
            })?;
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
    // With a proxy, the client is kube's. It would try 429, 503 and 504 fifteen times, with
    // waits that double, and obey any Retry-After, before it says a word; another server is
    // never asked.
    base.connect_timeout = Some(settings.limits.connect);
    base.default_retry = false;
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
