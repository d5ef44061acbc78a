//! A stand-in for an API server: real list and watch over HTTP, with pages, bookmarks,
//! resource versions, compaction, and faults on demand.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures_util::stream;
use serde_json::{Value, json};
use tokio::sync::watch;

/// What the server holds and how it misbehaves.
#[derive(Default)]
struct Store {
    version: u64,
    /// Oldest version that a watch may start from.
    compacted: u64,
    objects: BTreeMap<(String, String), Value>,
    events: Vec<(u64, String, Value)>,
    requests: Vec<String>,
    /// So many lists of this resource are empty, as from a server that lost its store.
    short: BTreeMap<String, usize>,
    /// Resources that are refused.
    forbidden: Vec<String>,
    /// Resources that are not known.
    unknown: Vec<String>,
    /// The one bearer token that is accepted, if any is asked for.
    token: Option<String>,
    /// Requests that came with another.
    refused: usize,
    /// Every event is sent twice.
    duplicate: bool,
    /// Counted up to end all watches in the middle of a line.
    cut: u64,
    /// Counted up to make all watches say nothing and not end.
    mute: u64,
}

/// How a server misbehaves altogether.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing is answered any more, and watches say nothing.
    Silent,
    /// A byte of each answer ten times a second.
    Drip,
    /// Everything is refused with this code.
    Status(u16),
    /// The same, with `Retry-After` of an hour.
    StatusForAnHour(u16),
    /// Watches end as soon as they begin.
    ShortWatches,
    /// Watches say 410 Gone at once.
    ExpiredWatches,
    /// Lists have one more page for ever.
    EndlessList,
    /// Lists go on where they were before.
    CircularList,
    /// One page of a list never ends.
    EndlessPage,
    /// A line of each watch never ends.
    EndlessLine,
}

/// Handle of a server; clones are the same server.
#[derive(Clone)]
pub struct Server {
    store: Arc<Mutex<Store>>,
    changed: watch::Sender<u64>,
    fault: Arc<Mutex<Option<Fault>>>,
}

/// A running listener: gone when dropped.
pub struct Listening {
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
    pub address: SocketAddr,
}

impl Drop for Listening {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Server {
    pub fn new() -> Self {
        Self {
            store: Arc::default(),
            changed: watch::channel(0).0,
            fault: Arc::default(),
        }
    }

    /// Another server of the same store, with faults of its own.
    pub fn twin(&self) -> Self {
        Self {
            fault: Arc::default(),
            ..self.clone()
        }
    }

    pub fn misbehave(&self, fault: impl Into<Option<Fault>>) {
        *self.fault.lock().unwrap() = fault.into();
        self.changed.send_modify(|n| *n += 1);
    }

    fn fault(&self) -> Option<Fault> {
        *self.fault.lock().unwrap()
    }

    fn with<T>(&self, change: impl FnOnce(&mut Store) -> T) -> T {
        let result = change(&mut self.store.lock().unwrap());
        self.changed.send_modify(|n| *n += 1);
        result
    }

    /// Creates or replaces an object given as JSON with kind and metadata.
    pub fn put(&self, mut object: Value) {
        let plural = plural(object["kind"].as_str().unwrap());
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        self.with(|store| {
            store.version += 1;
            object["metadata"]["resourceVersion"] = store.version.to_string().into();
            if plural != "nodes" && plural != "servicecidrs" {
                object["metadata"]["namespace"] = "default".into();
            }
            let known = store
                .objects
                .insert((plural.clone(), name), object.clone())
                .is_some();
            let kind = if known { "MODIFIED" } else { "ADDED" };
            let event = json!({"type": kind, "object": object});
            store.events.push((store.version, plural, event));
        });
    }

    pub fn delete(&self, kind: &str, name: &str) {
        let plural = plural(kind);
        self.with(|store| {
            if let Some(mut object) = store.objects.remove(&(plural.clone(), name.to_owned())) {
                store.version += 1;
                object["metadata"]["resourceVersion"] = store.version.to_string().into();
                let event = json!({"type": "DELETED", "object": object});
                store.events.push((store.version, plural, event));
            }
        });
    }

