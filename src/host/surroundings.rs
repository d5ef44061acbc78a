//! What a packet meets on this host besides our rules: routes, links, neighbours, settings,
//! tracked connections, listeners, and other programs' rules.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File, OpenOptions};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};

use super::capacity::tracked;
use super::conntrack::{Conntrack, Flow};
use super::error::HostError;
use super::interfaces::{self, Interface, Kind, local_addresses};
use super::probe::{Probe, probe};
use super::sysctl::pod_bridge;
use crate::foreign::{self, Found, Rules};
use crate::net::{Endpoint, Family, Protocol};
use crate::netlink::exchange::Exchange;
use crate::netlink::socket::Bus;
use crate::netlink::{self, ExchangeError, Nfnetlink, link, neighbour, route};
use crate::path::{Listener, Neighbour, Node, PodLink, Route, RouteQuestion};
use crate::text::printable;

/// Folders in which container runtimes keep the namespaces of pods.
const NAMESPACES: [&str; 2] = ["/run/netns", "/run/docker/netns"];
/// A folder of labs, each with such a folder for its own.
const LABS: &str = "/run/svcnat/labs";

/// Another network namespace of this machine.
struct Namespace {
    path: PathBuf,
    /// Our number for it; `None` if no link of ours leads there.
    number: Option<i32>,
    interfaces: Vec<Interface>,
}

/// Whom the kernel is asked as.
enum Asker {
    /// This thread's network namespace.
    Here(Exchange),
    /// Another.
    There(PathBuf),
}

impl Asker {
    /// `None` if it cannot be asked.
    fn ask<T: Send>(&mut self, work: impl FnOnce(&mut Exchange) -> T + Send) -> Option<T> {
        match self {
            Self::Here(exchange) => Some(work(exchange)),
            Self::There(path) => {
                let exchange = || Exchange::open(Bus::Route).ok();
                inside(path, || Some(work(&mut exchange()?)))?
            }
        }
    }
}

/// This network namespace, asked when something has to be known.
pub struct Surroundings {
    asker: Asker,
    interfaces: Vec<Interface>,
    /// Their addresses.
    local: BTreeSet<IpAddr>,
    others: Arc<Rules>,
    /// What others' large sets are asked by, once one has to be.
    kernel: Option<Nfnetlink>,
    /// Tracked connections are looked at, the whole table for each question, and how many there
    /// are.
    pub looks_at_flows: bool,
    /// Routes, neighbours and settings that were asked for: one finding is about one state.
    routes: HashMap<RouteQuestion, Option<Route>>,
    neighbours: HashMap<(u32, IpAddr), Neighbour>,
    settings: RefCell<HashMap<String, Option<String>>>,
    /// Other network namespaces; looked for once.
    namespaces: Option<Vec<Namespace>>,
    /// Links of pods that were asked for, and which pods send to whom without a router.
    links: HashMap<IpAddr, Option<PodLink>>,
    on_link: HashMap<(IpAddr, IpAddr), bool>,
    /// Pods that were asked for, as hosts of their own.
    pods: HashMap<IpAddr, Option<Box<Self>>>,
}

impl Surroundings {
    /// With other programs' rules as they were read.
    ///
    /// # Errors
    /// If the kernel cannot be asked for interfaces.
    pub fn new(others: Rules) -> Result<Self, HostError> {
        let exchange = Exchange::open(Bus::Route).map_err(HostError::of("look up a route"))?;
        Ok(Self::of(Asker::Here(exchange), interfaces::list()?, others))
    }

    fn of(asker: Asker, interfaces: Vec<Interface>, others: Rules) -> Self {
        Self {
            asker,
            local: local_addresses(&interfaces),
            interfaces,
            others: Arc::new(others),
            kernel: None,
            looks_at_flows: true,
            routes: HashMap::new(),
            neighbours: HashMap::new(),
            settings: RefCell::default(),
            namespaces: None,
            links: HashMap::new(),
            on_link: HashMap::new(),
            pods: HashMap::new(),
        }
    }

    fn interface(&self, index: u32) -> Option<&Interface> {
        self.interfaces.iter().find(|i| i.index == index)
    }

