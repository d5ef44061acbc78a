//! The library as a stranger uses it: the examples, run.
#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "a test that cannot go on should stop; examples have a main of their own"
)]

#[path = "library/in_a_lab.rs"]
mod in_a_lab;
#[path = "library/in_a_namespace.rs"]
mod in_a_namespace;
#[path = "../examples/install.rs"]
mod install;
#[path = "library/packets.rs"]
mod packets;
#[path = "../examples/render.rs"]
mod render;

#[test]
fn manifests_are_rendered_by_a_call() {
    let manifests = include_str!("../rulesets/01-lab/input.yaml");
    let mut out = Vec::new();
    render::render(manifests, &mut out).unwrap();
    let text = String::from_utf8(out).unwrap();
    assert!(text.contains("map service-ips"), "{text}");
    assert!(text.contains("10.254.176.53 . tcp . 80"), "{text}");
}

#[test]
fn a_node_is_installed_once_and_removed() {
    // It makes a namespace for the thread it runs in.
    std::thread::spawn(|| install::main().map_err(|e| e.to_string()))
        .join()
        .unwrap()
        .unwrap();
}
