//! The whole agent over a host and sources in memory, turn by turn, in time that is made up.

use std::cell::RefCell;
use std::os::fd::BorrowedFd;
use std::rc::Rc;

use nix::errno::Errno;
use nix::sys::eventfd::EventFd;

use super::*;
use crate::apply::tests::fake::Fake;
use crate::apply::tests::{config, node, objects, refuse, service, slice, three};
use crate::apply::{Limit, Manner, SECOND_READING};
use crate::fuzzing::Kernel;
use crate::observe::Conditions;
use crate::source::events::Event;
use crate::source::{Files, Reading, Watch};

const LIMIT: Limit = Limit {
    share: 0.5,
    allow_empty: false,
};

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn options(drift: Drift) -> Options {
    Options {
        drift,
        min_sync_period: Duration::from_millis(100),
        verify_period: seconds(3600),
        limit: LIMIT,
        state_dir: None,
        name_writers: NameWriters::Never,
        own_tables: false,
        take_over: false,
    }
}

/// What the API says next, and how often it was asked to list everything anew.
#[derive(Clone)]
struct Api {
    said: Rc<RefCell<(Vec<Event>, usize)>>,
    called: Rc<EventFd>,
}

impl AsFd for Api {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.called.as_fd()
    }
}

impl Source for Api {
    fn events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.said.borrow_mut().0)
    }

    fn ask_again(&mut self) {
        self.said.borrow_mut().1 += 1;
    }

    fn part(&self, kind: Kind) -> &'static str {
        kind.name()
    }

    fn is_remote(&self) -> bool {
        true
    }
}

impl Api {
    fn new() -> Self {
        Self {
            said: Rc::default(),
            called: Rc::new(EventFd::new().unwrap()),
        }
    }

    fn lists_asked_for(&self) -> usize {
        self.said.borrow().1
    }

    fn say(&self, event: Event) {
        self.said.borrow_mut().0.push(event);
    }

    /// A whole list of every kind.
    fn list(&self, texts: &[String]) {
        let mut cluster = objects(texts);
        for kind in Kind::ALL {
            self.say(Event::Reset(kind, cluster.take(kind)));
        }
    }
}

struct Scene {
    agent: Agent<'static, Fake>,
    /// What is in the files.
    files: Rc<RefCell<Result<Vec<String>, String>>>,
    api: Api,
}

impl Scene {
    fn files(host: Fake, options: Options, texts: Vec<String>) -> Self {
        let files = Rc::new(RefCell::new(Ok(texts)));
        let there = Rc::clone(&files);
        let read = move || {
            let texts = there.borrow().clone()?;
            Ok(Reading {
                config: config(),
                cluster: objects(&texts),
                problems: Vec::new(),
            })
        };
        let source = Files::new(Watch::new(&[]).unwrap(), read, false);
        Self::of(host, options, Box::new(source), files, Api::new())
    }

    fn api(host: Fake, options: Options) -> Self {
        let (api, files) = (Api::new(), Rc::new(RefCell::new(Ok(Vec::new()))));
        Self::of(host, options, Box::new(api.clone()), files, api)
    }

    fn of(
        host: Fake,
        options: Options,
        source: Box<dyn Source>,
        files: Rc<RefCell<Result<Vec<String>, String>>>,
        api: Api,
    ) -> Self {
        let sync = KernelSync::of(host, Manner::default()).unwrap();
        let (observed, line) = (Shared::new(false, None), Progress::new());
        let told = Rc::new(RefCell::new(ServiceManager::default()));
        let agent = Agent::over(sync, options, config(), source, observed, line, told).unwrap();
        Self { agent, files, api }
    }

    /// An agent that follows three Services, with nothing wrong.
    fn following(drift: Drift) -> Self {
        let mut scene = Self::files(Fake::new(), options(drift), three());
        scene.agent.start().unwrap();
        scene.turns(2, Duration::from_millis(200));
        assert!(scene.agent.ready && scene.failing().is_empty());
        scene
    }

