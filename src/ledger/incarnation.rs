//! Checks that a ledger is the known one, and derives the name by which another is accepted in its place. Pure, and the
//! same for every engine.
//!
//! A ledger that was lost, that went back in time or that belongs to another installation would give used credits away,
//! or let the wrong senders in. So the process that finds one holds it: nothing is charged, no message is refused for
//! good, and an administrator accepts it by name if it is to be used. The name is made from what was known and what was
//! found, so an acceptance is good for this one finding and never for a later one.

use ring::digest;
use uuid::Uuid;

use super::error::{Error, Result};
use super::identity::{Because, Identity, Progress, State, Tag};

/// The ledger that a relay may work with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expected {
    pub installation: Uuid,
    /// `None` in a relay.yaml of the previous release.
    pub incarnation: Option<Uuid>,
}

impl Expected {
    /// Refuses a ledger that is not this one, or that is held.
    pub fn admit(&self, tag: &Tag) -> Result<()> {
        if tag.installation != self.installation {
            return Err(Error::Foreign { found: tag.installation, expected: self.installation });
        }
        if let Some(expected) = self.incarnation.filter(|expected| *expected != tag.incarnation) {
            return Err(Error::Replaced { found: tag.incarnation, expected });
        }
        refuse_unless_open(tag.state)
    }
}

/// Refuses a ledger that is not open: charging and judging need an open one.
fn refuse_unless_open(state: State) -> Result<()> {
    match state {
        State::Open => Ok(()),
        State::Held(_) | State::Rebuilding => Err(Error::Held(state)),
    }
}

/// Judges a ledger before a session is opened in it.
pub type Admit = std::sync::Arc<dyn Fn(&Tag) -> Result<()> + Send + Sync>;

/// The ledger as its installation knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    pub installation: Uuid,
    pub cluster: String,
    pub incarnation: Uuid,
    /// Its progress when that was last noted.
    pub progress: Progress,
}

/// The identity that a ledger gets where there is none yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Naming {
    pub installation: Uuid,
    pub cluster: String,
    pub incarnation: Uuid,
    /// Held if there was one before, which was lost.
    pub state: State,
}

/// The result of judging a ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    Ours,
    /// Accepted, and not yet rebuilt.
    Rebuilding,
    Replaced(Replaced),
}

/// The way in which a ledger differs from the known one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Replaced {
    Held(Because),
    Installation {
        found: Uuid,
    },
    Cluster {
        found: String,
    },
    /// A copy from before or after an acceptance.
    Incarnation {
        found: Uuid,
    },
    WentBack,
}

impl Replaced {
    /// Returns the reason to hold it, if it is ours to hold. A ledger of another installation is not written to before
    /// it is accepted.
    pub fn because(&self) -> Option<Because> {
        match self {
            Self::Held(because) => Some(*because),
            Self::Incarnation { .. } => Some(Because::Swapped),
            Self::WentBack => Some(Because::WentBack),
            Self::Installation { .. } | Self::Cluster { .. } => None,
        }
    }

    /// Returns true if the ledger is held already. It is not held again: what was judged may be an empty ledger that
    /// another one was moved into since.
    pub fn is_held(&self) -> bool {
        match self {
            Self::Held(_) => true,
            Self::Installation { .. } | Self::Cluster { .. } | Self::Incarnation { .. } | Self::WentBack => false,
        }
    }

    /// Describes it, as the end of "the ledger …".
    pub fn sentence(&self) -> String {
        match self {
            Self::Held(Because::Empty) => "is empty, and this installation had one".to_owned(),
            Self::Held(Because::Restored) => "was restored from a backup".to_owned(),
            Self::Held(Because::Swapped) => "was put in place of the known one".to_owned(),
            Self::Held(Because::WentBack) | Self::WentBack => {
                "is older than what this installation has seen of it".to_owned()
            }
            Self::Installation { found } => format!("belongs to another installation ({found})"),
            Self::Cluster { found } => format!("belongs to another cluster ({found})"),
            Self::Incarnation { found } => {
                format!("is of another incarnation ({found}), such as a copy from before an acceptance")
            }
        }
    }
}

/// Compares a ledger with the known one.
pub fn judge(known: &Known, found: &Identity) -> Finding {
    if found.installation != known.installation {
        return Finding::Replaced(Replaced::Installation { found: found.installation });
    }
    if found.cluster != known.cluster {
        return Finding::Replaced(Replaced::Cluster { found: found.cluster.clone() });
    }
    if let State::Held(because) = found.state {
        return Finding::Replaced(Replaced::Held(because));
    }
    if found.incarnation != known.incarnation {
        return Finding::Replaced(Replaced::Incarnation { found: found.incarnation });
    }
    if !found.progress.reaches(known.progress) {
        return Finding::Replaced(Replaced::WentBack);
    }
    match found.state {
        State::Rebuilding => Finding::Rebuilding,
        State::Open | State::Held(_) => Finding::Ours,
    }
}

