//! Tables, chains, rules and declarations of sets: one line for all that changes in a table,
//! with the reason. Rules follow from settings, prefixes and the kinds of things in use, so
//! the reason can be told: other kinds, another setting, or somebody else.

use std::collections::BTreeMap;

use super::touched::{Touched, is_rebuilt, sets_after, sets_before};
use super::{Kind, ObjectChange, Reason, Scene, State, count, few};
use crate::compile::value::Class;
use crate::compile::{Parts, SetId, Sets, Uses, skeleton};
use crate::config::{MarkBit, Unallocated, UnservedExternal};
use crate::plan::{FamilyPlan, Shape};
use crate::ruleset::bytecode::{Instr, base, meta};
use crate::ruleset::{LiveChain, LiveTable, SetData, TABLE, Table, lower};
use crate::transaction::{Operation, TableChange};

/// Reasons that a line shows.
const MOST_REASONS: usize = 4;

/// What changes of a table as a whole, or of its rules.
pub fn changes<'a>(
    scene: &Scene<'a>,
    delta: &'a TableChange,
    touched: &mut Touched<'a>,
) -> Option<ObjectChange<'a>> {
    let steps = std::mem::take(&mut touched.others);
    if steps.is_empty() {
        return None;
    }
    let family = delta.family;
    let live = scene.before.tables.get(&family);
    let wanted = scene.desired.tables.get(&family);
    let name = format!("{} {TABLE}", family.nft_name());
    let kind = match (live, wanted) {
        (Some(_), Some(_)) if !is_rebuilt(delta) => Kind::Rules,
        _ => Kind::Table,
    };
    let size = |chains, rules, sets| State::Table {
        chains,
        rules,
        sets,
    };
    let before = live.map(|table| {
        let rules = table.chains.values().map(|chain| chain.rules.len()).sum();
        size(table.chains.len(), rules, table.sets.len())
    });
    let after = wanted.map(|table| {
        let rules = table.chains.iter().map(|chain| chain.rules.len()).sum();
        size(table.chains.len(), rules, table.sets.len())
    });
    let (reason, text) = match (live, wanted) {
        (Some(live), Some(wanted)) if kind == Kind::Table => {
            let (reason, why) = rebuilt(live, wanted);
            (reason, format!("built anew in one transaction: {why}"))
        }
        (Some(live), Some(wanted)) => of_rules(scene, delta, live, wanted),
        _ => {
            let size = before.as_ref().or(after.as_ref());
            (Reason::Differs, size.map_or_else(String::new, words))
        }
    };
    let mut change = ObjectChange::new(kind, name, before, after)
        .saying(text)
        .in_family(family)
        .with(steps);
    change.reason = reason;
    Some(change)
}

fn words(state: &State) -> String {
    match state {
        State::Table {
            chains,
            rules,
            sets,
        } => format!(
            "{}, {}, {}",
            count(*chains, "chain"),
            count(*rules, "rule"),
            count(*sets, "set")
        ),
        _ => String::new(),
    }
}

/// Why a table cannot be changed in place.
fn rebuilt(live: &LiveTable, wanted: &Table) -> (Reason, String) {
    if !live.foreign.is_empty() {
        let what = few(&live.foreign, MOST_REASONS);
        return (Reason::OtherProgram, format!("there is {what} in it"));
    }
    let pairs = wanted.sets.values();
    let pairs = pairs.filter_map(|set| Some((set, live.sets.get(&set.name)?)));
    let others: Vec<_> = pairs
        .filter(|(set, live)| !set.same_declaration(live))
        .collect();
    let counted = others.iter().all(|(set, live)| {
        let mut same = (*live).clone();
        same.counted = set.counted;
        set.same_declaration(&same)
    });
    if let (Some((set, _)), true) = (others.first(), counted) {
        let (from, to) = (!set.counted, set.counted);
        return (Reason::Setting, format!("serviceCounters {from} -> {to}"));
    }
    let names: Vec<String> = others
        .iter()
        .map(|(set, _)| format!("set {}", set.name))
        .collect();
    let hooks = wanted.chains.iter().filter(|chain| {
        let live = live.chains.get(&chain.name);
        live.is_some_and(|live| live.base != chain.base)
    });
    let hooks = hooks.map(|chain| format!("chain {}", chain.name));
    let names: Vec<String> = names.into_iter().chain(hooks).collect();
    if names.is_empty() {
        return (Reason::Differs, "its owner is to be another".to_owned());
    }
    let what = few(&names, MOST_REASONS);
    let why = "is declared otherwise, by another version of svcnat";
    (Reason::OtherVersion, format!("{what} {why}"))
}

