//! The only room with `unsafe`: libnftnl objects through the nftnl crate and what that
//! crate lacks through nftnl-sys, four socket options, and one system call.
//!
//! Invariants, in one place:
//! * every object is made, filled, serialised and freed inside one function call here; no
//!   pointer leaves this file;
//! * libnftnl copies what its setters are given, so borrowed arguments need only live for
//!   the call; it copies data into a field of [`MAX_DATA`] bytes, and older versions of it
//!   look at no length, so we do;
//! * libnftnl writes a message without looking at the end of the buffer. So the buffer has
//!   `nft_nlmsg_maxsize()` bytes, the size the `NlMsg` contract asks for, or what the object
//!   can take at most ([`rule_bound`]) where that is more; the message is copied out by the
//!   length in its own header.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_void};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;

use nftnl::expr::Expression;
use nftnl::{Chain, ChainType, MsgType, NlMsg, Policy, ProtoFamily, Rule, Table};
use nftnl_sys as sys;

use super::message::{FLAGS_AT, HEADER, flag};
use super::nftables::Unfit;
use crate::ruleset::{self, BaseChain, Family, Hook, TABLE};

/// Bytes of data an expression can hold: NFT_DATA_VALUE_MAXLEN (linux/netfilter/nf_tables.h),
/// and the size of libnftnl's field.
const MAX_DATA: usize = 64;
/// Bytes of a name, without its NUL: NFT_NAME_MAXLEN.
const MAX_NAME: usize = 255;
/// Expressions of one rule: NFT_RULE_MAXEXPRS (net/netfilter/nf_tables_api.c).
const MAX_EXPRESSIONS: usize = 128;

/// One attribute of an expression, numbered as in libnftnl's `expr.h` (NFTNL_EXPR_*).
#[derive(Debug)]
pub enum ExprAttr<'a> {
    /// A byte.
    U8(u32, u8),
    /// A 32-bit number.
    U32(u32, u32),
    /// A 64-bit number.
    U64(u32, u64),
    /// A string.
    Str(u32, &'a str),
    /// Bytes.
    Data(u32, &'a [u8]),
}

/// An expression by its libnftnl name and attributes.
#[derive(Debug)]
pub struct RawExpr<'a> {
    /// Name, such as `lookup`.
    pub name: &'static CStr,
    /// Attributes.
    pub attrs: Vec<ExprAttr<'a>>,
}

/// An expression of libnftnl's, filled and ours to free.
struct Built(NonNull<sys::nftnl_expr>);

impl Built {
    fn new(raw: &RawExpr<'_>) -> Result<Self, Unfit> {
        // SAFETY: `name` is NUL-terminated and lives for the call.
        let expr = unsafe { sys::nftnl_expr_alloc(raw.name.as_ptr()) };
        let built = NonNull::new(expr).map(Self).ok_or(Unfit::Memory)?;
        for attr in &raw.attrs {
            built.set(attr)?;
        }
        Ok(built)
    }

    fn set(&self, attr: &ExprAttr<'_>) -> Result<(), Unfit> {
        let expr = self.0.as_ptr();
        let number = |n: &u32| u16::try_from(*n).map_err(|_| Unfit::Attribute(*n));
        let failed = match attr {
            ExprAttr::U8(n, v) => {
                // SAFETY: `expr` is a live expression of our own; setters copy.
                unsafe { sys::nftnl_expr_set_u8(expr, number(n)?, *v) };
                0
            }
            ExprAttr::U32(n, v) => {
                // SAFETY: as above.
                unsafe { sys::nftnl_expr_set_u32(expr, number(n)?, *v) };
                0
            }
            ExprAttr::U64(n, v) => {
                // SAFETY: as above.
                unsafe { sys::nftnl_expr_set_u64(expr, number(n)?, *v) };
                0
            }
            ExprAttr::Str(n, v) => {
                let text = name(v)?;
                // SAFETY: as above, and `text` is NUL-terminated and lives for the call.
                unsafe { sys::nftnl_expr_set_str(expr, number(n)?, text.as_ptr()) }
            }
            ExprAttr::Data(n, v) => {
                let len = u32::try_from(v.len()).ok().filter(|_| v.len() <= MAX_DATA);
                let len = len.ok_or(Unfit::Data(v.len(), MAX_DATA))?;
                let data = v.as_ptr().cast::<c_void>();
                // SAFETY: as above, `v` has `len` readable bytes, and the field `MAX_DATA`.
                unsafe { sys::nftnl_expr_set(expr, number(n)?, data, len) }
            }
        };
        if failed < 0 {
            Err(Unfit::Memory)
        } else {
            Ok(())
        }
    }
}