    fn host(&mut self) -> &mut Fake {
        self.agent.sync.host()
    }

    /// So many turns, each after so long.
    fn turns(&mut self, turns: usize, each: Duration) {
        for _ in 0..turns {
            self.host().now += each;
            self.agent.turn(Woken::default());
        }
    }

    /// Others files, and a turn because of it.
    fn write(&mut self, texts: Vec<String>) {
        *self.files.borrow_mut() = Ok(texts);
        self.agent.source.ask_again();
        self.turns(1, seconds(1));
    }

    fn failing(&self) -> Vec<String> {
        self.agent.observed.failing_now()
    }

    fn services_in_force(&mut self) -> usize {
        let tables = &self.agent.sync.host().kernel.tables;
        let sets = tables.values().filter_map(|t| t.sets.get("cluster-ips"));
        sets.map(|set| set.elements.len()).sum()
    }

    fn is_in_force(&mut self) -> bool {
        let Agent { sync, engine, .. } = &mut self.agent;
        sync.host().kernel.holds(engine.ruleset())
    }
}

/// Many Services of ten endpoints each.
fn many(services: u8) -> Vec<String> {
    let endpoints: Vec<u8> = (100..110).collect();
    let texts = (1..=services).flat_map(|n| [service(n, ""), slice(n, &endpoints)]);
    texts.collect()
}

#[test]
fn files_that_are_suddenly_empty_change_nothing_until_they_hold_something_again() {
    let mut scene = Scene::following(Drift::Repair);
    let before = scene.host().kernel.clone();
    scene.write(Vec::new());
    scene.turns(3600, seconds(1));
    assert!(scene.host().kernel == before);
    assert_eq!(scene.failing(), ["endpoint loss"]);
    scene.write(three()[..4].to_vec());
    scene.turns(2, seconds(1));
    assert_eq!((scene.services_in_force(), scene.failing().len()), (2, 0));
}

#[test]
fn files_that_lose_most_of_it_are_believed_when_they_say_so_twice() {
    let mut scene = Scene::files(Fake::new(), options(Drift::Repair), many(20));
    scene.agent.start().unwrap();
    scene.turns(2, seconds(1));
    assert_eq!(scene.services_in_force(), 20);
    scene.write(many(2));
    assert_eq!(
        (scene.services_in_force(), scene.failing()),
        (20, vec!["endpoint loss".to_owned()])
    );
    // A mount that was gone for a moment.
    scene.write(many(20));
    scene.turns(1, seconds(1));
    assert_eq!((scene.services_in_force(), scene.failing().len()), (20, 0));
    scene.write(many(2));
    scene.turns(2, SECOND_READING);
    assert_eq!((scene.services_in_force(), scene.failing().len()), (2, 0));
}

#[test]
fn a_start_with_files_that_lose_what_is_installed_is_held_and_not_ready() {
    let mut scene = Scene::files(Fake::new(), options(Drift::Repair), many(20));
    scene.agent.start().unwrap();
    let host = std::mem::replace(scene.host(), Fake::new());
    let mut scene = Scene::files(host, options(Drift::Repair), Vec::new());
    scene.agent.start().unwrap();
    scene.turns(60, seconds(1));
    assert!(!scene.agent.ready && scene.services_in_force() == 20);
    scene.write(many(19));
    scene.turns(2, seconds(1));
    assert!(scene.agent.ready && scene.services_in_force() == 19);
}