    /// Forgets history: watches from before are told 410 Gone.
    pub fn compact(&self) {
        self.with(|store| {
            store.version += 1;
            store.compacted = store.version;
            store.events.clear();
        });
    }

    /// Goes back to an older version, as a store that was set back to a copy.
    pub fn set_back(&self, version: u64) {
        self.with(|store| {
            store.version = version;
            store.events.clear();
            store.compacted = 0;
            store.cut += 1;
        });
    }

    pub fn version(&self) -> u64 {
        self.store.lock().unwrap().version
    }

    /// Ends all watches in the middle of a line.
    pub fn cut(&self) {
        self.with(|store| store.cut += 1);
    }

    /// All watches there are say nothing any more, and do not end.
    pub fn mute(&self) {
        self.with(|store| store.mute += 1);
    }

    pub fn short_lists(&self, kind: &str, lists: usize) {
        self.with(|store| store.short.insert(plural(kind), lists));
    }

    pub fn forbid(&self, kind: &str, forbidden: bool) {
        self.with(|store| {
            store.forbidden.retain(|p| *p != plural(kind));
            if forbidden {
                store.forbidden.push(plural(kind));
            }
        });
    }

    pub fn unknown(&self, kind: &str, unknown: bool) {
        self.with(|store| {
            store.unknown.retain(|p| *p != plural(kind));
            if unknown {
                store.unknown.push(plural(kind));
            }
        });
    }

    /// From now on only this token is accepted, and nobody who came with another goes on
    /// watching.
    pub fn demand_token(&self, token: &str) {
        self.with(|store| {
            store.token = Some(token.to_owned());
            store.cut += 1;
        });
    }

    /// Requests so far that came with a wrong token or none.
    pub fn refused(&self) -> usize {
        self.store.lock().unwrap().refused
    }

    pub fn duplicate(&self) {
        self.with(|store| store.duplicate = true);
    }

    /// Requests so far, as path and query.
    pub fn requests(&self) -> Vec<String> {
        self.store.lock().unwrap().requests.clone()
    }

    /// Everything as a List, for `svcnat diff -f`.
    pub fn dump(&self) -> String {
        let store = self.store.lock().unwrap();
        let items: Vec<&Value> = store.objects.values().collect();
        json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string()
    }

    /// Listens on a port of loopback (0: any) in the namespace of the calling thread.
    pub fn listen(&self, port: u16) -> Listening {
        self.listen_with(port, None)
    }

    /// The same over TLS.
    pub fn listen_with(&self, port: u16, tls: Option<tokio_rustls::TlsAcceptor>) -> Listening {
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let (tell, told) = std::sync::mpsc::channel();
        let server = self.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let socket = tokio::net::TcpSocket::new_v4().unwrap();
                socket.set_reuseaddr(true).unwrap();
                socket.bind(([127, 0, 0, 1], port).into()).unwrap();
                let listener = socket.listen(64).unwrap();
                tell.send(listener.local_addr().unwrap()).unwrap();
                let routes = Router::new()
                    .route("/api/v1/{plural}", get(core))
                    .route("/apis/{group}/v1/{plural}", get(grouped))
                    .with_state(server);
                let serve = async {
                    match tls {
                        None => axum::serve(listener, routes).await.unwrap(),
                        Some(tls) => serve_tls(&listener, tls, routes).await,
                    }
                };
                tokio::select! {
                    () = serve => {}
                    _ = stopped => {}
                }
            });
            // Dropping the runtime closes every connection.
        });
        Listening {
            stop: Some(stop),
            thread: Some(thread),
            address: told.recv().unwrap(),
        }
    }
}

async fn serve_tls(
    listener: &tokio::net::TcpListener,
    tls: tokio_rustls::TlsAcceptor,
    routes: Router,
) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (tls, routes) = (tls.clone(), routes.clone());
        tokio::spawn(async move {
            // A client that does not trust us hangs up.
            let Ok(stream) = tls.accept(stream).await else {
                return;
            };
            let service = hyper_util::service::TowerToHyperService::new(routes);
            let io = hyper_util::rt::TokioIo::new(stream);
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(io, service)
                .await;
        });
    }
}

fn plural(kind: &str) -> String {
    format!("{}s", kind.to_lowercase())
}

