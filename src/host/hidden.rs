//! Another program that does the same job and that no table shows: ipvs, as far as `/proc`
//! tells.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::others::{Ours, proxied};
use crate::plan::FrontendKey;
use crate::problem::Problem;

/// Virtual servers of ipvs.
#[must_use]
pub fn hidden(ours: &Ours<'_>) -> Option<Problem> {
    ipvs(&of_this_namespace("ip_vs"), ours)
}

/// A file of /proc/net, empty if there is none.
fn of_this_namespace(name: &str) -> String {
    std::fs::read_to_string(format!("/proc/thread-self/net/{name}")).unwrap_or_default()
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
}
