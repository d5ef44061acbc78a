//! The plan for programs: docs/plan.md describes the document.

use serde_json::{Map, Value, json};

use super::frontend::Weights;
use super::{Answer, FrontendState, ObjectChange, Report, State};

/// The version of the document: it changes when a field changes its meaning or goes.
pub const VERSION: u32 = 1;

/// The plan as JSON.
#[must_use]
pub fn document(report: &Report<'_>) -> Map<String, Value> {
    let summary = report.summary();
    let mut out = Map::new();
    out.insert("version".to_owned(), json!(VERSION));
    out.insert("generation".to_owned(), json!(report.generation));
    let changes: Vec<Value> = report.changes.iter().map(change).collect();
    out.insert("changes".to_owned(), changes.into());
    out.insert(
        "summary".to_owned(),
        json!({
            "add": summary.add,
            "change": summary.change,
            "remove": summary.remove,
            "changedByAnotherProgram": summary.by_others,
        }),
    );
    out
}

fn change(change: &ObjectChange<'_>) -> Value {
    let operations = change.operations.iter().map(ToString::to_string);
    let operations: Vec<String> = operations
        .flat_map(|step| step.lines().map(str::to_owned).collect::<Vec<_>>())
        .collect();
    json!({
        "action": change.action.name(),
        "object": change.object.name(),
        "kind": change.kind.name(),
        "name": change.name,
        "family": change.family.map(|family| family.to_string()),
        "frontend": change.frontend.map(|frontend| frontend.to_string()),
        "before": change.before.as_ref().map(state),
        "after": change.after.as_ref().map(state),
        "text": change.text,
        "reason": change.reason.name(),
        "operations": operations,
    })
}

fn state(state: &State) -> Value {
    match state {
        State::Frontend(state) => frontend(state),
        State::HostPort { endpoint, pod } => json!({
            "endpoint": endpoint.map(|endpoint| endpoint.to_string()),
            "pod": pod,
        }),
        State::Prefixes(prefixes) => json!(prefixes),
        State::Route { via, node } => json!({ "via": via, "node": node }),
        State::Text(text) => json!(text),
        State::Count(count) => json!(count),
        State::Table {
            chains,
            rules,
            sets,
        } => json!({ "chains": chains, "rules": rules, "sets": sets }),
    }
}

fn frontend(state: &FrontendState) -> Value {
    json!({
        "answer": match state.answer {
            Answer::Endpoints => "endpoints",
            Answer::Refused => "refused",
            Answer::Dropped => "dropped",
            Answer::Unknown => "unknown",
        },
        "endpoints": weights(&state.endpoints),
        "internalEndpoints": state.internal.as_ref().map(weights),
        "externalTrafficPolicyLocal": state.local,
        "balancing": if state.by_source { "source-ip" } else { "random" },
        "affinitySeconds": state.affinity,
        "sources": state.sources,
        "comment": state.comment.as_deref(),
    })
}

fn weights(weights: &Weights) -> Value {
    let all = weights.iter().map(|(endpoint, weight)| {
        json!({ "address": endpoint.addr, "port": endpoint.port, "weight": weight })
    });
    all.collect()
}
