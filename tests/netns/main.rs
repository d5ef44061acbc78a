//! Real packets through real namespaces: what svcnat promises, seen by clients and servers.
//!
//! Needs root, `ip` and `nft`, and for `programs` also `iptables` and `ipset`; fails where it cannot run, and never skips.

mod support;

mod absent;
mod affinity;
#[macro_use]
mod breakages;
mod bridges;
mod claims;
mod cluster_ips;
mod counters;
mod egress;
mod external;
mod flows;
mod foreign;
mod graceful;
mod harness;
mod host_ports;
mod lifecycle;
mod node_ports;
mod packets;
mod policies;
mod prefixes;
mod probes;
mod programs;
mod sequences;
mod spread;
mod standalone;
mod takeover;
mod topology;
mod traces;
mod tracked;
mod upheavals;
