//! Makes a network: namespaces, interfaces, addresses and routes, over netlink. The host's own
//! namespace gets none of them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::AsFd;

use ipnet::IpNet;
use nix::errno::Errno;
use nix::net::if_::if_nametoindex;

use super::LabError;
use super::namespace::Namespace;
use super::network::{Cable, Kind, Network, Place, Route};
use crate::netlink::exchange::Exchange;
use crate::netlink::socket::Bus;
use crate::netlink::wiring::{self, Orders};

/// Namespaces by the name of their place.
pub type Namespaces = BTreeMap<String, Namespace>;

/// Makes the places of `network` that `namespaces` lacks, with their links; those that are
/// there already are left as they are.
///
/// # Errors
/// Naming the place and what could not be made.
pub fn make(network: &Network, namespaces: &mut Namespaces) -> Result<(), LabError> {
    let mut new = Vec::new();
    for name in network.places.keys() {
        if !namespaces.contains_key(name) {
            let made = Namespace::new().map_err(LabError::making(name, "make its namespace"))?;
            namespaces.insert(name.clone(), made);
            new.push(name.as_str());
        }
    }
    for name in &new {
        let place = &network.places[*name];
        inside(&namespaces[*name], name, || begin(place))?;
    }
    for cable in network
        .cables
        .iter()
        .filter(|cable| new.contains(&&*cable.place))
    {
        let end = &namespaces[&cable.place];
        inside(&namespaces[&cable.to], &cable.to, || plug(cable, end))?;
    }
    for name in &new {
        let place = &network.places[*name];
        inside(&namespaces[*name], name, || finish(place))?;
    }
    for name in &new {
        inside(&namespaces[*name], name, || {
            lead(&network.places[*name].routes)
        })?;
    }
    // The router learns where new clients are.
    for (name, place) in network
        .places
        .iter()
        .filter(|(name, _)| !new.contains(&name.as_str()))
    {
        inside(&namespaces[name], name, || lead(&place.routes))?;
    }
    Ok(())
}

/// Takes routes away that `old` has and `new` has not, of the places that both have and that
/// `namespaces` has.
///
/// # Errors
/// Naming the place and what could not be taken away.
pub fn forget(old: &Network, new: &Network, namespaces: &Namespaces) -> Result<(), LabError> {
    for (name, place) in &new.places {
        let (Some(before), Some(namespace)) = (old.places.get(name), namespaces.get(name)) else {
            continue;
        };
        let gone: Vec<&Route> = before.routes.difference(&place.routes).collect();
        if !gone.is_empty() {
            inside(namespace, name, || {
                let request = |to: &IpNet, via, _| wiring::remove_route(to, via);
                tell_routes(gone, "remove", request, Errno::ESRCH)
            })?;
        }
    }
    Ok(())
}

/// Has links be as large, and work or not, as `network` says. One that has failed has no
/// carrier at its place's end, as if its cable was pulled.
///
/// # Errors
/// Naming the place and what could not be changed.
pub fn adjust(network: &Network, namespaces: &Namespaces) -> Result<(), LabError> {
    for cable in &network.cables {
        let (up, mtu) = (Some(cable.up), cable.mtu);
        let set = |device: &str, orders| {
            Talk::open()?.tell_of(device, "set", |index| wiring::set(index, orders))
        };
        let order = |up| Orders {
            up,
            mtu,
            master: None,
        };
        if mtu.is_some() {
            let device = &cable.device;
            inside(&namespaces[&cable.place], &cable.place, || {
                set(device, order(None))
            })?;
        }
        inside(&namespaces[&cable.to], &cable.to, || {
            set(&cable.port, order(up))
        })?;
    }
    Ok(())
}

/// What went wrong, and with what.
type Step = Result<(), (String, String)>;

fn inside(
    namespace: &Namespace,
    place: &str,
    work: impl FnOnce() -> Step + Send,
) -> Result<(), LabError> {
    let entered = namespace
        .enter(work)
        .map_err(LabError::making(place, "enter its namespace"))?;
    entered.map_err(|(what, why)| LabError::Making {
        place: place.to_owned(),
        what,
        why,
    })
}

/// A conversation with the kernel about the namespace of this thread.
struct Talk(Exchange);

impl Talk {
    fn open() -> Result<Self, (String, String)> {
        let opened = Exchange::open(Bus::Route);
        opened
            .map(Self)
            .map_err(|e| ("ask the kernel".to_owned(), e.to_string()))
    }