#[test]
fn an_empty_list_of_the_api_is_held_and_a_large_loss_is_listed_twice() {
    let mut scene = Scene::api(Fake::new(), options(Drift::Repair));
    scene.agent.start().unwrap();
    scene.turns(5, seconds(1));
    assert!(!scene.agent.ready, "nothing is known");
    scene.api.list(&many(20));
    scene.turns(2, seconds(1));
    assert!(scene.agent.ready && scene.services_in_force() == 20);

    scene.api.list(&[]);
    scene.turns(60, seconds(1));
    assert_eq!(
        (scene.services_in_force(), scene.failing()),
        (20, vec!["endpoint loss".to_owned()])
    );
    assert!(scene.api.lists_asked_for() > 1);
    for _ in 0..10 {
        scene.api.list(&[]);
        scene.turns(10, seconds(1));
    }
    assert_eq!(scene.services_in_force(), 20, "however often it is said");

    scene.api.list(&many(20));
    scene.turns(1, seconds(1));
    assert_eq!(scene.failing().len(), 0);
    let asked = scene.api.lists_asked_for();
    scene.api.list(&many(2));
    scene.turns(1, seconds(1));
    assert_eq!(scene.services_in_force(), 20);
    scene.turns(10, seconds(1));
    assert_eq!(scene.services_in_force(), 20, "it was not said twice");
    assert!(scene.api.lists_asked_for() > asked);
    scene.api.list(&many(2));
    scene.turns(1, seconds(1));
    assert_eq!((scene.services_in_force(), scene.failing().len()), (2, 0));
}

/// What files hold or the API lists from now on, and a turn because of it.
fn now_there_are(scene: &mut Scene, texts: Vec<String>) {
    if scene.agent.source.is_remote() {
        scene.api.list(&texts);
        scene.turns(1, seconds(1));
    } else {
        scene.write(texts);
    }
}

#[test]
fn files_and_the_api_are_held_and_believed_alike() {
    let sources: [fn(Options) -> Scene; 2] = [
        |options| Scene::files(Fake::new(), options, many(20)),
        |options| Scene::api(Fake::new(), options),
    ];
    let held = || vec!["endpoint loss".to_owned()];
    for source in sources {
        let mut scene = source(options(Drift::Repair));
        scene.agent.start().unwrap();
        now_there_are(&mut scene, many(20));
        assert!(scene.agent.ready && scene.services_in_force() == 20);
        let before = scene.host().kernel.clone();
        // Nothing at all is never believed, and small losses in between do not help.
        for _ in 0..5 {
            now_there_are(&mut scene, Vec::new());
            scene.turns(20, seconds(1));
            assert!(scene.host().kernel == before);
            assert_eq!(scene.failing(), held());
        }
        // As it was: nothing is left of it, and nothing to do.
        now_there_are(&mut scene, many(20));
        assert!(scene.host().kernel == before && scene.failing().is_empty());
        assert!(scene.agent.pending.is_empty());
        // A large loss takes a second word, some time later.
        now_there_are(&mut scene, many(2));
        assert_eq!((scene.services_in_force(), scene.failing()), (20, held()));
        scene.turns(1, SECOND_READING);
        now_there_are(&mut scene, many(2));
        assert_eq!((scene.services_in_force(), scene.failing().len()), (2, 0));
    }
}

#[test]
fn a_kind_that_is_lost_stays_as_it_was_until_it_comes_back() {
    let mut scene = Scene::api(Fake::new(), options(Drift::Repair));
    scene.agent.start().unwrap();
    scene.api.list(&many(3));
    scene.turns(2, seconds(1));
    let asked = scene.api.lists_asked_for();
    let failure = |dispensable| Failure {
        reason: Reason::Silent,
        message: "https://192.0.2.1: no answer".to_owned(),
        repeated: false,
        dispensable,
    };
    scene.api.say(Event::Lost("EndpointSlice", failure(false)));
    scene.api.say(Event::Lost("ServiceCIDR", failure(true)));
    scene.turns(600, seconds(1));
    assert_eq!(
        (scene.services_in_force(), scene.failing()),
        (3, vec!["source EndpointSlice".to_owned()])
    );
    // The others go on, and a list alone does not make it well.
    let mut four = objects(&many(4));
    scene
        .api
        .say(Event::Reset(Kind::Service, four.take(Kind::Service)));
    let slices = four.take(Kind::EndpointSlice);
    scene.api.say(Event::Reset(Kind::EndpointSlice, slices));
    scene.turns(1, seconds(1));
    assert_eq!((scene.services_in_force(), scene.failing().len()), (4, 1));
    scene.api.say(Event::Recovered("EndpointSlice"));
    scene.turns(1, seconds(1));
    assert_eq!(scene.failing().len(), 0);
    assert_eq!(scene.api.lists_asked_for(), asked, "it tries again itself");
}

