//! From statements to instructions: the very ones nft 1.0.6 makes of the same text,
//! registers included, so that both lists compare and list alike.

use std::net::IpAddr;

use ipnet::IpNet;

use super::bytecode::{
    FIB_DADDR, FIB_SADDR, FULLY_RANDOM, Instr, RTN_LOCAL, Register, base, ct, meta, verdict,
};
use super::{Action, DataType, Family, Match, Rule, Selector, Statement, Table};

/// IPS_DST_NAT.
const STATUS_DNAT: u32 = 0x20;
/// 32-bit slot from which nft takes room for the input of a hash; a lookup's key counts
/// towards it, an update's does not.
const SPARE: usize = 4;
/// 32-bit slot of dynset data: the second 16-byte register.
const UPDATE_DATA: usize = 4;
/// IFNAMSIZ.
const IFNAMSIZ: usize = 16;

/// Register of the `slot`th 32-bit word: the 16-byte one where that starts there.
const fn register(slot: usize) -> Register {
    #[expect(clippy::cast_possible_truncation, reason = "there are 16 slots")]
    let slot = slot as u32;
    if slot.is_multiple_of(4) {
        1 + slot / 4
    } else {
        8 + slot
    }
}

/// The instructions of `rule` in `table`.
#[must_use]
pub fn lower(rule: &Rule, table: &Table) -> Vec<Instr> {
    let mut code = Code {
        table,
        out: Vec::with_capacity(rule.statements.len() * 4),
    };
    for statement in &rule.statements {
        match statement {
            Statement::Match(m) => code.matching(m),
            Statement::Action(a) => code.action(a),
        }
    }
    code.out
}

