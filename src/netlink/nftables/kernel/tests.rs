//! With a real kernel, in network namespaces: what it says, does not say, and what is lost.

use super::*;
use crate::netlink::nftables::encode::{Finish, batch};
use crate::transaction::{Operation, TableChange, Transaction};
use nix::sched::{CloneFlags, unshare};

/// Runs `body` with a socket of a new network namespace.
fn in_namespace(body: impl FnOnce(Nfnetlink) + Send + 'static) {
    let thread = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("the tests run as root");
        body(Nfnetlink::open().unwrap());
    });
    thread.join().unwrap();
}

fn delta(operation: Operation) -> Transaction {
    Transaction {
        tables: vec![TableChange {
            operations: vec![operation],
            ..TableChange::empty(Family::Ip)
        }],
    }
}

/// A batch that adds our table, after `damage`.
fn damaged(kernel: &mut Nfnetlink, damage: impl FnOnce(&mut Vec<u8>)) -> NetlinkError {
    let delta = delta(Operation::AddTable);
    let mut batch = batch(&delta, 0, Finish::Commit, kernel.exchange.seq()).unwrap();
    kernel.exchange.count(batch.messages);
    damage(&mut batch.bytes);
    let generation = kernel.generation().unwrap();
    let error = kernel.submit(&delta, batch, Finish::Commit).unwrap_err();
    assert_eq!(kernel.generation().unwrap(), generation);
    assert_eq!(kernel.table_names().unwrap(), []);
    error
}

#[test]
fn a_batch_the_kernel_throws_away_without_a_word_is_no_success() {
    in_namespace(|mut kernel| {
        let is_dropped = |e: &NetlinkError| matches!(e, NetlinkError::Unconfirmed { lost: false });
        // A message that claims to be shorter than its own header.
        let error = damaged(&mut kernel, |bytes| bytes[20..24].fill(0));
        assert!(is_dropped(&error), "{error}");
        // One that claims more than there is.
        let error = damaged(&mut kernel, |bytes| bytes[20..24].fill(0x7f));
        assert!(is_dropped(&error), "{error}");
    });
}

#[test]
fn a_batch_without_its_end_is_no_success_once_the_kernel_has_acknowledged_one() {
    in_namespace(|mut kernel| {
        kernel.commit(&delta(Operation::AddTable), 0).unwrap();
        kernel.commit(&delta(Operation::DeleteTable), 0).unwrap();
        if !kernel.ends {
            // Linux before 6.10.
            return;
        }
        let error = damaged(&mut kernel, |bytes| bytes.truncate(bytes.len() - 20));
        assert!(matches!(error, NetlinkError::Unconfirmed { .. }), "{error}");
    });
}

#[test]
fn an_acknowledgement_that_was_lost_is_neither_success_nor_refusal() {
    in_namespace(|mut kernel| {
        let flood = |kernel: &mut Nfnetlink| {
            for _ in 0..100_000 {
                if kernel.exchange.socket().send(&get_generation()).is_err() {
                    break;
                }
            }
        };
        flood(&mut kernel);
        let result = kernel.commit(&delta(Operation::AddTable), 0);
        assert!(
            matches!(result, Err(NetlinkError::Unconfirmed { lost: true })),
            "{result:?}"
        );
        assert_eq!(kernel.table_names().unwrap().len(), 1);
        // What is left in the queue does not hold up what comes after.
        kernel.commit(&delta(Operation::DeleteTable), 0).unwrap();
        flood(&mut kernel);
        let generation = kernel.generation();
        assert!(
            matches!(
                generation,
                Err(NetlinkError::Exchange(ExchangeError::Receive(
                    Errno::ENOBUFS
                )))
            ),
            "{generation:?}"
        );
        kernel.generation().unwrap();
    });
}

#[cfg(feature = "daemon")]
#[test]
fn a_table_that_another_socket_owns_is_told_from_a_lack_of_privilege() {
    in_namespace(|mut owner| {
        let owned = owner.commit(&delta(Operation::OwnTable), 0);
        let mut other = Nfnetlink::open().unwrap();
        let refused = other.commit(&delta(Operation::DeleteTable), 0);
        match owned {
            Ok(_) => {
                let Err(NetlinkError::Owned { family, table }) = refused else {
                    panic!("{refused:?}");
                };
                assert_eq!((family, &*table), (Family::Ip, crate::ruleset::TABLE));
            }
            // Linux before 6.9.
            Err(NetlinkError::Refused { at: Some(at), .. }) => {
                assert_eq!(at.operation, Operation::OwnTable);
            }
            Err(error) => panic!("{error}"),
        }
        caps::drop(
            None,
            caps::CapSet::Effective,
            caps::Capability::CAP_NET_ADMIN,
        )
        .unwrap();
        for kernel in [&mut owner, &mut other] {
            let refused = kernel.commit(&delta(Operation::DeleteTable), 0);
            assert!(
                matches!(refused, Err(NetlinkError::NotPermitted)),
                "{refused:?}"
            );
        }
    });
}

#[test]
fn an_empty_batch_is_no_failure() {
    in_namespace(|mut kernel| {
        let before = kernel.generation().unwrap();
        kernel.commit(&Transaction::default(), 0).unwrap();
        kernel.validate(&Transaction::default(), 0).unwrap();
        kernel.commit(&delta(Operation::AddTable), 0).unwrap();
        kernel.commit(&Transaction::default(), 0).unwrap();
        assert_eq!(kernel.generation().unwrap(), before + 1);
    });
}

#[test]
fn each_part_of_an_answer_is_a_sign_of_life() {
    in_namespace(|mut kernel| {
        let count = std::rc::Rc::new(std::cell::Cell::new(0));
        let counter = std::rc::Rc::clone(&count);
        kernel.on_progress(Box::new(move || counter.set(counter.get() + 1)));
        kernel.generation().unwrap();
        assert!(count.get() > 0);
    });
}
