//! The service range as the control plane was given it: out of a unit file, a static-pod
//! manifest or a configuration, as one would do with grep.

use std::path::Path;

use ipnet::IpNet;
use serde_json::Value;

use super::{SourceError, read_error};
use crate::syntax::{documents, parse, prefix};

/// Flags that give the range: kube-apiserver's, and that of k3s and rke2.
const FLAGS: [&str; 2] = ["--service-cluster-ip-range", "--service-cidr"];
/// Where configurations have it: k3s and rke2, kubeadm, kops, Talos.
const FIELDS: [&str; 4] = [
    "/service-cidr",
    "/networking/serviceSubnet",
    "/spec/serviceClusterIPRange",
    "/cluster/network/serviceSubnets",
];
/// What can be read, for who gives something else.
const READABLE: &str = "--service-cluster-ip-range (kube-apiserver's unit file or static pod), \
    --service-cidr (k3s's or rke2's unit), service-cidr (their config.yaml) or \
    networking.serviceSubnet (kubeadm's ClusterConfiguration, also in its ConfigMap)";

/// Finds the range in any file that has it.
///
/// # Errors
/// If the file cannot be read, has no range, or the value is no list of prefixes.
pub fn service_ranges_from(file: &Path) -> Result<Vec<IpNet>, SourceError> {
    let content = |message| SourceError::Content {
        path: file.display().to_string(),
        message,
    };
    let bytes = std::fs::read(file).map_err(read_error(file))?;
    let text = parse::text(&bytes).map_err(|(_, message)| content(message))?;
    ranges(text).map_err(content)
}

fn ranges(text: &str) -> Result<Vec<IpNet>, String> {
    if let Some((field, value)) = of_configuration(text) {
        return prefixes(&field, &value);
    }
    let (flag, value) = of_command_line(text).ok_or_else(|| format!("has none of {READABLE}"))?;
    prefixes(flag, &value)
}

fn prefixes(name: &str, value: &str) -> Result<Vec<IpNet>, String> {
    value
        .split(',')
        .map(str::trim)
        .map(|part| match prefix(part) {
            Some(net) if net.addr() == net.network() => Ok(net),
            _ => Err(format!(
                "{name}: {part:?} is not a prefix such as 10.254.0.0/16"
            )),
        })
        .collect()
}

/// The flag as a word of any text, with its value behind `=` or as the next word.
fn of_command_line(text: &str) -> Option<(&'static str, String)> {
    let text: String = text
        .lines()
        .filter(|line| !line.trim_start().starts_with(['#', ';']))
        .collect::<Vec<_>>()
        .join("\n")
        .replace("\\\n", " ");
    let separators = |c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '[' | ']');
    let mut words = text
        .split(separators)
        .filter(|w| !matches!(*w, "" | "-" | ","));
    let (flag, rest) = words.find_map(|word| {
        let word = word.trim_end_matches(',');
        FLAGS.iter().find_map(|flag| {
            // systemd environment files write KEY="--flag=value".
            let at = word.find(flag)?;
            let rest = &word[at + flag.len()..];
            (rest.is_empty() || rest.starts_with('=')).then(|| (*flag, rest.to_owned()))
        })
    })?;
    let value = match rest.strip_prefix('=') {
        Some(value) if !value.is_empty() => value.to_owned(),
        _ => words
            .next()
            .unwrap_or_default()
            .trim_end_matches(',')
            .to_owned(),
    };
    Some((flag, value))
}

/// The field of a configuration in YAML or JSON.
fn of_configuration(text: &str) -> Option<(String, String)> {
    documents(text)
        .filter_map(|document| parse::value(document.text).ok())
        .find_map(|value| of_value(&value))
}

