//! The only room with `unsafe`: libnftnl objects through the nftnl crate and what that
//! crate lacks through nftnl-sys, and two socket options.
//!
//! Invariants, in one place:
//! * every object is made, filled, serialised and freed inside one function call here; no
//!   pointer leaves this file;
//! * libnftnl copies what its setters are given, so borrowed arguments need only live for
//!   the call;
//! * messages are serialised into a buffer of `nft_nlmsg_maxsize()` bytes, the size the
//!   `NlMsg` contract asks for, and copied out by the length in their own header.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_void};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;

use nftnl::expr::Expression;
use nftnl::{Chain, ChainType, MsgType, NlMsg, Policy, ProtoFamily, Rule, Table};
use nftnl_sys as sys;

use crate::ruleset::{self, BaseChain, Family, Hook, TABLE};

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

impl Expression for RawExpr<'_> {
    fn to_expr(&self, _rule: &Rule<'_>) -> NonNull<sys::nftnl_expr> {
        // SAFETY: `name` is NUL-terminated and lives for the call.
        let expr = unsafe { sys::nftnl_expr_alloc(self.name.as_ptr()) };
        let Some(expr) = NonNull::new(expr) else {
            // Out of memory, or a name libnftnl does not have: ours are fixed, see the tests.
            std::process::abort()
        };
        for attr in &self.attrs {
            set(expr, attr);
        }
        expr
    }
}

/// Attribute numbers are below 256 in every version of libnftnl.
#[expect(clippy::cast_possible_truncation, reason = "see the doc comment")]
const fn number(attr: u32) -> u16 {
    attr as u16
}

fn set(expr: NonNull<sys::nftnl_expr>, attr: &ExprAttr<'_>) {
    let expr = expr.as_ptr();
    match attr {
        // SAFETY: `expr` is a live expression of our own; setters copy.
        ExprAttr::U8(n, v) => unsafe { sys::nftnl_expr_set_u8(expr, number(*n), *v) },
        // SAFETY: as above.
        ExprAttr::U32(n, v) => unsafe { sys::nftnl_expr_set_u32(expr, number(*n), *v) },
        // SAFETY: as above.
        ExprAttr::U64(n, v) => unsafe { sys::nftnl_expr_set_u64(expr, number(*n), *v) },
        ExprAttr::Str(n, v) => {
            let text = c_string(v);
            // SAFETY: as above, and `text` is NUL-terminated and lives for the call.
            unsafe { sys::nftnl_expr_set_str(expr, number(*n), text.as_ptr()) };
        }
        ExprAttr::Data(n, v) => {
            let len = u32::try_from(v.len()).unwrap_or(0);
            // SAFETY: as above, and `v` has `len` readable bytes.
            unsafe { sys::nftnl_expr_set(expr, number(*n), v.as_ptr().cast::<c_void>(), len) };
        }
    }
}

/// Names in a ruleset are ours and have no NUL; one that had would end there.
fn c_string(text: &str) -> CString {
    let end = text.find('\0').unwrap_or(text.len());
    CString::new(&text[..end]).unwrap_or_default()
}

const fn proto_family(family: Family) -> ProtoFamily {
    match family {
        Family::Ip => ProtoFamily::Ipv4,
        Family::Ip6 => ProtoFamily::Ipv6,
    }
}

fn table(family: Family) -> Table {
    Table::new(c_string(TABLE), proto_family(family))
}

/// Room for the largest message libnftnl can write.
#[derive(Debug, Default)]
pub struct Scratch(Vec<u64>);

