//! What is deployed fits what the program is: the cluster's manifest, the unit, the package.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Parser;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Container, HTTPGetAction, PodSpec, Probe, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use svcnat::cli::args::{Cli, RunArgs, Verb};
use svcnat::config::{Config, file, settings};
use svcnat::source::api::Kind;

/// Of the node of a test, beside loopback's.
const NODE_ADDRESS: &str = "192.0.2.11";
/// Where every cloud's load balancers ask, unless told otherwise.
const KUBE_PROXY_HEALTHZ_PORT: u16 = 10256;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// The document of this kind, which must be the only one, as the API's own type.
fn object<T: DeserializeOwned + Serialize>(kind: &str) -> T {
    let documents: Vec<Value> =
        serde_saphyr::from_multiple(&read("deploy/kubernetes.yaml")).unwrap();
    let mut found = documents.into_iter().filter(|d| d["kind"] == kind);
    let document = found.next().unwrap_or_else(|| panic!("no {kind}"));
    assert!(found.next().is_none(), "one {kind}");
    let object: T =
        serde_json::from_value(document.clone()).unwrap_or_else(|e| panic!("{kind}: {e}"));
    // A field the API does not know is lost on the way: here it shows.
    assert_eq!(serde_json::to_value(&object).unwrap(), document, "{kind}");
    object
}

fn pod() -> PodSpec {
    let set: DaemonSet = object("DaemonSet");
    set.spec.template.spec.unwrap()
}

fn container() -> Container {
    let mut containers = pod().containers;
    assert_eq!(containers.len(), 1);
    containers.remove(0)
}

/// `svcnat run` with these words, as our own parser takes them.
fn run_args<'a>(words: impl IntoIterator<Item = &'a str>) -> RunArgs {
    let cli = Cli::try_parse_from(std::iter::once("svcnat").chain(words))
        .unwrap_or_else(|e| panic!("{e}"));
    match cli.verb {
        Verb::Run(args) => args,
        other => panic!("not run: {other:?}"),
    }
}

/// The container's arguments, with `$(NAME)` put in as the kubelet does it.
fn container_args() -> RunArgs {
    let container = container();
    let variables: BTreeSet<String> = container.env.unwrap().into_iter().map(|e| e.name).collect();
    let words: Vec<String> = container
        .args
        .unwrap()
        .iter()
        .map(|word| {
            let word = variables.iter().fold(word.clone(), |w, name| {
                w.replace(&format!("$({name})"), "node-1")
            });
            assert!(!word.contains("$("), "{word}: no such variable");
            word
        })
        .collect();
    run_args(words.iter().map(String::as_str))
}

#[test]
fn every_document_of_the_manifest_is_what_the_api_knows() {
    let text = read("deploy/kubernetes.yaml");
    let documents: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
    assert_eq!(documents.len(), 4);
    object::<ServiceAccount>("ServiceAccount");
    object::<ClusterRole>("ClusterRole");
    object::<ClusterRoleBinding>("ClusterRoleBinding");
    object::<DaemonSet>("DaemonSet");
}

#[test]
fn the_manifest_names_itself_the_same_everywhere() {
    let account: ServiceAccount = object("ServiceAccount");
    let role: ClusterRole = object("ClusterRole");
    let binding: ClusterRoleBinding = object("ClusterRoleBinding");
    let set: DaemonSet = object("DaemonSet");
    assert_eq!(Some(&binding.role_ref.name), role.metadata.name.as_ref());
    assert_eq!(binding.role_ref.kind, "ClusterRole");
    let subjects = binding.subjects.unwrap();
    assert_eq!(subjects.len(), 1);
    assert_eq!(subjects[0].kind, "ServiceAccount");
    assert_eq!(Some(&subjects[0].name), account.metadata.name.as_ref());
    assert_eq!(subjects[0].namespace, account.metadata.namespace);
    assert_eq!(pod().service_account_name, account.metadata.name);
    assert_eq!(set.metadata.namespace, account.metadata.namespace);
    let spec = set.spec;
    assert_eq!(
        spec.selector.match_labels,
        spec.template.metadata.unwrap().labels
    );
    let version = format!("svcnat:{}", env!("CARGO_PKG_VERSION"));
    assert_eq!(container().image, Some(version));
}

#[test]
fn the_role_allows_what_is_followed_and_nothing_else() {
    let role: ClusterRole = object("ClusterRole");
    let mut allowed = BTreeMap::new();
    for rule in role.rules.unwrap() {
        let verbs: BTreeSet<String> = rule.verbs.into_iter().collect();
        assert_eq!(rule.resource_names, None);
        assert_eq!(rule.non_resource_urls, None);
        for group in rule.api_groups.unwrap() {
            for resource in rule.resources.clone().unwrap() {
                let before = allowed.insert((group.clone(), resource), verbs.clone());
                assert_eq!(before, None);
            }
        }
    }
    let verbs = BTreeSet::from(["list".to_owned(), "watch".to_owned()]);
    let needed: BTreeMap<_, _> = Kind::ALL
        .iter()
        .map(|kind| {
            let (group, _, plural) = kind.resource();
            ((group.to_owned(), plural.to_owned()), verbs.clone())
        })
        .collect();
    assert_eq!(allowed, needed);
}