fn octets(addr: IpAddr) -> Vec<u8> {
    match addr {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

struct Code<'a> {
    table: &'a Table,
    out: Vec<Instr>,
}

impl Code<'_> {
    fn push(&mut self, instr: Instr) {
        self.out.push(instr);
    }

    fn v4(&self) -> bool {
        self.table.family == Family::Ip
    }

    fn words(&self, data_type: DataType) -> usize {
        data_type.padded_len() / 4
    }

    fn mask(&mut self, reg: Register, mask: u32, xor: u32) {
        self.push(Instr::Bitwise {
            sreg: reg,
            dreg: reg,
            mask: mask.to_ne_bytes().to_vec(),
            xor: xor.to_ne_bytes().to_vec(),
        });
    }

    fn cmp(&mut self, negated: bool, data: &[u8]) {
        self.push(Instr::Cmp {
            negated,
            sreg: 1,
            data: data.to_vec(),
        });
    }

    fn payload(&mut self, base: u32, offset: u32, len: u32, slot: usize) {
        self.push(Instr::Payload {
            base,
            offset,
            len,
            dreg: register(slot),
        });
    }

    /// Loads a selector at `slot`, the input of a hash at `spare`; says how many slots it
    /// takes.
    fn select(&mut self, selector: &Selector, slot: usize, spare: usize) -> usize {
        let dreg = register(slot);
        let (v4, address) = (self.v4(), self.words(DataType::addr(self.table.family)));
        let length = if v4 { 4 } else { 16 };
        let tuple = |v4_key, v6_key, direction| Instr::Ct {
            key: if v4 { v4_key } else { v6_key },
            direction: Some(direction),
            dreg,
        };
        let port = |key, direction| Instr::Ct {
            key,
            direction: Some(direction),
            dreg,
        };
        let priority = Instr::MetaLoad {
            key: meta::PRIORITY,
            dreg,
        };
        match selector {
            Selector::Saddr => self.payload(base::NETWORK, if v4 { 12 } else { 8 }, length, slot),
            Selector::Daddr => self.payload(base::NETWORK, if v4 { 16 } else { 24 }, length, slot),
            Selector::L4Proto => self.push(Instr::MetaLoad {
                key: meta::L4PROTO,
                dreg,
            }),
            Selector::Dport => self.payload(base::TRANSPORT, 2, 2, slot),
            Selector::Priority => self.push(priority),
            Selector::PriorityMasked { mask } => {
                self.push(priority);
                self.mask(dreg, *mask, 0);
            }
            Selector::CtOriginalSaddr => self.push(tuple(ct::SRC_IP, ct::SRC_IP6, ct::ORIGINAL)),
            Selector::CtOriginalDaddr => self.push(tuple(ct::DST_IP, ct::DST_IP6, ct::ORIGINAL)),
            Selector::CtOriginalDport => self.push(port(ct::PROTO_DST, ct::ORIGINAL)),
            Selector::CtReplySaddr => self.push(tuple(ct::SRC_IP, ct::SRC_IP6, ct::REPLY)),
            Selector::CtReplySport => self.push(port(ct::PROTO_SRC, ct::REPLY)),
            Selector::Random { modulus } => self.push(Instr::Random {
                modulus: *modulus,
                dreg,
            }),
            Selector::SourceHash { modulus, seed } => {
                self.select(&Selector::Saddr, spare, spare);
                self.push(Instr::Jhash {
                    sreg: register(spare),
                    len: length,
                    dreg,
                    modulus: *modulus,
                    seed: *seed,
                });
            }
        }
        self.width(selector, address)
    }

    fn width(&self, selector: &Selector, address: usize) -> usize {
        match selector {
            Selector::Saddr
            | Selector::Daddr
            | Selector::CtOriginalSaddr
            | Selector::CtOriginalDaddr
            | Selector::CtReplySaddr => address,
            _ => 1,
        }
    }

    /// Loads a lookup's key from slot 0 on.
    fn key(&mut self, key: &[Selector]) {
        let address = self.words(DataType::addr(self.table.family));
        let words: usize = key.iter().map(|s| self.width(s, address)).sum();
        self.fields(key, SPARE + words);
    }

    fn fields(&mut self, key: &[Selector], spare: usize) {
        let mut slot = 0;
        for selector in key {
            slot += self.select(selector, slot, spare);
        }
    }

    fn lookup(&mut self, set: &str, dreg: Option<Register>, inverted: bool) {
        self.push(Instr::Lookup {
            set: set.to_owned(),
            sreg: 1,
            dreg,
            inverted,
        });
    }

    fn fib(&mut self, flags: u32) {
        self.push(Instr::FibType { flags, dreg: 1 });
        self.cmp(false, &RTN_LOCAL.to_ne_bytes());
    }

    fn ct_bit(&mut self, key: u32, bit: u32) {
        self.push(Instr::Ct {
            key,
            direction: None,
            dreg: 1,
        });
        self.mask(1, bit, 0);
        self.cmp(true, &[0; 4]);
    }

    fn load_meta(&mut self, key: u32) {
        self.push(Instr::MetaLoad { key, dreg: 1 });
    }

    fn set_meta(&mut self, key: u32) {
        self.push(Instr::MetaSet { key, sreg: 1 });
    }

    /// Of a prefix that ends at a byte's end, only its bytes are loaded; otherwise the whole
    /// address is, and masked.
    fn source_in(&mut self, prefix: &IpNet, negated: bool) {
        let offset = if self.v4() { 12 } else { 8 };
        let (address, mask) = (octets(prefix.network()), octets(prefix.netmask()));
        let length = prefix.prefix_len();
        if length.is_multiple_of(8) {
            let whole = u32::from(length / 8);
            self.payload(base::NETWORK, offset, whole, 0);
            self.cmp(negated, &address[..usize::from(length / 8)]);
        } else {
            self.select(&Selector::Saddr, 0, SPARE);
            self.push(Instr::Bitwise {
                sreg: 1,
                dreg: 1,
                xor: vec![0; mask.len()],
                mask,
            });
            self.cmp(negated, &address);
        }
    }

    fn matching(&mut self, m: &Match) {
        match m {
            Match::CtStatusDnat => self.ct_bit(ct::STATUS, STATUS_DNAT),
            Match::L4Proto(protocol) => {
                self.load_meta(meta::L4PROTO);
                self.cmp(false, &[protocol.number()]);
            }
            Match::DaddrLoopback { negated } => {
                if self.v4() {
                    self.payload(base::NETWORK, 16, 1, 0);
                    self.cmp(*negated, &[127]);
                } else {
                    self.select(&Selector::Daddr, 0, SPARE);
                    self.cmp(*negated, &std::net::Ipv6Addr::LOCALHOST.octets());
                }
            }
            Match::Daddr(addr) => {
                self.select(&Selector::Daddr, 0, SPARE);
                self.cmp(false, &octets(*addr));
            }
            Match::SaddrIn { prefix, negated } => self.source_in(prefix, *negated),
            Match::SaddrLocal => self.fib(FIB_SADDR),
            Match::DaddrLocal => self.fib(FIB_DADDR),
            Match::Priority {
                mask,
                value,
                negated,
            } => {
                self.load_meta(meta::PRIORITY);
                self.mask(1, *mask, 0);
                self.cmp(*negated, &value.to_ne_bytes());
            }
            Match::MarkSet { mask } => {
                self.load_meta(meta::MARK);
                self.mask(1, *mask, 0);
                self.cmp(true, &[0; 4]);
            }
            Match::Iifname {
                name,
                prefix,
                negated,
            } => {
                self.load_meta(meta::IIFNAME);
                let mut bytes = name.as_bytes().to_vec();
                if !*prefix {
                    bytes.resize(IFNAMSIZ, 0);
                }
                self.cmp(*negated, &bytes);
            }
            Match::InSet { key, set, negated } => {
                self.key(key);
                self.lookup(set, None, *negated);
            }
        }
    }

    fn action(&mut self, action: &Action) {
        match action {
            Action::LoadPriority { key, map } => {
                self.key(key);
                self.lookup(map, Some(1), false);
                self.set_meta(meta::PRIORITY);
            }
            Action::ClearPriority => {
                self.push(Instr::Load {
                    dreg: 1,
                    data: vec![0; 4],
                });
                self.set_meta(meta::PRIORITY);
            }
            Action::SetMark { bit } => {
                self.load_meta(meta::MARK);
                self.mask(1, !bit, *bit);
                self.set_meta(meta::MARK);
            }
            Action::FlipMark { bit } => {
                self.load_meta(meta::MARK);
                self.mask(1, u32::MAX, *bit);
                self.set_meta(meta::MARK);
            }
            Action::Dnat { key, map } => {
                self.key(key);
                self.lookup(map, Some(1), false);
                self.push(Instr::Dnat {
                    family: if self.v4() { 2 } else { 10 },
                    addr: register(0),
                    port: register(self.words(DataType::addr(self.table.family))),
                });
            }
            Action::Remember { map, key, timeout } => {
                self.fields(key, SPARE);
                self.select(&Selector::Priority, UPDATE_DATA, SPARE);
                self.push(Instr::Update {
                    set: (*map).to_owned(),
                    key: 1,
                    data: register(UPDATE_DATA),
                    timeout: u64::from(*timeout) * 1000,
                });
            }
            Action::Masquerade => self.push(Instr::Masquerade {
                flags: FULLY_RANDOM,
            }),
            Action::RejectTcpReset => self.push(Instr::Reject { kind: 1, code: 0 }),
            Action::Reject => {
                let code = if self.v4() { 3 } else { 4 };
                self.push(Instr::Reject { kind: 0, code });
            }
            Action::Drop => self.verdict(verdict::DROP, None),
            Action::Return => self.verdict(verdict::RETURN, None),
            Action::Jump(chain) => self.verdict(verdict::JUMP, Some(chain)),
            Action::Goto(chain) => self.verdict(verdict::GOTO, Some(chain)),
        }
    }

    fn verdict(&mut self, code: i32, chain: Option<&String>) {
        self.push(Instr::Verdict {
            code,
            chain: chain.cloned(),
        });
    }
}