impl Scratch {
    /// Appends `message` to `out`, without the NLM_F_ACK that nftnl puts on everything:
    /// an acknowledgement per message overflows the receive buffer on a large batch.
    fn write(&mut self, message: &impl NlMsg, seq: u32, kind: MsgType, out: &mut Vec<u8>) {
        if self.0.is_empty() {
            self.0 = vec![0; nftnl::nft_nlmsg_maxsize() as usize / 8 + 1];
        }
        let buffer = self.0.as_mut_ptr();
        // SAFETY: the buffer has nft_nlmsg_maxsize() bytes, as the trait demands, and is
        // aligned for a netlink header.
        unsafe { message.write(buffer.cast::<c_void>(), seq, kind) };
        // SAFETY: u64 has no padding or invalid bytes; the slice covers the same memory.
        let bytes = unsafe {
            std::slice::from_raw_parts(buffer.cast::<u8>().cast_const(), self.0.len() * 8)
        };
        let len = u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize;
        let start = out.len();
        out.extend_from_slice(&bytes[..len.min(bytes.len())]);
        let flags = u16::from_ne_bytes([out[start + 6], out[start + 7]]);
        let ack = u16::try_from(libc::NLM_F_ACK).unwrap_or_default();
        out[start + 6..start + 8].copy_from_slice(&(flags & !ack).to_ne_bytes());
        out.resize(out.len().next_multiple_of(4), 0);
    }

    /// Appends the message that adds or deletes our table of `family`.
    pub fn table(&mut self, family: Family, add: bool, seq: u32, out: &mut Vec<u8>) {
        self.write(&table(family), seq, kind(add), out);
    }

    /// Appends the message that adds or deletes a chain.
    pub fn chain(
        &mut self,
        family: Family,
        name: &str,
        base: Option<BaseChain>,
        add: bool,
        seq: u32,
        out: &mut Vec<u8>,
    ) {
        let table = table(family);
        let mut chain = Chain::new(c_string(name), &table);
        if let Some(base) = base.filter(|_| add) {
            chain.set_hook(hook(base.hook), base.priority);
            chain.set_type(match base.chain_type {
                ruleset::ChainType::Filter => ChainType::Filter,
                ruleset::ChainType::Nat => ChainType::Nat,
            });
            chain.set_policy(Policy::Accept);
        }
        self.write(&chain, seq, kind(add), out);
    }

    /// Appends the message that appends a rule to a chain.
    pub fn rule(
        &mut self,
        family: Family,
        chain: &str,
        code: &[RawExpr<'_>],
        seq: u32,
        out: &mut Vec<u8>,
    ) {
        let table = table(family);
        let chain = Chain::new(c_string(chain), &table);
        let mut rule = Rule::new(&chain);
        for expr in code {
            rule.add_expr(expr);
        }
        self.write(&rule, seq, MsgType::Add, out);
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

/// Sets a boolean option of level SOL_NETLINK, which nix does not know.
///
/// # Errors
/// That of setsockopt(2).
pub fn netlink_option(socket: BorrowedFd<'_>, option: i32) -> std::io::Result<()> {
    let on: libc::c_int = 1;
    let len = u32::try_from(size_of_val(&on)).unwrap_or_default();
    // SAFETY: the descriptor is open for as long as it is borrowed; `on` is readable for
    // `len` bytes.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_NETLINK,
            option,
            (&raw const on).cast::<c_void>(),
            len,
        )
    };
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
    let step = |code: u32, jt, jf, k| libc::sock_filter {
        code: u16::try_from(code).unwrap_or_default(),
        jt,
        jf,
        k,
    };
    // A filter loads in network order; nlmsg_type, at offset 4, is in host order.
    let kind = u16::from_be_bytes(kind.to_ne_bytes());
    let mut code = [
        step(libc::BPF_LD | libc::BPF_H | libc::BPF_ABS, 0, 0, 4),
        step(
            libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
            0,
            1,
            kind.into(),
        ),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, u32::MAX),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
    ];
    let program = libc::sock_fprog {
        len: u16::try_from(code.len()).unwrap_or_default(),
        filter: code.as_mut_ptr(),
    };
    let len = u32::try_from(size_of_val(&program)).unwrap_or_default();
    // SAFETY: the descriptor is open for as long as it is borrowed; `program` is readable for
    // `len` bytes and points to `code`, which is alive; the kernel copies both.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const program).cast::<c_void>(),
            len,
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
