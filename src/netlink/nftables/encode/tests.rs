//! What fits is written so that it reads back, and what does not fit is an error.

use super::*;
use crate::netlink::decode;
use crate::netlink::message::Messages;
use crate::ruleset::{Chain, DataType, Match, Rule, Statement};

fn delta(operation: Operation) -> Transaction {
    let mut table = TableChange::empty(Family::Ip);
    for (name, key) in [("plain", DataType::Ipv4Addr), ("six", DataType::Ipv6Addr)] {
        let set = Set::exact(name, &[key]).interval();
        table.sets.insert(name.to_owned(), set);
    }
    table.operations.push(operation);
    Transaction {
        tables: vec![table],
    }
}

fn refused(operation: Operation) -> String {
    match batch(&delta(operation), 0, Finish::Commit, 0) {
        Err(error @ NetlinkError::Unfit { .. }) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

fn matching(n: u32) -> Operation {
    let prefix = |i: u32| Match::SaddrIn {
        prefix: ipnet::Ipv4Net::new_assert((i << 8).into(), 24).into(),
        negated: true,
    };
    let statements = (0..n).map(|i| Statement::Match(prefix(i))).collect();
    Operation::AddRules("postrouting".to_owned(), vec![Rule { statements }])
}

#[test]
fn a_rule_the_kernel_cannot_hold_is_an_error_that_names_its_chain() {
    assert!(batch(&delta(matching(10)), 0, Finish::Commit, 0).is_ok());
    for n in [5_000, 720, 65] {
        let said = refused(matching(n));
        assert!(
            said.contains("a rule of chain postrouting in ip svcnat"),
            "{said}"
        );
        assert!(said.contains("expressions"), "{said}");
    }
}

#[test]
fn an_element_with_a_comment_too_long_is_an_error_and_not_an_element_without() {
    let with = |n: usize| {
        let element = Element::new(ElementData::None).with_comment("x".repeat(n).into());
        Operation::AddElements("plain".to_owned(), vec![(Value::new().u32(1), element)])
    };
    assert!(batch(&delta(with(MAX_COMMENT)), 0, Finish::Commit, 0).is_ok());
    let said = refused(with(MAX_COMMENT + 1));
    assert!(
        said.contains("to plain") && said.contains("255 bytes"),
        "{said}"
    );
}

#[test]
fn names_keys_and_chains_that_do_not_fit_are_errors() {
    let element = |data| vec![(Value::new().u32(1), Element::new(data))];
    let far = ElementData::Goto("x".repeat(1000).into());
    refused(Operation::AddElements("s".to_owned(), element(far)));
    let none = vec![(Value::new(), Element::new(ElementData::None))];
    refused(Operation::AddElements("s".to_owned(), none));
    refused(Operation::DeleteSet("x".repeat(70_000)));
    refused(Operation::AddSet(Set::exact(&"x".repeat(70_000), &[])));
    refused(Operation::AddChain(Chain::regular(
        "x".repeat(256),
        "",
        Vec::new(),
    )));
    refused(Operation::DeleteOtherTable("x".repeat(70_000)));
    refused(Operation::FlushChain("x".repeat(70_000)));
}

#[test]
fn lists_of_the_largest_elements_are_cut_where_their_length_can_still_be_said() {
    let chain: Box<str> = "x".repeat(255).into();
    let element = |i: u32| {
        let address = std::net::IpAddr::V6(u128::from(i).into());
        let element = Element::new(ElementData::Goto(chain.clone()))
            .with_comment("y".repeat(MAX_COMMENT).into());
        (Value::new().addr(address).u32(i).addr(address), element)
    };
    let elements: Vec<_> = (0..1000).map(element).collect();
    let mut delta = delta(Operation::AddElements("s".to_owned(), elements.clone()));
    let count = |key: &Value| {
        (
            *key,
            Count {
                packets: 1,
                bytes: 2,
            },
        )
    };
    let counts = elements.iter().map(|(key, _)| count(key)).collect();
    delta.tables[0].carried.insert("s".to_owned(), counts);
    let batch = batch(&delta, 0, Finish::Commit, 0).unwrap();
    let mut found = Vec::new();
    let mut size = 0;
    for message in Messages(&batch.bytes) {
        size += (16 + message.payload.len()).next_multiple_of(4);
        decode::each_element(&message, |key, element| found.push((*key, element.clone())));
    }
    assert_eq!(size, batch.bytes.len());
    assert_eq!(found, elements);
}

#[test]
fn userdata_of_every_set_adds_up() {
    use DataType::{ClassId, InetProto, InetService, Ipv4Addr, Ipv6Addr, Slot};
    let shapes: [(&[DataType], &[DataType]); 4] = [
        (&[Ipv4Addr], &[]),
        (&[ClassId, InetProto, Slot], &[Ipv6Addr, InetService]),
        (&[ClassId, Slot], &[ClassId]),
        (&[Ipv6Addr, InetProto, InetService], &[ClassId]),
    ];
    for family in Family::ALL {
        for (key, data) in shapes {
            let mut set = Set::exact("s", key);
            set.comment = "list number, protocol and slot : endpoint, of large lists";
            let set = if data.is_empty() {
                set
            } else {
                set.mapping(data)
            };
            let bytes = userdata(&set, family);
            let mut rest = bytes.as_slice();
            while let [_, len, tail @ ..] = rest {
                rest = tail.split_at_checked(usize::from(*len)).unwrap().1;
            }
            assert!(rest.is_empty() && bytes.len() <= 256, "{key:?}");
        }
    }
}

#[test]
fn a_table_with_all_its_parts_is_whole() {
    let operations = [Operation::AddTable, matching(3), Operation::DeleteTable];
    for operation in operations {
        let batch = batch(&delta(operation), 9, Finish::Commit, 0).unwrap();
        let whole: usize = Messages(&batch.bytes).map(|m| 16 + m.payload.len()).sum();
        assert_eq!(whole, batch.bytes.len());
        for message in Messages(&batch.bytes) {
            let whole: usize = message
                .attrs()
                .map(|(_, a)| (4 + a.len()).next_multiple_of(4))
                .sum();
            assert_eq!(whole, message.payload.len() - 4);
        }
    }
}
