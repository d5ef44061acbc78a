//! Other programs that do the same job and that nf_tables does not show: the legacy iptables
//! and ipvs, as far as `/proc` tells.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::others::{KUBE_SERVICES, Ours, proxied};
use crate::plan::FrontendKey;
use crate::problem::Problem;

/// Tables of the legacy iptables, and virtual servers of ipvs.
#[must_use]
pub fn hidden(ours: &Ours<'_>) -> Vec<Problem> {
    let legacy = legacy_tables().into_iter();
    let mut problems: Vec<Problem> = legacy
        .map(|(program, tables)| legacy_problem(program, &tables))
        .collect();
    problems.extend(ipvs(&of_this_namespace("ip_vs"), ours));
    problems
}

/// A file of /proc/net, empty if there is none.
fn of_this_namespace(name: &str) -> String {
    std::fs::read_to_string(format!("/proc/thread-self/net/{name}")).unwrap_or_default()
}

/// Programs of the legacy iptables that have tables here, and which.
pub(super) fn legacy_tables() -> Vec<(&'static str, String)> {
    let programs = [
        ("ip_tables_names", "iptables-legacy"),
        ("ip6_tables_names", "ip6tables-legacy"),
    ];
    let found = programs.into_iter().map(|(file, program)| {
        let names = of_this_namespace(file);
        (program, table_names(&names))
    });
    found.filter(|(_, tables)| !tables.is_empty()).collect()
}

/// The lines of such a file, in one.
fn table_names(text: &str) -> String {
    let names: Vec<&str> = text.split_whitespace().collect();
    names.join(", ")
}

fn legacy_problem(program: &str, tables: &str) -> Problem {
    let message = format!(
        "has tables here ({tables}) whose rules nf_tables does not show: they may drop forwarded \
         packets, or be kube-proxy's ({KUBE_SERVICES})"
    );
    Problem::warning(None, program, "", message)
        .of(program)
        .repaired_by(format!("see what {program}-save says"))
}

/// The lines `TCP  0A60000A:0050 rr` of /proc/net/ip_vs.
fn ipvs(table: &str, ours: &Ours<'_>) -> Option<Problem> {
    let servers: Vec<(IpAddr, u16)> = table.lines().filter_map(virtual_server).collect();
    if servers.is_empty() {
        return None;
    }
    let frontends = ours
        .plan
        .families
        .iter()
        .flat_map(|plan| plan.frontends.keys());
    let addresses: BTreeSet<(IpAddr, u16)> = frontends
        .filter_map(|key| match key {
            FrontendKey::Address(addr, _, port) => Some((*addr, port.get())),
            FrontendKey::NodePort(..) => None,
        })
        .collect();
    let same = servers.iter().filter(|at| addresses.contains(at)).count();
    let seen = format!(
        "{} virtual servers are there, {same} of them at our own frontends: ",
        servers.len()
    );
    Some(proxied("ipvs", &seen, "ipvs"))
}

fn virtual_server(line: &str) -> Option<(IpAddr, u16)> {
    let mut words = line.split_whitespace();
    if !matches!(words.next()?, "TCP" | "UDP" | "SCTP") {
        return None;
    }
    let (addr, port) = words.next()?.rsplit_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let addr = match addr.strip_prefix('[').and_then(|a| a.strip_suffix(']')) {
        Some(addr) => addr.parse().ok()?,
        None => IpAddr::V4(u32::from_str_radix(addr, 16).ok()?.into()),
    };
    Some((addr, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn virtual_servers_of_ipvs_are_read_in_both_families() {
        let table = "IP Virtual Server version 1.2.1 (size=4096)\n\
                     Prot LocalAddress:Port Scheduler Flags\n\
                     \x20 -> RemoteAddress:Port Forward Weight ActiveConn InActConn\n\
                     TCP  0AFE000A:0050 rr\n\
                     \x20 -> AC110002:1F90      Masq    1      0          0\n\
                     UDP  [fd00:0254:0000:0000:0000:0000:0000:000a]:0035 rr\n";
        let found: Vec<_> = table.lines().filter_map(virtual_server).collect();
        let at = |addr: &str, port| (addr.parse().unwrap(), port);
        assert_eq!(found, [at("10.254.0.10", 80), at("fd00:254::a", 53)]);
    }

    #[test]
    fn legacy_tables_are_named() {
        let problem = legacy_problem("iptables-legacy", &table_names("nat\nfilter\n"));
        assert!(problem.to_string().contains("nat, filter"), "{problem}");
        assert_eq!(table_names(""), "");
    }
}
