//! The rules of a base chain, one after the other, as the kernel would walk them. Where a condition
//! cannot be told both ways are followed, and only what both lead to is certain.

use super::hook::{Outcome, Place, Verdict};
use super::packet::Packet;
use super::registers::{EMPTY, Registers, address_at, compare, holds, number, read, store};
use super::state::{Found, State, World};
use super::{End, Expr, Hook, Op, Register, Rules, Table, Value, xt};

/// Jumps into each other that are followed: as many as the kernel does (NFT_JUMP_STACK_SIZE).
const DEPTH: usize = 16;
/// Rules looked at for one packet, for rulesets that only a program can have written.
const MOST_RULES: usize = 100_000;
/// Numbers drawn by chance that are each followed.
const MOST_NUMBERS: u32 = 256;

/// What a chain leads to.
enum Flow {
    /// The next rule.
    Next,
    /// The calling chain goes on.
    Return,
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
    /// One of these, whose choice is not known; none of them, if that is true.
    OneOf(Vec<End>, bool),
}

/// What a set or map says of a key.
enum Answer {
    No,
    /// It holds it; a map's value.
    Yes(Option<Value>),
    /// It holds one of several, with a verdict map's ends; perhaps none, if that is true.
    OneOf(Vec<End>, bool),
}

/// A packet in one base chain.
pub(super) struct Walk<'a, 'p> {
    rules: &'a Rules,
    table: &'a Table,
    packet: &'p mut Packet,
    world: &'p dyn World,
    place: &'a Place,
    /// What may become of it, each because of a condition that is not followed.
    perhaps: Vec<(Outcome, String)>,
    left: usize,
}

impl<'a, 'p> Walk<'a, 'p> {
    pub(super) const fn new(
        rules: &'a Rules,
        table: &'a Table,
        packet: &'p mut Packet,
        world: &'p dyn World,
        place: &'a Place,
    ) -> Self {
        Self {
            rules,
            table,
            packet,
            world,
            place,
            perhaps: Vec::new(),
            left: MOST_RULES,
        }
    }

    /// Walks the base chain: what may become of the packet, each with the reason why that is not
    /// certain, and what becomes of it otherwise.
    pub(super) fn base(mut self, drops: bool) -> (Vec<(Outcome, String)>, Outcome) {
        let sure = match self.chain(&self.place.chain, DEPTH, &mut None) {
            Flow::Done(outcome) => outcome,
            Flow::Next | Flow::Return => Outcome {
                verdict: match drops {
                    true => Verdict::Drop,
                    false => Verdict::Pass,
                },
                place: self.place.clone(),
            },
        };
        (self.perhaps, sure)
    }

    /// Walks a chain. `unsure`: why it is not certain that the packet comes here.
    fn chain(&mut self, name: &str, depth: usize, unsure: &mut Option<String>) -> Flow {
        let Some(chain) = self.table.chains.get(name) else {
            return Flow::Next;
        };
        for rule in &chain.rules {
            self.left = self.left.saturating_sub(1);
            let at = (name, rule.handle);
            if self.left == 0 {
                return self.done(Verdict::Pass, at, Some("too many rules".into()));
            }
            let before = State::of(self.packet);
            let (matched, does) = self.rule(&rule.expressions);
            let mut here = unsure.clone();
            match matched {
                Matched::No => {
                    before.put(self.packet);
                    continue;
                }
                Matched::Yes => {}
                Matched::Perhaps(why) => here = here.or(Some(why)),
            }
            if here.is_some() {
                before.or(State::of(self.packet)).put(self.packet);
            }
            let flow = match does {
                Does::Nothing => Flow::Next,
                Does::Final(verdict) => self.done(verdict, at, here.clone()),
                Does::End(end) => self.end(&end, at, depth, &here),
                Does::OneOf(ends, perhaps_none) => {
                    self.one_of(&ends, at, depth, (&here, perhaps_none))
                }
            };
            match flow {
                Flow::Next => {}
                // The rest of the chain is walked, or it is not.
                Flow::Return if here.is_some() => *unsure = here,
                Flow::Return => return Flow::Next,
                done @ Flow::Done(_) => return done,
            }
        }
        Flow::Next
    }