#[test]
fn hours_of_saying_the_same_are_healthy_and_commit_nothing() {
    let mut scene = Scene::api(Fake::new(), options(Drift::Repair));
    scene.agent.start().unwrap();
    scene.api.list(&many(3));
    scene.turns(2, seconds(1));
    let before = scene.host().kernel.clone();
    let (start, mut conditions) = (scene.host().now, Conditions::default());
    while scene.host().now < start + seconds(6 * 3600) {
        if scene.host().now < start + seconds(3 * 3600) {
            scene.api.list(&many(3));
        } else {
            let same = objects(&many(3)).take(Kind::EndpointSlice).into_iter();
            same.for_each(|slice| scene.api.say(Event::Apply(slice)));
            scene.api.say(Event::Heard(Kind::Service));
        }
        scene.turns(1, seconds(60));
        let Agent {
            engine, pending, ..
        } = &scene.agent;
        let waits = waits(true, engine, pending);
        let now = scene.host().now;
        conditions.waits(waits, now);
        assert!(conditions.is_healthy(now) && conditions.is_ready(now));
        assert!(!waits && scene.failing().is_empty());
    }
    assert!(scene.host().kernel == before);
    // The same conditions notice a change that nothing becomes of.
    scene.host().broken.dies_after = Some(0);
    scene.api.list(&many(4));
    for _ in 0..3 {
        scene.turns(1, seconds(60));
        let waits = waits(true, &scene.agent.engine, &scene.agent.pending);
        conditions.waits(waits, scene.host().now);
    }
    assert!(!conditions.is_healthy(scene.host().now));
}

#[test]
fn a_start_from_the_api_is_held_against_what_is_installed() {
    let mut scene = Scene::files(Fake::new(), options(Drift::Repair), many(20));
    scene.agent.start().unwrap();
    let host = std::mem::replace(scene.host(), Fake::new());
    let mut scene = Scene::api(host, options(Drift::Repair));
    scene.agent.start().unwrap();
    scene.api.list(&[]);
    scene.turns(60, seconds(1));
    assert!(!scene.agent.ready && scene.services_in_force() == 20);
    scene.api.list(&many(20));
    scene.turns(1, seconds(1));
    assert!(scene.agent.ready && scene.failing().is_empty());
}

#[test]
fn a_commit_that_fails_is_tried_again_at_doubling_intervals_and_catches_up() {
    let mut scene = Scene::following(Drift::Repair);
    scene.host().broken.dies_after = Some(0);
    let (mut reads, mut at) = (scene.host().reads, Vec::new());
    scene.write(three()[..4].to_vec());
    let first = scene.host().now;
    for _ in 0..600 {
        let now = scene.host().reads;
        if now != reads {
            at.push((scene.host().now - first).as_millis());
            reads = now;
        }
        scene.turns(1, Duration::from_millis(100));
    }
    assert_eq!(at[..6], [0, 1000, 3000, 7000, 15_000, 30_000]);
    assert!(
        scene.failing().contains(&"rules".to_owned()),
        "{:?}",
        scene.failing()
    );
    scene.host().broken.dies_after = None;
    scene.turns(16, seconds(1));
    assert_eq!((scene.services_in_force(), scene.failing().len()), (2, 0));
    assert!(scene.is_in_force());
}