#[test]
fn the_containers_arguments_are_ours() {
    let args = container_args();
    assert!(args.kubernetes);
    let settings = args.inputs.settings.0.settings;
    assert_eq!(settings.node_name.as_deref(), Some("node-1"));
    assert_eq!(settings.manage_routes, Some(false));
    assert_eq!(settings.egress_masquerade, Some(false));
    let named = container().env.unwrap().remove(0).value_from.unwrap();
    assert_eq!(named.field_ref.unwrap().field_path, "spec.nodeName");
    for server in &args.apiserver {
        let address = server.strip_prefix("https://").unwrap();
        assert!(
            address.starts_with("CHANGE-ME:"),
            "{address}: nobody's cluster"
        );
    }
}

#[test]
fn the_container_may_do_what_it_must_and_nothing_else() {
    let security = container().security_context.unwrap();
    let capabilities = security.capabilities.unwrap();
    assert_eq!(capabilities.drop, Some(vec!["ALL".to_owned()]));
    assert_eq!(capabilities.add, Some(vec!["NET_ADMIN".to_owned()]));
    assert_eq!(security.read_only_root_filesystem, Some(true));
    assert_eq!(security.privileged, None);
    assert_eq!(pod().host_network, Some(true));
    // The root is read-only: what is kept must be on a volume of the node.
    let state = container_args().state_dir.unwrap();
    let mount = container().volume_mounts.unwrap().remove(0);
    assert_eq!(Path::new(&mount.mount_path), state);
    let volume = pod().volumes.unwrap().remove(0);
    assert_eq!(volume.name, mount.name);
    assert_eq!(
        volume.host_path.unwrap().type_.as_deref(),
        Some("DirectoryOrCreate")
    );
}

fn asked(probe: Option<Probe>) -> HTTPGetAction {
    probe.unwrap().http_get.unwrap()
}

