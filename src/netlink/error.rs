//! What can go wrong with the kernel, in words that name the object.

use nix::errno::Errno;

use crate::diff::{Delta, Operation, TableDelta};
use crate::ruleset::TABLE;

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
    /// The answer was lost.
    #[error("cannot receive from the kernel: {0}")]
    Receive(#[source] Errno),
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
    },
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
}

impl Refusal {
    /// The error with the operation it is about: table and operation in the delta.
    #[must_use]
    pub fn explain(self, delta: &Delta, at: Option<(usize, usize)>) -> NetlinkError {
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
            (errno, found) => NetlinkError::Refused {
                operation: found.map_or_else(|| "the batch".to_owned(), |(t, o)| describe(t, o)),
                errno,
                text,
            },
        }
    }
}

fn describe(table: &TableDelta, operation: &Operation) -> String {
    let family = table.family.nft_name();
    let what = match operation {
        Operation::DeleteOtherTable(name) => return format!("to delete table {family} {name}"),
        Operation::OwnTable => "to own the table".to_owned(),
        Operation::DeleteTable => "to delete the table".to_owned(),
        Operation::AddTable => "to add the table".to_owned(),
        Operation::DeleteChain(name) => format!("to delete chain {name}"),
        Operation::AddChain(name, _) => format!("to add chain {name}"),
        Operation::FlushChain(name) => format!("to empty chain {name}"),
        Operation::AddRules(name, _) => format!("a rule of chain {name}"),
        Operation::DeleteSet(name) => format!("to delete set {name}"),
        Operation::AddSet(set) => format!("to add set {}", set.name),
        Operation::DeleteElements(name, e) => format!("to delete {} elements of {name}", e.len()),
        Operation::AddElements(name, e) => format!("to add {} elements to {name}", e.len()),
    };
    format!("{what} in {family} {TABLE}")
}