    /// What a rule ends with. `here`: why it is not certain.
    fn end(&mut self, end: &End, at: (&str, u64), depth: usize, here: &Option<String>) -> Flow {
        let verdict = match end {
            End::Continue => return Flow::Next,
            End::Return => return Flow::Return,
            End::Accept => Verdict::Pass,
            End::Drop => Verdict::Drop,
            End::Queue => Verdict::Queue,
            End::Jump(_) | End::Goto(_) if depth == 0 => return Flow::Next,
            End::Jump(to) => return self.chain(to, depth - 1, &mut here.clone()),
            End::Goto(to) => {
                return match self.chain(to, depth - 1, &mut here.clone()) {
                    Flow::Next => Flow::Return,
                    flow => flow,
                };
            }
        };
        self.done(verdict, at, here.clone())
    }

    /// Follows all of several ends. If all of them end the packet's way in the same manner, so does
    /// the rule.
    fn one_of(
        &mut self,
        ends: &[End],
        at: (&str, u64),
        depth: usize,
        (here, perhaps_none): (&Option<String>, bool),
    ) -> Flow {
        let before = State::of(self.packet);
        let mut after = perhaps_none.then_some(before);
        let mut all = !perhaps_none;
        let mut done: Vec<Outcome> = Vec::new();
        for end in ends {
            before.put(self.packet);
            match self.end(end, at, depth, here) {
                Flow::Done(outcome) => done.push(outcome),
                Flow::Next | Flow::Return => all = false,
            }
            let state = State::of(self.packet);
            after = Some(after.map_or(state, |after| after.or(state)));
        }
        after.unwrap_or(before).put(self.packet);
        let first = done.first().map(|outcome| outcome.verdict.clone());
        let merged = done.iter().try_fold(first, |all, outcome| {
            Some(all.and_then(|all| all.merged(&outcome.verdict)))
        });
        match merged.flatten() {
            Some(verdict) if all => self.done(verdict, at, here.clone()),
            _ => {
                let why = "which element of a map it meets with";
                self.perhaps
                    .extend(done.into_iter().map(|outcome| (outcome, why.to_owned())));
                Flow::Next
            }
        }
    }