/// Returns the name by which an administrator accepts a replaced ledger. It follows from what was known and what was
/// found, so it names this finding and no other.
pub fn name_of(known: &Known, found: &Identity) -> Uuid {
    let parts = [known.installation, known.incarnation, found.installation, found.incarnation];
    digest_of(
        "franking ledger finding",
        parts.iter().map(|part| &part.as_bytes()[..]).chain([found.cluster.as_bytes()]),
    )
}

/// Returns the incarnation that begins with an acceptance. It follows from the name, so an interrupted acceptance is
/// recognised and finished.
pub fn successor(name: Uuid) -> Uuid {
    digest_of("franking ledger incarnation", [&name.as_bytes()[..]])
}

fn digest_of<'a>(of: &'a str, parts: impl IntoIterator<Item = &'a [u8]>) -> Uuid {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in [of.as_bytes()].into_iter().chain(parts) {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&context.finish().as_ref()[..16]);
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}

/// An administrator's acceptance of a replaced ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acceptance {
    /// The administrator.
    pub actor: String,
    /// The incarnation that was judged: a ledger of another one was not accepted.
    pub found: Uuid,
    /// The identity of the ledger from now on.
    pub installation: Uuid,
    pub cluster: String,
    pub incarnation: Uuid,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known() -> Known {
        Known {
            installation: Uuid::from_u128(1),
            cluster: "cluster".to_owned(),
            incarnation: Uuid::from_u128(2),
            progress: Progress { config_epoch: 10, event: 20, moved: 30 },
        }
    }

    fn found() -> Identity {
        Identity {
            installation: Uuid::from_u128(1),
            cluster: "cluster".to_owned(),
            incarnation: Uuid::from_u128(2),
            schema_version: 3,
            state: State::Open,
            progress: Progress { config_epoch: 10, event: 21, moved: 30 },
        }
    }

    #[test]
    fn each_difference_from_what_is_known_is_found() {
        assert_eq!(judge(&known(), &found()), Finding::Ours);
        let replaced = |change: fn(&mut Identity)| {
            let mut identity = found();
            change(&mut identity);
            judge(&known(), &identity)
        };
        assert_eq!(replaced(|f| f.state = State::Rebuilding), Finding::Rebuilding);
        type Case = (fn(&mut Identity), Replaced);
        let cases: [Case; 7] = [
            (|f| f.installation = Uuid::nil(), Replaced::Installation { found: Uuid::nil() }),
            (|f| f.cluster = "other".into(), Replaced::Cluster { found: "other".into() }),
            (|f| f.incarnation = Uuid::nil(), Replaced::Incarnation { found: Uuid::nil() }),
            (|f| f.state = State::Held(Because::Empty), Replaced::Held(Because::Empty)),
            (|f| f.progress.config_epoch = 9, Replaced::WentBack),
            (|f| f.progress.event = 19, Replaced::WentBack),
            (|f| f.progress.moved = 29, Replaced::WentBack),
        ];
        for (change, expected) in cases {
            assert_eq!(replaced(change), Finding::Replaced(expected));
        }
    }

    #[test]
    fn a_name_is_of_one_finding_and_not_of_the_next() {
        let (before, lost) = (known(), Identity { incarnation: Uuid::from_u128(9), ..found() });
        let name = name_of(&before, &lost);
        assert_eq!(name, name_of(&before, &lost));
        // After the acceptance the same old file is found again.
        let after = Known { incarnation: successor(name), ..known() };
        assert_ne!(name_of(&after, &lost), name);
        assert_ne!(successor(name), name);
        assert_ne!(name_of(&before, &Identity { cluster: "other".into(), ..lost }), name);
    }

    #[test]
    fn a_relay_admits_the_ledger_it_was_told_of_and_only_while_it_is_open() {
        let tag = Tag { installation: Uuid::from_u128(1), incarnation: Uuid::from_u128(2), state: State::Open };
        let expected = Expected { installation: tag.installation, incarnation: Some(tag.incarnation) };
        expected.admit(&tag).expect("it is the one");
        Expected { incarnation: None, ..expected }.admit(&Tag { incarnation: Uuid::nil(), ..tag }).expect("any");
        for refused in [
            Tag { installation: Uuid::nil(), ..tag },
            Tag { incarnation: Uuid::nil(), ..tag },
            Tag { state: State::Rebuilding, ..tag },
            Tag { state: State::Held(Because::Restored), ..tag },
        ] {
            expected.admit(&refused).expect_err("it is another, or not to be used");
        }
    }

    #[test]
    fn states_are_read_back_as_they_are_stored() {
        for state in State::ALL {
            assert_eq!(State::parse(state.as_str()), Some(state));
        }
    }
}
