//! Reads Kubernetes objects from files, folders and standard input: YAML or JSON, one or
//! many documents, Lists. Knows where each came from.
//!
//! What is wrong with one object is reported and that object left out; the rest is read.

mod answers;
pub mod api;
mod clients;
mod documents;
mod endpoints;
mod exchange;
mod fields;
mod flags;
mod limits;
mod list_watch;
mod pod;
mod raw;
mod service;
mod telling;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::cluster::{Cluster, EndpointSlice, Names, ObjectName, Origin};
use crate::problem::Problem;
use documents::documents;
use fields::{Checker, name_problem};

pub use fields::{address, prefix};
pub use flags::service_ranges_from;

/// Where objects come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// A file, or a folder whose .yaml, .yml and .json files are read in name order; hidden
    /// ones are not.
    Path(PathBuf),
    /// Standard input.
    Stdin,
}

/// What was read.
#[derive(Debug, Default)]
pub struct Loaded {
    /// Objects.
    pub cluster: Cluster,
    /// What was wrong, skipped or odd.
    pub problems: Vec<Problem>,
    /// Names that objects share.
    names: Names,
}

/// A source that cannot be read at all.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// Not readable.
    #[error("cannot read {path}: {source}")]
    Read {
        /// File, folder or `<stdin>`.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// Readable, but not what it should be.
    #[error("{path}: {message}")]
    Content {
        /// File.
        path: String,
        /// What is wrong.
        message: String,
    },
}

fn read_error(path: &Path) -> impl FnOnce(std::io::Error) -> SourceError {
    let path = path.display().to_string();
    move |source| SourceError::Read { path, source }
}

/// Reads all inputs.
///
/// # Errors
/// If one cannot be read. What is wrong inside is in [`Loaded::problems`].
pub fn load(inputs: &[Input]) -> Result<Loaded, SourceError> {
    let mut loaded = Loaded::default();
    for input in inputs {
        match input {
            Input::Stdin => {
                let mut bytes = Vec::new();
                let mut stdin = std::io::stdin().lock();
                stdin
                    .read_to_end(&mut bytes)
                    .map_err(read_error(Path::new("<stdin>")))?;
                load_bytes(&bytes, "<stdin>", &mut loaded);
            }
            Input::Path(path) => {
                for file in files(path)? {
                    let bytes = std::fs::read(&file).map_err(read_error(&file))?;
                    load_bytes(&bytes, &file.display().to_string(), &mut loaded);
                }
            }
        }
    }
    prefer_slices(&mut loaded.cluster);
    if !inputs.is_empty() && loaded.cluster == Cluster::default() && loaded.problems.is_empty() {
        loaded
            .problems
            .push(Problem::warning(None, "input", "", "holds no objects"));
    }
    Ok(loaded)
}

/// True for names that begin with a dot. In folders they are passed over: editors' locks and
/// copies, and the versions behind a mounted `ConfigMap`, whose files are linked from beside
/// them.
#[must_use]
pub fn is_hidden(path: &Path) -> bool {
    path.file_name()
        .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
}

/// The file itself, or all manifests below a folder in name order, without hidden ones.
fn files(path: &Path) -> Result<Vec<PathBuf>, SourceError> {
    if !path.metadata().map_err(read_error(path))?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut out = Vec::new();
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(path).map_err(read_error(path))? {
        entries.push(entry.map_err(read_error(path))?.path());
    }
    entries.retain(|entry| !is_hidden(entry));
    entries.sort();
    for entry in entries {
        let manifest = entry
            .extension()
            .is_some_and(|e| e == "yaml" || e == "yml" || e == "json");
        if entry.is_dir() {
            out.extend(files(&entry)?);
        } else if manifest {
            out.push(entry);
        }
    }
    Ok(out)
}

fn load_bytes(bytes: &[u8], source: &str, into: &mut Loaded) {
    match std::str::from_utf8(bytes) {
        Ok(text) => load_str(text, source, into),
        Err(e) => {
            let line = 1 + bytes[..e.valid_up_to()]
                .iter()
                .filter(|b| **b == b'\n')
                .count();
            let origin = Origin {
                source: source.into(),
                document: 0,
                line,
            };
            into.problems.push(Problem::error(
                Some(&origin),
                "file",
                "",
                format!("is not UTF-8 text: byte {} is invalid", e.valid_up_to()),
            ));
        }
    }
}

/// Reads the documents of one text.
pub fn load_str(text: &str, source: &str, into: &mut Loaded) {
    let mut skipped: BTreeMap<String, usize> = BTreeMap::new();
    for document in documents(text) {
        let origin = Origin {
            source: source.into(),
            document: document.number,
            line: document.line,
        };
        if json_list(document.text, &origin, into, &mut skipped) {
            continue;
        }
        match parse(document.text) {
            Ok(Value::Null) => {}
            Ok(value) => object(value, &origin, into, &mut skipped),
            Err((line, message)) => {
                let origin = Origin {
                    line: document.line + line.saturating_sub(1),
                    ..origin
                };
                into.problems
                    .push(Problem::error(Some(&origin), "document", "", message));
            }
        }
    }
    for (kind, count) in skipped {
        let origin = Origin {
            source: source.into(),
            ..Origin::default()
        };
        into.problems.push(Problem::notice(
            Some(&origin),
            kind,
            format!("{count} objects of this kind skipped: they play no part in service NAT"),
        ));
    }
}

