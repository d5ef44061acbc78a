//! What a lab writes down of its objects is what it has.

use std::fs;
use std::path::Path;

use svcnat::cluster::{Cluster, Origin};
use svcnat::lab::manifests;
use svcnat::source::load_text;

/// Where objects were read is not part of them, nor is what they would be without.
fn plain(mut cluster: Cluster) -> Cluster {
    for service in cluster.services.values_mut() {
        service.origin = Origin::default();
        if service.ip_families.is_empty() {
            let families = service.cluster_ips.iter();
            service.ip_families = families.map(svcnat::cluster::Family::of).collect();
        }
    }
    for slice in cluster
        .slices
        .values_mut()
        .flat_map(|slices| slices.iter_mut())
    {
        slice.origin = Origin::default();
        slice.trigger_time = None;
    }
    cluster
        .pods
        .values_mut()
        .for_each(|pod| pod.origin = Origin::default());
    cluster
        .nodes
        .values_mut()
        .for_each(|node| node.origin = Origin::default());
    cluster
        .service_cidrs
        .values_mut()
        .for_each(|range| range.origin = Origin::default());
    cluster
        .workloads
        .iter_mut()
        .for_each(|workload| workload.origin = Origin::default());
    cluster
}

#[test]
fn objects_are_written_as_they_were_read() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut folders: Vec<_> = ["rulesets", "tests/plans"]
        .iter()
        .flat_map(|folder| fs::read_dir(root.join(folder)).unwrap())
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .collect();
    folders.sort();
    assert!(folders.len() > 60);
    for folder in folders {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.file_name().unwrap() == "config.yaml"
                || path.extension().is_none_or(|e| e != "yaml")
            {
                continue;
            }
            let text = fs::read_to_string(&path).unwrap();
            let read = load_text(&text, false).cluster;
            let written = manifests(&read).to_string();
            let again = load_text(&written, false);
            let errors: Vec<String> = again.problems.iter().map(ToString::to_string).collect();
            assert_eq!(
                plain(again.cluster),
                plain(read),
                "{}: {errors:?}\n{written}",
                path.display()
            );
        }
    }
}