    /// Where pods are on the bridge that has an address of these prefixes: of its subnet and the
    /// prefix, the narrower.
    #[must_use]
    pub fn pod_subnet(&self, family: Family, pod_cidrs: &[IpNet]) -> Option<IpNet> {
        let bridge = pod_bridge(family, pod_cidrs, &self.interfaces)?;
        let mut nets = bridge.addresses.iter().filter_map(|net| {
            let cidr = pod_cidrs.iter().find(|cidr| cidr.contains(&net.addr()))?;
            Some(*std::cmp::max_by_key(cidr, net, |net| net.prefix_len()))
                .filter(|_| Family::of(&net.addr()) == family)
        });
        nets.next()
    }

    /// True if packets of this node to an address go somewhere.
    pub fn leads_to(&mut self, address: IpAddr) -> bool {
        matches!(
            self.route(&RouteQuestion::to(address)),
            Some(Route::Device { .. })
        )
    }

    /// Where an address is among the namespaces of this machine: the namespace, the interface that
    /// has it, and our end of the link to that. Several may have it, as two nodes of one machine do
    /// with pods of their own: it is the one at the other end of a link of ours. One without a link
    /// to us is believed if nobody else has the address, and it is on no bridge of ours.
    fn place(&mut self, address: IpAddr) -> Option<(PathBuf, Interface, Option<&Interface>)> {
        // From a pod no other is looked for.
        let Asker::Here(exchange) = &mut self.asker else {
            return None;
        };
        let namespaces = (self.namespaces).get_or_insert_with(|| namespaces(exchange));
        let has = |i: &&Interface| i.addresses.iter().any(|net| net.addr() == address);
        let all = namespaces.iter().filter_map(|namespace| {
            let theirs = namespace.interfaces.iter().find(has)?;
            let ours = our_end(&self.interfaces, theirs, namespace.number);
            Some((namespace, theirs, ours))
        });
        let (linked, apart): (Vec<_>, Vec<_>) = all.partition(|(.., ours)| ours.is_some());
        let mut bridges = (self.interfaces.iter()).filter(|i| i.kind == Kind::Bridge);
        let (namespace, theirs, ours) = match (&linked[..], &apart[..]) {
            // Two pods with one address: which of them is met is not known.
            ([one, more @ ..], _) if more.iter().all(|more| more.2 == one.2) => *one,
            ([], [one]) if !bridges.any(|bridge| bridge.has_on_link(address)) => *one,
            _ => return None,
        };
        Some((namespace.path.clone(), theirs.clone(), ours))
    }

    /// Sends a real packet from where an address is; `None` if that is not known.
    pub fn probe(
        &mut self,
        from: IpAddr,
        to: SocketAddr,
        protocol: Protocol,
        patience: Duration,
    ) -> Option<Result<Probe, Errno>> {
        self.where_it_is(from, || probe(from, to, protocol, patience))
    }

    /// Who answers what was sent from there, as connection tracking has it.
    pub fn answered(
        &mut self,
        (from, sport): (IpAddr, u16),
        to: SocketAddr,
        protocol: Protocol,
    ) -> Option<Endpoint> {
        let flows = tracked_flows(from, (to.ip(), to.port()), protocol);
        let flow = flows
            .into_iter()
            .find(|flow| flow.original.sport == sport)?;
        endpoint(&flow)
    }

    fn find_link(&mut self, address: IpAddr) -> Option<PodLink> {
        let (.., ours) = self.place(address)?;
        let ours = ours?.clone();
        Some(PodLink {
            index: ours.index,
            name: ours.name,
            up: ours.up,
            master: ours.master.filter(|index| self.is_bridge(*index)),
            hairpin: ours.hairpin,
            isolated: ours.isolated,
        })
    }

    fn find_neighbour(&mut self, device: u32, address: IpAddr) -> Neighbour {
        let request = neighbour::get(device, address);
        let entry = self.asker.ask(|exchange| {
            let mut found = None;
            let answer: Result<bool, ExchangeError> = exchange.request(&request, |message| {
                found = neighbour::decode(message)?.or(found);
                Ok(())
            });
            found.filter(|_| answer.is_ok())
        });
        match entry.flatten() {
            Some(entry) if entry.answers => {
                // Of a pod that is at the other end of a link of ours, it is known.
                let theirs = self.place(address);
                let theirs = theirs.and_then(|(_, theirs, ours)| ours.and(theirs.mac));
                match (entry.mac, theirs) {
                    (Some(asked), Some(own)) if asked != own => Neighbour::Mistaken(asked, own),
                    _ => Neighbour::Known,
                }
            }
            Some(_) => Neighbour::Silent,
            None => Neighbour::Unasked,
        }
    }

