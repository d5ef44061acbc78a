//! `svcnat check --fix`: sets what is ours to set, the kernel settings that service NAT needs and
//! the routes to other nodes' pods, and nothing else.

use super::check::missing_routes;
use super::error::CliError;
use super::intent::{host, needed_sysctls};
use super::writer;
use crate::config::Sysctls;
use crate::host::routes::{self, RouteError};
use crate::host::sysctl;
use crate::node::Node;
use crate::problem::Problem;

/// What was set, and what could not be.
#[derive(Default)]
pub struct Fixed {
    sysctls: Vec<sysctl::Changed>,
    routes: Vec<String>,
    pub problems: Vec<Problem>,
}

impl Fixed {
    /// One line for each thing that was set.
    pub fn lines(&self) -> Vec<String> {
        let settings = self.sysctls.iter().map(|sysctl::Changed { setting, old }| {
            format!("sysctl {} = {} (was {old})", setting.name(), setting.wanted)
        });
        settings.chain(self.routes.iter().cloned()).collect()
    }

    fn failed(&mut self, what: &str, error: &dyn std::fmt::Display) {
        let message = format!("cannot be set: {error}");
        self.problems.push(Problem::error(None, what, "", message));
    }
}

/// Sets it. Settings that are to be left alone are, and routes that another svcnat keeps.
///
/// # Errors
/// If the host cannot be asked; what it refuses is among the problems.
pub fn fix(inputs: &Node) -> Result<Fixed, CliError> {
    let mut fixed = Fixed::default();
    if inputs.config.sysctls != Sysctls::Ignore {
        for setting in needed_sysctls(inputs)? {
            match sysctl::Sysctls::default().apply(std::slice::from_ref(&setting)) {
                Ok(changed) => fixed.sysctls.extend(changed),
                Err(error) => fixed.failed(&format!("sysctl {}", setting.name()), &error),
            }
        }
    }
    let coming = missing_routes(inputs).map_err(host)?.split().0;
    // Who keeps them makes them.
    if coming.is_empty() || writer::other().is_some() {
        return Ok(fixed);
    }
    let Some(_seat) = writer::take("check", false)? else {
        return Ok(fixed);
    };
    let report = routes::apply(&coming).map_err(host)?;
    let replaced = coming.replace.iter().map(|(_, route)| route);
    for route in coming.add.iter().chain(replaced) {
        let what = format!("route {} via {}", route.destination, route.via);
        let about = |error: &&RouteError| error.destination() == route.destination;
        match report.errors.iter().find(about) {
            None => fixed.routes.push(format!("{what}, to node {}", route.node)),
            // Who looks finds it again.
            Some(
                RouteError::NotOnLink { .. }
                | RouteError::OwnAddress { .. }
                | RouteError::Foreign { .. },
            ) => {}
            Some(error) => fixed.failed(&what, error),
        }
    }
    Ok(fixed)
}
