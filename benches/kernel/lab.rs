//! Three namespaces joined by veth: client, node (with the rules), server.

use std::fs::{self, File};
use std::net::Ipv4Addr;

use nix::sched::{CloneFlags, CpuSet, sched_setaffinity, setns};
use nix::unistd::Pid;

use super::run;

/// Where every endpoint is.
pub const SERVER: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 2);
/// A client inside the cluster's range: nothing masquerades it.
pub const POD: Ipv4Addr = Ipv4Addr::new(172, 24, 0, 2);
/// A client outside of it.
pub const OUTSIDER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);

/// The namespaces, gone when dropped.
pub struct Lab {
    names: [String; 3],
}

/// Which of them.
#[derive(Clone, Copy)]
pub enum Place {
    Client = 0,
    Node = 1,
    Server = 2,
}

impl Lab {
    pub fn new() -> Self {
        let names =
            ["c", "n", "s"].map(|part| format!("svcnat-bench-{}-{part}", std::process::id()));
        for name in &names {
            run("ip", &["netns", "add", name]);
        }
        let [c, n, s] = &names;
        let ip = |ns: &str, args: &str| {
            let mut all = vec!["-n", ns];
            all.extend(args.split(' '));
            run("ip", &all);
        };
        ip(
            n,
            &format!("link add to-c type veth peer name eth0 netns {c}"),
        );
        ip(
            n,
            &format!("link add to-s type veth peer name eth0 netns {s}"),
        );
        for (ns, args) in [
            (c, "addr add 192.0.2.2/24 dev eth0"),
            (c, "addr add 172.24.0.2/24 dev eth0"),
            (n, "addr add 192.0.2.1/24 dev to-c"),
            (n, "addr add 172.24.0.1/24 dev to-c"),
            (n, "addr add 172.16.0.1/13 dev to-s"),
            (s, "addr add 172.16.0.2/13 dev eth0"),
            (c, "link set eth0 up"),
            (n, "link set to-c up"),
            (n, "link set to-s up"),
            (s, "link set eth0 up"),
            (c, "route add default via 192.0.2.1"),
            (s, "route add default via 172.16.0.1"),
        ] {
            ip(ns, args);
        }
        let lab = Self { names };
        lab.within(Place::Node, || {
            fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("forwarding");
        });
        lab
    }

    /// Runs on a thread inside one of the namespaces, on the machine's last core: a packet is
    /// carried all the way by the core that sends it.
    pub fn within<T: Send>(&self, place: Place, body: impl FnOnce() -> T + Send) -> T {
        let path = format!("/run/netns/{}", self.names[place as usize]);
        std::thread::scope(|scope| {
            let inside = scope.spawn(move || {
                let file = File::open(path).expect("the namespace");
                setns(file, CloneFlags::CLONE_NEWNET).expect("to enter it");
                let cores = std::thread::available_parallelism().map_or(1, usize::from);
                let mut one = CpuSet::new();
                one.set(cores - 1).expect("a core");
                sched_setaffinity(Pid::from_raw(0), &one).expect("to stay on it");
                body()
            });
            inside.join().expect("no panic inside")
        })
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for name in &self.names {
            run("ip", &["netns", "delete", name]);
        }
    }
}
