//! The manifests can be installed, and a second time nothing is sent.

use std::error::Error;

use nix::sched::{CloneFlags, unshare};
use svcnat::apply::ThisHost;
use svcnat::config::Config;
use svcnat::node::Node;
use svcnat::problem::Severity;
use svcnat::source::Input;

/// In a thread of its own: its network namespace goes with it.
fn installs_once() -> Result<(), Box<dyn Error + Send + Sync>> {
    unshare(CloneFlags::CLONE_NEWNET)?;
    let config = Config {
        node_name: "node1".to_owned(),
        cluster_cidrs: vec!["172.17.0.0/16".parse()?],
        service_cidrs: vec!["10.254.0.0/16".parse()?],
        ..Config::default()
    };
    let manifests = [Input::Path("rulesets/01-lab/input.yaml".into())];
    let (node, problems) = Node::read(&manifests, config)?;
    let errors: Vec<_> = problems
        .iter()
        .filter(|p| p.severity == Severity::Error)
        .collect();
    assert!(errors.is_empty(), "{errors:?}");
    let mut host = ThisHost::open()?;
    assert!(node.install(&mut host)?.committed.is_some());
    assert!(node.install(&mut host)?.committed.is_none(), "sent twice");
    Ok(())
}

#[test]
fn a_second_install_sends_nothing() {
    let thread = std::thread::spawn(installs_once);
    thread.join().unwrap().unwrap();
}
