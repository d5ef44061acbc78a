//! What can go wrong with the kernel, in words that name the object.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::sync::Arc;

use nix::errno::Errno;

use super::attr::{Attrs, HEADER, Message, u32_at};
use crate::ruleset::{Element, Family, TABLE, Value};
use crate::text::comment;
use crate::transaction::{Operation, TableChange, Transaction};

/// Why an object cannot be written as a message. Numbers are what it has, and what there is
/// room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// A name is too long.
    #[error("a name of {0} bytes, where {1} are the most")]
    Name(usize, usize),
    /// A name holds a NUL, where the kernel would end it.
    #[error("a name with a NUL in it")]
    Nul,
    /// An expression compares or loads too much.
    #[error("an expression with {0} bytes of data, where {1} are the most")]
    Data(usize, usize),
    /// A rule has too many expressions.
    #[error("a rule of {0} expressions, where the kernel takes {1}")]
    Expressions(usize, usize),
    /// A message is longer than the length fields of its attributes can say.
    #[error("a message of {0} bytes, where {1} are the most")]
    Message(usize, usize),
    /// An attribute or element is longer than its length field can say.
    #[error("an attribute too long for its length field")]
    Long,
    /// An element's comment is too long.
    #[error("a comment of {0} bytes, where {1} are the most")]
    Comment(usize, usize),
    /// A key or data had more fields than there is room for.
    #[error("a key or data of more than {0} bytes")]
    Value(usize),
    /// A rule has an instruction that we can read but not write.
    #[error("an instruction that svcnat only reads")]
    Instruction,
    /// An expression has an attribute that libnftnl does not number.
    #[error("an expression with attribute {0}, which libnftnl does not have")]
    Attribute(u32),
    /// libnftnl has no memory left, or does not know an expression.
    #[error("libnftnl has no memory left or does not know an expression")]
    Memory,
}

/// A failed exchange with nf_tables.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// No socket.
    #[error("cannot open a netfilter socket: {0}; this kernel may have no nf_tables")]
    Open(#[source] std::io::Error),
    /// Nothing was sent.
    #[error("cannot send to the kernel: {0}")]
    Send(#[source] std::io::Error),
    /// The batch does not fit, and we may not ask for more room.
    #[error(
        "the batch has {0} bytes, more than this process may send at once: \
         it lacks CAP_NET_ADMIN to raise the limit"
    )]
    QueueTooSmall(usize),
    /// The batch is larger than the kernel has room for at once.
    #[error(
        "the batch has {bytes} bytes, more than the kernel takes at once ({errno}); largest: {largest}"
    )]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// What the kernel said.
        errno: Errno,
        /// Whose elements are most of it, in words.
        largest: String,
    },
    /// An operation cannot be written as messages; nothing was sent.
    #[error("cannot ask the kernel {operation}: {why}; nothing was changed")]
    Unfit {
        /// Which.
        operation: String,
        /// Why.
        why: Unfit,
    },
    /// The kernel did not say that a batch was committed. It was thrown away, unless the
    /// answer was lost: who needs to know reads.
    #[error("the kernel did not confirm the commit{}", if *.lost { ": its answer was lost" } else { "" })]
    Unconfirmed {
        /// True if answers were lost.
        lost: bool,
    },
    /// The answer was lost.
    #[error("cannot receive from the kernel: {0}")]
    Receive(#[source] Errno),
    /// An answer was cut short, or its lengths do not add up.
    #[error("an answer of the kernel is cut short")]
    Garbled,
    /// A read was refused.
    #[error("the kernel does not let us read its ruleset: {}", read_hint(.0))]
    Read(Errno),
    /// A request got no answer.
    #[error("the kernel did not answer; it may have no nf_tables")]
    NoAnswer,
    /// The ruleset kept changing while we read it.
    #[error("the ruleset did not hold still while it was read: another program keeps committing")]
    Interrupted,
    /// Something in our table is not of our making.
    #[error("table {TABLE} holds something svcnat did not make: {0}")]
    Foreign(String),
    /// Another commit came between reading and writing.
    #[error("another program changed the ruleset at the same time")]
    Raced,
    /// May not write.
    #[error("not permitted to change the ruleset: this needs CAP_NET_ADMIN")]
    NotPermitted,
    /// The table belongs to another process.
    #[error("table {family} {TABLE} is owned by another process: {text}")]
    Owned {
        /// Family of the table.
        family: &'static str,
        /// The kernel's words.
        text: String,
    },
    /// The kernel refused an operation; nothing of the batch is in force.
    #[error("the kernel refused {operation}: {errno}{text}; nothing was changed")]
    Refused {
        /// What it refused.
        operation: String,
        /// Its error.
        errno: Errno,
        /// Its words, if any, with a colon before.
        text: String,
        /// The element it is about, if it is about one.
        element: Option<Box<RefusedElement>>,
    },
}