impl Drop for Built {
    fn drop(&mut self) {
        // SAFETY: the expression is live, ours, and not used after this.
        unsafe { sys::nftnl_expr_free(self.0.as_ptr()) };
    }
}

/// Lends itself to [`Rule::add_expr`], which takes the expression over: [`add`].
impl Expression for Built {
    fn to_expr(&self, _rule: &Rule<'_>) -> NonNull<sys::nftnl_expr> {
        self.0
    }
}

fn add(rule: &mut Rule<'_>, expr: Built) {
    rule.add_expr(&expr);
    // The rule frees it.
    std::mem::forget(expr);
}

fn name(text: &str) -> Result<CString, Unfit> {
    if text.len() > MAX_NAME {
        return Err(Unfit::Name(text.len(), MAX_NAME));
    }
    CString::new(text).map_err(|_| Unfit::Nul)
}

/// Bytes an attribute of this length takes, padding included.
const fn attribute(len: usize) -> usize {
    4 + len.next_multiple_of(4)
}

/// The most bytes that libnftnl writes for a rule. Each of our attributes becomes one of the
/// kernel's, at most two levels deeper (data and verdict are nested); an expression has a
/// list item, its name and a nest around them, and libnftnl may add an attribute of 32 bits
/// that nobody set.
fn rule_bound(chain: &CStr, code: &[RawExpr<'_>]) -> usize {
    let attributes = |attr: &ExprAttr<'_>| {
        let payload = match attr {
            ExprAttr::U8(..) | ExprAttr::U32(..) => 4,
            ExprAttr::U64(..) => 8,
            ExprAttr::Str(_, text) => text.len() + 1,
            ExprAttr::Data(_, data) => data.len(),
        };
        attribute(payload) + 2 * attribute(0)
    };
    let expressions = |expr: &RawExpr<'_>| {
        let name = attribute(expr.name.to_bytes_with_nul().len());
        let inside: usize = expr.attrs.iter().map(attributes).sum();
        2 * attribute(0) + name + inside + attribute(4)
    };
    let names = attribute(TABLE.len() + 1) + attribute(chain.to_bytes_with_nul().len());
    let code: usize = code.iter().map(expressions).sum();
    HEADER + 4 + names + attribute(0) + code
}

const fn proto_family(family: Family) -> ProtoFamily {
    match family {
        Family::Ip => ProtoFamily::Ipv4,
        Family::Ip6 => ProtoFamily::Ipv6,
    }
}

fn table(family: Family) -> Result<Table, Unfit> {
    Ok(Table::new(name(TABLE)?, proto_family(family)))
}

/// Room for the largest message libnftnl can write.
#[derive(Debug, Default)]
pub struct Scratch(Vec<u64>);

impl Scratch {
    /// Appends `message`, which takes at most `bound` bytes or `nft_nlmsg_maxsize()`, to
    /// `out`, without the NLM_F_ACK that nftnl puts on everything: an acknowledgement per
    /// message overflows the receive buffer on a large batch.
    fn write(
        &mut self,
        message: &impl NlMsg,
        bound: usize,
        seq: u32,
        kind: MsgType,
        out: &mut Vec<u8>,
    ) -> Result<(), Unfit> {
        let words = bound.max(nftnl::nft_nlmsg_maxsize() as usize) / 8 + 1;
        if self.0.len() < words {
            self.0.resize(words, 0);
        }
        let buffer = self.0.as_mut_ptr();
        // SAFETY: the buffer has nft_nlmsg_maxsize() bytes, as the trait demands, and what
        // the caller knows the message to take; it is aligned for a netlink header.
        unsafe { message.write(buffer.cast::<c_void>(), seq, kind) };
        // SAFETY: u64 has no padding or invalid bytes; the slice covers the same memory.
        let bytes = unsafe {
            std::slice::from_raw_parts(buffer.cast::<u8>().cast_const(), self.0.len() * 8)
        };
        let len = u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize;
        // Above this an attribute inside may be longer than its length field can say.
        let most = HEADER + 4 + usize::from(u16::MAX);
        let message = bytes.get(..len).filter(|_| len <= most);
        let start = out.len();
        out.extend_from_slice(message.ok_or(Unfit::Message(len, most))?);
        let at = start + FLAGS_AT;
        let flags = u16::from_ne_bytes([out[at], out[at + 1]]);
        out[at..at + 2].copy_from_slice(&(flags & !flag::ACK).to_ne_bytes());
        out.resize(out.len().next_multiple_of(4), 0);
        Ok(())
    }

