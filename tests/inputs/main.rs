//! What is read, how it is named when it is nearly right, and which settings stop everything.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod manifests;
mod nearly;
#[path = "../support/program.rs"]
mod program;
mod services;
mod settings;

use std::path::PathBuf;

use program::{Said, svcnat};

const BASE: [&str; 4] = [
    "--node-name=n1",
    "--node-ip=192.168.50.11",
    "--cluster-cidr=172.17.0.0/16",
    "--service-cluster-ip-range=10.254.0.0/16",
];

fn render(input: &str, more: &[&str]) -> Said {
    let verb = ["render", "--elements", "-f", "-"];
    svcnat(&[&verb, &BASE[..], more].concat(), input)
}

/// Renders: must succeed, with all of `expected` on standard error.
#[track_caller]
fn warned(input: &str, expected: &[&str]) -> String {
    render(input, &[]).expect(0).names(expected).out
}

/// Renders: must fail with code 2 and all of `expected`.
#[track_caller]
fn refused(input: &str, expected: &[&str]) {
    render(input, &[]).expect(2).names(expected);
}

/// Renders: must succeed without a word.
#[track_caller]
fn silent(input: &str) -> String {
    render(input, &[]).silent().out
}

const SLICE: &str = "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
    metadata: {name: web-1, labels: {kubernetes.io/service-name: web}}\naddressType: IPv4\n\
    ports: [{port: 80}]\nendpoints: [{addresses: [172.17.0.2]}]\n";

/// A Service `web` with this spec, and its slice.
fn web(spec: &str) -> String {
    format!("apiVersion: v1\nkind: Service\nmetadata: {{name: web}}\nspec: {spec}\n{SLICE}")
}

/// A file with this content; it is left to the folder for temporary files.
fn file(name: &str, content: impl AsRef<[u8]>) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("inputs");
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join(name);
    std::fs::write(&path, content).unwrap();
    path
}