    /// Certain, or noted as what may be.
    fn done(
        &mut self,
        verdict: Verdict,
        (chain, handle): (&str, u64),
        unsure: Option<String>,
    ) -> Flow {
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
        let mut registers = EMPTY;
        let mut perhaps = None;
        let mut numbers = None;
        for expression in expressions {
            let held = match expression {
                Expr::Nothing => continue,
                Expr::Number(to, count, first) => {
                    let only = (*count == 1).then(|| first.to_ne_bytes());
                    store(
                        &mut registers,
                        *to,
                        (0..4).map(|i| only.map(|bytes| bytes[i])),
                    );
                    numbers = Some((*to, *first..first.saturating_add(*count)));
                    continue;
                }
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
                Expr::SetCtMark(from) => {
                    self.packet.ct_mark = number(&registers, *from);
                    continue;
                }
                Expr::SetZone(from) => {
                    let bytes = from
                        .and_then(|at| Some([read(&registers, at)?, read(&registers, at + 1)?]));
                    self.packet.zone = bytes.map(u16::from_ne_bytes);
                    continue;
                }
                Expr::Notrack => {
                    self.packet.untracked = true;
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
                } => {
                    let several = numbers.clone().filter(|(at, _)| at == key);
                    match self.lookup(&registers, set, *key, several.map(|(_, all)| all)) {
                        Ok(Answer::No) => Some(*inverted),
                        Ok(Answer::Yes(Some(Value::End(end)))) => {
                            return (certain(perhaps), Does::End(end));
                        }
                        Ok(Answer::OneOf(ends, none)) => {
                            return (certain(perhaps), Does::OneOf(ends, none));
                        }
                        Ok(Answer::Yes(value)) => {
                            if let (Some(Value::Data(data)), Some(to)) = (value, to) {
                                store(&mut registers, *to, data.iter().copied().map(Some));
                            }
                            Some(!inverted)
                        }
                        Err(why) => {
                            perhaps.get_or_insert(why);
                            continue;
                        }
                    }
                }
                Expr::XtMatch(name, revision, info) => {
                    let asked = xt::Asked {
                        packet: self.packet,
                        world: self.world,
                        ipsets: &self.rules.ipsets,
                    };
                    asked.matches(name, *revision, info)
                }
                Expr::Condition(_) => None,
                Expr::End(end) => return (certain(perhaps), Does::End(end.clone())),
                Expr::XtTarget(name, revision, info) => match self.target(name, *revision, info) {
                    Some(Does::Nothing) => continue,
                    Some(does) => return (certain(perhaps), does),
                    None => {
                        let why = format!("what the target {name} of iptables does");
                        return (Matched::Perhaps(why), Does::Final(Verdict::Drop));
                    }
                },
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

    /// What a target of iptables does; `None` if it is not known.
    fn target(&mut self, name: &str, revision: u32, info: &[u8]) -> Option<Does> {
        let translates = matches!(self.place.hook, Hook::Prerouting | Hook::Output);
        Some(match name {
            "DNAT" => {
                let (address, port) = xt::translation(revision, info, self.packet);
                Does::Final(Verdict::Dnat(address, port))
            }
            "NETMAP" if translates => Does::Final(Verdict::Dnat(None, None)),
            "REDIRECT" | "TPROXY" => Does::Final(Verdict::Redirect),
            "SNAT" | "MASQUERADE" | "NETMAP" => Does::Final(Verdict::Snat),
            "REJECT" => Does::Final(Verdict::Reject),
            "DROP" => Does::End(End::Drop),
            "ACCEPT" => Does::End(End::Accept),
            "NFQUEUE" | "QUEUE" | "SYNPROXY" => Does::End(End::Queue),
            _ => {
                xt::changes(name, revision, info, self.packet)?;
                Does::Nothing
            }
        })
    }

    /// What a set says of the key in a register; `several`: the numbers one of which that is.
    fn lookup(
        &self,
        registers: &Registers,
        name: &str,
        at: Register,
        several: Option<std::ops::Range<u32>>,
    ) -> Result<Answer, String> {
        let Some(set) = self.table.sets.get(name) else {
            return Err(format!("what set {name} holds was not read"));
        };
        let key: Vec<Option<u8>> = (at..at + set.key_len)
            .map(|at| read(registers, at))
            .collect();
        let known: Option<Vec<u8>> = key.iter().copied().collect();
        let Some(elements) = &set.elements else {
            let of = (self.place.origin.family, self.place.table.as_str());
            let found = known.map(|key| self.world.element(of, name, &key));
            return match found {
                Some(Found::Yes(value)) => Ok(Answer::Yes(value)),
                Some(Found::No) => Ok(Answer::No),
                _ => Err(format!("what set {name} holds was not read")),
            };
        };
        let mut candidates = Vec::new();
        for element in elements {
            match holds(set, &key, &element.key, element.last.as_deref()) {
                Some(false) => {}
                Some(true) => return Ok(Answer::Yes(element.value.clone())),
                None => candidates.push(element),
            }
        }
        if candidates.is_empty() {
            return Ok(match &set.other {
                Some(value) => Answer::Yes(Some(value.clone())),
                None => Answer::No,
            });
        }
        let mut ends: Vec<End> = Vec::new();
        let values = candidates.iter().map(|element| &element.value);
        for value in values.chain([&set.other]) {
            if let Some(Value::End(end)) = value
                && !ends.contains(end)
            {
                ends.push(end.clone());
            }
        }
        if ends.is_empty() {
            return Err(format!(
                "whether set {name} holds something that is not known of this packet"
            ));
        }
        // Of so many numbers each has its element.
        let every = several.is_some_and(|mut all| {
            all.len() <= MOST_NUMBERS as usize
                && all.all(|number| {
                    let key = number.to_ne_bytes().map(Some);
                    let mut keys = candidates.iter();
                    keys.any(|e| holds(set, &key, &e.key, e.last.as_deref()) == Some(true))
                })
        });
        Ok(Answer::OneOf(ends, !every && set.other.is_none()))
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
