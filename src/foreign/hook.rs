//! The base chains of a hook in the order in which the kernel asks them, and what becomes of a packet
//! there.

use std::cmp::Reverse;
use std::net::IpAddr;

use super::eval::Walk;
use super::packet::Packet;
use super::state::World;
use super::{Device, Family, Hook, Origin, Rules};

/// A chain at a hook, and the rule of it or of a chain it leads to that decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Whose table it is.
    pub origin: Origin,
    /// The table.
    pub table: String,
    /// The base chain.
    pub chain: String,
    /// Its hook.
    pub hook: Hook,
    /// Its priority.
    pub priority: i32,
    /// The rule's own chain and its handle, of the legacy iptables its number there; `None` for
    /// the policy.
    pub rule: Option<(String, u64)>,
}

/// What becomes of a packet at a base chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on.
    Pass,
    /// Dropped.
    Drop,
    /// Refused.
    Reject,
    /// Handed to a program, which decides.
    Queue,
    /// Its destination becomes another; what of it is a constant of the rule.
    Dnat(Option<IpAddr>, Option<u16>),
    /// Its destination becomes this host.
    Redirect,
    /// Its source becomes another.
    Snat,
    /// Not known: this is what may become of it, because of a condition that is not followed.
    Perhaps(Box<Verdict>, String),
}

/// What one base chain says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Where.
    pub place: Place,
    /// What.
    pub verdict: Verdict,
}

/// Which base chains of a hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Span {
    /// All of them.
    All,
    /// Those that the kernel asks before ours of this priority.
    Before(i32),
    /// Those after it.
    After(i32),
}

/// Whether a chain is asked in a span: the kernel puts a chain before all others of its priority
/// that are there (nf_hook_entries_grow). `None` if it cannot be told which of two came last.
fn within(span: Span, priority: i32, table: Option<u64>, ours: Option<u64>) -> Option<bool> {
    let (at, before) = match span {
        Span::All => return Some(true),
        Span::Before(at) => (at, true),
        Span::After(at) => (at, false),
    };
    let is_before = match priority.cmp(&at) {
        std::cmp::Ordering::Less => true,
        std::cmp::Ordering::Greater => false,
        // What is not there yet will be the last to come.
        std::cmp::Ordering::Equal => match ours {
            None => false,
            Some(ours) => table? > ours,
        },
    };
    Some(is_before == before)
}

/// Walks a packet through the base chains of `hook` in `span`, in their order, up to the first that
/// certainly ends its way or translates its destination. Rules may set its mark. O(rules).
pub fn hook(
    rules: &Rules,
    hook: Hook,
    span: Span,
    packet: &mut Packet,
    world: &dyn World,
) -> Vec<Outcome> {
    let family = match packet.destination {
        IpAddr::V4(_) => Family::Ip,
        IpAddr::V6(_) => Family::Ip6,
    };
    let ours = rules.ours.get(&family).copied();
    let mut chains: Vec<_> = rules
        .all()
        .filter(|(origin, ..)| sees(origin.family, packet))
        .flat_map(|(origin, key, table)| {
            let chains = table.chains.iter();
            chains.filter_map(move |(name, chain)| {
                let base = chain.base.as_ref()?;
                let order = (base.priority, Reverse(table.handle), Reverse(chain.handle));
                Some((order, (origin, key), table, (name, base)))
            })
        })
        .filter(|(.., table, (_, base))| {
            base.hook == hook
                && within(span, base.priority, table.handle, ours)
                    .unwrap_or(span != Span::After(base.priority))
                && of_device(&base.devices, hook, packet)
        })
        .collect();
    chains.sort_by_key(|(order, ..)| *order);
    let mut out = Vec::new();
    for (_, (origin, table_name), table, (name, base)) in chains {
        if base.nat && is_translated(hook, packet) {
            continue;
        }
        let place = Place {
            origin,
            table: table_name.to_owned(),
            chain: name.clone(),
            hook,
            priority: base.priority,
            rule: None,
        };
        let (perhaps, sure) = Walk::new(rules, table, packet, world, &place).base(base.drops);
        let mut outcome = decided(perhaps, sure);
        if within(span, base.priority, table.handle, ours).is_none()
            && outcome.verdict != Verdict::Pass
        {
            let why = "which of two chains of one priority the kernel asks first";
            outcome.verdict = Verdict::Perhaps(Box::new(outcome.verdict), why.to_owned());
        }
        packet.masqueraded |= outcome.verdict == Verdict::Snat;
        let goes_on = matches!(
            &outcome.verdict,
            Verdict::Pass | Verdict::Perhaps(..) | Verdict::Snat
        );
        out.push(outcome);
        if !goes_on {
            break;
        }
    }
    out
}

/// True if chains of type nat do not see a packet: they see the first of a connection, and that only
/// until one has translated it.
const fn is_translated(hook: Hook, packet: &Packet) -> bool {
    match hook {
        _ if packet.is_reply => true,
        Hook::Prerouting | Hook::Output => packet.asked.is_some(),
        _ => packet.masqueraded,
    }
}

/// True if chains of a family see this packet where it is.
fn sees(family: Family, packet: &Packet) -> bool {
    let on_bridge = packet.bridge.is_some();
    match family {
        Family::Bridge => on_bridge,
        Family::Inet | Family::Netdev => !on_bridge,
        Family::Ip => !on_bridge && packet.destination.is_ipv4(),
        Family::Ip6 => !on_bridge && packet.destination.is_ipv6(),
    }
}

fn of_device(devices: &[String], hook: Hook, packet: &Packet) -> bool {
    let device = match hook {
        Hook::Egress => &packet.oif,
        _ => &packet.iif,
    };
    match device {
        Device::Known(name, _) => devices.is_empty() || devices.contains(name),
        Device::None => devices.is_empty(),
        Device::Unknown => true,
    }
}

/// The one outcome, if all that may be come to the same; else the first that is otherwise.
fn decided(perhaps: Vec<(Outcome, String)>, sure: Outcome) -> Outcome {
    let mut verdict = sure.verdict.clone();
    let mut other = None;
    for (outcome, why) in perhaps {
        match verdict.merged(&outcome.verdict) {
            Some(both) => verdict = both,
            None => drop(other.get_or_insert((outcome, why))),
        }
    }
    let Some((mut outcome, why)) = other else {
        return Outcome { verdict, ..sure };
    };
    // What is certain unless something lets it pass is worth more than what lets it pass.
    if outcome.verdict == Verdict::Pass {
        outcome = sure;
    }
    Outcome {
        verdict: Verdict::Perhaps(Box::new(outcome.verdict), why),
        place: outcome.place,
    }
}

impl Verdict {
    /// What is certain if it is this or that; `None` if they have nothing in common.
    pub(super) fn merged(&self, other: &Self) -> Option<Self> {
        match (self, other) {
            _ if self == other => Some(self.clone()),
            (Self::Dnat(address, port), Self::Dnat(address_2, port_2)) => Some(Self::Dnat(
                address.filter(|_| address == address_2),
                port.filter(|_| port == port_2),
            )),
            _ => None,
        }
    }
}
