//! Packets made up as the kernel tells of them.

use super::*;
use crate::net::Endpoint;
use crate::ruleset::{Chain, DataType, Match, Ruleset, Selector, Set};
use crate::walk::Candidate;

const CLIENT: (IpAddr, u16) = (IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 9)), 40_000);
const SERVICE: (IpAddr, u16) = (IpAddr::V4(std::net::Ipv4Addr::new(10, 254, 0, 1)), 80);
const POD: (IpAddr, u16) = (IpAddr::V4(std::net::Ipv4Addr::new(10, 1, 0, 2)), 8080);
const NODE: (IpAddr, u16) = (IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1)), 1234);

fn rule(statement: impl Into<Statement>) -> Rule {
    Rule::new([statement.into()])
}

/// `dnat` by a draw of so many slots.
fn draw(modulus: u32) -> Rule {
    rule(Action::Dnat {
        key: vec![Selector::Random { modulus }],
        map: "endpoints",
    })
}

/// `nat-prerouting` (handle 11) leads to `service`, which refuses (12) or drops (13), or draws
/// twice (14, 15).
fn table() -> Table {
    let mut table = Table::new(Family::Ip);
    let slots = Set::exact("endpoints", &[DataType::Slot]);
    table.sets.insert("endpoints".to_owned(), slots);
    table.chains = vec![
        Chain::regular(
            "service",
            "",
            vec![rule(Action::Reject), rule(Action::Drop), draw(3), draw(2)],
        ),
        Chain::regular(
            "nat-prerouting",
            "",
            vec![Rule::new([
                Match::Daddr(SERVICE.0).into(),
                Action::Goto("service".to_owned()).into(),
            ])],
        ),
    ];
    table
}

fn rules() -> Rules {
    let live = Ruleset {
        tables: [(Family::Ip, table())].into(),
    };
    let live = live.into_live();
    let service = [12, 13, 14, 15].map(|handle| ("service", handle));
    let handles = [("nat-prerouting", 11)].into_iter().chain(service);
    let handles: Vec<_> = handles
        .map(|(chain, handle)| (chain.to_owned(), handle))
        .collect();
    Rules::of(&table(), &live.tables[&Family::Ip], &handles)
}

fn step(chain: &str, number: usize) -> Step {
    Step {
        chain: chain.to_owned(),
        rule: table().chain(chain).unwrap().rules[number].clone(),
        element: None,
    }
}

fn foretold(steps: Vec<Step>, fate: Fate, masqueraded: Option<bool>) -> Foretold {
    let endpoint = Endpoint {
        addr: POD.0,
        port: POD.1.try_into().unwrap(),
    };
    let candidates = masqueraded.map(|masqueraded| Candidate {
        endpoint,
        probability: 1.0,
        masqueraded,
    });
    Foretold {
        table: table(),
        trace: Trace {
            steps,
            fate,
            candidates: candidates.into_iter().collect(),
            masqueraded: false,
            mark: 0,
        },
        broken: None,
    }
}

fn decided(table: &str, chain: &str, judge: Judge, verdict: Verdict) -> Decision {
    Decision {
        packet: 1,
        family: "ip",
        table: table.to_owned(),
        chain: chain.to_owned(),
        judge,
        verdict,
        ends: None,
    }
}

fn ours(chain: &str, handle: u64, verdict: Verdict) -> Decision {
    decided(TABLE, chain, Judge::Rule(handle), verdict)
}

/// The packet as it is marked.
fn marked(packet: u32, source: (IpAddr, u16)) -> Decision {
    let mark = decided(TRACE_TABLE, MARKS[0], Judge::Rule(1), Verdict::Continue);
    Decision {
        packet,
        ends: Some(Ends {
            source,
            destination: SERVICE,
        }),
        ..mark
    }
}

/// The packet as it goes out.
fn out(source: (IpAddr, u16), destination: (IpAddr, u16)) -> Decision {
    let seen = decided(TRACE_TABLE, SEEN[0], Judge::Nobody, Verdict::Continue);
    let ends = Some(Ends {
        source,
        destination,
    });
    Decision { ends, ..seen }
}

fn seen(decisions: impl IntoIterator<Item = Decision>) -> Seen {
    let first = [marked(1, CLIENT)];
    Seen {
        decisions: first.into_iter().chain(decisions).collect(),
    }
}

/// `=`, `!` and so on, `?` for what is missing.
fn marks(seen: &Seen, foretold: &Foretold) -> String {
    let mark = |line: &Line<'_>| match line {
        Line::Missing(_) => '?',
        Line::Decided(Mark::Foretold, ..) => '=',
        Line::Decided(Mark::Differs, ..) => '!',
        Line::Decided(Mark::Open, ..) => ' ',
    };
    seen.lines(Some(foretold), &rules())
        .iter()
        .map(mark)
        .collect()
}

