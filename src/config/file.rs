//! The configuration file: `apiVersion: svcnat/v1alpha1`, `kind: Configuration`, or that of a
//! program whose place this one takes (`others.rs`).

use std::path::Path;

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::setting::{Draft, Form};
use super::values::OneOrMany;
use super::{API_VERSION, PartialConfig, others, settings};
use crate::problem::Problem;
use crate::syntax::{documents, drop_nulls, parse};
use crate::text::did_you_mean;

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Not readable.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// Readable, but not a configuration.
    #[error("{path}: {message}")]
    Content {
        /// The file.
        path: String,
        /// What is wrong, with the field.
        message: String,
    },
}

/// A parsed and checked file.
#[derive(Debug)]
pub struct FileConfig {
    /// What it sets.
    pub settings: PartialConfig,
    /// What of it is not used, and what to use instead.
    pub notes: Vec<Problem>,
}

/// Reads a configuration file.
///
/// # Errors
/// If it cannot be read, has an unknown field, or a value that is none.
pub fn read(path: &Path) -> Result<FileConfig, ConfigError> {
    let shown = path.display().to_string();
    let bytes = std::fs::read(path).map_err(|source| ConfigError::Read {
        path: shown.clone(),
        source,
    })?;
    let content = |message| ConfigError::Content {
        path: shown.clone(),
        message,
    };
    let text = parse::text(&bytes).map_err(|(_, message)| content(message))?;
    parse(text, &shown).map_err(content)
}

fn parse(text: &str, path: &str) -> Result<FileConfig, String> {
    let mut file = FileConfig {
        settings: PartialConfig::default(),
        notes: Vec::new(),
    };
    let mut found = 0;
    for document in documents(text) {
        let value = parse::value(document.text).map_err(|(line, message)| {
            let hint = parse::template(document.text).map_or(message, str::to_owned);
            format!("line {}: {hint}", document.line + line.saturating_sub(1))
        })?;
        if value.is_null() {
            continue;
        }
        found += 1;
        let mut notes = Vec::new();
        read_document(value, &mut file.settings, &mut notes)?;
        let note = |text: String| Problem::notice(None, path, text);
        file.notes.extend(notes.into_iter().map(note));
    }
    if found == 0 {
        return Err("is empty; expected svcnat/v1alpha1 Configuration".to_owned());
    }
    Ok(file)
}

/// Takes the settings of one document.
pub(super) fn read_document(
    mut value: Value,
    settings: &mut PartialConfig,
    notes: &mut Vec<String>,
) -> Result<(), String> {
    others::keep_empty_lists(&mut value);
    drop_nulls(&mut value);
    let text = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default();
    let (version, kind) = (text("apiVersion"), text("kind"));
    if version == API_VERSION && kind == "Configuration" {
        *settings = own(value)?.or(std::mem::take(settings));
        return Ok(());
    }
    if others::read(&value, settings, notes)? {
        return Ok(());
    }
    Err(match (version, kind) {
        ("", "") if value.is_object() => {
            "has no apiVersion and kind; expected svcnat/v1alpha1 Configuration".to_owned()
        }
        ("", "") => "is no map of settings; expected svcnat/v1alpha1 Configuration".to_owned(),
        _ => format!("is {version} {kind}; expected svcnat/v1alpha1 Configuration"),
    })
}

/// The document with its fields typed, and those of other names passed over.
pub(super) fn typed_loosely<T: DeserializeOwned>(value: Value) -> Result<T, String> {
    serde_path_to_error::deserialize(value).map_err(|e| {
        let message = parse::expectation(&e.inner().to_string());
        format!("{}: {message}", e.path())
    })
}

/// Our own file: every key is one of the settings'.
fn own(value: Value) -> Result<PartialConfig, String> {
    let mut draft = Draft::default();
    for (key, value) in keys(value)? {
        let setting = settings().find(|setting| setting.key == key);
        let setting = setting.ok_or_else(|| {
            let known: Vec<&str> = settings().map(|setting| setting.key).collect();
            let near = did_you_mean(&key, known.iter().copied());
            format!(
                "{key}: is no setting{near} (there are {})",
                known.join(", ")
            )
        })?;
        let text = written(setting.form, value).map_err(|e| format!("{key}: {e}"))?;
        draft.take(setting, &key, &text)?;
    }
    draft.finish(|setting| setting.key.to_owned())
}

/// What is set, by key; the fields of an object by its key, a dot and theirs.
fn keys(value: Value) -> Result<Vec<(String, Value)>, String> {
    let mut keys = Vec::new();
    let Value::Object(fields) = value else {
        return Ok(keys);
    };
    for (name, value) in fields {
        if name == "apiVersion" || name == "kind" {
            continue;
        }
        let within = format!("{name}.");
        if settings().any(|setting| setting.key.starts_with(&within)) {
            let Value::Object(fields) = value else {
                return Err(format!("{name}: expected an object"));
            };
            let fields = fields.into_iter();
            keys.extend(fields.map(|(field, value)| (format!("{within}{field}"), value)));
        } else if name.contains('.') {
            return Err(format!("{name}: a field of an object is written within it"));
        } else {
            keys.push((name, value));
        }
    }
    Ok(keys)
}