/// An element that the kernel did not take, or did not let go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedElement {
    /// Family of the table.
    pub family: Family,
    /// Set.
    pub set: String,
    /// Key.
    pub key: Value,
    /// Whose it is.
    pub comment: Option<Arc<str>>,
    /// True if it was to be added, false if it was to go.
    pub added: bool,
}

/// Key and owner, for people.
impl fmt::Display for RefusedElement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.key)?;
        match &self.comment {
            Some(comment) => write!(f, " of {}", comment::clean(comment)),
            None => Ok(()),
        }
    }
}

impl NetlinkError {
    /// True if it may lie in what was sent, and less of it may be taken: not if somebody came
    /// first, may not write, or has no memory.
    #[must_use]
    pub fn is_about_content(&self) -> bool {
        match self {
            Self::Refused { errno, .. } => *errno != Errno::ENOMEM,
            Self::Unfit { .. } | Self::TooLarge { .. } => true,
            _ => false,
        }
    }

    /// The comment of the element that the kernel did not add.
    #[must_use]
    pub fn refused_owner(&self) -> Option<&str> {
        match self {
            Self::Refused {
                element: Some(element),
                ..
            } if element.added => element.comment.as_deref(),
            _ => None,
        }
    }

    pub(super) fn unfit(table: &TableChange, operation: &Operation, why: Unfit) -> Self {
        Self::Unfit {
            operation: describe(table, operation),
            why,
        }
    }

    pub(super) fn unreadable(set: &str, why: Unfit) -> Self {
        Self::Unfit {
            operation: format!("for elements of {set}"),
            why,
        }
    }

    pub(super) fn too_large(bytes: usize, errno: Errno, delta: &Transaction) -> Self {
        Self::TooLarge {
            bytes,
            errno,
            largest: largest(delta),
        }
    }
}

/// Whose elements are most of a delta: the first three, in words. O(elements · log owners).
fn largest(delta: &Transaction) -> String {
    let mut owners: BTreeMap<&str, usize> = BTreeMap::new();
    for operation in delta.tables.iter().flat_map(|table| &table.operations) {
        if let Operation::AddElements(set, elements) | Operation::DeleteElements(set, elements) =
            operation
        {
            for (_, element) in elements {
                let owner = element.comment.as_deref().unwrap_or(set);
                *owners.entry(owner).or_default() += 1;
            }
        }
    }
    let mut owners: Vec<(usize, &str)> = owners.into_iter().map(|(name, n)| (n, name)).collect();
    owners.sort_by(|a, b| b.cmp(a));
    let words = owners
        .iter()
        .take(3)
        .map(|(n, name)| format!("{} ({n} elements)", comment::clean(name)));
    words.collect::<Vec<String>>().join(", ")
}

fn read_hint(errno: &Errno) -> String {
    match errno {
        Errno::EPERM | Errno::EACCES => "this needs CAP_NET_ADMIN".to_owned(),
        Errno::EOPNOTSUPP | Errno::EPROTONOSUPPORT | Errno::EINVAL => {
            format!("{errno}; this kernel may have no nf_tables")
        }
        _ => errno.to_string(),
    }
}

/// An error the kernel sent.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// As an errno.
    pub errno: Errno,
    /// As the number it sent: some have no errno of user space.
    pub raw: i32,
    /// Extended acknowledgement text.
    pub text: Option<String>,
    /// Where in the refused message the attribute at fault is, in bytes from its start.
    pub offset: Option<usize>,
}