/// Reads a JSON List item by item: its whole tree would take ten times the text's memory.
/// False, with nothing done, if the document is not one.
fn json_list(
    text: &str,
    origin: &Origin,
    into: &mut Loaded,
    skipped: &mut BTreeMap<String, usize>,
) -> bool {
    /// The fields that tell what a document is; the rest is skipped, and checked to be JSON.
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Head<'t> {
        #[serde(borrow)]
        kind: Option<Cow<'t, str>>,
        #[serde(borrow)]
        api_version: Option<Cow<'t, str>>,
        #[serde(borrow)]
        items: Option<&'t RawValue>,
    }
    if !text.trim_start().starts_with('{') {
        return false;
    }
    let Ok(Head {
        kind: Some(kind),
        api_version,
        items: Some(items),
    }) = serde_json::from_str(text)
    else {
        return false;
    };
    let Some(item_kind) = kind.strip_suffix("List") else {
        return false;
    };
    let Ok(items) = serde_json::from_str::<Vec<&RawValue>>(items.get()) else {
        return false;
    };
    for item in items {
        match serde_json::from_str(item.get()) {
            Ok(item) => {
                let item = typed_item(item, item_kind, api_version.as_deref().unwrap_or_default());
                object(item, origin, into, skipped);
            }
            Err(e) => into.problems.push(Problem::error(
                Some(origin),
                "document",
                "items",
                format!("malformed JSON: {e}"),
            )),
        }
    }
    true
}

/// Items of typed lists need not repeat kind and version.
fn typed_item(mut item: Value, kind: &str, version: &str) -> Value {
    if let Value::Object(fields) = &mut item
        && !kind.is_empty()
    {
        fields.entry("kind").or_insert_with(|| kind.into());
        fields.entry("apiVersion").or_insert_with(|| version.into());
    }
    item
}

/// JSON is parsed as such: it is much faster, and all machine-made input is JSON. The error
/// has the line in the document.
fn parse(text: &str) -> Result<Value, (usize, String)> {
    if text.trim_start().starts_with('{') {
        return serde_json::from_str(text).or_else(|e| {
            // Flow style YAML also starts with a brace.
            parse_yaml(text).map_err(|_| (e.line(), format!("malformed JSON: {e}")))
        });
    }
    parse_yaml(text)
}

fn parse_yaml(text: &str) -> Result<Value, (usize, String)> {
    serde_saphyr::from_str(text).map_err(|e| {
        let line = e
            .location()
            .map_or(1, |l| usize::try_from(l.line()).unwrap_or(1));
        let message = e.to_string();
        let first = message.lines().next().unwrap_or_default().to_owned();
        (line, format!("malformed YAML: {first}"))
    })
}

/// Adds one object, or the items of a List.
fn object(value: Value, origin: &Origin, into: &mut Loaded, skipped: &mut BTreeMap<String, usize>) {
    let text = |key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
    let Some(kind) = text("kind") else {
        into.problems.push(Problem::error(
            Some(origin),
            "document",
            "kind",
            "is absent: not a Kubernetes object",
        ));
        return;
    };
    let version = text("apiVersion").unwrap_or_default();
    if let Some(item_kind) = kind.strip_suffix("List") {
        let Value::Object(mut list) = value else {
            return;
        };
        let Some(Value::Array(items)) = list.remove("items") else {
            if list.get("items").is_some_and(|i| !i.is_null()) {
                into.problems.push(Problem::error(
                    Some(origin),
                    &kind,
                    "items",
                    "is not a list",
                ));
            }
            return;
        };
        for item in items {
            object(typed_item(item, item_kind, &version), origin, into, skipped);
        }
        return;
    }
    if kind == "Configuration" && version.starts_with("svcnat/") {
        into.problems.push(Problem::error(
            Some(origin),
            "Configuration",
            "",
            "is svcnat's own configuration: pass it with --config",
        ));
        return;
    }
    let Loaded {
        cluster,
        problems,
        names,
    } = into;
    if !insert_object(cluster, Some(names), value, origin, problems) {
        *skipped.entry(kind).or_default() += 1;
    }
}