/// A value as a flag would have it, if it is of the type that the file has for it.
fn written(form: Form, value: Value) -> Result<String, String> {
    fn typed<T: DeserializeOwned>(value: Value) -> Result<T, String> {
        T::deserialize(value).map_err(|e| parse::expectation(&e.to_string()))
    }
    Ok(match form {
        Form::Text | Form::Words(_) => typed::<String>(value)?,
        Form::Number => typed::<i64>(value)?.to_string(),
        Form::Switch => typed::<bool>(value)?.to_string(),
        Form::List => typed::<OneOrMany>(value)?.joined(),
        Form::Nodes => value.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    const HEAD: &str = "apiVersion: svcnat/v1alpha1\nkind: Configuration\n";

    fn config(text: &str) -> Result<Config, String> {
        parse(&format!("{HEAD}{text}"), "file").map(|file| file.settings.or_defaults())
    }

    #[test]
    fn unknown_fields_and_bad_values_are_named() {
        let error = |text: &str| config(text).unwrap_err();
        assert!(error("clusterCIDRs: x\n").contains("did you mean clusterCIDR?"));
        assert!(error("clusterCIDR: 10.0.0.1/8\n").contains("host bits"));
        assert!(error("sysctls: maybe\n").contains("maybe"));
        assert!(error("unallocated: Reject\n").contains("did you mean reject?"));
        assert!(error("detectLocalMode: BridgeInterface\n").contains("bridgeInterface"));
        assert!(error("detectLocalMode: NodeCidr\n").contains("did you mean NodeCIDR?"));
        assert!(error("masqueradeBit: 32\n").contains("0 to 31"));
        assert!(error("masqueradeBit: 300\n").contains("0 to 31"));
        assert!(error("serviceNodePortRange: 5-4\n").contains("5-4"));
        assert!(error("nodeName: 'a b'\n").contains("not a valid name"));
        assert!(error("nodePortAddresses: Primary\n").contains("did you mean primary?"));
        for mode in ["", "detectLocalMode: NodeCIDR\n"] {
            let unused = format!("{mode}detectLocal: {{interfaceNamePrefix: veth}}\n");
            assert!(error(&unused).contains("has no effect without detectLocalMode"));
        }
        assert!(error("detectLocal: NodeCIDR\n").contains("expected an object"));
        assert!(
            error("detectLocal: {bridge: cni0}\n").starts_with("detectLocal.bridge: is no setting")
        );
        assert!(error("detectLocal.bridgeInterface: cni0\n").contains("within it"));
        assert!(error("nodes: [{name: a}]\n").starts_with("nodes[0]: missing field"));
        assert!(error("manageRoutes: maybe\n").starts_with("manageRoutes: "));
        assert!(error("masqueradeBit: '15'\n").contains("expected a whole number"));
        let interface =
            "detectLocalMode: BridgeInterface\ndetectLocal: {bridgeInterface: 'a\"b'}\n";
        assert!(error(interface).contains("detectLocal.bridgeInterface"));
        assert!(
            error("nodes: [{name: a, addresses: [x], podCIDRs: 10.0.0.0/24}]\n").contains("\"x\"")
        );
        let pod = parse("apiVersion: v1\nkind: Pod\n", "file").unwrap_err();
        assert!(pod.contains("expected svcnat"));
        assert!(
            parse("# nothing\n", "file")
                .unwrap_err()
                .contains("is empty")
        );
        assert!(config("a: [\n").unwrap_err().starts_with("line "));
    }

    #[test]
    fn a_full_file_is_understood() {
        let config = config(
            "nodeName: n1\n\
            clusterCIDR: 172.17.0.0/16,fd00::/64\nserviceClusterIPRange: [10.254.0.0/16]\n\
            nodePortAddresses: primary\nmasqueradeBit: 15\nsysctls: apply\nunallocated: null\n\
            nonMasqueradeCIDRs: [rfc1918, fd00::/8]\nmasqueradeCIDRs: 10.9.0.0/16\n\
            masqLinkLocal: true\nsourceRangesAnnotation: true\n\
            nodes:\n- {name: n2, addresses: [192.168.50.12], podCIDRs: 172.17.1.0/24}\n",
        )
        .unwrap();
        assert_eq!(config.cluster_cidrs.len(), 2);
        assert_eq!(config.nodes[0].pod_cidrs.len(), 1);
        assert_eq!(config.masquerade_bit.to_string(), "15");
        assert_eq!(config.non_masquerade_cidrs.len(), 4);
        assert_eq!(config.masquerade_cidrs.len(), 1);
        assert!(config.masq_link_local && config.masq_link_local_ipv6);
        assert!(config.legacy_source_ranges);
    }

    #[test]
    fn what_wins_is_asked_first_and_what_is_silent_is_asked_of_the_next() {
        let read = |text: &str| parse(&format!("{HEAD}{text}"), "file").unwrap().settings;
        let flags = PartialConfig {
            manage_routes: Some(false),
            node_ips: Some(Vec::new()),
            ..PartialConfig::default()
        };
        let file = read("manageRoutes: true\nmasqueradeAll: true\nnodeIPs: 192.0.2.1\n");
        let config = flags.or(file).or_defaults();
        assert!(!config.manage_routes && config.masquerade_all && config.egress_masquerade);
        assert!(config.node_ips.is_empty());
        // Of several documents the last one that says it.
        let two = read(&format!(
            "nodeIPs: 192.0.2.1\nsysctls: apply\n---\n{HEAD}sysctls: ignore\n"
        ));
        let config = two.or_defaults();
        assert_eq!(config.sysctls, crate::config::Sysctls::Ignore);
        assert_eq!(
            config.node_ips.len(),
            1,
            "a document that is silent takes nothing back"
        );
        assert_eq!(PartialConfig::default().or_defaults(), Config::default());
    }
}