type Parameters = Query<BTreeMap<String, String>>;

async fn core(
    State(server): State<Server>,
    Path(plural): Path<String>,
    query: Parameters,
    headers: HeaderMap,
) -> Response {
    misbehaving(&server, plural, query.0, &headers).await
}

async fn grouped(
    State(server): State<Server>,
    Path((_, plural)): Path<(String, String)>,
    query: Parameters,
    headers: HeaderMap,
) -> Response {
    misbehaving(&server, plural, query.0, &headers).await
}

/// The answer, if the server behaves.
async fn misbehaving(
    server: &Server,
    plural: String,
    query: BTreeMap<String, String>,
    headers: &HeaderMap,
) -> Response {
    let lists = !query.contains_key("watch");
    let refuse = |code: u16| {
        let code = StatusCode::from_u16(code).unwrap();
        (code, status(code.as_u16(), "no").to_string()).into_response()
    };
    match server.fault() {
        Some(Fault::Silent) => {
            server.with(|store| store.requests.push(format!("{plural} {query:?}")));
            std::future::pending().await
        }
        Some(Fault::Status(code)) => {
            server.with(|store| store.requests.push(format!("{plural} {query:?}")));
            refuse(code)
        }
        Some(Fault::StatusForAnHour(code)) => {
            let mut response = refuse(code);
            let hour = axum::http::HeaderValue::from_static("3600");
            response.headers_mut().insert("retry-after", hour);
            response
        }
        Some(Fault::EndlessPage) if lists => endless(r#"{"kind":"List","metadata":{},"items":["#),
        Some(Fault::Drip) => {
            let whole = answer(server, plural, query, headers).into_body();
            let whole = axum::body::to_bytes(whole, 1 << 20).await.unwrap();
            let bytes = stream::unfold(0, move |n| {
                let byte = whole.get(n..=n).map(<[u8]>::to_vec);
                async move {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    Some((Ok::<_, std::io::Error>(byte?), n + 1))
                }
            });
            Body::from_stream(bytes).into_response()
        }
        _ => answer(server, plural, query, headers),
    }
}

/// A text that begins so and never ends.
fn endless(begin: &str) -> Response {
    let blanks = " ".repeat(64 << 10);
    let begin = begin.to_owned();
    let texts = stream::unfold(begin, move |text| {
        let next = blanks.clone();
        async move { Some((Ok::<_, std::io::Error>(text), next)) }
    });
    Body::from_stream(texts).into_response()
}

/// A page of a list without an end.
fn endless_page(server: &Server, plural: &str, start: usize) -> Response {
    let items: Vec<Value> = (start..start + 100)
        .map(|n| json!({"metadata": {"name": format!("endless-{n}"), "namespace": "default"}}))
        .collect();
    let next = match server.fault() {
        Some(Fault::CircularList) => 1,
        _ => start + 100,
    };
    let metadata = json!({"resourceVersion": "7", "continue": next.to_string()});
    let list = json!({"kind": format!("{plural}List"), "metadata": metadata, "items": items});
    list.to_string().into_response()
}

fn status(code: u16, reason: &str) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
           "message": format!("the test says {reason}"), "reason": reason, "code": code})
}