fn of_rules(
    scene: &Scene<'_>,
    delta: &TableChange,
    live: &LiveTable,
    wanted: &Table,
) -> (Reason, String) {
    let sizes = sizes(delta, live, wanted);
    let plan = scene
        .plan
        .families
        .iter()
        .find(|plan| plan.family == delta.family);
    let none = Sets::new();
    let before = sets_before(scene, delta.family).unwrap_or(&none);
    let after = sets_after(scene, delta.family).unwrap_or(&none);
    let (before, after) = (parts(before), parts(after));
    let Some(plan) = plan else {
        return (Reason::Differs, sizes);
    };
    let shape = &scene.plan.shape;
    let code = code(live);
    let (reason, why) = if matches(&skeleton(plan, shape, &before), &code) {
        (Reason::Differs, kinds(&before, &after))
    } else if let Some(settings) = other_settings(plan, shape, &before, live) {
        (Reason::Setting, settings)
    } else {
        let older = |set: &crate::ruleset::Set| {
            SetId::named(&set.name).is_none() || set.data == SetData::Verdict
        };
        if live.sets.values().any(older) {
            let why = "of another version of svcnat";
            (Reason::OtherVersion, why.to_owned())
        } else {
            let why = "not as this version of svcnat writes them";
            (Reason::OtherProgram, why.to_owned())
        }
    };
    match (sizes.is_empty(), why.is_empty()) {
        (true, _) => (reason, why),
        (_, true) => (reason, sizes),
        _ => (reason, format!("{sizes} ({why})")),
    }
}

/// `+3 -1 rules, +1 chains`.
fn sizes(delta: &TableChange, live: &LiveTable, wanted: &Table) -> String {
    let (mut added, mut removed) = (0, 0);
    let names = wanted
        .chains
        .iter()
        .map(|chain| &chain.name)
        .chain(live.chains.keys());
    let names: std::collections::BTreeSet<&String> = names.collect();
    for name in names {
        let none = Vec::new();
        let mut old: Vec<&Vec<Instr>> = live
            .chains
            .get(name)
            .map_or(&none, |c| &c.rules)
            .iter()
            .collect();
        for rule in wanted.chain(name).map_or(&[][..], |chain| &chain.rules) {
            let rule = lower(rule, wanted);
            match old.iter().position(|live| **live == rule) {
                Some(at) => drop(old.remove(at)),
                None => added += 1,
            }
        }
        removed += old.len();
    }
    let of = |wanted: fn(&Operation) -> bool| delta.operations.iter().filter(|o| wanted(o)).count();
    let all = [
        ("rules", added, removed),
        (
            "chains",
            of(|o| matches!(o, Operation::AddChain(..))),
            of(|o| matches!(o, Operation::DeleteChain(_))),
        ),
        (
            "sets",
            of(|o| matches!(o, Operation::AddSet(_))),
            of(|o| matches!(o, Operation::DeleteSet(_))),
        ),
    ];
    let words = all.iter().filter_map(|(noun, come, go)| {
        let noun = if come + go == 1 {
            &noun[..noun.len() - 1]
        } else {
            noun
        };
        match (come, go) {
            (0, 0) => None,
            (come, 0) => Some(format!("+{come} {noun}")),
            (0, go) => Some(format!("-{go} {noun}")),
            (come, go) => Some(format!("+{come} -{go} {noun}")),
        }
    });
    words.collect::<Vec<_>>().join(", ")
}

/// The kinds of things that these elements bring.
fn parts(sets: &Sets) -> Parts {
    let mut uses = Uses::default();
    for (name, set) in sets {
        if let Some(id) = SetId::named(name) {
            uses.fill(id, &set.elements);
        }
    }
    uses.parts()
}

/// Which kinds come into use, and which go out of it.
fn kinds(before: &Parts, after: &Parts) -> String {
    let new = in_one(after, before);
    let gone = in_one(before, after);
    let list = |word: &str, kinds: &[String]| {
        (!kinds.is_empty()).then(|| format!("{word}: {}", few(kinds, MOST_REASONS)))
    };
    let lists = [list("new", &new), list("no more", &gone)];
    lists.into_iter().flatten().collect::<Vec<_>>().join("; ")
}