fn of_value(value: &Value) -> Option<(String, String)> {
    for field in FIELDS {
        let joined = match value.pointer(field) {
            Some(Value::String(text)) if !text.is_empty() => text.clone(),
            Some(Value::Array(items)) if !items.is_empty() => {
                let texts: Vec<&str> = items.iter().filter_map(Value::as_str).collect();
                texts.join(",")
            }
            _ => continue,
        };
        return Some((field.trim_start_matches('/').replace('/', "."), joined));
    }
    // kubeadm: extra arguments as a map, and as a list of names and values since v1beta4.
    let arguments = value.pointer("/apiServer/extraArgs");
    let name = FLAGS[0].trim_start_matches('-');
    let argument = match arguments {
        Some(Value::Object(map)) => map.get(name),
        Some(Value::Array(list)) => list
            .iter()
            .find(|item| item.get("name").and_then(Value::as_str) == Some(name))
            .and_then(|item| item.get("value")),
        _ => None,
    };
    if let Some(text) = argument.and_then(Value::as_str) {
        return Some((format!("apiServer.extraArgs.{name}"), text.to_owned()));
    }
    // A ConfigMap holds a configuration as text.
    let data = value.get("data").and_then(Value::as_object)?;
    data.values()
        .filter_map(Value::as_str)
        .find_map(of_configuration)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is(text: &str, expected: &[&str]) {
        let expected: Vec<IpNet> = expected.iter().map(|net| net.parse().unwrap()).collect();
        assert_eq!(ranges(text), Ok(expected), "{text}");
    }

    #[test]
    fn unit_files_and_manifests_give_the_same_range() {
        let unit = "[Service]\nExecStart=/usr/bin/kube-apiserver \\\n  --etcd=x \\\n  --service-cluster-ip-range=10.254.0.0/16\n";
        let pod = "spec:\n  containers:\n  - command:\n    - kube-apiserver\n    - --service-cluster-ip-range=10.254.0.0/16\n";
        let environment = "KUBE_SERVICE_ADDRESSES=\"--service-cluster-ip-range=10.254.0.0/16\"\n";
        let words = "args: [\"--service-cluster-ip-range\", \"10.254.0.0/16\"]";
        for text in [unit, pod, environment, words] {
            is(text, &["10.254.0.0/16"]);
        }
    }

    #[test]
    fn k3s_and_rke2_give_it_in_units_and_in_their_configuration() {
        let unit = "[Service]\nExecStart=/usr/local/bin/k3s \\\n    server \\\n\t'--cluster-cidr' \\\n\t'10.42.0.0/16' \\\n\t'--service-cidr' \\\n\t'10.43.0.0/16' \\\n\n";
        is(unit, &["10.43.0.0/16"]);
        is(
            "k3s server --service-cidr=10.43.0.0/16,fd00:43::/112 x",
            &["10.43.0.0/16", "fd00:43::/112"],
        );
        is(
            "cluster-cidr: 10.42.0.0/16\nservice-cidr: 10.43.0.0/16\n",
            &["10.43.0.0/16"],
        );
        is(
            "service-cidr:\n- 10.43.0.0/16\n- fd00:43::/112\n",
            &["10.43.0.0/16", "fd00:43::/112"],
        );
        is(
            "service-cidr: \"10.43.0.0/16, fd00:43::/112\"\n",
            &["10.43.0.0/16", "fd00:43::/112"],
        );
        is(
            "kube-apiserver-arg:\n- --service-cluster-ip-range=10.43.0.0/16\n",
            &["10.43.0.0/16"],
        );
    }

    #[test]
    fn kubeadm_gives_it_in_its_configuration_and_in_the_clusters_copy() {
        let configuration = "apiVersion: kubeadm.k8s.io/v1beta4\nkind: ClusterConfiguration\nnetworking: {podSubnet: 10.244.0.0/16, serviceSubnet: 10.96.0.0/12}\n";
        is(configuration, &["10.96.0.0/12"]);
        is(
            &format!("kind: InitConfiguration\n---\n{configuration}"),
            &["10.96.0.0/12"],
        );
        let map = format!(
            "apiVersion: v1\nkind: ConfigMap\ndata:\n  ClusterConfiguration: |\n    {}\n",
            configuration.replace('\n', "\n    ")
        );
        is(&map, &["10.96.0.0/12"]);
        is(
            "apiServer: {extraArgs: {service-cluster-ip-range: 10.96.0.0/12}}",
            &["10.96.0.0/12"],
        );
        is(
            "apiServer: {extraArgs: [{name: service-cluster-ip-range, value: 10.96.0.0/12}]}",
            &["10.96.0.0/12"],
        );
    }

    #[test]
    fn dual_stack_is_a_comma_list_and_comments_do_not_count() {
        let text = "# --service-cluster-ip-range=1.0.0.0/8\n--service-cluster-ip-range=10.254.0.0/16,fd00::/108";
        assert_eq!(ranges(text).map(|r| r.len()), Ok(2));
        for nothing in [
            "nothing",
            "",
            "kind: Pod\n",
            "--service-cluster-ip-ranges=10.0.0.0/8",
        ] {
            let message = ranges(nothing).unwrap_err();
            assert!(
                message.contains("kubeadm") && message.contains("k3s"),
                "{message}"
            );
        }
        assert!(ranges("--service-cluster-ip-range=10.254.0.1/16").is_err());
        assert!(ranges("service-cidr: x").is_err_and(|e| e.contains("service-cidr")));
    }
}
