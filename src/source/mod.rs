//! Reads Kubernetes objects from files, folders and standard input: YAML or JSON, one or
//! many documents, Lists. Knows where each came from.
//!
//! What is wrong with one object is reported and that object left out; the rest is read.

#[cfg(feature = "cluster")]
mod answers;
#[cfg(feature = "cluster")]
pub mod api;
#[cfg(feature = "cluster")]
mod clients;
mod endpoints;
pub mod events;
#[cfg(feature = "cluster")]
mod exchange;
mod fields;
#[cfg(feature = "daemon")]
mod files;
mod flags;
mod insert;
mod kinds;
mod known;
mod labels;
#[cfg(feature = "cluster")]
mod life;
#[cfg(feature = "cluster")]
mod limits;
#[cfg(feature = "cluster")]
mod list_watch;
mod pod;
mod raw;
mod service;
#[cfg(feature = "cluster")]
mod telling;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde_json::Value;
use serde_json::value::RawValue;

use crate::cluster::{Cluster, EndpointSlice, Names, Origin};
use crate::problem::{Problem, Severity};
use crate::syntax::{documents, parse};
use crate::text::nearest;
use insert::{insert_object, name_of, shown};
use kinds::Standing;

#[cfg(feature = "daemon")]
pub use files::{Files, Reading, Watch};
pub use flags::service_ranges_from;
pub use insert::read;
pub use labels::{LabelMap, Labels, load_labelled};

/// Where objects come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// A file, or a folder whose .yaml, .yml and .json files are read in name order; hidden
    /// ones are not.
    Path(PathBuf),
    /// Standard input.
    Stdin,
    /// What standard input held when it was read.
    Given(String),
}

/// How objects are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// They were written by hand, perhaps: what is odd in them is said. An API server keeps
    /// such things out, and may be newer than this program.
    pub manifests: bool,
    /// The annotation that `spec.loadBalancerSourceRanges` comes from is obeyed.
    pub legacy_source_ranges: bool,
}

/// As many objects with one unknown field are named.
const MOST_UNKNOWN: usize = 3;

/// Bytes of one file: as much as of a list from the API.
const MOST_BYTES: u64 = 512 << 20;

/// What was read.
#[derive(Debug, Default)]
pub struct Loaded {
    /// The annotation that `spec.loadBalancerSourceRanges` comes from is obeyed.
    pub legacy_source_ranges: bool,
    /// Objects.
    pub cluster: Cluster,
    /// What was wrong, skipped or odd.
    pub problems: Vec<Problem>,
    /// Labels of Services and Nodes, if they are to be kept: whoever follows objects does not.
    pub labels: Option<Labels>,
    /// Names that objects share.
    names: Names,
    /// How many objects have a field that their kind does not, by kind and field.
    unknown: BTreeMap<String, usize>,
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

/// Reads all inputs; with `legacy_source_ranges` an annotation counts as
/// `spec.loadBalancerSourceRanges` where that is empty.
///
/// # Errors
/// If one cannot be read. What is wrong inside is in [`Loaded::problems`].
pub fn load(inputs: &[Input], legacy_source_ranges: bool) -> Result<Loaded, SourceError> {
    let loaded = Loaded {
        legacy_source_ranges,
        ..Loaded::default()
    };
    load_over(inputs, loaded)
}

fn load_over(inputs: &[Input], mut loaded: Loaded) -> Result<Loaded, SourceError> {
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
            Input::Given(text) => load_str(text, "<stdin>", &mut loaded),
            Input::Path(path) => {
                for file in files(path)? {
                    let bytes = contents(&file)?;
                    load_bytes(&bytes, &file.display().to_string(), &mut loaded);
                }
            }
        }
    }
    finish(&mut loaded);
    if !inputs.is_empty() && loaded.cluster == Cluster::default() && loaded.problems.is_empty() {
        loaded
            .problems
            .push(Problem::warning(None, "input", "", "holds no objects"));
    }
    Ok(loaded)
}

/// Reads the documents of a text, as [`load`] reads a file's.
#[must_use]
pub fn load_text(text: &str, legacy_source_ranges: bool) -> Loaded {
    let mut loaded = Loaded {
        legacy_source_ranges,
        ..Loaded::default()
    };
    load_str(text, "<text>", &mut loaded);
    finish(&mut loaded);
    loaded
}

/// What can be said only when all was read.
fn finish(loaded: &mut Loaded) {
    prefer_slices(&mut loaded.cluster);
    for (field, count) in &loaded.unknown {
        if let Some(more) = count.checked_sub(MOST_UNKNOWN).filter(|more| *more > 0) {
            let objects = if more == 1 { "object" } else { "objects" };
            let message = format!("is no field in {more} more {objects} either");
            let problem = Problem::warning(None, field, "", message);
            loaded.problems.push(problem);
        }
    }
}