    /// Appends the message that adds or deletes our table of `family`.
    ///
    /// # Errors
    /// If there is no memory.
    pub fn table(
        &mut self,
        family: Family,
        add: bool,
        seq: u32,
        out: &mut Vec<u8>,
    ) -> Result<(), Unfit> {
        self.write(&table(family)?, 0, seq, kind(add), out)
    }

    /// Appends the message that adds or deletes a chain.
    ///
    /// # Errors
    /// If its name is none that the kernel takes.
    pub fn chain(
        &mut self,
        family: Family,
        chain: &str,
        base: Option<BaseChain>,
        add: bool,
        seq: u32,
        out: &mut Vec<u8>,
    ) -> Result<(), Unfit> {
        let table = table(family)?;
        let mut chain = Chain::new(name(chain)?, &table);
        if let Some(base) = base.filter(|_| add) {
            chain.set_hook(hook(base.hook), base.priority);
            chain.set_type(match base.chain_type {
                ruleset::ChainType::Filter => ChainType::Filter,
                ruleset::ChainType::Nat => ChainType::Nat,
            });
            chain.set_policy(Policy::Accept);
        }
        self.write(&chain, 0, seq, kind(add), out)
    }

    /// Appends the message that appends a rule to a chain.
    ///
    /// # Errors
    /// If the rule has more expressions than the kernel takes, an expression more data than
    /// it can hold, or the message more bytes than its attributes can say.
    pub fn rule(
        &mut self,
        family: Family,
        chain: &str,
        code: &[RawExpr<'_>],
        seq: u32,
        out: &mut Vec<u8>,
    ) -> Result<(), Unfit> {
        if code.len() > MAX_EXPRESSIONS {
            return Err(Unfit::Expressions(code.len(), MAX_EXPRESSIONS));
        }
        let table = table(family)?;
        let name = name(chain)?;
        let bound = rule_bound(&name, code);
        let chain = Chain::new(name, &table);
        let mut rule = Rule::new(&chain);
        for raw in code {
            add(&mut rule, Built::new(raw)?);
        }
        self.write(&rule, bound, seq, MsgType::Add, out)
    }
}

const fn kind(add: bool) -> MsgType {
    if add { MsgType::Add } else { MsgType::Del }
}

const fn hook(hook: Hook) -> nftnl::Hook {
    match hook {
        Hook::Prerouting => nftnl::Hook::PreRouting,
        Hook::Input => nftnl::Hook::In,
        Hook::Forward => nftnl::Hook::Forward,
        Hook::Output => nftnl::Hook::Out,
        Hook::Postrouting => nftnl::Hook::PostRouting,
    }
}

/// Sets an option of level SOL_NETLINK, which nix does not know.
///
/// # Errors
/// That of setsockopt(2).
pub fn netlink_option(socket: BorrowedFd<'_>, option: i32, value: u32) -> std::io::Result<()> {
    const LEN: u32 = size_of::<u32>() as u32;
    // SAFETY: the descriptor is open for as long as it is borrowed; `value` is readable for
    // `LEN` bytes.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_NETLINK,
            option,
            (&raw const value).cast::<c_void>(),
            LEN,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(std::io::Error::last_os_error())
    }
}

