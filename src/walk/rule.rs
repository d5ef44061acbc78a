//! One chain after the other: matches and actions on a packet's state.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::IpAddr;

use super::{Asked, Packet, Step, hash};
use crate::net::Endpoint;
use crate::ruleset::{
    Action, DataType, Element, ElementData, FieldValue, Match, Rule, Selector, Set, SetData,
    SetKind, Statement, Table, Value,
};

/// What a chain or rule says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// Go on with the next rule.
    Next,
    /// Leave this chain.
    Return,
    /// Done with this hook.
    Accept,
    /// Dropped.
    Drop,
    /// Refused.
    Reject,
}

/// A packet on its way.
#[derive(Clone)]
pub struct State<'a> {
    table: &'a Table,
    packet: &'a Packet,
    is_local: &'a dyn Fn(IpAddr) -> bool,
    priority: u32,
    pub mark: u32,
    /// Destination as the current hook sees it.
    pub destination: IpAddr,
    /// True once DNAT has happened.
    pub translated: bool,
    /// True once a rule said masquerade.
    pub masqueraded: bool,
    /// How much of the probability no draw has used up yet.
    left: f64,
    /// Endpoints and their share.
    pub candidates: BTreeMap<Endpoint, f64>,
    /// Rules that did something.
    pub steps: Vec<Step>,
    /// Takes down what is looked for, if that is asked.
    pub asked: Option<&'a RefCell<Asked>>,
}

/// Values a selector may have: one, or as many as there are slots.
enum Key {
    One(Value),
    Slots(Vec<Value>),
}

impl<'a> State<'a> {
    /// On its way from one hook to another. The kernel computes the priority of a forwarded
    /// IPv4 packet anew from its type of service (ip_forward), which is 0 here.
    pub fn forwarded(&mut self) {
        if !self.packet.from_node && self.packet.destination.is_ipv4() {
            self.priority = 0;
        }
    }

    pub fn new(table: &'a Table, packet: &'a Packet, is_local: &'a dyn Fn(IpAddr) -> bool) -> Self {
        Self {
            table,
            packet,
            is_local,
            priority: 0,
            mark: 0,
            destination: packet.destination,
            translated: false,
            masqueraded: false,
            left: 1.0,
            candidates: BTreeMap::new(),
            steps: Vec::new(),
            asked: None,
        }
    }

    /// Runs a chain to its end.
    pub fn chain(&mut self, name: &str) -> Flow {
        let Some(chain) = self.table.chain(name) else {
            return Flow::Next;
        };
        for rule in &chain.rules {
            match self.rule(name, rule) {
                Flow::Next => {}
                Flow::Return => return Flow::Next,
                done => return done,
            }
        }
        Flow::Next
    }

    fn rule(&mut self, chain: &str, rule: &Rule) -> Flow {
        let mut element = None;
        let mut noted = false;
        for statement in &rule.statements {
            match statement {
                Statement::Match(m) => {
                    if !self.matches(m, &mut element) {
                        return Flow::Next;
                    }
                }
                Statement::Action(action) => {
                    let before = self.steps.len();
                    let flow = self.action(action, &mut element);
                    let Some(flow) = flow else { return Flow::Next };
                    if !noted {
                        noted = true;
                        let step = Step {
                            chain: chain.to_owned(),
                            rule: rule.clone(),
                            element: element.take(),
                        };
                        self.steps.insert(before, step);
                    }
                    if flow != Flow::Next {
                        return flow;
                    }
                }
            }
        }
        Flow::Next
    }

    fn bytes(&self, selector: &Selector, value: Value) -> Value {
        match selector {
            Selector::Saddr | Selector::CtOriginalSaddr => value.addr(self.packet.source),
            Selector::Daddr => value.addr(self.destination),
            Selector::CtOriginalDaddr => value.addr(self.packet.destination),
            Selector::CtReplySaddr => value.addr(self.destination),
            Selector::L4Proto => value.proto(self.packet.protocol),
            Selector::Dport | Selector::CtOriginalDport | Selector::CtReplySport => {
                value.port(self.packet.port)
            }
            Selector::Priority => value.u32(self.priority),
            Selector::PriorityMasked { mask } => value.u32(self.priority & mask),
            Selector::SourceHash { modulus, seed } => {
                value.u32(hash::slot(self.packet.source, *modulus, *seed))
            }
            // Drawn afresh by every packet: all slots are followed, see `key`.
            Selector::Random { .. } => value,
        }
    }

    fn key(&self, key: &[Selector]) -> Key {
        if let [Selector::L4Proto] = key {
            return Key::One(Value::lone_proto(self.packet.protocol));
        }
        let mut value = Value::new();
        for selector in key {
            match selector {
                Selector::Random { modulus } => {
                    return Key::Slots((0..*modulus).map(|slot| value.u32(slot)).collect());
                }
                plain => value = self.bytes(plain, value),
            }
        }
        Key::One(value)
    }