fn in_one(one: &Parts, other: &Parts) -> Vec<String> {
    let sets = SetId::FIXED
        .into_iter()
        .filter(|id| one.has(*id) && !other.has(*id));
    let sets = sets.filter_map(feature).map(str::to_owned);
    let classes = one.classes().filter(|class| !other.has_class(*class));
    let classes = classes.filter_map(|class| match class {
        Class::Exact(1) => None,
        Class::Exact(slots) => Some(format!("lists of {slots}")),
        Class::Large(size) => Some(format!("lists of up to {size}")),
        Class::BySource => Some("balancing by source address".to_owned()),
        Class::Reject => Some("refused frontends".to_owned()),
        Class::Drop => Some("dropped frontends".to_owned()),
    });
    let timeouts = one
        .timeouts()
        .filter(|timeout| other.timeouts().all(|t| t != *timeout));
    let timeouts = timeouts.map(|timeout| format!("session affinity of {timeout} s"));
    let mut all: Vec<String> = sets.chain(classes).chain(timeouts).collect();
    all.dedup();
    all
}

/// What a set is there for, if rules tell of it and no other set of the same feature does.
const fn feature(id: SetId) -> Option<&'static str> {
    Some(match id {
        SetId::ServiceNodeports => "node ports",
        SetId::HostPorts => "host ports",
        SetId::HostPortIps => "host ports of one address",
        SetId::FirewallIps => "source ranges",
        SetId::InternalServiceIps | SetId::InternalServiceNodeports => "local traffic policies",
        SetId::HairpinIps => "endpoints of this node",
        SetId::ServiceIps => "service addresses",
        SetId::ExternalIps => "external addresses",
        SetId::ServiceCidrs => "service ranges",
        SetId::PodSources => "prefixes of pods",
        SetId::EgressSources | SetId::NonMasquerade => "pod egress",
        _ => return None,
    })
}

/// Chains by name, each as its rules.
type Code = BTreeMap<String, Vec<Vec<Instr>>>;

fn code(live: &LiveTable) -> Code {
    let rules = |chain: &LiveChain| chain.rules.clone();
    live.chains
        .iter()
        .map(|(name, chain)| (name.clone(), rules(chain)))
        .collect()
}

fn code_of(table: &Table) -> Code {
    let rules =
        |chain: &crate::ruleset::Chain| chain.rules.iter().map(|r| lower(r, table)).collect();
    table
        .chains
        .iter()
        .map(|chain| (chain.name.clone(), rules(chain)))
        .collect()
}

fn matches(table: &Table, code: &Code) -> bool {
    code_of(table) == *code
}

/// The settings with which svcnat writes just these rules for just these elements, as what
/// differs from those in force; `None` if there are none. Prefixes and interfaces of pods are
/// not compared: there are too many to try.
fn other_settings(
    plan: &FamilyPlan,
    shape: &Shape,
    parts: &Parts,
    live: &LiveTable,
) -> Option<String> {
    let code = code(live);
    let bits: std::collections::BTreeSet<u32> = [Some(shape.masquerade_bit.mask()), mark(live)]
        .into_iter()
        .flatten()
        .collect();
    let bits = bits.into_iter().filter_map(bit_of);
    let mut tried: Vec<(Vec<String>, Shape)> = bits
        .flat_map(|bit| shapes(shape, bit))
        .map(|other| (differences(&other, shape), other))
        .collect();
    // The fewest differences explain it best.
    tried.sort_by_key(|(differences, _)| differences.len());
    let exact = |(_, other): &&(Vec<String>, Shape)| matches(&skeleton(plan, other, parts), &code);
    if let Some((differences, _)) = tried.iter().find(exact) {
        return Some(differences.join(", "));
    }
    let plans = sources(plan);
    let found = without_sources(code);
    let fits = |other: &Shape| {
        let tables = plans.iter().map(|plan| skeleton(plan, other, parts));
        tables
            .map(|table| code_of(&table))
            .any(|code| without_sources(code) == found)
    };
    let (mut differences, _) = tried.into_iter().find(|(_, other)| fits(other))?;
    differences.push("prefixes or interfaces of pods".to_owned());
    Some(differences.join(", "))
}

/// The shape with other values of what shapes rules.
fn shapes(shape: &Shape, masquerade_bit: MarkBit) -> impl Iterator<Item = Shape> {
    let unserved = [
        UnservedExternal::Forward,
        UnservedExternal::Drop,
        UnservedExternal::Reject,
    ];
    let mut out = Vec::new();
    for masquerade_all in [false, true] {
        for unallocated in [Unallocated::Drop, Unallocated::Reject] {
            for unserved_external in unserved {
                out.push(Shape {
                    masquerade_bit,
                    masquerade_all,
                    unallocated,
                    unserved_external,
                    ..shape.clone()
                });
            }
        }
    }
    out.into_iter()
}