/// True for names that begin with a dot. In folders they are passed over: editors' locks and
/// copies, and the versions behind a mounted `ConfigMap`, whose files are linked from beside
/// them.
#[must_use]
pub fn is_hidden(path: &Path) -> bool {
    path.file_name()
        .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
}

/// What a file holds, unless that is more than [`MOST_BYTES`].
fn contents(path: &Path) -> Result<Vec<u8>, SourceError> {
    let file = File::open(path).map_err(read_error(path))?;
    let mut size = file.metadata().map_err(read_error(path))?.len();
    let mut bytes = Vec::new();
    if size <= MOST_BYTES {
        // Grown step by step, it would take up to three times as much. One byte more than it
        // says, where its end is found.
        bytes.reserve_exact(usize::try_from(size).unwrap_or_default() + 1);
        // A pipe does not tell its size.
        let mut most = file.take(MOST_BYTES + 1);
        most.read_to_end(&mut bytes).map_err(read_error(path))?;
        size = bytes.len() as u64;
    }
    if size > MOST_BYTES {
        return Err(SourceError::Content {
            path: path.display().to_string(),
            message: format!("is larger than {MOST_BYTES} bytes, the limit of one file"),
        });
    }
    Ok(bytes)
}

/// Folders that were entered. Links lead in circles, and to the same folder twice.
#[derive(Debug, Default)]
pub(crate) struct Entered(BTreeSet<(u64, u64)>);

impl Entered {
    /// True if a folder with these data was not entered before; it is now.
    pub(crate) fn first(&mut self, folder: &Metadata) -> bool {
        self.0.insert((folder.dev(), folder.ino()))
    }
}

/// The file itself, or all manifests below a folder in name order, without hidden ones.
///
/// # Errors
/// If a folder cannot be read.
pub fn files(path: &Path) -> Result<Vec<PathBuf>, SourceError> {
    if !path.metadata().map_err(read_error(path))?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut out = Vec::new();
    files_below(path, &mut Entered::default(), &mut out)?;
    Ok(out)
}

fn files_below(
    path: &Path,
    entered: &mut Entered,
    out: &mut Vec<PathBuf>,
) -> Result<(), SourceError> {
    if !entered.first(&path.metadata().map_err(read_error(path))?) {
        return Ok(());
    }
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
        // A link to nowhere is named when it is read.
        let found = entry.metadata().ok();
        if found.as_ref().is_some_and(Metadata::is_dir) {
            files_below(&entry, entered, out)?;
        } else if manifest {
            if found.is_some_and(|found| !found.is_file()) {
                // Reading a pipe may never end.
                return Err(SourceError::Content {
                    path: entry.display().to_string(),
                    message: "is neither a file nor a folder".to_owned(),
                });
            }
            out.push(entry);
        }
    }
    Ok(())
}