    fn find(&self, set: &str, key: &[Selector]) -> Option<(&'a Set, &'a Element)> {
        let Key::One(value) = self.key(key) else {
            return None;
        };
        let set = self.table.sets.get(set)?;
        self.note_asked(set, &[value]);
        Some((set, set.lookup(&value)?))
    }

    fn note_asked(&self, set: &Set, keys: &[Value]) {
        if let Some(asked) = self.asked
            && set.kind != SetKind::Interval
        {
            let mut asked = asked.borrow_mut();
            asked.entry(set.name.clone()).or_default().extend(keys);
        }
    }

    fn matches(&self, m: &Match, element: &mut Option<String>) -> bool {
        match m {
            Match::CtStatusDnat => self.translated,
            Match::L4Proto(protocol) => *protocol == self.packet.protocol,
            Match::DaddrLoopback { negated } => self.destination.is_loopback() != *negated,
            Match::Daddr(addr) => self.destination == *addr,
            Match::SaddrIn { prefix, negated } => prefix.contains(&self.packet.source) != *negated,
            Match::SaddrLocal => self.packet.from_node || (self.is_local)(self.packet.source),
            Match::DaddrLocal => (self.is_local)(self.destination),
            Match::Priority {
                mask,
                value,
                negated,
            } => (self.priority & mask == *value) != *negated,
            Match::MarkSet { mask } => self.mark & mask != 0,
            Match::Iifname {
                name,
                prefix,
                negated,
            } => {
                let iif = self.packet.iif.as_deref().unwrap_or_default();
                (iif == name || (*prefix && iif.starts_with(name.as_str()))) != *negated
            }
            Match::InSet { key, set, negated } => {
                let found = self.find(set, key);
                if let Some((_, e)) = found {
                    *element = e.comment.as_deref().map(str::to_owned);
                }
                found.is_some() != *negated
            }
        }
    }

    /// Carries out an action; `None` if it ends the rule without effect.
    fn action(&mut self, action: &Action, element: &mut Option<String>) -> Option<Flow> {
        match action {
            Action::LoadPriority { key, map } => {
                let (_, found) = self.find(map, key)?;
                self.priority = number(found)?;
                *element = found.comment.as_deref().map(str::to_owned);
            }
            Action::ClearPriority => self.priority = 0,
            Action::SetMark { bit } => self.mark |= bit,
            Action::FlipMark { bit } => self.mark ^= bit,
            Action::Dnat { key, map } => return self.dnat(key, map, element),
            // Memory is the kernel's; a walk leaves none.
            Action::Remember { .. } => {}
            Action::Masquerade => {
                self.masqueraded = true;
                return Some(Flow::Accept);
            }
            Action::RejectTcpReset | Action::Reject => return Some(Flow::Reject),
            Action::Drop => return Some(Flow::Drop),
            Action::Return => return Some(Flow::Return),
            Action::Jump(chain) => return Some(self.chain(chain)),
            Action::Goto(chain) => return Some(leave(self.chain(chain))),
        }
        Some(Flow::Next)
    }

    /// Follows every slot at once: what hits takes its share, what misses goes on.
    fn dnat(&mut self, key: &[Selector], map: &str, element: &mut Option<String>) -> Option<Flow> {
        let set = self.table.sets.get(map)?;
        let keys = match self.key(key) {
            Key::One(value) => vec![value],
            Key::Slots(values) => values,
        };
        self.note_asked(set, &keys);
        #[expect(clippy::cast_precision_loss, reason = "at most 2^20 slots")]
        let share = self.left / keys.len() as f64;
        let mut hits = 0_usize;
        for key in &keys {
            let Some(found) = set.lookup(key) else {
                continue;
            };
            let Some(endpoint) = endpoint(set, found) else {
                continue;
            };
            *self.candidates.entry(endpoint).or_default() += share;
            *element = found.comment.as_deref().map(str::to_owned);
            hits += 1;
        }
        if hits == 0 {
            return None;
        }
        if hits == keys.len() {
            self.left = 0.0;
            return Some(Flow::Accept);
        }
        #[expect(clippy::cast_precision_loss, reason = "at most 2^20 slots")]
        let taken = share * hits as f64;
        self.left -= taken;
        Some(Flow::Next)
    }
}

/// A goto does not come back: the end of its chain is the end of the one before.
const fn leave(flow: Flow) -> Flow {
    match flow {
        Flow::Next => Flow::Return,
        other => other,
    }
}

fn number(element: &Element) -> Option<u32> {
    let ElementData::Value(value) = &element.data else {
        return None;
    };
    match value.fields(&[DataType::ClassId])?[..] {
        [FieldValue::ClassId(id)] => Some(id),
        _ => None,
    }
}

fn endpoint(set: &Set, element: &Element) -> Option<Endpoint> {
    let (SetData::Fields(schema), ElementData::Value(value)) = (&set.data, &element.data) else {
        return None;
    };
    match value.fields(schema)?[..] {
        [FieldValue::Addr(addr), FieldValue::Port(port)] => Some(Endpoint {
            addr,
            port: port.try_into().ok()?,
        }),
        _ => None,
    }
}