fn answer(
    server: &Server,
    plural: String,
    query: BTreeMap<String, String>,
    headers: &HeaderMap,
) -> Response {
    let mut store = server.store.lock().unwrap();
    let shown = headers.get(AUTHORIZATION).map(|v| v.as_bytes().to_vec());
    if let Some(token) = &store.token
        && shown != Some(format!("Bearer {token}").into_bytes())
    {
        store.refused += 1;
        let refusal = status(401, "Unauthorized").to_string();
        return (StatusCode::UNAUTHORIZED, refusal).into_response();
    }
    store.requests.push(format!("{plural} {query:?}"));
    if store.forbidden.contains(&plural) {
        return (StatusCode::FORBIDDEN, status(403, "Forbidden").to_string()).into_response();
    }
    if store.unknown.contains(&plural) {
        return (StatusCode::NOT_FOUND, status(404, "NotFound").to_string()).into_response();
    }
    let text = |key: &str| query.get(key).map(String::as_str).unwrap_or_default();
    if text("watch") == "true" || text("watch") == "1" {
        let from: u64 = text("resourceVersion").parse().unwrap_or(0);
        let cut = store.cut;
        drop(store);
        if server.fault() == Some(Fault::EndlessLine) {
            return endless(r#"{"type":"ADDED","object":{"metadata":{"name":""#);
        }
        let seconds = text("timeoutSeconds").parse().unwrap_or(300);
        let end = tokio::time::Instant::now() + Duration::from_secs(seconds);
        return watch(server, plural, from, cut, end);
    }
    if matches!(
        server.fault(),
        Some(Fault::EndlessList | Fault::CircularList)
    ) {
        drop(store);
        let start = text("continue").parse().unwrap_or(0);
        return endless_page(server, &plural, start);
    }
    let short = store.short.get_mut(&plural).filter(|n| **n > 0);
    let empty = short.is_some_and(|n| {
        *n -= 1;
        true
    });
    let all: Vec<Value> = store
        .objects
        .iter()
        .filter(|((p, _), _)| *p == plural && !empty)
        .map(|(_, object)| object.clone())
        .collect();
    let limit: usize = text("limit").parse().unwrap_or(usize::MAX);
    let start: usize = text("continue").parse().unwrap_or(0);
    let end = start.saturating_add(limit).min(all.len());
    let next = if end < all.len() {
        end.to_string()
    } else {
        String::new()
    };
    let body = json!({
        "kind": "List", "apiVersion": "v1",
        "metadata": {"resourceVersion": store.version.to_string(), "continue": next},
        "items": &all[start.min(end)..end],
    });
    body.to_string().into_response()
}

/// Events after `from`, a bookmark whenever nothing happens for a while, until the `end`.
fn watch(
    server: &Server,
    plural: String,
    from: u64,
    cut: u64,
    end: tokio::time::Instant,
) -> Response {
    let mute = server.store.lock().unwrap().mute;
    let lines = stream::unfold(
        (
            server.clone(),
            server.changed.subscribe(),
            plural,
            from,
            false,
        ),
        move |(server, mut changed, plural, from, over)| async move {
            loop {
                changed.borrow_and_update();
                let fault = server.fault();
                let mute = server.store.lock().unwrap().mute != mute;
                if fault == Some(Fault::Silent) || mute {
                    let _ = changed.changed().await;
                    continue;
                }
                let now = tokio::time::Instant::now();
                if over || now >= end || fault == Some(Fault::ShortWatches) {
                    return None;
                }
                let (line, next, over, ahead) = {
                    let store = server.store.lock().unwrap();
                    // As in Kubernetes, a watch from a version that is yet to come is mute.
                    let ahead = from > store.version;
                    if store.cut != cut {
                        (Some("{\"type\":\"ADD".to_owned()), from, true, ahead)
                    } else if from < store.compacted || fault == Some(Fault::ExpiredWatches) {
                        let gone = json!({"type": "ERROR", "object": status(410, "Expired")});
                        (Some(format!("{gone}\n")), from, true, ahead)
                    } else {
                        let mut text = String::new();
                        for (version, of, event) in &store.events {
                            if *version > from && *of == plural {
                                for _ in 0..=u8::from(store.duplicate) {
                                    text.push_str(&format!("{event}\n"));
                                }
                            }
                        }
                        let next = store.version.max(from);
                        ((!text.is_empty()).then_some(text), next, false, ahead)
                    }
                };
                if let Some(line) = line {
                    let state = (server, changed, plural, next, over);
                    return Some((Ok::<_, std::io::Error>(line), state));
                }
                tokio::select! {
                    _ = changed.changed() => {}
                    () = tokio::time::sleep_until(end) => {}
                    () = tokio::time::sleep(Duration::from_millis(300)), if !ahead => {
                        let bookmark = json!({"type": "BOOKMARK", "object": {
                            "kind": "Bookmark", "apiVersion": "v1",
                            "metadata": {"resourceVersion": next.to_string()},
                        }});
                        let state = (server, changed, plural, next, false);
                        return Some((Ok(format!("{bookmark}\n")), state));
                    }
                }
            }
        },
    );
    Body::from_stream(lines).into_response()
}