/// The settings in which two shapes differ, by their names in the configuration file.
fn differences(before: &Shape, after: &Shape) -> Vec<String> {
    let lower = |value: &dyn std::fmt::Debug| format!("{value:?}").to_lowercase();
    let pairs = [
        (
            "masqueradeAll",
            lower(&before.masquerade_all),
            lower(&after.masquerade_all),
        ),
        (
            "masqueradeBit",
            before.masquerade_bit.mask().trailing_zeros().to_string(),
            after.masquerade_bit.mask().trailing_zeros().to_string(),
        ),
        (
            "unallocated",
            lower(&before.unallocated),
            lower(&after.unallocated),
        ),
        (
            "unservedExternal",
            lower(&before.unserved_external),
            lower(&after.unserved_external),
        ),
    ];
    let differ = pairs
        .into_iter()
        .filter(|(_, before, after)| before != after);
    differ
        .map(|(name, before, after)| format!("{name} {before} -> {after}"))
        .collect()
}

/// The plan as it is, and with prefixes of pods where it has none or none where it has some.
fn sources(plan: &FamilyPlan) -> Vec<FamilyPlan> {
    let bare = FamilyPlan {
        pod_sources: plan.pod_sources.clone(),
        egress_sources: plan.egress_sources.clone(),
        ..FamilyPlan::empty(plan.family)
    };
    let some: ipnet::IpNet = match plan.family {
        crate::cluster::Family::Ip => ipnet::Ipv4Net::new_assert([10, 0, 0, 0].into(), 8).into(),
        crate::cluster::Family::Ip6 => {
            ipnet::Ipv6Net::new_assert(std::net::Ipv6Addr::LOCALHOST, 128).into()
        }
    };
    let other = |prefixes: &[ipnet::IpNet]| {
        if prefixes.is_empty() {
            vec![some]
        } else {
            Vec::new()
        }
    };
    let mut out = Vec::new();
    for pods in [plan.pod_sources.clone(), other(&plan.pod_sources)] {
        for egress in [plan.egress_sources.clone(), other(&plan.egress_sources)] {
            out.push(FamilyPlan {
                pod_sources: pods.clone(),
                egress_sources: egress,
                ..bare.clone()
            });
        }
    }
    out
}

/// The bit of the mark that rules set or clear.
fn mark(live: &LiveTable) -> Option<u32> {
    let rules = live.chains.values().flat_map(|chain| &chain.rules);
    rules.into_iter().find_map(|rule| {
        rule.windows(3).find_map(|three| match three {
            [
                Instr::MetaLoad {
                    key: meta::MARK, ..
                },
                Instr::Bitwise { xor, .. },
                Instr::MetaSet {
                    key: meta::MARK, ..
                },
            ] => Some(u32::from_ne_bytes(xor.as_slice().try_into().ok()?)),
            _ => None,
        })
    })
}

fn bit_of(mask: u32) -> Option<MarkBit> {
    let bit = u8::try_from(mask.trailing_zeros()).ok()?;
    MarkBit::new(bit).filter(|bit| bit.mask() == mask)
}

/// Rules without what tells pods from others; of several that are then alike, one.
fn without_sources(code: Code) -> Code {
    let mut out = Code::new();
    for (name, rules) in code {
        let mut rules: Vec<_> = rules.into_iter().map(without_source).collect();
        rules.dedup();
        out.insert(name, rules);
    }
    out
}

fn without_source(rule: Vec<Instr>) -> Vec<Instr> {
    let source_sets = [
        SetId::PodSources.fixed_name(),
        SetId::EgressSources.fixed_name(),
    ];
    let mut out: Vec<Instr> = Vec::with_capacity(rule.len());
    for instr in rule {
        let ends = match &instr {
            Instr::Cmp { .. } => true,
            Instr::Lookup { set, .. } => source_sets.contains(&set.as_str()),
            _ => false,
        };
        let masked = usize::from(matches!(out.last(), Some(Instr::Bitwise { .. })));
        let loads = out.len().checked_sub(1 + masked).and_then(|at| out.get(at));
        if ends && loads.is_some_and(loads_source) {
            out.truncate(out.len() - 1 - masked);
        } else {
            out.push(instr);
        }
    }
    out
}

/// True for the source address of a packet, and the name of the interface it came by.
const fn loads_source(instr: &Instr) -> bool {
    /// Where the source address is in the header: RFC 791 and RFC 8200.
    const AT: [u32; 2] = [12, 8];
    match instr {
        Instr::MetaLoad { key, .. } => *key == meta::IIFNAME,
        Instr::Payload {
            base: header,
            offset,
            ..
        } => *header == base::NETWORK && (*offset == AT[0] || *offset == AT[1]),
        _ => false,
    }
}
