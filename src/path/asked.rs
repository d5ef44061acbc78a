//! What others' rules ask of the host, by way of what a way asks of it.

use std::cell::RefCell;
use std::net::IpAddr;

use super::{Node, Route, RouteQuestion};
use crate::foreign::{Family, Found, Leads, World};

/// The host as others' rules ask for it.
pub(super) struct Asked<'n, N>(RefCell<&'n mut N>);

impl<'n, N> Asked<'n, N> {
    pub(super) const fn new(node: &'n mut N) -> Self {
        Self(RefCell::new(node))
    }
}

impl<N: Node> World for Asked<'_, N> {
    fn is_local(&self, address: IpAddr) -> bool {
        self.0.borrow().is_local(address)
    }

    fn leads(&self, to: IpAddr, mark: u32) -> Option<Leads> {
        let question = RouteQuestion {
            source: None,
            destination: to,
            iif: None,
            mark,
            transport: None,
        };
        Some(match self.0.borrow_mut().route(&question)? {
            Route::Local => Leads::Here,
            Route::Device { index, .. } => Leads::Device(index),
            Route::Refused(_) => Leads::Nowhere,
        })
    }

    fn element(&self, of: (Family, &str), set: &str, key: &[u8]) -> Found {
        self.0.borrow_mut().element(of, set, key)
    }
}
