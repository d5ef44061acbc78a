//! The sets and maps of a table, empty but for the class dispatch.

use super::layout::{Class, counted, names};
use super::skeleton::{Outline, client_type};
use crate::ruleset::{DataType, Element, ElementData, Set, Value};

use DataType::{ClassId, InetProto, InetService, Slot};

/// Affinity memory per family: clients times services. The kernel evicts nothing; when the
/// map is full, new clients are balanced without memory until old ones expire.
const AFFINITY_SIZE: u32 = 1 << 20;
/// Default life of an affinity entry: the API's default for `timeoutSeconds`.
const DEFAULT_TIMEOUT: u32 = 10_800;

/// All sets, whatever services there are; besides one per affinity timeout in use.
pub fn sets(outline: &Outline<'_>) -> Vec<Set> {
    let addr = DataType::addr(outline.family);
    let frontend = [addr, InetProto, InetService];
    let port = [InetProto, InetService];
    let endpoint = [addr, InetService];
    let mut classes = Set::exact(names::CLASSES, &[ClassId]).verdicts();
    for class in Class::all() {
        classes.elements.insert(
            Value::new().u32(class.bits()),
            Element::new(ElementData::Goto(class.chain().into())),
        );
    }
    let mut sets = vec![
        classes,
        Set::exact(names::FRONTENDS, &frontend).mapping(&[ClassId]),
        Set::exact(names::NODE_PORTS, &port).mapping(&[ClassId]),
        Set::exact(names::INSIDE_FRONTENDS, &frontend).mapping(&[ClassId]),
        Set::exact(names::INSIDE_NODE_PORTS, &port).mapping(&[ClassId]),
        Set::exact(names::NODE_PORT_ADDRESSES, &[addr]).interval(),
        Set::exact(names::ENDPOINTS, &[ClassId, InetProto, Slot]).mapping(&endpoint),
        Set::exact(names::LARGE_ENDPOINTS, &[ClassId, InetProto, Slot]).mapping(&endpoint),
        Set::exact(names::HOST_PORTS, &port).mapping(&endpoint),
        Set::exact(names::HOST_PORT_ADDRESSES, &frontend).mapping(&endpoint),
        Set::exact(names::HAIRPINS, &[addr, addr]),
        Set::exact(names::NO_ENDPOINTS, &frontend),
        Set::exact(names::NO_ENDPOINT_PORTS, &port),
        Set::exact(names::NO_LOCAL_ENDPOINTS, &frontend),
        Set::exact(names::NO_LOCAL_ENDPOINT_PORTS, &port),
        Set::exact(names::CLUSTER_IPS, &[addr]),
        Set::exact(names::SERVICE_RANGES, &[addr]).interval(),
        Set::exact(names::GUARDED, &frontend),
        Set::exact(names::SOURCE_RANGES, &[addr, InetProto, InetService, addr]).interval(),
        Set::exact(names::NON_MASQUERADE, &[addr]).interval(),
        Set::exact(names::AFFINITY, &[ClassId, client_type(outline.family)])
            .mapping(&[ClassId])
            .dynamic(AFFINITY_SIZE, DEFAULT_TIMEOUT),
        Set::exact(names::STICKY_GROUPS, &[ClassId]).mapping(&[ClassId]),
        Set::exact(names::STICKY_LISTS, &[ClassId]).mapping(&[ClassId]),
        Set::exact(names::STICKY_LOCAL_LISTS, &[ClassId]).mapping(&[ClassId]),
        Set::exact(names::STICKY_ENDPOINTS, &[ClassId, InetProto]).mapping(&endpoint),
        Set::exact(names::STICKY_LOCAL_ENDPOINTS, &[ClassId, InetProto]).mapping(&endpoint),
        Set::exact(names::STICKY_FRONTENDS, &frontend).mapping(&[ClassId]),
        Set::exact(names::STICKY_NODE_PORTS, &port).mapping(&[ClassId]),
        Set::exact(names::STICKY_PROTOCOLS, &[InetProto]),
        Set::exact(names::STICKY_HANDLES, &[ClassId, addr, InetService]).mapping(&[ClassId]),
    ];
    if outline.shape.counters {
        for set in &mut sets {
            set.counted = counted(&set.name).is_some();
        }
    }
    sets.extend(
        outline
            .timeouts
            .iter()
            .map(|t| Set::exact(&names::sticky_timeout(*t), &[ClassId])),
    );
    sets
}
