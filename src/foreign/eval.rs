//! One chain after the other, as the kernel would walk them. Where a condition cannot be told
//! both ways are followed, and only what both lead to is certain.

use super::packet::{Packet, World};
use super::{Chain, Device, End, Expr, Family, Hook, Op, Register, Rules, Set, Table, Value, xt};
use std::net::IpAddr;

/// Bytes of all registers.
const REGISTERS: usize = 80;
/// Jumps into each other that are followed: as many as the kernel does (NFT_JUMP_STACK_SIZE).
const DEPTH: usize = 16;
/// Rules looked at for one packet, for rulesets that only a program can have written.
const MOST_RULES: usize = 100_000;

/// A chain at a hook, and the rule of it or of a chain it leads to that decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The table's family.
    pub family: Family,
    /// The table.
    pub table: String,
    /// The base chain.
    pub chain: String,
    /// Its hook.
    pub hook: Hook,
    /// Its priority.
    pub priority: i32,
    /// The rule's own chain and its handle; `None` for the policy.
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

/// Walks a packet through all base chains of `hook` whose priority is in `priorities`, in their
/// order, up to the first that certainly ends its way or translates it. Rules may set its mark.
/// O(rules).
pub fn hook(
    rules: &Rules,
    hook: Hook,
    priorities: std::ops::RangeInclusive<i32>,
    packet: &mut Packet,
    world: &dyn World,
) -> Vec<Outcome> {
    let mut chains: Vec<(&(Family, String), &Table, &String, &Chain)> = rules
        .tables
        .iter()
        .filter(|((family, _), _)| sees(*family, packet))
        .flat_map(|(key, table)| {
            let chains = table.chains.iter();
            chains.map(move |(name, chain)| (key, table, name, chain))
        })
        .filter(|(_, _, _, chain)| {
            chain.base.as_ref().is_some_and(|base| {
                let asks = matches!(hook, Hook::Prerouting | Hook::Output);
                let translated = base.nat && (packet.is_reply || asks && packet.asked.is_some());
                base.hook == hook
                    && priorities.contains(&base.priority)
                    && !translated
                    && of_device(&base.devices, hook, packet)
            })
        })
        .collect();
    let priority = |chain: &Chain| chain.base.as_ref().map_or(0, |base| base.priority);
    chains.sort_by_key(|(_, _, _, chain)| priority(chain));
    let mut out = Vec::new();
    for ((family, table_name), table, name, chain) in chains {
        let Some(base) = &chain.base else { continue };
        let place = Place {
            family: *family,
            table: table_name.clone(),
            chain: name.clone(),
            hook,
            priority: base.priority,
            rule: None,
        };
        let mut walk = Walk {
            table,
            packet,
            world,
            place: &place,
            perhaps: Vec::new(),
            left: MOST_RULES,
        };
        let sure = match walk.chain(name, DEPTH, &mut None) {
            Flow::Done(outcome) => outcome,
            Flow::Next => Outcome {
                verdict: if base.drops {
                    Verdict::Drop
                } else {
                    Verdict::Pass
                },
                place: place.clone(),
            },
        };
        let outcome = decided(walk.perhaps, sure);
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

/// True if chains of a family see this packet where this host routes it.
fn sees(family: Family, packet: &Packet) -> bool {
    match family {
        Family::Inet | Family::Netdev => true,
        Family::Ip => packet.destination.is_ipv4(),
        Family::Ip6 => packet.destination.is_ipv6(),
        // Only frames that a bridge forwards come by.
        Family::Bridge => false,
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
    let other = perhaps
        .into_iter()
        .find(|(outcome, _)| outcome.verdict != sure.verdict);
    let Some((mut outcome, why)) = other else {
        return sure;
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

/// What a chain leads to.
enum Flow {
    /// The calling chain goes on.
    Next,
    /// Nothing more at this base chain.
    Done(Outcome),
}

/// Whether a rule is for the packet.
enum Matched {
    Yes,
    No,
    Perhaps(String),
}

/// What a rule does with a packet that it is for.
enum Does {
    Nothing,
    End(End),
    Final(Verdict),
}

type Registers = [Option<u8>; REGISTERS];

struct Walk<'a, 'p> {
    table: &'a Table,
    packet: &'p mut Packet,
    world: &'p dyn World,
    place: &'a Place,
    /// What may become of it, each because of a condition that is not followed.
    perhaps: Vec<(Outcome, String)>,
    left: usize,
}

impl Walk<'_, '_> {
    /// Walks a chain. `unsure`: why it is not certain that the packet comes here.
    fn chain(&mut self, name: &str, depth: usize, unsure: &mut Option<String>) -> Flow {
        let Some(chain) = self.table.chains.get(name) else {
            return Flow::Next;
        };
        for rule in &chain.rules {
            self.left = self.left.saturating_sub(1);
            if self.left == 0 {
                return self.done(
                    Verdict::Pass,
                    name,
                    rule.handle,
                    Some("too many rules".into()),
                );
            }
            let before = self.packet.mark;
            let (matched, does) = self.rule(&rule.expressions);
            let mut here = unsure.clone();
            match matched {
                Matched::No => {
                    self.packet.mark = before;
                    continue;
                }
                Matched::Yes => {}
                Matched::Perhaps(why) => {
                    if self.packet.mark != before {
                        self.packet.mark = None;
                    }
                    here = here.or(Some(why));
                }
            }
            let flow = match does {
                Does::Nothing | Does::End(End::Continue) => Flow::Next,
                Does::Final(verdict) => self.done(verdict, name, rule.handle, here.clone()),
                Does::End(End::Accept) => self.done(Verdict::Pass, name, rule.handle, here.clone()),
                Does::End(End::Drop) => self.done(Verdict::Drop, name, rule.handle, here.clone()),
                Does::End(End::Queue) => self.done(Verdict::Queue, name, rule.handle, here.clone()),
                Does::End(End::Return) => {
                    if here.is_none() {
                        return Flow::Next;
                    }
                    // The rest of the chain is walked, or it is not.
                    *unsure = here;
                    continue;
                }
                Does::End(End::Jump(_) | End::Goto(_)) if depth == 0 => Flow::Next,
                Does::End(End::Jump(to)) => {
                    let mut inside = here.clone();
                    self.chain(&to, depth - 1, &mut inside)
                }
                Does::End(End::Goto(to)) => {
                    let mut inside = here.clone();
                    match self.chain(&to, depth - 1, &mut inside) {
                        Flow::Next if here.is_none() => return Flow::Next,
                        Flow::Next => {
                            *unsure = here;
                            continue;
                        }
                        done @ Flow::Done(_) => done,
                    }
                }
            };
            match flow {
                Flow::Next => {}
                done @ Flow::Done(_) => return done,
            }
        }
        Flow::Next
    }

    /// Certain, or noted as what may be.
    fn done(&mut self, verdict: Verdict, chain: &str, handle: u64, unsure: Option<String>) -> Flow {
        let outcome = Outcome {
            verdict,
            place: Place {
                rule: Some((chain.to_owned(), handle)),
                ..self.place.clone()
            },
        };
        match unsure {
            None => Flow::Done(outcome),
            Some(why) => {
                self.perhaps.push((outcome, why));
                Flow::Next
            }
        }
    }

    fn rule(&mut self, expressions: &[Expr]) -> (Matched, Does) {
        let mut registers: Registers = [None; REGISTERS];
        let mut perhaps = None;
        for expression in expressions {
            let held = match expression {
                Expr::Nothing => continue,
                Expr::Load(property, to, len) => {
                    let bytes = self.packet.bytes(property, *len, self.world);
                    store(&mut registers, *to, bytes);
                    continue;
                }
                Expr::Constant(to, data) => {
                    store(&mut registers, *to, data.iter().copied().map(Some));
                    continue;
                }
                Expr::Lose(to, len) => {
                    store(&mut registers, *to, std::iter::repeat_n(None, *len));
                    continue;
                }
                Expr::Bitwise {
                    source,
                    destination,
                    mask,
                    xor,
                } => {
                    let bytes: Vec<Option<u8>> = (mask.iter().zip(xor).enumerate())
                        .map(
                            |(i, (mask, xor))| match (mask, read(&registers, source + i)) {
                                (0, _) => Some(*xor),
                                (mask, byte) => byte.map(|byte| byte & mask ^ xor),
                            },
                        )
                        .collect();
                    store(&mut registers, *destination, bytes);
                    continue;
                }
                Expr::SetMark(from) => {
                    self.packet.mark = number(&registers, *from);
                    continue;
                }
                Expr::SetCtMark => {
                    self.packet.ct_mark = None;
                    continue;
                }
                Expr::Notrack => {
                    self.packet.untracked |= perhaps.is_none();
                    continue;
                }
                Expr::Cmp(register, op, data) => compare(&registers, *register, *op, data),
                Expr::Range(register, outside, first, last) => {
                    let inside = (first.len() == last.len())
                        .then(|| {
                            let low = compare(&registers, *register, Op::Gte, first)?;
                            Some(low && compare(&registers, *register, Op::Lte, last)?)
                        })
                        .flatten();
                    inside.map(|inside| inside != *outside)
                }
                Expr::Lookup {
                    set,
                    key,
                    inverted,
                    to,
                } => match self.lookup(&mut registers, set, *key, *inverted, *to) {
                    Ok((held, None)) => held,
                    Ok((Some(true), Some(end))) => {
                        return (certain(perhaps), Does::End(end));
                    }
                    Ok(_) => Some(false),
                    Err(why) => {
                        perhaps.get_or_insert(why);
                        // Whatever a map may lead to is not followed.
                        continue;
                    }
                },
                Expr::XtMatch(name, revision, info) => {
                    xt::matches(name, *revision, info, self.packet, self.world)
                }
                Expr::Condition(_) => None,
                Expr::End(end) => return (certain(perhaps), Does::End(end.clone())),
                Expr::XtTarget(name, info) => {
                    let does = self.target(name, info);
                    match does {
                        Does::Nothing => continue,
                        does => return (certain(perhaps), does),
                    }
                }
                Expr::Dnat { address, port } => {
                    let is_v4 = self.packet.destination.is_ipv4();
                    let address = address.and_then(|at| address_at(&registers, at, is_v4));
                    let port = port.and_then(|at| {
                        let bytes = [read(&registers, at)?, read(&registers, at + 1)?];
                        Some(u16::from_be_bytes(bytes))
                    });
                    let verdict = Verdict::Dnat(address, port);
                    return (certain(perhaps), Does::Final(verdict));
                }
                Expr::Redirect => return (certain(perhaps), Does::Final(Verdict::Redirect)),
                Expr::Snat => return (certain(perhaps), Does::Final(Verdict::Snat)),
                Expr::Reject => return (certain(perhaps), Does::Final(Verdict::Reject)),
            };
            match held {
                Some(true) => {}
                Some(false) => return (Matched::No, Does::Nothing),
                None => {
                    perhaps.get_or_insert_with(|| unknown(expression));
                }
            }
        }
        (certain(perhaps), Does::Nothing)
    }

    fn target(&mut self, name: &str, info: &[u8]) -> Does {
        match name {
            "DNAT" => Does::Final(Verdict::Dnat(None, None)),
            "REDIRECT" => Does::Final(Verdict::Redirect),
            "SNAT" | "MASQUERADE" | "NETMAP" => Does::Final(Verdict::Snat),
            "REJECT" => Does::Final(Verdict::Reject),
            "DROP" => Does::End(End::Drop),
            "ACCEPT" => Does::End(End::Accept),
            "NFQUEUE" => Does::End(End::Queue),
            "NOTRACK" => {
                self.packet.untracked = true;
                Does::Nothing
            }
            "CT" => {
                self.packet.untracked |= xt::notrack(info);
                Does::Nothing
            }
            "CONNMARK" => {
                self.packet.ct_mark = None;
                self.packet.mark = None;
                Does::Nothing
            }
            "MARK" => {
                self.packet.mark = xt::mark(info, self.packet);
                Does::Nothing
            }
            // LOG, NFLOG, CHECKSUM, TCPMSS, TRACE, ...: the packet goes on.
            _ => Does::Nothing,
        }
    }

    /// Whether the key is in the set, and the verdict of a verdict map.
    fn lookup(
        &self,
        registers: &mut Registers,
        name: &str,
        at: Register,
        inverted: bool,
        to: Option<Register>,
    ) -> Result<(Option<bool>, Option<End>), String> {
        let set = self.table.sets.get(name);
        let Some((set, elements)) = set.and_then(|set| Some((set, set.elements.as_ref()?))) else {
            return Err(format!("what set {name} holds was not read"));
        };
        let key: Vec<Option<u8>> = (at..at + set.key_len)
            .map(|at| read(registers, at))
            .collect();
        let mut perhaps = false;
        for element in elements {
            match holds(set, &key, &element.key, element.last.as_deref()) {
                Some(false) => {}
                None => perhaps = true,
                Some(true) => {
                    return Ok(match (&element.value, to) {
                        (Some(Value::End(end)), _) => (Some(!inverted), Some(end.clone())),
                        (Some(Value::Data(data)), Some(to)) => {
                            store(registers, to, data.iter().copied().map(Some));
                            (Some(!inverted), None)
                        }
                        _ => (Some(!inverted), None),
                    });
                }
            }
        }
        if perhaps {
            return Err(format!(
                "whether set {name} holds something that is not known of this packet"
            ));
        }
        Ok(match (&set.other, to) {
            (Some(Value::End(end)), _) => (Some(!inverted), Some(end.clone())),
            (Some(Value::Data(data)), Some(to)) => {
                store(registers, to, data.iter().copied().map(Some));
                (Some(!inverted), None)
            }
            _ => (Some(inverted), None),
        })
    }
}

fn certain(perhaps: Option<String>) -> Matched {
    perhaps.map_or(Matched::Yes, Matched::Perhaps)
}

/// What of a rule is not known.
fn unknown(expression: &Expr) -> String {
    match expression {
        Expr::XtMatch(name, ..) => format!("what the match {name} of iptables says"),
        Expr::Condition(what) => format!("what {what} says"),
        _ => "something that is not known of this packet".to_owned(),
    }
}

fn read(registers: &Registers, at: usize) -> Option<u8> {
    registers.get(at).copied().flatten()
}

/// What is shorter than a register leaves zeros behind it.
fn store(registers: &mut Registers, at: usize, bytes: impl IntoIterator<Item = Option<u8>>) {
    let mut bytes = bytes.into_iter();
    for (i, to) in registers.iter_mut().skip(at).enumerate() {
        match bytes.next() {
            Some(byte) => *to = byte,
            None if i % 4 != 0 => *to = Some(0),
            None => return,
        }
    }
}

fn number(registers: &Registers, at: Register) -> Option<u32> {
    let mut bytes = [0; 4];
    for (i, byte) in bytes.iter_mut().enumerate() {
        *byte = read(registers, at + i)?;
    }
    Some(u32::from_ne_bytes(bytes))
}

fn address_at(registers: &Registers, at: Register, is_v4: bool) -> Option<IpAddr> {
    let byte = |i: usize| read(registers, at + i);
    if is_v4 {
        let octets = [byte(0)?, byte(1)?, byte(2)?, byte(3)?];
        return Some(IpAddr::from(octets));
    }
    let mut octets = [0; 16];
    for (i, octet) in octets.iter_mut().enumerate() {
        *octet = byte(i)?;
    }
    Some(IpAddr::from(octets))
}

fn compare(registers: &Registers, at: Register, op: Op, data: &[u8]) -> Option<bool> {
    let held: Vec<Option<u8>> = (at..at + data.len())
        .map(|at| read(registers, at))
        .collect();
    let differs = held
        .iter()
        .zip(data)
        .any(|(a, b)| a.is_some_and(|a| a != *b));
    let whole: Option<Vec<u8>> = held.into_iter().collect();
    let order = whole.map(|whole| whole.as_slice().cmp(data));
    match op {
        Op::Eq if differs => Some(false),
        Op::Neq if differs => Some(true),
        Op::Eq => order.map(std::cmp::Ordering::is_eq),
        Op::Neq => order.map(std::cmp::Ordering::is_ne),
        Op::Lt => order.map(std::cmp::Ordering::is_lt),
        Op::Lte => order.map(std::cmp::Ordering::is_le),
        Op::Gt => order.map(std::cmp::Ordering::is_gt),
        Op::Gte => order.map(std::cmp::Ordering::is_ge),
    }
}

/// Whether a key is an element's, field by field: a range of a concatenation is a range of each.
fn holds(set: &Set, key: &[Option<u8>], first: &[u8], last: Option<&[u8]>) -> Option<bool> {
    let last = last.unwrap_or(first);
    let mut at = 0;
    let mut all = Some(true);
    for len in &set.fields {
        let range = at..(at + len).min(key.len());
        at += len;
        let (Some(key), Some(first), Some(last)) = (
            key.get(range.clone()),
            first.get(range.clone()),
            last.get(range),
        ) else {
            return Some(false);
        };
        let differs = || {
            key.iter()
                .zip(first)
                .any(|(a, b)| a.is_some_and(|a| a != *b))
        };
        let known: Option<Vec<u8>> = key.iter().copied().collect();
        match known {
            None if first == last && differs() => return Some(false),
            Some(known) if known.as_slice() < first || known.as_slice() > last => {
                return Some(false);
            }
            Some(_) => {}
            None => all = None,
        }
    }
    all
}
