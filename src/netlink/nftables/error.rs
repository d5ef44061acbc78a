//! What can go wrong with nf_tables, in words that name the object.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::sync::Arc;

use nix::errno::Errno;

use crate::netlink::error::{ExchangeError, Refusal};
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
    /// The kernel was asked, and gave no good answer.
    #[error("{}", unanswered(.0))]
    Exchange(#[from] ExchangeError),
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
    #[error("cannot ask the kernel {at}: {why}; nothing was changed")]
    Unfit {
        /// Which.
        at: Box<OperationRef>,
        /// Why.
        why: Unfit,
    },
    /// The request for elements of a set cannot be written; nothing was sent.
    #[error("cannot ask the kernel for elements of {0}: {1}")]
    Key(String, Unfit),
    /// The kernel did not say that a batch was committed. It was thrown away, unless the
    /// answer was lost: who needs to know reads.
    #[error("the kernel did not confirm the commit{}", if *.lost { ": its answer was lost" } else { "" })]
    Unconfirmed {
        /// True if answers were lost.
        lost: bool,
    },
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
    #[error("table {} {table} belongs to another process", family.nft_name())]
    Owned {
        /// Family of the table.
        family: Family,
        /// Its name.
        table: String,
    },
    /// The kernel refused an operation; nothing of the batch is in force.
    #[error(
        "the kernel refused {}: {errno}{text}; nothing was changed",
        refused(.at.as_deref(), .element.as_deref())
    )]
    Refused {
        /// What it refused; `None` if that is the batch as such.
        at: Option<Box<OperationRef>>,
        /// Its error.
        errno: Errno,
        /// Its words, if any, with a colon before.
        text: String,
        /// The element it is about, if it is about one.
        element: Option<Box<RefusedElement>>,
    },
}

/// The operation that an error is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperationRef {
    /// Family of the table.
    pub family: Family,
    /// What was asked for, without the rules and elements.
    pub operation: Operation,
    /// How many elements it was about.
    pub elements: usize,
}

impl OperationRef {
    fn new(family: Family, operation: &Operation) -> Box<Self> {
        let (operation, elements) = match operation {
            Operation::AddRules(name, _) | Operation::RestoreRules(name, _) => {
                (Operation::AddRules(name.clone(), Vec::new()), 0)
            }
            Operation::AddElements(name, elements) => (
                Operation::AddElements(name.clone(), Vec::new()),
                elements.len(),
            ),
            Operation::DeleteElements(name, elements) => (
                Operation::DeleteElements(name.clone(), Vec::new()),
                elements.len(),
            ),
            other => (other.clone(), 0),
        };
        Box::new(Self {
            family,
            operation,
            elements,
        })
    }
}

/// As what the kernel is asked for, or refuses.
impl fmt::Display for OperationRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (family, n) = (self.family.nft_name(), self.elements);
        match &self.operation {
            Operation::DeleteOtherTable(name) => {
                return write!(f, "to delete table {family} {name}");
            }
            Operation::OwnTable => write!(f, "to own the table"),
            Operation::DeleteTable => write!(f, "to delete the table"),
            Operation::AddTable => write!(f, "to add the table"),
            Operation::DeleteChain(name) => write!(f, "to delete chain {name}"),
            Operation::AddChain(chain) => write!(f, "to add chain {}", chain.name),
            Operation::FlushChain(name) => write!(f, "to empty chain {name}"),
            Operation::AddRules(name, _) | Operation::RestoreRules(name, _) => {
                write!(f, "a rule of chain {name}")
            }
            Operation::DeleteSet(name) => write!(f, "to delete set {name}"),
            Operation::AddSet(set) => write!(f, "to add set {}", set.name),
            Operation::DeleteElements(name, _) => write!(f, "to delete {n} elements of {name}"),
            Operation::AddElements(name, _) => write!(f, "to add {n} elements to {name}"),
        }?;
        write!(f, " in {family} {TABLE}")
    }
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

    /// What a refusal means, given the operation it is about (table and operation in the
    /// delta) and the element.
    #[must_use]
    pub(crate) fn refused(
        refusal: Refusal,
        delta: &Transaction,
        at: Option<(usize, usize)>,
        element: Option<(Value, Element)>,
    ) -> Self {
        let found = at.and_then(|(t, o)| {
            let table = delta.tables.get(t)?;
            Some((table, table.operations.get(o)?))
        });
        let at = found.map(|(table, operation)| OperationRef::new(table.family, operation));
        match (refusal.errno, at) {
            // The kernel looks at privilege before it takes a batch apart, and then answers to
            // its first message, which is no operation (`nfnetlink_rcv`); an operation is not
            // permitted if another socket owns its table (`nft_table_lookup`).
            (Errno::EPERM, Some(at)) => Self::Owned {
                family: at.family,
                table: match at.operation {
                    Operation::DeleteOtherTable(name) => name,
                    _ => TABLE.to_owned(),
                },
            },
            (Errno::EPERM, None) => Self::NotPermitted,
            (errno, at) => Self::Refused {
                at,
                errno,
                text: refusal
                    .text
                    .map_or_else(String::new, |text| format!(": {text}")),
                element: found
                    .and_then(|(table, operation)| named(table, operation, element?))
                    .map(Box::new),
            },
        }
    }

    pub(super) fn unfit(table: &TableChange, operation: &Operation, why: Unfit) -> Self {
        Self::Unfit {
            at: OperationRef::new(table.family, operation),
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

/// What was refused, and where.
fn refused(at: Option<&OperationRef>, element: Option<&RefusedElement>) -> String {
    let mut said = at.map_or_else(|| "the batch".to_owned(), OperationRef::to_string);
    if let Some(element) = element {
        let _ = write!(said, ", at {element}");
    }
    said
}

fn unanswered(error: &ExchangeError) -> String {
    let missing = match error {
        ExchangeError::Refused(refusal) => matches!(
            refusal.errno,
            Errno::EOPNOTSUPP | Errno::EPROTONOSUPPORT | Errno::EINVAL
        ),
        ExchangeError::Open(_) | ExchangeError::NoAnswer => true,
        _ => return error.to_string(),
    };
    let hint = missing.then_some("; this kernel may have no nf_tables");
    format!(
        "cannot read the ruleset: {error}{}",
        hint.unwrap_or_default()
    )
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