/// Runs the agent, to answer where the manifest says, on a node of its own, and asks each URL
/// until it is answered with 200.
fn answers(urls: &[String]) {
    let folder = std::env::temp_dir().join(format!(
        "svcnat-probes-{}-{:?}",
        std::process::id(),
        std::thread::current().id()
    ));
    fs::create_dir_all(&folder).unwrap();
    fs::write(
        folder.join("service.yaml"),
        "{apiVersion: v1, kind: Service, metadata: {name: web}, \
         spec: {clusterIP: 10.254.0.2, ports: [{port: 80}]}}",
    )
    .unwrap();
    support::in_namespace(|| {
        let address = format!("{NODE_ADDRESS}/32");
        support::run("ip", &["addr", "add", &address, "dev", "lo"], "");
        let mut agent = Command::new(env!("CARGO_BIN_EXE_svcnat"))
            .args(["run", "--sysctls=ignore", "-f"])
            .arg(&folder)
            .arg("--healthz-bind-address")
            .arg(container_args().healthz_bind_address)
            .spawn()
            .unwrap();
        let result = std::panic::catch_unwind(|| {
            for url in urls {
                support::run(
                    "curl",
                    &[
                        "-sS",
                        "--noproxy",
                        "*",
                        "--fail",
                        "--retry",
                        "40",
                        "--retry-all-errors",
                        "--retry-delay",
                        "1",
                        "--max-time",
                        "5",
                        url,
                    ],
                    "",
                );
            }
        });
        agent.kill().unwrap();
        agent.wait().unwrap();
        fs::remove_dir_all(&folder).unwrap();
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
}

#[test]
fn probes_ask_where_the_agent_answers() {
    let urls = [container().liveness_probe, container().readiness_probe].map(|probe| {
        let get = asked(probe);
        let IntOrString::Int(port) = get.port else {
            panic!("{:?}: no number", get.port);
        };
        format!("http://{}:{port}{}", get.host.unwrap(), get.path.unwrap())
    });
    answers(&urls);
}

#[test]
fn load_balancers_are_answered_on_the_nodes_address() {
    answers(&[format!(
        "http://{NODE_ADDRESS}:{KUBE_PROXY_HEALTHZ_PORT}/healthz"
    )]);
}

/// `NAME=value` lines of an environment file, also those commented out.
fn options(text: &str) -> Vec<&str> {
    text.lines()
        .filter_map(|line| {
            let line = line.trim_start_matches('#').trim();
            line.strip_prefix("SVCNAT_OPTIONS=\"")?.strip_suffix('"')
        })
        .collect()
}

/// The value of each line of the unit that gives `key` one.
fn unit(key: &str) -> Vec<String> {
    let text = read("deploy/svcnat.service");
    text.lines()
        .filter_map(|line| Some(line.strip_prefix(key)?.strip_prefix('=')?.to_owned()))
        .collect()
}

#[test]
fn the_unit_starts_what_our_parser_accepts_with_every_set_of_options() {
    let start = unit("ExecStart").remove(0);
    let built_in = unit("Environment").remove(0);
    let built_in = built_in
        .strip_prefix("\"SVCNAT_OPTIONS=")
        .unwrap()
        .strip_suffix('"')
        .unwrap();
    let defaults = read("deploy/svcnat.default");
    let sets = options(&defaults);
    assert_eq!(sets.len(), 2, "files and a cluster: {sets:?}");
    assert_eq!(sets[0], built_in);
    for set in sets {
        let line = start.replace("$SVCNAT_OPTIONS", set);
        assert!(!line.contains('$'), "{line}");
        let args = run_args(line.split_whitespace().skip(1));
        let folder = unit("StateDirectory").remove(0);
        assert_eq!(args.state_dir, Some(Path::new("/var/lib").join(folder)));
    }
}

/// Where the package puts what: source in the tree, path on the host.
fn assets() -> Vec<(String, String)> {
    let metadata: Value = serde_json::from_str(&support::run(
        env!("CARGO"),
        &[
            "metadata",
            "--no-deps",
            "--offline",
            "--format-version=1",
            "--manifest-path",
            root().join("Cargo.toml").to_str().unwrap(),
        ],
        "",
    ))
    .unwrap();
    let assets = metadata["packages"][0]["metadata"]["deb"]["assets"]
        .as_array()
        .unwrap();
    assets
        .iter()
        .map(|asset| {
            let from = asset[0].as_str().unwrap();
            let to = asset[1].as_str().unwrap();
            let name = if to.ends_with('/') {
                Path::new(from).file_name().unwrap().to_str().unwrap()
            } else {
                ""
            };
            (from.to_owned(), format!("/{to}{name}"))
        })
        .collect()
}

#[test]
fn everything_in_the_package_exists_or_is_made_by_its_script() {
    let made = std::env::temp_dir().join(format!("svcnat-package-{}", std::process::id()));
    let script = root().join("scripts/package");
    support::run(
        script.to_str().unwrap(),
        &[
            "--generate",
            env!("CARGO_BIN_EXE_svcnat"),
            made.to_str().unwrap(),
        ],
        "",
    );
    for (from, _) in assets() {
        let file = match from.strip_prefix("target/package/") {
            Some(name) => made.join(name),
            None if from == "target/release/svcnat" => continue,
            None => root().join(&from),
        };
        let size = fs::metadata(&file)
            .unwrap_or_else(|e| panic!("{from}: {e}"))
            .len();
        assert!(size > 0, "{from} is empty");
    }
    fs::remove_dir_all(made).unwrap();
}

#[test]
fn what_the_unit_needs_is_in_the_package() {
    let installed: Vec<String> = assets().into_iter().map(|(_, to)| to).collect();
    let there = |path: &Path| installed.iter().any(|to| Path::new(to).starts_with(path));
    let line = unit("ExecStart").remove(0).replace(
        "$SVCNAT_OPTIONS",
        options(&read("deploy/svcnat.default"))[0],
    );
    assert!(
        there(Path::new(line.split_whitespace().next().unwrap())),
        "{line}"
    );
    let args = run_args(line.split_whitespace().skip(1));
    for path in args.inputs.filename.iter().chain(&args.inputs.config) {
        assert!(there(path), "{} is not installed", path.display());
    }
    let file = unit("EnvironmentFile").remove(0);
    assert!(there(Path::new(file.trim_start_matches('-'))), "{file}");
}

/// The example configuration with those settings in force that follow the line `from`.
fn example_with(from: &str) -> Config {
    let text = read("deploy/svcnat.yaml");
    let (head, settings) = text.split_once(from).unwrap();
    let mut file: String = head
        .lines()
        .filter(|l| !l.starts_with('#'))
        .fold(String::new(), |file, line| file + line + "\n");
    for line in settings.lines() {
        // A word to the reader has a space there.
        match line.strip_prefix('#') {
            Some(setting) if !setting.starts_with(' ') => file.push_str(setting),
            _ => continue,
        }
        file.push('\n');
    }
    let path = std::env::temp_dir().join(format!(
        "svcnat-example-{}-{:?}",
        std::process::id(),
        std::thread::current().id()
    ));
    fs::write(&path, &file).unwrap();
    let read = file::read(&path).unwrap_or_else(|e| panic!("{e}\n{file}"));
    fs::remove_file(path).unwrap();
    read.settings.or_defaults()
}

#[test]
fn the_example_configuration_is_one() {
    file::read(&root().join("deploy/svcnat.yaml")).unwrap();
    let all = example_with("# This node");
    assert_eq!(all.node_name, "node1");
    assert_eq!(all.nodes.len(), 1);
    let text = read("deploy/svcnat.yaml");
    for setting in settings() {
        let key = setting.key.split('.').next_back().unwrap();
        assert!(text.contains(&format!("{key}:")), "{key} is not shown");
    }
}

#[test]
fn what_the_example_configuration_calls_a_default_is_one() {
    assert_eq!(example_with("by default. `primary`"), Config::default());
}

#[test]
fn the_reference_is_what_the_program_says() {
    let said = support::run(env!("CARGO_BIN_EXE_svcnat"), &["reference"], "");
    support::golden(&root().join("docs/reference.md"), &said);
}