/// The number of a socket's network namespace (SO_NETNS_COOKIE, Linux 5.14), which no other gets
/// until the machine starts anew; an inode's is given away again.
///
/// # Errors
/// That of getsockopt(2).
#[cfg(feature = "cli")]
pub fn namespace_cookie(socket: BorrowedFd<'_>) -> std::io::Result<u64> {
    /// asm-generic/socket.h; libc does not have it for every C library.
    const SO_NETNS_COOKIE: i32 = 71;
    let mut cookie = 0_u64;
    let mut len = size_of::<u64>() as u32;
    // SAFETY: the descriptor is open for as long as it is borrowed; `cookie` is writable for the
    // `len` bytes that are said to be there.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast::<c_void>(),
            &raw mut len,
        )
    };
    if result == 0 {
        Ok(cookie)
    } else {
        Err(std::io::Error::last_os_error())
    }
}

/// Asks for an option of netfilter's, of level SOL_IP or SOL_IPV6, whose question and answer are
/// the same bytes.
///
/// # Errors
/// That of getsockopt(2); an answer of another length is EMSGSIZE.
pub fn netfilter_option(
    socket: BorrowedFd<'_>,
    level: i32,
    option: i32,
    data: &mut [u8],
) -> std::io::Result<()> {
    let wanted = u32::try_from(data.len()).map_err(std::io::Error::other)?;
    let mut len = wanted;
    // SAFETY: the descriptor is open for as long as it is borrowed; `data` is readable and
    // writable for the `len` bytes that are said to be there.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level,
            option,
            data.as_mut_ptr().cast::<c_void>(),
            &raw mut len,
        )
    };
    match result {
        0 if len == wanted => Ok(()),
        0 => Err(std::io::Error::from_raw_os_error(libc::EMSGSIZE)),
        _ => Err(std::io::Error::last_os_error()),
    }
}

/// Waits as membarrier(2) does with MEMBARRIER_CMD_GLOBAL, which nix does not know.
///
/// # Errors
/// That of membarrier(2).
pub fn membarrier_global() -> std::io::Result<()> {
    // SAFETY: the call takes numbers only.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, libc::MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if result == 0 {
        Ok(())
    } else {
        Err(std::io::Error::last_os_error())
    }
}

/// Lets through only datagrams whose first message is of this type, by a filter in the kernel.
///
/// # Errors
/// That of setsockopt(2).
pub fn only_messages(socket: BorrowedFd<'_>, kind: u16) -> std::io::Result<()> {
    const LEN: u32 = size_of::<libc::sock_fprog>() as u32;
    // BPF opcodes have 16 bits; the constants are wider.
    const LOAD: u16 = (libc::BPF_LD | libc::BPF_H | libc::BPF_ABS) as u16;
    const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    // A filter loads in network order; nlmsg_type, at offset 4, is in host order.
    let kind = u16::from_be_bytes(kind.to_ne_bytes());
    let mut code = [
        step(LOAD, 0, 0, 4),
        step(EQUAL, 0, 1, kind.into()),
        step(RETURN, 0, 0, u32::MAX),
        step(RETURN, 0, 0, 0),
    ];
    let program = libc::sock_fprog {
        len: code.len() as u16,
        filter: code.as_mut_ptr(),
    };
    // SAFETY: the descriptor is open for as long as it is borrowed; `program` is readable for
    // `LEN` bytes and points to `code`, which is alive; the kernel copies both.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const program).cast::<c_void>(),
            LEN,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(std::io::Error::last_os_error())
    }
}