const NLM_F_CAPPED: u16 = 0x100;
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLMSGERR_ATTR_MSG: u16 = 1;
const NLMSGERR_ATTR_OFFS: u16 = 2;

impl Refusal {
    /// The error in an NLMSG_ERROR message; `None` for an acknowledgement. One too short to
    /// hold a number is none of the kernel's making, and no acknowledgement either.
    #[must_use]
    pub fn of(message: &Message<'_>) -> Option<Self> {
        let code = u32_at(message.payload, 0).map_or(-libc::EBADMSG, u32::cast_signed);
        if code == 0 {
            return None;
        }
        let capped = message.flags & NLM_F_CAPPED != 0;
        let echoed = if capped {
            HEADER
        } else {
            u32_at(message.payload, 4).map_or(HEADER, |len| (len as usize).next_multiple_of(4))
        };
        let tail = echoed
            .checked_add(4)
            .and_then(|at| message.payload.get(at..));
        let said = Attrs(tail.unwrap_or_default());
        let said = (message.flags & NLM_F_ACK_TLVS != 0).then_some(said);
        let raw = code.checked_neg().unwrap_or(libc::EBADMSG);
        Some(Self {
            errno: Errno::from_raw(raw),
            raw,
            text: said
                .and_then(|said| said.string(NLMSGERR_ATTR_MSG))
                .map(str::to_owned),
            // In host order, other than what nf_tables itself writes.
            offset: said
                .and_then(|said| u32_at(said.get(NLMSGERR_ATTR_OFFS)?, 0))
                .map(|offset| offset as usize),
        })
    }

    /// The error with the operation it is about, table and operation in the delta, and the
    /// element.
    #[must_use]
    pub fn explain(
        self,
        delta: &Transaction,
        at: Option<(usize, usize)>,
        element: Option<(Value, Element)>,
    ) -> NetlinkError {
        let found = at.and_then(|(t, o)| {
            let table = delta.tables.get(t)?;
            Some((table, table.operations.get(o)?))
        });
        let text = self.text.map(|t| format!(": {t}")).unwrap_or_default();
        match (self.errno, found) {
            (Errno::EPERM, Some((table, _))) if text.contains("own") => NetlinkError::Owned {
                family: table.family.nft_name(),
                text,
            },
            (Errno::EPERM, _) => NetlinkError::NotPermitted,
            (errno, found) => {
                let element = found.and_then(|(table, o)| named(table, o, element?));
                let mut operation =
                    found.map_or_else(|| "the batch".to_owned(), |(t, o)| describe(t, o));
                if let Some(element) = &element {
                    let _ = write!(operation, ", at {element}");
                }
                NetlinkError::Refused {
                    operation,
                    errno,
                    text,
                    element: element.map(Box::new),
                }
            }
        }
    }
}

fn named(
    table: &TableChange,
    operation: &Operation,
    (key, element): (Value, Element),
) -> Option<RefusedElement> {
    let (Operation::AddElements(set, _) | Operation::DeleteElements(set, _)) = operation else {
        return None;
    };
    Some(RefusedElement {
        family: table.family,
        set: set.clone(),
        key,
        comment: element.comment,
        added: matches!(operation, Operation::AddElements(..)),
    })
}

fn describe(table: &TableChange, operation: &Operation) -> String {
    let family = table.family.nft_name();
    let what = match operation {
        Operation::DeleteOtherTable(name) => return format!("to delete table {family} {name}"),
        Operation::OwnTable => "to own the table".to_owned(),
        Operation::DeleteTable => "to delete the table".to_owned(),
        Operation::AddTable => "to add the table".to_owned(),
        Operation::DeleteChain(name) => format!("to delete chain {name}"),
        Operation::AddChain(chain) => format!("to add chain {}", chain.name),
        Operation::FlushChain(name) => format!("to empty chain {name}"),
        Operation::AddRules(name, _) => format!("a rule of chain {name}"),
        Operation::DeleteSet(name) => format!("to delete set {name}"),
        Operation::AddSet(set) => format!("to add set {}", set.name),
        Operation::DeleteElements(name, e) => format!("to delete {} elements of {name}", e.len()),
        Operation::AddElements(name, e) => format!("to add {} elements to {name}", e.len()),
    };
    format!("{what} in {family} {TABLE}")
}