fn goto() -> Decision {
    ours("nat-prerouting", 11, Verdict::Goto("service".to_owned()))
}

#[test]
fn a_refused_packet_is_as_foretold_rule_by_rule() {
    let steps = vec![step("nat-prerouting", 0), step("service", 0)];
    let was = foretold(steps, Fate::Refused, None);
    let right = seen([goto(), ours("service", 12, Verdict::Drop)]);
    assert_eq!(marks(&right, &was), "==");
    assert!(right.ended_as(&was, &rules()));
    let dropped = seen([goto(), ours("service", 13, Verdict::Drop)]);
    assert_eq!(marks(&dropped, &was), "=?!");
    assert!(!dropped.ended_as(&was, &rules()));
    let others = seen([
        decided("filter", "raw", Judge::Rule(7), Verdict::Continue),
        goto(),
        decided("filter", "input", Judge::Rule(7), Verdict::Drop),
    ]);
    assert_eq!(marks(&others, &was), " = ?");
    assert!(!others.ended_as(&was, &rules()));
    let by = "dropped by rule handle 7 of chain input of table ip filter";
    assert_eq!(others.ended(&rules()), by);
}

#[test]
fn after_the_first_difference_nothing_is_marked() {
    let was = foretold(vec![step("service", 0)], Fate::Refused, None);
    let other = seen([goto(), ours("service", 12, Verdict::Drop)]);
    assert_eq!(marks(&other, &was), "?! ");
}

#[test]
fn draws_that_found_nothing_are_passed_over_and_the_one_that_did_is_the_end() {
    let steps = vec![
        step("nat-prerouting", 0),
        step("service", 2),
        step("service", 3),
    ];
    let was = foretold(steps, Fate::Accepted, Some(false));
    let drawn = |handle| {
        seen([
            goto(),
            ours("service", handle, Verdict::Accept),
            out(CLIENT, POD),
        ])
    };
    for handle in [14, 15] {
        assert_eq!(marks(&drawn(handle), &was), "==");
    }
    assert_eq!(marks(&drawn(12), &was), "=?!");
    assert_eq!(marks(&seen([goto(), out(CLIENT, POD)]), &was), "=?");
}

#[test]
fn an_endpoint_that_was_foretold_is_right_only_if_it_sees_the_right_address() {
    let was = |masqueraded| foretold(Vec::new(), Fate::Accepted, Some(masqueraded));
    let kept = seen([out(CLIENT, POD)]);
    let masqueraded = seen([out(NODE, POD)]);
    for (seen, is_masqueraded) in [(&kept, false), (&masqueraded, true)] {
        assert!(seen.ended_as(&was(is_masqueraded), &rules()));
        assert!(!seen.ended_as(&was(!is_masqueraded), &rules()));
    }
    let untranslated = foretold(Vec::new(), Fate::Accepted, None);
    assert!(!kept.ended_as(&untranslated, &rules()));
    assert!(seen([out(CLIENT, SERVICE)]).ended_as(&untranslated, &rules()));
    // It came, and never went out.
    let lost = seen([goto()]);
    assert!(matches!(lost.end(), Some(End::Lost(_))));
    assert!(!lost.ended_as(&untranslated, &rules()));
    let dropped = seen([decided("filter", "forward", Judge::Policy, Verdict::Drop)]);
    let broken = Foretold {
        broken: Some("forward: drops it".to_owned()),
        ..foretold(Vec::new(), Fate::Accepted, Some(false))
    };
    for ended in [&lost, &dropped] {
        assert!(ended.ended_as(&broken, &rules()));
        assert!(!ended.ended_as(&was(false), &rules()));
    }
    assert!(
        kept.ended_as(&broken, &rules()),
        "an answer may still not come back"
    );
}

#[test]
fn a_packet_that_gets_another_number_on_its_way_is_still_one() {
    let other = (CLIENT.0, 40_001);
    let mut under_way = Vec::new();
    let after = |packet, source| Decision {
        packet,
        ..out(source, POD)
    };
    for decision in [
        // Traced by somebody else.
        after(9, CLIENT),
        marked(1, CLIENT),
        marked(2, other),
        after(3, CLIENT),
        after(4, other),
        marked(5, CLIENT),
        after(5, CLIENT),
        // Masqueraded meanwhile: the last one.
        after(6, NODE),
    ] {
        add(&mut under_way, decision, ());
    }
    let numbers: Vec<Vec<u32>> = under_way
        .iter()
        .map(|(seen, ())| seen.decisions.iter().map(|d| d.packet).collect())
        .collect();
    assert_eq!(numbers, [vec![1, 3], vec![2, 4], vec![5, 5, 6]]);
}
