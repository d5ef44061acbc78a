//! Manifests in, text for `nft -f` out; needs no privilege and asks nothing of the host.
//!
//! `cargo run --example render rulesets/01-lab/input.yaml`

use std::error::Error;

use svcnat::config::Config;
use svcnat::node::Node;
use svcnat::print::text;

/// The objects of the first argument, as a node named n1 sees them.
fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args().nth(1).ok_or("usage: render FILE")?;
    render(&std::fs::read_to_string(path)?, &mut std::io::stdout())
}

/// Writes the ruleset of `manifests`.
pub fn render(manifests: &str, out: &mut impl std::io::Write) -> Result<(), Box<dyn Error>> {
    let config = Config {
        node_name: "n1".to_owned(),
        cluster_cidrs: vec!["172.17.0.0/16".parse()?],
        service_cidrs: vec!["10.254.0.0/16".parse()?],
        ..Config::default()
    };
    let (node, problems) = Node::parse(manifests, config);
    for problem in problems {
        eprintln!("{problem}");
    }
    text::ruleset(out, &node.ruleset())?;
    Ok(())
}
