//! What svcnat needs of nf_tables that a kernel may be built without, or be too old for: each
//! as a small table, which the kernel is asked to check and throw away.

use crate::cluster::Family;
use crate::compile::SetId;
use crate::diff::diff;
use crate::problem::Problem;
use crate::ruleset::{
    Action, Chain, ChainType, Hook, LiveRuleset, Match, Rule, Ruleset, Selector, Statement, Table,
};
use crate::transaction::{Operation, Transaction};

/// Something of nf_tables.
#[derive(Clone, Debug)]
pub struct Feature {
    family: Family,
    /// What it is for.
    what: &'static str,
    /// The kernel option it is built by, or the first Linux that has it.
    from: String,
    sets: Vec<SetId>,
    chain: Chain,
}

/// What a family's rules may use.
#[must_use]
pub fn features(family: Family) -> Vec<Feature> {
    use Selector::{Daddr, Dport, L4Proto, Saddr};
    let version = match family {
        Family::Ip => "IPV4",
        Family::Ip6 => "IPV6",
    };
    let feature = |what, from: String, sets: &[SetId], statement: Statement| Feature {
        family,
        what,
        from,
        sets: sets.to_vec(),
        chain: Chain::regular("probe", "", vec![Rule::new([statement])]),
    };
    let list = Selector::PriorityMasked { mask: 0xffff };
    let slot = |choice| Action::Dnat {
        key: vec![list.clone(), L4Proto, choice],
        map: SetId::Endpoints.fixed_name(),
    };
    let hash = Selector::SourceHash {
        modulus: 2,
        seed: 1,
    };
    let remember = Action::Remember {
        map: SetId::AffinityClients.fixed_name(),
        key: vec![list.clone(), Saddr],
        timeout: 60,
    };
    let allowed = Match::InSet {
        key: vec![Daddr, L4Proto, Dport, Saddr],
        set: SetId::FirewallAllowed.name(),
        negated: false,
    };
    let host_port = Action::Dnat {
        key: vec![L4Proto, Dport],
        map: SetId::HostPorts.fixed_name(),
    };
    let option = |name: &str| format!("CONFIG_NFT_{name}");
    let base =
        |hook, priority, rules| Chain::base("probe", "", ChainType::Nat, hook, priority, rules);
    let mut translation = feature(
        "translation by a map",
        option("NAT"),
        &[SetId::HostPorts],
        host_port.into(),
    );
    translation.chain = base(Hook::Prerouting, -100, translation.chain.rules);
    let mut masquerade = feature("masquerade", option("MASQ"), &[], Action::Masquerade.into());
    masquerade.chain = base(Hook::Postrouting, 100, masquerade.chain.rules);
    let random = slot(Selector::Random { modulus: 2 });
    vec![
        translation,
        masquerade,
        feature(
            "a random endpoint",
            option("NUMGEN"),
            &[SetId::Endpoints],
            random.into(),
        ),
        feature(
            "an endpoint by the client's address",
            option("HASH"),
            &[SetId::Endpoints],
            slot(hash).into(),
        ),
        feature(
            "this node's own addresses",
            option(&format!("FIB_{version}")),
            &[],
            Match::DaddrLocal.into(),
        ),
        feature(
            "what is translated",
            option("CT"),
            &[],
            Match::CtStatusDnat.into(),
        ),
        feature(
            "refusal",
            option(&format!("REJECT_{version}")),
            &[],
            Action::Reject.into(),
        ),
        feature(
            "source ranges",
            "Linux 5.6".to_owned(),
            &[SetId::FirewallAllowed],
            allowed.into(),
        ),
        feature(
            "session affinity",
            "Linux 5.7".to_owned(),
            &[SetId::AffinityClients],
            remember.into(),
        ),
    ]
}

/// These, each in a chain of its own, in tables built anew.
fn transaction<'f>(features: impl IntoIterator<Item = &'f Feature>) -> Transaction {
    let mut ruleset = Ruleset::default();
    for (n, feature) in features.into_iter().enumerate() {
        let family = feature.family;
        let table = ruleset.tables.entry(family);
        let table = table.or_insert_with(|| Table::new(family));
        for id in &feature.sets {
            let set = id.declaration(family, false);
            table.sets.insert(set.name.clone(), set);
        }
        let name = format!("probe-{n}");
        table.chains.push(Chain {
            name,
            ..feature.chain.clone()
        });
    }
    let mut delta = diff(&ruleset, &LiveRuleset::default());
    anew(&mut delta);
    delta
}

/// Has tables built from nothing, whether or not they are there.
pub fn anew(delta: &mut Transaction) {
    for table in &mut delta.tables {
        let (add, delete) = (Operation::AddTable, Operation::DeleteTable);
        table.operations.splice(0..0, [add, delete]);
    }
}

/// Those that the kernel does not have; `takes` asks it. One question if it has all.
///
/// # Errors
/// Those of `takes`.
pub fn missing<E>(
    features: Vec<Feature>,
    mut takes: impl FnMut(&Transaction) -> Result<bool, E>,
) -> Result<Vec<Feature>, E> {
    if takes(&transaction(&features))? {
        return Ok(Vec::new());
    }
    let mut missing = Vec::new();
    for feature in features {
        if !takes(&transaction([&feature]))? {
            missing.push(feature);
        }
    }
    Ok(missing)
}

/// What is said of one. `used`: the rules of this node need it, or something like it.
#[must_use]
pub fn problem(feature: &Feature, used: bool) -> Problem {
    let object = format!("nf_tables, family {}", feature.family.nft_name());
    let (what, from) = (feature.what, &feature.from);
    let message = format!("this kernel does not have what {what} needs ({from})");
    let problem = if used {
        Problem::error(None, object, "", message)
    } else {
        Problem::notice(None, object, message + ": nothing of this node uses it")
    };
    problem.repaired_by(match from.strip_prefix("CONFIG_") {
        Some(option) => format!("modprobe {}, or another kernel", option.to_lowercase()),
        None => "another kernel".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_that_has_all_is_asked_once_and_what_another_lacks_is_named() {
        let mut asked = 0;
        let all = missing(features(Family::Ip), |_| {
            asked += 1;
            Ok::<_, ()>(true)
        });
        assert!(all.unwrap().is_empty());
        assert_eq!(asked, 1);
        let uses_numgen = |delta: &Transaction| format!("{delta:?}").contains("Random");
        let lacks = missing(features(Family::Ip6), |delta| {
            Ok::<_, ()>(!uses_numgen(delta))
        });
        let lacks = lacks.unwrap();
        assert_eq!(lacks.len(), 1);
        let error = problem(&lacks[0], true);
        assert!(
            error
                .to_string()
                .starts_with("error: nf_tables, family ip6"),
            "{error}"
        );
        assert!(error.message.contains("CONFIG_NFT_NUMGEN"), "{error}");
        assert!(error.repair.contains("modprobe nft_numgen"), "{error}");
        assert_eq!(
            problem(&lacks[0], false).severity,
            crate::problem::Severity::Notice
        );
    }
}