    fn find_pod(&mut self, address: IpAddr) -> Option<Box<Self>> {
        let (path, ..) = self.place(address)?;
        let (interfaces, others) = inside(&path, || {
            let mut kernel = Nfnetlink::open().ok()?;
            let others = netlink::others(&mut kernel).ok()?;
            Some((interfaces::list().ok()?, others))
        })??;
        Some(Box::new(Self::of(Asker::There(path), interfaces, others)))
    }

    fn finds_on_link(&mut self, pod: IpAddr, to: IpAddr) -> Option<bool> {
        let (place, ..) = self.place(pod)?;
        let question = RouteQuestion::to(to);
        let route = Asker::There(place).ask(|exchange| look_up(exchange, &question))??;
        Some(matches!(route, Route::Device { via: None, .. }))
    }

    /// Runs `work` where an address is: here, or in a namespace of this machine. `None` if it is
    /// in none, or in one that cannot be entered.
    fn where_it_is<T: Send>(
        &mut self,
        address: IpAddr,
        work: impl FnOnce() -> T + Send,
    ) -> Option<T> {
        if self.is_local(address) {
            return Some(work());
        }
        let (place, ..) = self.place(address)?;
        inside(&place, work)
    }
}

/// Asks the kernel for a route, in the network namespace of the socket.
fn look_up(exchange: &mut Exchange, question: &RouteQuestion) -> Option<Route> {
    let request = route::look_up_as(
        question.destination,
        question.source,
        question.iif,
        question.mark,
        question.transport,
    );
    let mut found = None;
    let answer: Result<bool, ExchangeError> = exchange.request(&request, |message| {
        found = route::decode(message)?.or(found.take());
        Ok(())
    });
    match answer {
        Err(ExchangeError::Refused(refusal)) => Some(Route::Refused(refusal.errno as i32)),
        Err(_) => None,
        Ok(_) => {
            let found = found?;
            Some(match (found.kind, found.interface) {
                (route::LOCAL, _) => Route::Local,
                (route::UNICAST, Some(index)) => Route::Device {
                    index,
                    via: found.via,
                    dead: found.dead,
                },
                (route::BLACKHOLE, _) => Route::Refused(libc::EINVAL),
                (route::PROHIBIT, _) => Route::Refused(libc::EACCES),
                _ => Route::Refused(libc::EHOSTUNREACH),
            })
        }
    }
}

/// Our end of the veth pair whose other end is `theirs`, in the namespace with our number.
fn our_end<'a>(
    ours: &'a [Interface],
    theirs: &Interface,
    namespace: Option<i32>,
) -> Option<&'a Interface> {
    let veth = |i: &Interface| i.kind == Kind::Veth;
    ours.iter().find(|i| {
        let pair = i.peer == Some(theirs.index) && theirs.peer == Some(i.index);
        veth(i) && veth(theirs) && pair && namespace.is_some() && i.peer_namespace == namespace
    })
}

impl Node for Surroundings {
    fn is_local(&self, address: IpAddr) -> bool {
        address.is_loopback() || self.local.contains(&address)
    }

    fn route(&mut self, question: &RouteQuestion) -> Option<Route> {
        if let Some(known) = self.routes.get(question) {
            return known.clone();
        }
        let found = (self.asker).ask(|exchange| look_up(exchange, question));
        let found = found.flatten();
        self.routes.insert(question.clone(), found.clone());
        found
    }

    fn device(&mut self, index: u32) -> (String, Option<String>) {
        let Some(interface) = self.interface(index) else {
            return (format!("interface {index}"), Some("is gone".to_owned()));
        };
        let wrong = (!interface.up).then(|| "is down".to_owned());
        (interface.name.clone(), wrong)
    }

    fn is_bridge(&self, index: u32) -> bool {
        let interface = self.interface(index);
        interface.is_some_and(|interface| interface.kind == Kind::Bridge)
    }

