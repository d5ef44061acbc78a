//! How a pod is told from an outsider: one decision, which users say in up to two settings.

use super::setting::{Draft, Flag, Form, Setting, words};
use super::types::InterfaceName;

/// How a packet is known to come from a pod (`--detect-local-mode`).
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum DetectLocal {
    /// The source is in the cluster CIDR; without a cluster CIDR of the family there is
    /// no detector.
    #[default]
    ClusterCidr,
    /// The source is in a pod CIDR of this node.
    NodeCidr,
    /// The packet came in by this interface.
    BridgeInterface(InterfaceName),
    /// The packet came in by an interface whose name starts so.
    InterfaceNamePrefix(InterfaceName),
}

words! {
    /// The modes, without the name that some of them need.
    pub enum DetectMode {
        /// By their address, in the cluster CIDR; without one, in a Node's pod CIDR
        ClusterCidr = "ClusterCIDR",
        /// By their address, in a pod CIDR of this node
        NodeCidr = "NodeCIDR",
        /// By the bridge their packets come in by
        BridgeInterface = "BridgeInterface",
        /// By the start of the name of the interface their packets come in by
        InterfaceNamePrefix = "InterfaceNamePrefix",
    }
}

/// What one place says of it.
#[derive(Clone, Debug, Default)]
pub(super) struct Parts {
    mode: Option<DetectMode>,
    bridge: Option<InterfaceName>,
    prefix: Option<InterfaceName>,
}

pub(super) const MODE: Setting = Setting {
    key: "detectLocalMode",
    flag: Flag::new("detect-local-mode", "MODE"),
    form: Form::Words(DetectMode::WORDS),
    help: "How pods are told from outsiders",
    default: || DetectMode::default().to_string(),
    set: |draft, text| {
        draft.detect.mode = Some(text.parse()?);
        Ok(())
    },
};

pub(super) const BRIDGE: Setting = Setting {
    key: "detectLocal.bridgeInterface",
    flag: Flag::new("pod-bridge-interface", "NAME"),
    form: Form::Text,
    help: "Bridge of the pods, for BridgeInterface",
    default: || "none".to_owned(),
    set: |draft, text| {
        draft.detect.bridge = Some(text.parse()?);
        Ok(())
    },
};

pub(super) const PREFIX: Setting = Setting {
    key: "detectLocal.interfaceNamePrefix",
    flag: Flag::new("pod-interface-name-prefix", "PREFIX"),
    form: Form::Text,
    help: "Start of the pods' interface names, for InterfaceNamePrefix",
    default: || "none".to_owned(),
    set: |draft, text| {
        draft.detect.prefix = Some(text.parse()?);
        Ok(())
    },
};

/// All of them.
pub(super) static PARTS: [Setting; 3] = [MODE, BRIDGE, PREFIX];

/// What the parts say together; nothing without a mode.
pub(super) fn chosen(
    parts: Parts,
    name: impl Fn(&Setting) -> String,
) -> Result<Option<DetectLocal>, String> {
    let is = |mode| parts.mode == Some(mode);
    let named = [
        (&BRIDGE, &parts.bridge, DetectMode::BridgeInterface),
        (&PREFIX, &parts.prefix, DetectMode::InterfaceNamePrefix),
    ];
    for (setting, value, its) in named {
        let (part, mode) = (name(setting), name(&MODE));
        if value.is_some() && !is(its) {
            return Err(format!("{part} has no effect without {mode} {its}"));
        }
        if value.is_none() && is(its) {
            return Err(format!("{mode} {its} needs {part}"));
        }
    }
    Ok(parts.mode.and_then(|mode| match mode {
        DetectMode::ClusterCidr => Some(DetectLocal::ClusterCidr),
        DetectMode::NodeCidr => Some(DetectLocal::NodeCidr),
        DetectMode::BridgeInterface => parts.bridge.map(DetectLocal::BridgeInterface),
        DetectMode::InterfaceNamePrefix => parts.prefix.map(DetectLocal::InterfaceNamePrefix),
    }))
}

/// The same of kube-proxy's fields, which are empty where nothing is said, and of which those
/// of other modes may be filled.
pub(super) fn of_kube_proxy(mode: &str, bridge: &str, prefix: &str) -> Result<DetectLocal, String> {
    let mut draft = Draft::default();
    let used = [
        (&MODE, mode, true),
        (&BRIDGE, bridge, mode == "BridgeInterface"),
        (&PREFIX, prefix, mode == "InterfaceNamePrefix"),
    ];
    for (setting, text, used) in used {
        if used && !text.is_empty() {
            draft.take(setting, setting.key, text)?;
        }
    }
    let settings = draft.finish(|setting| setting.key.to_owned())?;
    Ok(settings.detect_local.unwrap_or_default())
}
