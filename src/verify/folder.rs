//! A scenario in a folder: objects, settings, and the packets that are about them.

use std::io;
use std::path::Path;

use super::{Faults, Packets};
use crate::config::{Config, file};
use crate::node::Node;
use crate::problem::Severity;
use crate::source::{Input, SourceError};

/// Why a folder is no scenario.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// A file cannot be read.
    #[error("cannot read {0}: {1}")]
    Read(String, io::Error),
    /// `input.yaml` cannot be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// `config.yaml` cannot be used.
    #[error(transparent)]
    Config(#[from] file::ConfigError),
    /// An object or a setting is wrong.
    #[error("{0}")]
    Invalid(String),
    /// `packets.txt` is none.
    #[error(transparent)]
    Packets(#[from] Faults),
}

/// The node of `input.yaml` and `config.yaml`, if that is there, and the packets of
/// `packets.txt`.
///
/// # Errors
/// If one of them cannot be read or is wrong.
pub fn folder(path: &Path) -> Result<(Node, Packets), FolderError> {
    let config = path.join("config.yaml");
    let config = match config.exists() {
        true => file::read(&config)?.settings.or_defaults(),
        false => Config::default(),
    };
    let wrong = config.validate();
    let (node, problems) = Node::read(&[Input::Path(path.join("input.yaml"))], config)?;
    let mut all = wrong.iter().chain(&problems);
    if let Some(error) = all.find(|problem| problem.severity == Severity::Error) {
        return Err(FolderError::Invalid(error.to_string()));
    }
    let packets = path.join("packets.txt");
    let file = packets.display().to_string();
    let text = std::fs::read_to_string(packets);
    let text = text.map_err(|error| FolderError::Read(file.clone(), error))?;
    Ok((node, Packets::parse(&file, &text)?))
}