/// The descriptor of a libmnl socket, borrowed for as long as the socket.
#[must_use]
pub fn descriptor(socket: &mnl::Socket) -> BorrowedFd<'_> {
    // SAFETY: the socket owns the descriptor and outlives the borrow.
    unsafe { BorrowedFd::borrow_raw(socket.as_raw_fd()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::nftables::expr;
    use crate::ruleset::bytecode::Instr;

    fn rule(chain: &str, code: &[RawExpr<'_>]) -> Result<Vec<u8>, Unfit> {
        let mut out = Vec::new();
        Scratch::default().rule(Family::Ip, chain, code, 1, &mut out)?;
        Ok(out)
    }

    fn compare(data: &[u8]) -> RawExpr<'_> {
        RawExpr {
            name: c"cmp",
            attrs: vec![
                ExprAttr::U32(sys::NFTNL_EXPR_CMP_SREG, 1),
                ExprAttr::U32(sys::NFTNL_EXPR_CMP_OP, 0),
                ExprAttr::Data(sys::NFTNL_EXPR_CMP_DATA, data),
            ],
        }
    }

    fn lookup(set: &str) -> RawExpr<'_> {
        RawExpr {
            name: c"lookup",
            attrs: vec![
                ExprAttr::Str(sys::NFTNL_EXPR_LOOKUP_SET, set),
                ExprAttr::U32(sys::NFTNL_EXPR_LOOKUP_SREG, 1),
            ],
        }
    }

    #[test]
    fn a_rule_of_more_expressions_than_the_kernel_takes_is_refused_before_it_is_written() {
        let some: Vec<_> = (0..MAX_EXPRESSIONS).map(|_| compare(&[1; 4])).collect();
        assert!(rule("c", &some).is_ok());
        for n in [5_000, 129] {
            let many: Vec<_> = (0..n).map(|_| compare(&[1; 4])).collect();
            assert_eq!(rule("c", &many), Err(Unfit::Expressions(n, 128)));
        }
    }

    #[test]
    fn data_longer_than_a_register_file_is_refused_before_it_is_copied() {
        assert!(rule("c", &[compare(&[1; MAX_DATA])]).is_ok());
        for n in [100_000, 128, 65] {
            let data = vec![1; n];
            assert_eq!(rule("c", &[compare(&data)]), Err(Unfit::Data(n, 64)));
        }
    }

    #[test]
    fn names_that_are_too_long_or_hold_a_nul_are_refused() {
        let long = "x".repeat(256);
        assert!(rule(&long[1..], &[lookup(&long[1..])]).is_ok());
        assert_eq!(rule("c", &[lookup(&long)]), Err(Unfit::Name(256, 255)));
        assert_eq!(rule(&long, &[]), Err(Unfit::Name(256, 255)));
        assert_eq!(rule("a\0b", &[]), Err(Unfit::Nul));
        let mut out = Vec::new();
        let added = Scratch::default().chain(Family::Ip, &long, None, true, 1, &mut out);
        assert_eq!((added, out.len()), (Err(Unfit::Name(256, 255)), 0));
    }

    #[test]
    fn libnftnl_writes_no_more_than_the_bound_says() {
        let name = "x".repeat(MAX_NAME);
        let set = || name.clone();
        let data = vec![1; MAX_DATA];
        let every = [
            Instr::MetaLoad { key: 2, dreg: 1 },
            Instr::MetaSet { key: 2, sreg: 1 },
            Instr::Payload {
                base: 1,
                offset: 12,
                len: 4,
                dreg: 1,
            },
            Instr::Ct {
                key: 19,
                direction: Some(0),
                dreg: 1,
            },
            Instr::Cmp {
                negated: false,
                sreg: 1,
                data: data.clone(),
            },
            Instr::Bitwise {
                sreg: 1,
                dreg: 1,
                mask: data.clone(),
                xor: data.clone(),
            },
            Instr::Lookup {
                set: set(),
                sreg: 1,
                dreg: Some(1),
                inverted: true,
            },
            Instr::Load { dreg: 1, data },
            Instr::Verdict {
                code: -4,
                chain: Some(set()),
            },
            Instr::Dnat {
                family: 2,
                addr: 1,
                port: 9,
            },
            Instr::Masquerade { flags: 16 },
            Instr::Random {
                modulus: 2,
                dreg: 1,
            },
            Instr::Jhash {
                sreg: 1,
                len: 4,
                dreg: 1,
                modulus: 2,
                seed: 3,
            },
            Instr::FibType { flags: 1, dreg: 1 },
            Instr::Update {
                set: set(),
                key: 1,
                data: 9,
                timeout: 1000,
            },
            Instr::Reject { kind: 0, code: 3 },
        ];
        let chain = CString::new("c").unwrap();
        for instr in &every {
            for n in [1, MAX_EXPRESSIONS] {
                let code: Vec<_> = (0..n).map(|_| expr::encode(instr).unwrap()).collect();
                let written = rule("c", &code).unwrap().len();
                let bound = rule_bound(&chain, &code);
                assert!(written <= bound, "{instr}: {written} > {bound}");
            }
        }
    }

    #[test]
    fn an_expression_libnftnl_does_not_know_is_an_error() {
        let unknown = RawExpr {
            name: c"no-such-expression",
            attrs: Vec::new(),
        };
        assert_eq!(rule("c", &[unknown]), Err(Unfit::Memory));
    }
}