    fn tell(&mut self, what: impl FnOnce() -> String, request: &[u8]) -> Step {
        let done = self
            .0
            .request(request, |_| Ok::<(), crate::netlink::ExchangeError>(()));
        done.map(drop).map_err(|e| (what(), e.to_string()))
    }

    /// Tells an interface; with a request that needs its index.
    fn tell_of(&mut self, device: &str, what: &str, request: impl FnOnce(u32) -> Vec<u8>) -> Step {
        let index = index(device)?;
        self.tell(|| format!("{what} {device}"), &request(index))
    }
}

fn index(device: &str) -> Result<u32, (String, String)> {
    if_nametoindex(device).map_err(|e| (format!("find its interface {device}"), e.to_string()))
}

const UP: Orders = Orders {
    up: Some(true),
    mtu: None,
    master: None,
};

/// Loopback and bridges.
fn begin(place: &Place) -> Step {
    let mut talk = Talk::open()?;
    talk.tell_of("lo", "start", |index| wiring::set(index, UP))?;
    for bridge in place.bridges.keys() {
        talk.tell(
            || format!("make the bridge {bridge}"),
            &wiring::new_bridge(bridge),
        )?;
        talk.tell_of(bridge, "start", |index| wiring::set(index, UP))?;
    }
    Ok(())
}

/// From the bridge's side: the link, and its end here as a port.
fn plug(cable: &Cable, end: &Namespace) -> Step {
    let mut talk = Talk::open()?;
    let port = &cable.port;
    let request = wiring::new_veth(port, &cable.device, end.as_fd());
    talk.tell(
        || format!("make the link {port} to {}", cable.place),
        &request,
    )?;
    let bridge = cable.bridge.as_deref();
    let orders = Orders {
        master: bridge.map(index).transpose()?,
        ..UP
    };
    talk.tell_of(port, "plug in", |index| wiring::set(index, orders))?;
    if cable.hairpin {
        talk.tell_of(port, "set hairpin of", |index| {
            wiring::set_hairpin(index, true)
        })?;
    }
    Ok(())
}

/// Addresses, links that work, and forwarding.
fn finish(place: &Place) -> Step {
    let mut talk = Talk::open()?;
    for (device, nets) in place.interfaces.iter().chain(&place.bridges) {
        talk.tell_of(device, "start", |index| wiring::set(index, UP))?;
        // The kernel prefers the first IPv4 address and the last IPv6 address.
        let (four, six): (Vec<_>, Vec<_>) = nets.iter().partition(|net| net.addr().is_ipv4());
        for net in four.into_iter().chain(six.into_iter().rev()) {
            let what = format!("give {net} to");
            talk.tell_of(device, &what, |index| wiring::add_address(index, net))?;
        }
    }
    let on = if place.forwards { "1" } else { "0" };
    let mut settings = vec![("ipv4/ip_forward", on), ("ipv6/conf/all/forwarding", on)];
    if matches!(place.kind, Kind::Router | Kind::Node) {
        // As an installer leaves it: bridged packets are none of the IP hooks'.
        settings.push(("bridge/bridge-nf-call-iptables", "0"));
        settings.push(("bridge/bridge-nf-call-ip6tables", "0"));
    }
    for (name, value) in settings {
        let path = format!("/proc/sys/net/{name}");
        match std::fs::write(&path, value) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err((format!("write {value} to {path}"), error.to_string()));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Routes, neighbours before what lies behind them. One that is there already stays.
fn lead<'a>(routes: impl IntoIterator<Item = &'a Route>) -> Step {
    let mut routes: Vec<&Route> = routes.into_iter().collect();
    routes.sort_by_key(|route| route.via.is_some());
    tell_routes(routes, "add", wiring::add_route, Errno::EEXIST)
}

/// Tells each, and that the kernel says it is so already is no error.
fn tell_routes<'a>(
    routes: impl IntoIterator<Item = &'a Route>,
    what: &str,
    request: impl Fn(&IpNet, Option<IpAddr>, Option<u32>) -> Vec<u8>,
    already: Errno,
) -> Step {
    let mut talk = Talk::open()?;
    for Route { to, via, device } in routes {
        let interface = device.as_deref().map(index).transpose()?;
        let by = via
            .map(|via: IpAddr| format!(" via {via}"))
            .unwrap_or_default();
        let request = request(to, *via, interface);
        match talk
            .0
            .request(&request, |_| Ok::<(), crate::netlink::ExchangeError>(()))
        {
            Err(error) if error.refused() != Some(already) => {
                return Err((format!("{what} the route to {to}{by}"), error.to_string()));
            }
            _ => {}
        }
    }
    Ok(())
}