    fn index(&self, name: &str) -> Option<u32> {
        let found = self.interfaces.iter().find(|i| i.name == name);
        found.map(|interface| interface.index)
    }

    fn neighbour(&mut self, device: u32, address: IpAddr) -> Neighbour {
        if let Some(known) = self.neighbours.get(&(device, address)) {
            return *known;
        }
        let found = self.find_neighbour(device, address);
        self.neighbours.insert((device, address), found);
        found
    }

    fn link(&mut self, address: IpAddr) -> Option<PodLink> {
        if let Some(known) = self.links.get(&address) {
            return known.clone();
        }
        let found = self.find_link(address);
        self.links.insert(address, found.clone());
        found
    }

    fn is_on_link(&mut self, pod: IpAddr, to: IpAddr) -> bool {
        if let Some(known) = self.on_link.get(&(pod, to)) {
            return *known;
        }
        let found = self.finds_on_link(pod, to).unwrap_or(false);
        self.on_link.insert((pod, to), found);
        found
    }

    fn pod(&mut self, address: IpAddr) -> Option<(String, &mut Self)> {
        if self.is_local(address) {
            return None;
        }
        if !self.pods.contains_key(&address) {
            let found = self.find_pod(address);
            self.pods.insert(address, found);
        }
        let pod = self.pods.get_mut(&address)?.as_deref_mut()?;
        let Asker::There(path) = &pod.asker else {
            return None;
        };
        Some((printable(&path.to_string_lossy()).into_owned(), pod))
    }

    fn setting(&self, path: &str) -> Option<String> {
        let mut known = self.settings.borrow_mut();
        if let Some(value) = known.get(path) {
            return value.clone();
        }
        let value = fs::read_to_string(format!("/proc/sys/{path}")).ok();
        known.insert(path.to_owned(), value.clone());
        value
    }

    fn tracked(&mut self) -> Option<(u64, u64)> {
        self.looks_at_flows.then(tracked)?
    }

    fn flows(
        &mut self,
        from: IpAddr,
        (to, port): (IpAddr, u16),
        protocol: Protocol,
    ) -> Vec<Endpoint> {
        if !self.looks_at_flows {
            return Vec::new();
        }
        let flows = tracked_flows(from, (to, port), protocol);
        flows.iter().filter_map(endpoint).collect()
    }

    fn listens(&mut self, at: Endpoint, protocol: Protocol) -> Option<Listener> {
        let sockets = self.where_it_is(at.addr, || listeners(protocol, at.port.get()))??;
        let any = |address: &IpAddr| address.is_unspecified() || *address == at.addr;
        Some(match sockets.first() {
            _ if sockets.iter().any(any) => Listener::Yes,
            None => Listener::No,
            Some(other) => Listener::Elsewhere(*other),
        })
    }

    fn others(&self) -> Arc<Rules> {
        Arc::clone(&self.others)
    }

    fn element(&mut self, of: (foreign::Family, &str), set: &str, key: &[u8]) -> Found {
        if let Asker::There(path) = &self.asker {
            let kernel = || Nfnetlink::open().ok();
            let found = inside(path, || Some(kernel()?.holds_key(of, set, key)));
            return found.flatten().unwrap_or(Found::Unknown);
        }
        if self.kernel.is_none() {
            self.kernel = Nfnetlink::open().ok();
        }
        let kernel = self.kernel.as_mut();
        kernel.map_or(Found::Unknown, |kernel| kernel.holds_key(of, set, key))
    }
}

/// Tracked flows from a client to there; none if they cannot be read.
fn tracked_flows(from: IpAddr, (to, port): (IpAddr, u16), protocol: Protocol) -> Vec<Flow> {
    let flows = Conntrack::open().and_then(|mut table| table.dump(Family::of(&to), protocol));
    let mut flows = flows.unwrap_or_default();
    flows.retain(|flow| {
        let original = &flow.original;
        (original.src, original.dst, original.dport) == (from, to, port)
    });
    flows
}

/// Who answers a flow.
fn endpoint(flow: &Flow) -> Option<Endpoint> {
    Some(Endpoint {
        addr: flow.reply.src,
        port: flow.reply.sport.try_into().ok()?,
    })
}