/// Adds one object to `cluster`; false if its kind plays no part here. With `names`, it
/// shares its names with the objects before it.
pub fn insert_object(
    cluster: &mut Cluster,
    names: Option<&mut Names>,
    object: Value,
    origin: &Origin,
    problems: &mut Vec<Problem>,
) -> bool {
    let text = |key: &str| object.get(key).and_then(Value::as_str).unwrap_or_default();
    let kind = text("kind").to_owned();
    let group = text("apiVersion")
        .rsplit_once('/')
        .map_or("", |(group, _)| group);
    let expected = match kind.as_str() {
        "Service" | "Endpoints" | "Pod" | "Node" | "ReplicationController" => "",
        "EndpointSlice" => "discovery.k8s.io",
        "ReplicaSet" | "Deployment" => "apps",
        "ServiceCIDR" => "networking.k8s.io",
        _ => return false,
    };
    if group != expected {
        return false;
    }
    let meta = object.get("metadata");
    let field = |name: &str| meta.and_then(|m| m.get(name)).and_then(Value::as_str);
    let name = ObjectName::new(
        field("namespace")
            .filter(|n| !n.is_empty())
            .unwrap_or("default"),
        field("name").unwrap_or_default(),
    );
    let cluster_wide = matches!(kind.as_str(), "Node" | "ServiceCIDR");
    let shown = if cluster_wide {
        name.name.to_string()
    } else {
        name.to_string()
    };
    let mut c = Checker {
        origin,
        object: format!("{kind} {shown}"),
        problems,
        failed: false,
    };
    if let Some(problem) = name_problem(&name.name) {
        c.error("metadata.name", problem);
        return true;
    }
    if let Some(problem) = name_problem(&name.namespace) {
        c.error("metadata.namespace", problem);
        return true;
    }
    insert(cluster, names, &kind, name, object, &mut c);
    true
}

fn insert(
    cluster: &mut Cluster,
    names: Option<&mut Names>,
    kind: &str,
    name: ObjectName,
    object: Value,
    c: &mut Checker<'_>,
) {
    match kind {
        "Service" => {
            let mut made = typed(object, c).and_then(|raw| service::service(name, raw, c));
            if let (Some(names), Some(service)) = (names, &mut made) {
                names.share_service(service);
            }
            if let Some(made) = made {
                let name = made.name.clone();
                add(
                    &mut cluster.services,
                    name,
                    Some(Box::new(made)),
                    |s| &s.origin,
                    c,
                );
            }
        }
        "EndpointSlice" => {
            if let Some(slice) = typed(object, c).and_then(|raw| endpoints::slice(name, raw, c)) {
                add_slice(cluster, names, slice, c);
            }
        }
        "Endpoints" => {
            if let Some(raw) = typed(object, c) {
                for slice in endpoints::endpoints(&name, raw, c) {
                    let slices = cluster.slices.entry(name.clone()).or_default();
                    slices.insert(slice);
                }
            }
        }
        "Pod" => {
            let made = typed(object, c).and_then(|raw| pod::pod(name.clone(), raw, c));
            add(&mut cluster.pods, name, made, |p| &p.origin, c);
        }
        "Node" => {
            let made = typed(object, c).and_then(|raw| pod::node(name.name.to_string(), raw, c));
            add(
                &mut cluster.nodes,
                name.name.to_string(),
                made,
                |n| &n.origin,
                c,
            );
        }
        "ServiceCIDR" => {
            let made = typed(object, c)
                .and_then(|raw| service::service_cidr(name.name.to_string(), raw, c));
            add(
                &mut cluster.service_cidrs,
                name.name.to_string(),
                made,
                |s| &s.origin,
                c,
            );
        }
        _ => {
            let made = typed(object, c).and_then(|raw| pod::workload(kind, name, raw, c));
            cluster.workloads.extend(made);
        }
    }
}

/// The object with its fields typed; a field of another type is an error with its path.
fn typed<T: DeserializeOwned>(object: Value, c: &mut Checker<'_>) -> Option<T> {
    match serde_path_to_error::deserialize(object) {
        Ok(raw) => Some(raw),
        Err(e) => {
            let path = e.path().to_string();
            c.error(&path, e.inner().to_string());
            None
        }
    }
}

/// Adds a slice to its service's; a second one of the same name is an error.
fn add_slice(
    cluster: &mut Cluster,
    names: Option<&mut Names>,
    mut slice: EndpointSlice,
    c: &mut Checker<'_>,
) {
    let service = cluster.services.get_key_value(&slice.service);
    if let Some(names) = names {
        names.share_slice(&mut slice, service.map(|(name, _)| name));
    }
    let slices = cluster.slices.entry(slice.service.clone()).or_default();
    match slices.get(&slice.name) {
        Some(first) => taken(&first.origin.clone(), c),
        None => slices.insert(slice),
    }
}

fn taken(first: &Origin, c: &mut Checker<'_>) {
    c.error(
        "metadata.name",
        format!("is taken: the same object is at {first}, which is kept"),
    );
}

/// Adds an object under its name; a second one of the same name is an error.
fn add<K: Ord, T>(
    map: &mut BTreeMap<K, T>,
    key: K,
    made: Option<T>,
    origin: impl Fn(&T) -> &Origin,
    c: &mut Checker<'_>,
) {
    let Some(made) = made else { return };
    if let Some(first) = map.get(&key) {
        taken(origin(first), c);
        return;
    }
    map.insert(key, made);
}

/// Drops what Endpoints gave wherever a service has real slices: the control plane writes
/// both, and slices know more.
pub fn prefer_slices(cluster: &mut Cluster) {
    for slices in cluster.slices.values_mut() {
        let legacy = |slice: &EndpointSlice| slice.name.name.starts_with(endpoints::LEGACY);
        if slices.iter().any(|slice| !legacy(slice)) {
            slices.retain(|slice| !legacy(slice));
        }
    }
}