fn load_bytes(bytes: &[u8], source: &str, into: &mut Loaded) {
    match parse::text(bytes) {
        Ok(text) => load_str(text, source, into),
        Err((line, message)) => {
            let origin = Origin {
                source: source.into(),
                document: 0,
                line,
            };
            into.problems
                .push(Problem::error(Some(&origin), "file", "", message));
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
        let before = into.problems.len();
        load_document(document.text, &origin, into, &mut skipped);
        hint(document.text, &origin, before, &mut into.problems);
    }
    for (kind, count) in skipped {
        let origin = Origin {
            source: source.into(),
            ..Origin::default()
        };
        let objects = if count == 1 { "object" } else { "objects" };
        into.problems.push(Problem::notice(
            Some(&origin),
            kind,
            format!("{count} {objects} of this kind skipped: they play no part in service NAT"),
        ));
    }
}

/// Says so if what is wrong with a document, from the problem `from` on, is that it is none yet.
fn hint(text: &str, origin: &Origin, from: usize, problems: &mut Vec<Problem>) {
    let new = problems[from..].iter();
    let Some(first) = new.clone().position(|p| p.severity == Severity::Error) else {
        return;
    };
    let Some(hint) = parse::template(text) else {
        return;
    };
    let first = &mut problems[from + first];
    if first.message.starts_with("malformed") {
        // What the parser stumbled over is beside the point.
        first.message = hint.to_owned();
    } else {
        problems.push(Problem::error(Some(origin), "document", "", hint));
    }
}

fn load_document(
    text: &str,
    origin: &Origin,
    into: &mut Loaded,
    skipped: &mut BTreeMap<String, usize>,
) {
    if json_list(text, origin, into, skipped) {
        return;
    }
    if let Some(list) = parse::yaml_list(text) {
        let kind = list.kind.strip_suffix("List").unwrap_or_default();
        let version = list.api_version.unwrap_or_default();
        for (line, item) in list.items.unwrap_or_default().0 {
            let origin = Origin {
                line: origin.line + line.saturating_sub(1),
                ..origin.clone()
            };
            // What was written as JSON is JSON.
            let item = serde_json::from_str(&item).unwrap_or_default();
            object(typed_item(item, kind, &version), &origin, into, skipped);
        }
        return;
    }
    match parse::value(text) {
        Ok(Value::Null) => {}
        Ok(value) => object(value, origin, into, skipped),
        Err((line, message)) => {
            let origin = Origin {
                line: origin.line + line.saturating_sub(1),
                ..origin.clone()
            };
            into.problems
                .push(Problem::error(Some(&origin), "document", "", message));
        }
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
    let mut line = origin.line;
    let mut counted = 0;
    for item in items {
        // Items are parts of the text.
        let at = item
            .get()
            .as_ptr()
            .addr()
            .saturating_sub(text.as_ptr().addr());
        let between = text.as_bytes().get(counted..at).unwrap_or_default();
        line += between.iter().filter(|b| **b == b'\n').count();
        counted = at;
        let origin = &Origin {
            line,
            ..origin.clone()
        };
        match parse::json(item.get()) {
            Ok(item) => {
                let item = typed_item(item, item_kind, api_version.as_deref().unwrap_or_default());
                object(item, origin, into, skipped);
            }
            Err(e) => {
                let origin = Origin {
                    line: line + e.line().saturating_sub(1),
                    ..origin.clone()
                };
                let message = parse::json_message(&e);
                let problem = Problem::error(Some(&origin), "document", "items", message);
                into.problems.push(problem);
            }
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

/// The text of a field; `None` if it is absent or null.
fn text(key: &'static str, value: &Value) -> Result<Option<String>, (&'static str, String)> {
    match value.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(other) => Err((key, format!("is {other}; expected text"))),
    }
}

/// Adds one object, or the items of a List.
fn object(value: Value, origin: &Origin, into: &mut Loaded, skipped: &mut BTreeMap<String, usize>) {
    let (kind, version) = match (text("kind", &value), text("apiVersion", &value)) {
        (Ok(Some(kind)), Ok(version)) => (kind, version.unwrap_or_default()),
        (Ok(None), _) => {
            let fields = value
                .as_object()
                .into_iter()
                .flat_map(serde_json::Map::keys);
            let near = fields
                .map(String::as_str)
                .find(|f| nearest(f, ["kind"]).is_some());
            let near = near.map_or_else(String::new, |near| format!(" (but {near})"));
            into.problems.push(Problem::error(
                Some(origin),
                "document",
                "kind",
                format!("is absent{near}: not a Kubernetes object"),
            ));
            return;
        }
        (Err((field, message)), _) | (_, Err((field, message))) => {
            into.problems
                .push(Problem::error(Some(origin), "document", field, message));
            return;
        }
    };
    if let Some(item_kind) = kind.strip_suffix("List") {
        let Value::Object(mut list) = value else {
            return;
        };
        let items = match list.remove("items") {
            Some(Value::Array(items)) => items,
            None | Some(Value::Null) => return,
            Some(_) => {
                into.problems.push(Problem::error(
                    Some(origin),
                    &kind,
                    "items",
                    "is not a list",
                ));
                return;
            }
        };
        for item in items {
            object(typed_item(item, item_kind, &version), origin, into, skipped);
        }
        return;
    }
    let mut complain = |field: &str, message: &str| {
        into.problems
            .push(Problem::error(Some(origin), &kind, field, message));
    };
    if let Some(whose) = kinds::configuration(&kind, &version) {
        complain(
            "",
            &format!("is {whose} configuration: pass it with --config"),
        );
        return;
    }
    let standing = kinds::standing(&kind, &version);
    match standing {
        Standing::Ours | Standing::Assumed(_) => {}
        Standing::Others => {
            *skipped.entry(kind).or_default() += 1;
            return;
        }
        Standing::Mistaken(field, message) => {
            complain(field, &message);
            return;
        }
    }
    let shown = shown(&kind, &name_of(&value));
    if let Standing::Assumed(message) = standing {
        into.problems.push(Problem::warning(
            Some(origin),
            &shown,
            "apiVersion",
            message,
        ));
    }
    for (field, problem) in known::check(&kind, &value, &shown, origin) {
        let count = into.unknown.entry(format!("{kind}: {field}")).or_default();
        *count += 1;
        // The same in every object of a list is one mistake, or one newer version.
        if *count <= MOST_UNKNOWN {
            into.problems.push(problem);
        }
    }
    if let Some(labels) = &mut into.labels {
        labels.note(&kind, &value);
    }
    let rules = Rules {
        manifests: true,
        legacy_source_ranges: into.legacy_source_ranges,
    };
    let Loaded {
        cluster,
        problems,
        names,
        ..
    } = into;
    insert_object(cluster, names, rules, value, origin, problems);
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
