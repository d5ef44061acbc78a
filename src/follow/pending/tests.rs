//! What the API says, event by event, in time that is made up.

use std::fmt::Write;

use super::*;
use crate::apply::{Limit, SECOND_READING};
use crate::config::Config;
use crate::source::{Loaded, load_str};

const LIMIT: Limit = Limit {
    share: 0.5,
    allow_empty: false,
};

/// Services `s0`, `s1`, ... each with a slice of so many endpoints.
fn cluster(sizes: &[usize]) -> Cluster {
    let mut text = String::new();
    for (n, size) in sizes.iter().enumerate() {
        let addresses: Vec<String> = (0..*size)
            .map(|e| format!("{{addresses: [172.17.{n}.{e}]}}"))
            .collect();
        write!(
            text,
            "apiVersion: v1\nkind: Service\nmetadata: {{name: s{n}}}\nspec: {{clusterIP: \
             10.254.0.{n}, ports: [{{port: 80}}]}}\n---\napiVersion: discovery.k8s.io/v1\nkind: \
             EndpointSlice\nmetadata: {{name: s{n}-a, labels: {{kubernetes.io/service-name: \
             s{n}}}}}\naddressType: IPv4\nports: [{{port: 80}}]\nendpoints: [{}]\n---\n",
            addresses.join(", ")
        )
        .expect("a string takes everything");
    }
    let mut loaded = Loaded::default();
    load_str(&text, "test", &mut loaded);
    loaded.cluster
}

struct Scene {
    engine: Engine,
    pending: Pending,
    guard: LossGuard,
    now: Instant,
    installed: Option<Holding>,
}

impl Scene {
    /// An agent that follows `cluster`, all of which was listed.
    fn following(cluster: Cluster) -> Self {
        let mut scene = Self {
            engine: Engine::with_cluster(Config::default(), Vec::new(), cluster),
            pending: Pending::default(),
            guard: LossGuard::new(LIMIT),
            now: Instant::now(),
            installed: None,
        };
        for kind in Kind::ALL {
            scene.pending.complete.insert(kind);
        }
        scene
    }

    fn take(&mut self, event: Event) {
        self.pending.take(event, &self.engine);
    }

    /// A whole list of a kind.
    fn list(&mut self, kind: Kind, cluster: &Cluster) {
        self.take(Event::Reset(kind, cluster.clone().take(kind)));
    }

    fn gone(&mut self, kind: Kind, name: &str) {
        self.take(Event::Delete(kind, ObjectName::new("default", name)));
    }

    fn verdict(&mut self) -> Option<Verdict> {
        (self.pending).verdict(&self.engine, self.installed, &mut self.guard, self.now)
    }

    fn held(&mut self) -> bool {
        matches!(self.verdict(), Some(Verdict::Hold { .. }))
    }

    fn lost(&self) -> usize {
        let (before, after) = self.pending.holdings(&self.engine);
        before.endpoints - after.endpoints
    }

    fn carry_out(&mut self) {
        self.pending.hand_over(&mut self.engine);
    }

    /// Time passes until the guard wants to be asked again.
    fn later(&mut self) {
        self.now += SECOND_READING;
        while !self.guard.ask(self.now) {
            self.now += SECOND_READING;
        }
        self.pending.await_second_reading();
    }
}

#[test]
fn a_service_and_its_slice_that_leave_together_count_once_in_either_order() {
    for order in [["service", "slice"], ["slice", "service"]] {
        let mut scene = Scene::following(cluster(&[36, 44]));
        for what in order {
            match what {
                "service" => scene.gone(Kind::Service, "s0"),
                _ => scene.gone(Kind::EndpointSlice, "s0-a"),
            }
        }
        assert_eq!(scene.lost(), 36, "{order:?}");
        assert_eq!(scene.verdict(), Some(Verdict::Go), "{order:?}");
    }
}

