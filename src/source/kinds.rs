//! Which objects are read, and what was meant by those that are nearly so.

use crate::text::nearest;

/// A kind that is read: its name, its group, and the versions with the fields that are read.
struct Kind {
    name: &'static str,
    group: &'static str,
    versions: &'static [&'static str],
}

const fn kind(name: &'static str, group: &'static str, versions: &'static [&'static str]) -> Kind {
    Kind {
        name,
        group,
        versions,
    }
}

const KINDS: [Kind; 11] = [
    kind("Service", "", &["v1"]),
    kind("Endpoints", "", &["v1"]),
    kind("Pod", "", &["v1"]),
    kind("Node", "", &["v1"]),
    kind("ReplicationController", "", &["v1"]),
    kind("EndpointSlice", "discovery.k8s.io", &["v1", "v1beta1"]),
    kind("ReplicaSet", "apps", &["v1", "v1beta2"]),
    kind("Deployment", "apps", &["v1", "v1beta1", "v1beta2"]),
    kind("StatefulSet", "apps", &["v1", "v1beta1", "v1beta2"]),
    kind("DaemonSet", "apps", &["v1", "v1beta2"]),
    kind(
        "ServiceCIDR",
        "networking.k8s.io",
        &["v1", "v1beta1", "v1alpha1"],
    ),
];

/// What an object is to this program.
#[derive(Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is read.
    Ours,
    /// It is read, as the version that it should have named.
    Assumed(String),
    /// It plays no part.
    Others,
    /// It names something that is not, and probably means what is read: the field and why.
    Mistaken(&'static str, String),
}

/// Judges an object by its kind and API version; the latter is empty where it has none.
pub fn standing(name: &str, api_version: &str) -> Standing {
    let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
    let Some(kind) = KINDS.iter().find(|kind| kind.name == name) else {
        let known = KINDS.iter().map(|kind| kind.name).chain(["List"]);
        // Other groups have kinds of any name.
        let in_ours = KINDS.iter().any(|kind| kind.group == group) || is_builtin(group);
        return match nearest(name, known).filter(|_| in_ours) {
            Some(near) => Standing::Mistaken(
                "kind",
                format!("{name:?} is no kind of object; did you mean {near}?"),
            ),
            None => Standing::Others,
        };
    };
    let expected = if kind.group.is_empty() {
        kind.versions[0].to_owned()
    } else {
        format!("{}/{}", kind.group, kind.versions[0])
    };
    if api_version.is_empty() {
        return Standing::Assumed(format!("is absent; {expected} is assumed"));
    }
    if kind.group == group && kind.versions.contains(&version) {
        return Standing::Ours;
    }
    if kind.group == group || is_builtin(group) {
        return Standing::Mistaken(
            "apiVersion",
            format!("{api_version:?} has no {name}; expected {expected}"),
        );
    }
    Standing::Others
}

/// Whose configuration a document is, if it is one that `--config` reads.
pub fn configuration(kind: &str, version: &str) -> Option<&'static str> {
    match kind {
        "Configuration" if version.starts_with("svcnat/") => Some("svcnat's own"),
        "KubeProxyConfiguration" => Some("kube-proxy's"),
        _ => None,
    }
}

/// True for groups of Kubernetes itself: resources that others define have a domain of theirs.
fn is_builtin(group: &str) -> bool {
    !group.contains('.') || group.ends_with(".k8s.io")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_that_are_nearly_right_are_mistakes_and_those_of_others_are_not() {
        assert_eq!(standing("Service", "v1"), Standing::Ours);
        assert_eq!(
            standing("EndpointSlice", "discovery.k8s.io/v1beta1"),
            Standing::Ours
        );
        assert!(matches!(standing("Pod", ""), Standing::Assumed(_)));
        for (name, version, hint) in [
            ("service", "v1", "did you mean Service?"),
            (
                "Endpointslice",
                "discovery.k8s.io/v1",
                "did you mean EndpointSlice?",
            ),
            ("Pods", "v1", "did you mean Pod?"),
            ("Endpoint", "v1", "did you mean Endpoints?"),
            ("list", "v1", "did you mean List?"),
            (
                "deployment",
                "extensions/v1beta1",
                "did you mean Deployment?",
            ),
            ("Service", "v2", "expected v1"),
            ("Service", "V1", "expected v1"),
            ("Service", "core/v1", "expected v1"),
            ("EndpointSlice", "v1", "expected discovery.k8s.io/v1"),
            (
                "EndpointSlice",
                "discovery/v1",
                "expected discovery.k8s.io/v1",
            ),
            ("Deployment", "extensions/v1beta1", "expected apps/v1"),
        ] {
            match standing(name, version) {
                Standing::Mistaken(_, message) => assert!(message.contains(hint), "{message}"),
                other => panic!("{version} {name}: {other:?}"),
            }
        }
        for (name, version) in [
            ("Service", "serving.knative.dev/v1"),
            ("service", "serving.knative.dev/v1"),
            ("ConfigMap", "v1"),
            ("ServiceAccount", "v1"),
            ("PodTemplate", "v1"),
            ("Secret", "v1"),
            ("Event", "v1"),
            ("CronJob", "batch/v1"),
            ("Ingress", "networking.k8s.io/v1"),
            ("NodeMetrics", "metrics.k8s.io/v1beta1"),
            ("Role", "rbac.authorization.k8s.io/v1"),
            ("Job", "batch/v1"),
        ] {
            assert_eq!(
                standing(name, version),
                Standing::Others,
                "{version} {name}"
            );
        }
    }
}