#[test]
fn the_first_sync_from_files_that_fails_ends_the_agent() {
    let mut host = Fake::new();
    host.broken.dies_after = Some(0);
    let mut scene = Scene::files(host, options(Drift::Repair), three());
    assert!(matches!(scene.agent.start(), Err(RunError::Sync(_))));
    *scene.files.borrow_mut() = Err("no such file".into());
    assert!(matches!(scene.agent.start(), Err(RunError::Input(_))));
}

#[test]
fn files_that_cannot_be_read_leave_the_last_good_state() {
    let mut scene = Scene::following(Drift::Repair);
    *scene.files.borrow_mut() = Err("half a file".into());
    scene.agent.source.ask_again();
    scene.turns(1, Duration::ZERO);
    assert_eq!(
        (scene.services_in_force(), scene.failing()),
        (3, vec!["source files".to_owned()])
    );
    // Tried again without a word from the folder.
    *scene.files.borrow_mut() = Ok(three()[..2].to_vec());
    scene.turns(3, seconds(1));
    assert_eq!((scene.services_in_force(), scene.failing().len()), (1, 0));
}

fn flush(kernel: &mut Kernel) {
    let tables = kernel.tables.values_mut();
    let chains = tables.flat_map(|table| &mut table.chains);
    chains.for_each(|chain| chain.rules.clear());
}

#[test]
fn drift_is_put_right_said_or_left_alone() {
    for drift in [Drift::Repair, Drift::Report, Drift::Ignore] {
        for deed in [flush as fn(&mut Kernel), |kernel| kernel.tables.clear()] {
            let mut scene = Scene::following(drift);
            let whole = scene.host().kernel.clone();
            scene.host().another(deed);
            scene.turns(20, Duration::from_millis(100));
            assert_eq!(scene.is_in_force(), drift == Drift::Repair);
            let said: &[&str] = match drift {
                Drift::Report => &["tables"],
                Drift::Repair | Drift::Ignore => &[],
            };
            assert_eq!(scene.failing(), said, "{drift:?}");
            // Whoever it was puts it right.
            scene.host().another(|kernel| *kernel = whole);
            scene.turns(2, seconds(60));
            assert!(scene.failing().is_empty() && scene.is_in_force());
        }
    }
}

#[test]
fn what_fails_beside_the_rules_is_no_failed_sync_and_is_tried_again() {
    let mut scene = Scene::following(Drift::Repair);
    scene.host().broken.conntrack = true;
    scene.host().broken.routing = true;
    let mut texts = three();
    texts[1] = slice(1, &[12]);
    texts[6] = node(3);
    scene.write(texts);
    scene.turns(2, Duration::from_millis(200));
    assert!(scene.is_in_force() && !scene.agent.engine.is_dirty() && scene.agent.ready);
    assert_eq!(scene.failing(), ["routes", "conntrack"]);
    let reads = scene.host().reads;
    scene.host().broken.routing = false;
    scene.host().broken.conntrack = false;
    scene.turns(10, seconds(1));
    assert!(scene.failing().is_empty());
    let via = |octet| Some([192, 168, 50, octet].into());
    let there: Vec<_> = scene.host().routes.iter().map(|r| r.via).collect();
    assert_eq!(there, [via(13)]);
    assert_eq!(scene.host().reads, reads, "nothing was read back for it");
}

#[test]
fn a_service_that_is_refused_is_said_and_tried_again_after_ten_minutes() {
    let mut scene = Scene::following(Drift::Repair);
    refuse(scene.host(), &["s2"], Errno::ENOSPC);
    let mut texts = three();
    texts[3] = slice(2, &[22]);
    scene.write(texts);
    assert_eq!(
        (scene.services_in_force(), scene.failing()),
        (2, vec!["objects".to_owned()])
    );
    scene.host().broken.elements = None;
    scene.turns(590, seconds(1));
    assert_eq!(scene.services_in_force(), 2);
    scene.turns(20, seconds(1));
    assert_eq!((scene.services_in_force(), scene.failing().len()), (3, 0));
}
