//! Reads the tables of the legacy iptables (ip_tables, ip6_tables) by socket options, as the kernel
//! has them: linux/netfilter_ipv4/ip_tables.h and netfilter_ipv6/ip6_tables.h.

mod decode;

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use super::ffi::netfilter_option;
use crate::foreign::{Family, Origin, Rules, Table};
use decode::Info;

/// IPT_SO_GET_INFO and IPT_SO_GET_ENTRIES, which are IP6T_SO_* as well.
const GET_INFO: i32 = 64;
const GET_ENTRIES: i32 = 65;
/// Bytes of a table's name (XT_TABLE_MAXNAMELEN), and of struct ipt_get_entries before the
/// entries.
const NAME: usize = 32;
const ENTRIES: usize = 40;
/// Bytes of entries that are read: far more than anybody has.
const MOST_BYTES: usize = 256 << 20;
/// Times a table that somebody changes is read.
const TRIES: usize = 5;

/// Adds the tables there are in this network namespace; one that cannot be read is said to be so.
pub(super) fn read(rules: &mut Rules) {
    for (family, file) in [
        (Family::Ip, "ip_tables_names"),
        (Family::Ip6, "ip6_tables_names"),
    ] {
        // To ask for a table that is not there makes it: only these are asked for.
        let path = format!("/proc/thread-self/net/{file}");
        let names = std::fs::read_to_string(path).unwrap_or_default();
        for name in names.split_whitespace() {
            match table(family, name) {
                Ok(table) => drop(rules.legacy.insert((family, name.to_owned()), table)),
                Err(error) => {
                    let program = Origin {
                        family,
                        legacy: true,
                    };
                    rules.unread.push(format!(
                        "{program} has a table {name} that cannot be read: {error}: \
                         {program}-save -t {name}"
                    ));
                }
            }
        }
    }
}

fn table(family: Family, name: &str) -> io::Result<Table> {
    let malformed = || io::Error::new(io::ErrorKind::InvalidData, "it is not understood");
    let ip = match family {
        Family::Ip6 => AddressFamily::Inet6,
        _ => AddressFamily::Inet,
    };
    let socket = socket(ip, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    for _ in 0..TRIES {
        let mut info = named(name, decode::INFO);
        ask(&socket, family, GET_INFO, &mut info)?;
        let info = Info::decode(&info).ok_or_else(malformed)?;
        if info.size > MOST_BYTES {
            return Err(malformed());
        }
        let mut entries = named(name, ENTRIES + info.size);
        let size = u32::try_from(info.size).map_err(|_| malformed())?;
        entries[NAME..NAME + 4].copy_from_slice(&size.to_ne_bytes());
        match ask(&socket, family, GET_ENTRIES, &mut entries) {
            // It has another size by now.
            Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => {}
            Err(error) => return Err(error),
            Ok(()) => {
                let table = decode::table(family, name, &info, &entries[ENTRIES..]);
                return table.ok_or_else(malformed);
            }
        }
    }
    Err(io::Error::from_raw_os_error(libc::EAGAIN))
}

/// So many bytes that begin with a table's name.
fn named(name: &str, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let end = name.len().min(NAME - 1);
    bytes[..end].copy_from_slice(&name.as_bytes()[..end]);
    bytes
}

fn ask(socket: &OwnedFd, family: Family, option: i32, data: &mut [u8]) -> io::Result<()> {
    let level = match family {
        Family::Ip6 => libc::SOL_IPV6,
        _ => libc::SOL_IP,
    };
    netfilter_option(socket.as_fd(), level, option, data)
}
