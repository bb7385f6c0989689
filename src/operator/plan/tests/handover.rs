//! Two leaders at one key: the old one is cut off after some of its steps, and its last write arrives later. No Secret
//! ever holds a password that does not work.

use kube::ResourceExt as _;
use serde_json::json;

use super::*;

/// The state of the ledger and the API server, and the current leader.
struct World {
    scene: Scene,
    /// Current version of the Secret; versions are never reused.
    version: u32,
    leader: u32,
}

/// A plan being executed.
struct Pass {
    by: u32,
    steps: std::vec::IntoIter<Step>,
}

impl World {
    fn new(spec: Value) -> Self {
        Self { scene: Scene::new(spec), version: 0, leader: 1 }
    }

    /// Plans from what the current leader sees.
    fn pass(&mut self) -> Pass {
        Pass { by: self.leader, steps: self.scene.plan().steps.into_iter() }
    }

    fn store(&mut self, secret: Secret) {
        self.version += 1;
        let mut secret = secret;
        secret.metadata.resource_version = Some(self.version.to_string());
        self.scene.seen.secret = Some(secret);
    }

    /// Executes one step as the ledger and the API server would. Returns true if the pass goes on.
    fn step(&mut self, pass: &mut Pass) -> bool {
        let Some(step) = pass.steps.next() else { return false };
        match step {
            Step::Put(entry) => {
                let Entry::Key(entry) = *entry else { panic!("a key") };
                let leads = pass.by == self.leader;
                if leads {
                    self.scene.seen.entry = Some(entry);
                }
                leads
            }
            Step::CreateSecret(secret) => {
                let absent = self.scene.seen.secret.is_none();
                if absent {
                    self.store(*secret);
                }
                absent
            }
            Step::PatchSecret { patch, .. } => {
                let live = self.scene.seen.secret.as_ref();
                let judged =
                    live.is_some_and(|live| patch["metadata"]["resourceVersion"] == json!(live.resource_version()));
                if judged {
                    let mut live = serde_json::to_value(&self.scene.seen.secret).expect("json");
                    merge(&mut live, &patch);
                    self.store(serde_json::from_value(live).expect("a secret"));
                }
                judged
            }
            Step::ReadBack { password, .. } => {
                self.scene.seen.secret.as_ref().is_some_and(|live| secret::carries(live, &password))
            }
            Step::DeleteSecret { .. } | Step::AddFinalizer | Step::RemoveFinalizer => true,
        }
    }

    fn finish(&mut self, mut pass: Pass, mut after_each: impl FnMut(&Self)) {
        while self.step(&mut pass) {
            after_each(self);
        }
        after_each(self);
    }

    /// Runs passes until nothing is left to do.
    fn settle(&mut self, after_each: impl Fn(&Self)) {
        for _ in 0..5 {
            let pass = self.pass();
            if pass.steps.len() == 0 {
                return;
            }
            self.finish(pass, &after_each);
        }
        panic!("it does not come to rest");
    }

    fn password_works(&self) -> bool {
        self.scene.seen.secret.is_none() || self.scene.works(&self.scene.password())
    }
}

/// A reason for a new password, and a change that makes the next leader decide otherwise.
type Cause = (&'static str, fn(&mut World), fn(&mut World));

const CAUSES: [Cause; 5] = [
    ("first", |_| {}, |_| {}),
    ("deleted", |world| world.made(|scene| scene.seen.secret = None), |_| {}),
    ("edited", |world| world.made(|scene| scene.write("password", "chosen by hand")), |_| {}),
    ("rotated", |world| world.made(|scene| scene.set(rotated())), |_| {}),
    ("rotated, and taken back", |world| world.made(|scene| scene.set(rotated())), |world| world.scene.set(json!({}))),
];

fn rotated() -> Value {
    json!({"rotation": {"restartedAt": "2026-01-01T00:00:00Z"}})
}

impl World {
    /// Brings a key to rest, and then applies `change`.
    fn made(&mut self, change: fn(&mut Scene)) {
        self.settle(|_| {});
        change(&mut self.scene);
        // A user's write gets a version of its own.
        if let Some(secret) = self.scene.seen.secret.take() {
            self.store(secret);
        }
    }
}

#[test]
fn no_secret_ever_holds_a_password_that_does_not_work_whoever_leads() {
    let mut late = 0;
    for (what, cause, change) in CAUSES {
        for old_steps in 0..5 {
            for new_steps in 0..5 {
                let mut world = World::new(json!({}));
                cause(&mut world);
                // A password written by hand is not ours, until it is replaced.
                let edited = what == "edited";
                let foreign = |world: &World| edited && world.scene.password().expose() == "chosen by hand";
                let check = |world: &World| {
                    assert!(
                        foreign(world) || world.password_works(),
                        "{what}: cut off after {old_steps} steps, its successor after {new_steps}"
                    );
                };
                let mut old = world.pass();
                (0..old_steps).all(|_| world.step(&mut old));
                check(&world);
                world.leader += 1;
                change(&mut world);
                let mut new = world.pass();
                let goes_on = (0..new_steps).all(|_| world.step(&mut new));
                check(&world);
                let version = world.version;
                world.finish(old, check);
                late += u32::from(world.version != version);
                if goes_on {
                    world.finish(new, check);
                }
                world.settle(check);
                check(&world);
                let entry = world.scene.seen.entry.as_ref().expect("an entry");
                let current = entry.credentials.iter().filter(|c| matches!(c.stage, Stage::Current { .. })).count();
                assert_eq!(current, 1, "{what}");
            }
        }
    }
    assert!(late > 10, "only {late} Secrets arrived late: nothing was tried");
}

#[test]
fn what_nobody_writes_any_more_is_given_up() {
    let mut scene = Scene::new(json!({}));
    scene.settle();
    let lost = hash_key().hash(&Password::given("of a leader that was cut off"));
    let entry = scene.seen.entry.as_mut().expect("an entry");
    crate::domain::credential::stage(&mut entry.credentials, lost, now());
    let waiting = scene.settle();
    let given_up = now().checked_add(crate::domain::credential::STAGED_FOR).expect("a time");
    assert_eq!((letters(&waiting), waiting.requeue_at), (String::new(), Some(given_up)));
    let plan = api_key::plan(&scene.key, &scene.seen, given_up, &mut scene.rng);
    let Entry::Key(entry) = entries(&plan)[0] else { panic!("a key") };
    assert_eq!(entry.credentials.len(), 1);
}