#[test]
fn a_slice_that_follows_its_service_later_loses_nothing_more() {
    let mut scene = Scene::following(cluster(&[40, 44]));
    scene.gone(Kind::Service, "s0");
    assert_eq!(scene.lost(), 40);
    assert_eq!(scene.verdict(), Some(Verdict::Go));
    scene.carry_out();
    scene.gone(Kind::EndpointSlice, "s0-a");
    assert_eq!(scene.lost(), 0);
}

#[test]
fn a_slice_replaced_by_another_loses_nothing() {
    let mut scene = Scene::following(cluster(&[80, 10]));
    let mut slice = scene
        .engine
        .slice(&ObjectName::new("default", "s0-a"))
        .unwrap()
        .clone();
    slice.name = ObjectName::new("default", "s0-b");
    scene.gone(Kind::EndpointSlice, "s0-a");
    scene.take(Event::Apply(Object::Slice(Box::new(slice))));
    assert_eq!(scene.lost(), 0);
    assert_eq!(scene.verdict(), Some(Verdict::Go));
}

#[test]
fn half_the_services_without_their_slices_are_a_loss_too() {
    let mut scene = Scene::following(cluster(&[60, 60, 10]));
    scene.gone(Kind::Service, "s0");
    scene.gone(Kind::Service, "s1");
    assert_eq!(scene.lost(), 120);
    assert!(scene.held());
}

#[test]
fn a_short_list_is_held_until_a_second_list_some_time_later_says_the_same() {
    let (full, short) = (cluster(&[60, 60, 10]), cluster(&[60, 0, 0]));
    let mut scene = Scene::following(full.clone());
    scene.list(Kind::EndpointSlice, &short);
    assert!(scene.held());
    assert_eq!(
        scene.verdict(),
        None,
        "not judged again before something arrives"
    );
    assert!(!scene.guard.ask(scene.now), "some time later");
    scene.later();
    // One of the two kinds is half an answer.
    scene.list(Kind::Service, &full);
    assert!(scene.held());
    scene.list(Kind::EndpointSlice, &short);
    assert_eq!(scene.verdict(), Some(Verdict::Go));
}

#[test]
fn a_second_list_that_is_whole_again_loses_nothing() {
    let full = cluster(&[60, 60, 10]);
    let mut scene = Scene::following(full.clone());
    scene.list(Kind::EndpointSlice, &cluster(&[10, 0, 0]));
    assert!(scene.held());
    scene.later();
    scene.list(Kind::Service, &full);
    scene.list(Kind::EndpointSlice, &full);
    assert_eq!(scene.verdict(), Some(Verdict::Go));
    assert_eq!(scene.lost(), 0);
}

#[test]
fn an_empty_answer_is_never_believed_however_often_it_comes() {
    let empty = Cluster::default();
    let mut scene = Scene::following(cluster(&[2, 1]));
    for round in 0..10 {
        scene.list(Kind::Service, &empty);
        scene.list(Kind::EndpointSlice, &empty);
        assert!(scene.held(), "round {round}");
        scene.later();
    }
    let full = cluster(&[2, 1]);
    scene.list(Kind::Service, &full);
    scene.list(Kind::EndpointSlice, &full);
    assert_eq!(scene.verdict(), Some(Verdict::Go));
}

#[test]
fn an_empty_answer_at_the_start_does_not_take_down_what_is_installed() {
    let empty = Cluster::default();
    let mut scene = Scene::following(Cluster::default());
    scene.list(Kind::Service, &empty);
    assert_eq!(scene.verdict(), None, "nothing is installed, nothing to do");
    scene.installed = Some(Holding {
        objects: 3,
        services: 1,
        endpoints: 2,
    });
    assert!(scene.held(), "although nothing is pending");
    scene.list(Kind::Service, &cluster(&[2]));
    scene.list(Kind::EndpointSlice, &cluster(&[2]));
    assert_eq!(scene.verdict(), Some(Verdict::Go));
}