/// The network namespaces that container runtimes and `ip netns` keep, with their interfaces.
fn namespaces(exchange: &mut Exchange) -> Vec<Namespace> {
    let labs = fs::read_dir(LABS).into_iter().flatten();
    let labs = labs.filter_map(|lab| Some(lab.ok()?.path().join("netns")));
    let inode = |place: &Path| Some(fs::metadata(place).ok()?.ino());
    let here = inode(Path::new("/proc/thread-self/ns/net"));
    // Pods of another lab may have the same addresses.
    let labs = labs.filter(|lab| {
        let mut places = fs::read_dir(lab).into_iter().flatten().flatten();
        places.any(|place| inode(&place.path()) == here)
    });
    let folders = NAMESPACES.iter().map(PathBuf::from).chain(labs);
    let folders = folders.filter_map(|folder| fs::read_dir(folder).ok());
    let places = folders
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()));
    places
        .filter_map(|path| {
            let interfaces = inside(&path, interfaces::list)?.ok()?;
            Some(Namespace {
                number: number(exchange, &path),
                interfaces,
                path,
            })
        })
        .collect()
}

/// Our number for a namespace.
fn number(exchange: &mut Exchange, path: &Path) -> Option<i32> {
    let file = open(path)?;
    let mut found = None;
    let request = link::get_namespace(file.as_raw_fd());
    let answer: Result<bool, ExchangeError> = exchange.request(&request, |message| {
        found = link::decode_namespace(message).or(found);
        Ok(())
    });
    answer.ok().and(found)
}

/// Opens a namespace; what is a pipe is not waited for.
fn open(path: &Path) -> Option<File> {
    let mut options = OpenOptions::new();
    let options = options.read(true).custom_flags(libc::O_NONBLOCK);
    options.open(path).ok()
}

/// Runs `work` in a network namespace, in a thread of its own that ends with it.
fn inside<T: Send>(place: &Path, work: impl FnOnce() -> T + Send) -> Option<T> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            setns(open(place)?, CloneFlags::CLONE_NEWNET).ok()?;
            Some(work())
        });
        thread.join().ok().flatten()
    })
}

/// The addresses of this namespace at which somebody listens on a port; `None` if the kernel
/// does not tell of this protocol.
fn listeners(protocol: Protocol, port: u16) -> Option<Vec<IpAddr>> {
    // TCP_LISTEN, and what a UDP socket without a peer is in (TCP_CLOSE).
    let (name, state) = match protocol {
        Protocol::Tcp => ("tcp", "0A"),
        Protocol::Udp => ("udp", "07"),
        Protocol::Sctp => return None,
    };
    let v4 = fs::read_to_string(format!("/proc/thread-self/net/{name}")).ok()?;
    let v6 = fs::read_to_string(format!("/proc/thread-self/net/{name}6")).unwrap_or_default();
    let lines = v4.lines().chain(v6.lines());
    let found = lines.filter_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        let (address, its_port) = words.next()?.split_once(':')?;
        let is_listener = words.nth(1)? == state;
        (is_listener && u16::from_str_radix(its_port, 16).ok()? == port).then(|| parse(address))?
    });
    Some(found.collect())
}

/// An address as /proc/net has it: words of four bytes, each as a number of this machine.
fn parse(hex: &str) -> Option<IpAddr> {
    let word = |i: usize| {
        let word = u32::from_str_radix(hex.get(8 * i..8 * (i + 1))?, 16).ok()?;
        Some(word.to_ne_bytes())
    };
    match hex.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let mut bytes = [0; 16];
            for (i, chunk) in bytes.chunks_exact_mut(4).enumerate() {
                chunk.copy_from_slice(&word(i)?);
            }
            Some(Ipv6Addr::from(bytes).to_canonical())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_proc_are_read() {
        assert_eq!(parse("0100007F"), Some(Ipv4Addr::LOCALHOST.into()));
        assert_eq!(parse("00000000"), Some(Ipv4Addr::UNSPECIFIED.into()));
        let loopback = "00000000000000000000000001000000";
        assert_eq!(parse(loopback), Some(Ipv6Addr::LOCALHOST.into()));
        assert_eq!(parse("xyz"), None);
    }
}
