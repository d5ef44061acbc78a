//! The generation number of a namespace's nftables, asked of the kernel directly.

use std::os::fd::AsRawFd;

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket,
};

use super::netns::Netns;

const NFT_MSG_GETGEN: u16 = 16;
const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NLM_F_REQUEST: u16 = 1;
const NFTA_GEN_ID: u16 = 1;
/// Netlink header and nfgenmsg.
const HEADERS: usize = 20;

/// Changes with every committed transaction of anybody in the namespace.
pub fn generation(netns: &Netns) -> u32 {
    netns.enter(|| {
        let (family, kind) = (AddressFamily::Netlink, SockType::Raw);
        let protocol = SockProtocol::NetlinkNetFilter;
        let socket =
            socket(family, kind, SockFlag::SOCK_CLOEXEC, protocol).expect("a netlink socket");
        let mut request = Vec::new();
        request.extend(20_u32.to_ne_bytes());
        request.extend((NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETGEN).to_ne_bytes());
        request.extend(NLM_F_REQUEST.to_ne_bytes());
        request.extend([0; 12]);
        send(socket.as_raw_fd(), &request, MsgFlags::empty()).expect("ask for the generation");
        let mut answer = [0; 4096];
        let length = recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty()).expect("the answer");
        attribute(&answer[HEADERS..length], NFTA_GEN_ID).expect("a generation number")
    })
}

/// The value of a u32 attribute, big endian as nftables has them.
fn attribute(mut bytes: &[u8], wanted: u16) -> Option<u32> {
    loop {
        let length = usize::from(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(bytes.get(2..4)?.try_into().ok()?);
        if kind == wanted {
            return Some(u32::from_be_bytes(bytes.get(4..8)?.try_into().ok()?));
        }
        bytes = bytes.get(length.next_multiple_of(4)..)?;
    }
}
