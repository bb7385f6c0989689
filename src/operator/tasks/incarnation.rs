//! Watches the ledger's identity from the start, and stops everything if it is not the one that we know.
//!
//! A replaced ledger is held: in the ledger itself if it is ours to write to, otherwise by `relay.yaml`. Every object
//! reports it, and nothing is written until an administrator accepts the finding by its name, or the right ledger is
//! back. An accepted ledger is rebuilt ([`rebuild`](crate::operator::tasks::rebuild)) before mail is charged to it.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::ObjectReference;
use uuid::Uuid;

use crate::crd::Reason;
use crate::ledger::identity::Progress;
use crate::ledger::incarnation::{self, Acceptance, Finding, Known, Replaced};
use crate::ledger::store::{self, Identity};
use crate::operator::context::Context;
use crate::operator::error::{Error, Result};
use crate::operator::fleet::installation::{self, ACCEPT, Installation, NAME};
use crate::operator::plan::EventNote;
use crate::operator::report;
use crate::operator::state::guard::LedgerState;
use crate::operator::tasks::rebuild;
use crate::runtime::failure_streak::FailureStreak;
use crate::runtime::relay_config::LedgerAddress;

/// Interval at which the ledger's identity is read: one small read. Relays check by themselves, five times a second.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Interval at which acceptance is looked for while the ledger is held.
const ASK_EVERY: Duration = Duration::from_secs(2);
/// Minimum interval at which the progress is noted, and only if it moved.
const NOTE_EVERY: Duration = Duration::from_secs(60);
/// Reads that find no ledger at all before an empty one is made for acceptance: swapping a file takes less.
const GONE_LOOKS: u32 = 5;
/// Limit for the last note, while the process stops.
const LAST_NOTE: Duration = Duration::from_secs(5);

/// The state of the watch.
#[derive(Default)]
struct Watching {
    gone: u32,
    noted: Option<(Progress, Instant)>,
    asked: Option<Instant>,
}

/// Runs until the future is dropped.
pub async fn run(context: &Context) {
    let mut watching = Watching::default();
    let mut failures = FailureStreak::default();
    loop {
        let looked = look(context, &mut watching).await;
        if let Some(error) = failures.first(&looked) {
            tracing::warn!(error = error as &dyn std::error::Error, "watching the ledger's identity");
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Notes the progress a last time, so that a backup restored while we are down is recognised.
pub async fn end(context: &Context) {
    let guard = &context.ledger_guard;
    let (Some((installation, _)), LedgerState::Open) = (&guard.place, guard.state()) else { return };
    let noting = async {
        // Messages sent since the last rollup count too.
        context.ledger.rollup().await.map_err(Error::ledger("rolling usage up"))?;
        let identity =
            context.ledger.store().identity().await.map_err(Error::ledger("asking for the ledger's identity"))?;
        if identity.progress == installation.progress {
            return Ok(());
        }
        note(context, installation, identity.progress).await
    };
    match tokio::time::timeout(LAST_NOTE, noting).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::warn!(error = &error as &dyn std::error::Error, "noting how far the ledger has come")
        }
        Err(_) => tracing::warn!("noting how far the ledger has come took too long"),
    }
}

async fn note(context: &Context, installation: &Installation, progress: Progress) -> Result<()> {
    installation::note_progress(&context.client, &installation.namespace, progress).await.map_err(Error::installation)
}

async fn look(context: &Context, watching: &mut Watching) -> Result<()> {
    let identity = match identify(context, watching).await? {
        Some(identity) => identity,
        None => return Ok(()),
    };
    let known = context.ledger_guard.known_or(&identity);
    match incarnation::judge(&known, &identity) {
        Finding::Ours => ours(context, watching, known, &identity).await,
        Finding::Rebuilding => rebuild(context).await,
        Finding::Replaced(replaced) => held(context, watching, &known, &identity, &replaced).await,
    }
}

/// Returns the ledger's identity, from a new connection if the open one reports that another file was put in its place.
/// If there is no ledger at all any more, it makes one, held from the start, so that there is something to accept.
async fn identify(context: &Context, watching: &mut Watching) -> Result<Option<Identity>> {
    let failed = Error::ledger("asking for the ledger's identity");
    let error = match context.ledger.store().identity().await {
        Ok(identity) => {
            watching.gone = 0;
            return Ok(Some(identity));
        }
        Err(error) => error,
    };
    let Some((installation, address)) = &context.ledger_guard.place else { return Err(failed(error)) };
    match &error {
        store::Error::Foreign { .. } => {
            let other =
                crate::ledger::open(address, context.clock.clone()).map_err(Error::ledger("opening the ledger"))?;
            other.identity().await.map(Some).map_err(failed)
        }
        error if error.is_undone() && is_gone(address) => {
            watching.gone += 1;
            if watching.gone == GONE_LOOKS {
                tracing::error!(ledger = address.place(), "the ledger is gone; an empty one is made, to be accepted");
                let naming =
                    Installation { ledger_made: true, ..installation.clone() }.naming(&mut context.seeds.rng());
                crate::ledger::prepare(address, &naming, context.clock.now())
                    .await
                    .map_err(Error::ledger("making a ledger"))?;
            }
            Ok(None)
        }
        _ => Err(failed(error)),
    }
}

fn is_gone(address: &LedgerAddress) -> bool {
    match address {
        LedgerAddress::Sqlite { path } => std::fs::metadata(path).map_or(true, |file| file.len() == 0),
        LedgerAddress::Postgres { .. } => false,
    }
}

/// Handles the right ledger: work goes on, and its progress is noted from time to time.
async fn ours(context: &Context, watching: &mut Watching, known: Known, identity: &Identity) -> Result<()> {
    let guard = &context.ledger_guard;
    if let Some(known) = guard.known().as_mut() {
        known.progress = identity.progress;
    }
    open(context).await;
    let Some((installation, _)) = &guard.place else { return Ok(()) };
    guard.serve(known.incarnation);
    let (noted, at) = *watching.noted.get_or_insert((installation.progress, Instant::now()));
    if noted != identity.progress && at.elapsed() >= NOTE_EVERY {
        note(context, installation, identity.progress).await?;
        watching.noted = Some((identity.progress, Instant::now()));
    }
    Ok(())
}

async fn open(context: &Context) {
    let guard = &context.ledger_guard;
    let before = guard.state.send_replace(LedgerState::Open);
    guard.replaced.set(0);
    match before {
        LedgerState::Open | LedgerState::Unknown => {}
        LedgerState::Rebuilding => tracing::info!("the accepted ledger is rebuilt; mail is charged to it"),
        LedgerState::Held(_) => {
            tracing::info!("the right ledger is back");
            context.forget_ledger().await;
        }
    }
    if matches!(before, LedgerState::Rebuilding | LedgerState::Held(_)) {
        context.references.wake_all(&context.queues);
    }
}

async fn rebuild(context: &Context) -> Result<()> {
    rebuild::run(context).await?;
    open(context).await;
    Ok(())
}

/// Handles another ledger: holds it, reports it, and looks for its acceptance.
async fn held(
    context: &Context,
    watching: &mut Watching,
    known: &Known,
    identity: &Identity,
    replaced: &Replaced,
) -> Result<()> {
    let guard = &context.ledger_guard;
    let name = incarnation::name_of(known, identity);
    match replaced.because() {
        Some(_) if replaced.is_held() => {}
        Some(because) => {
            context.ledger.store().hold(because).await.map_err(Error::ledger("holding the ledger"))?;
        }
        None => guard.serve(Uuid::nil()),
    }
    let namespace = guard.place.as_ref().map_or("", |(installation, _)| installation.namespace.as_str());
    let sentence = format!(
        "the ledger {}: no mail is sent (451) until the right volume or backup is put back, or this one is accepted: \
         kubectl annotate configmap {NAME} -n {namespace} --overwrite {ACCEPT}={name}",
        replaced.sentence()
    );
    let held = LedgerState::Held(sentence.as_str().into());
    if guard.state() != held {
        guard.state.send_replace(held);
        guard.replaced.set(1);
        tracing::error!(finding = %name, "{sentence}");
        context.forget_ledger().await;
        tell(context, true, Reason::LedgerReplaced, &sentence).await;
        context.references.wake_all(&context.queues);
    }
    let Some((installation, _)) = &guard.place else { return Ok(()) };
    if watching.asked.is_some_and(|asked| asked.elapsed() < ASK_EVERY) {
        return Ok(());
    }
    watching.asked = Some(Instant::now());
    let word = installation::acceptance(&context.client, &installation.namespace).await.map_err(Error::installation)?;
    match word {
        Some((word, actor)) if word == name => accept(context, installation, identity, word, actor).await,
        // It was accepted, and the process ended before that was noted.
        Some((word, _)) if identity.incarnation == incarnation::successor(word) => {
            adopt(context, installation, identity.incarnation, identity.progress).await
        }
        Some(_) | None => Ok(()),
    }
}

async fn accept(
    context: &Context,
    installation: &Installation,
    identity: &Identity,
    name: Uuid,
    actor: String,
) -> Result<()> {
    let incarnation = incarnation::successor(name);
    tracing::warn!(finding = %name, actor, %incarnation, "the ledger is accepted; it is rebuilt from the resources");
    let acceptance = Acceptance {
        actor: actor.clone(),
        found: identity.incarnation,
        installation: installation.id,
        cluster: installation.cluster.clone(),
        incarnation,
    };
    context.ledger.store().accept(&acceptance).await.map_err(Error::ledger("accepting the ledger"))?;
    let note = format!("{actor} accepted the ledger {name}; it is rebuilt from the resources and their Secrets");
    tell(context, false, Reason::LedgerAccepted, &note).await;
    adopt(context, installation, incarnation, Progress::default()).await
}

/// Takes over an incarnation, in the ConfigMap first, so that later steps are final.
async fn adopt(context: &Context, installation: &Installation, incarnation: Uuid, progress: Progress) -> Result<()> {
    let noting = installation::note_incarnation(&context.client, &installation.namespace, incarnation, progress);
    noting.await.map_err(Error::installation)?;
    if let Some(known) = context.ledger_guard.known().as_mut() {
        known.incarnation = incarnation;
        known.progress = progress;
    }
    context.ledger_guard.serve(incarnation);
    Ok(())
}

async fn tell(context: &Context, warning: bool, reason: Reason, note: &str) {
    let Some((installation, _)) = &context.ledger_guard.place else { return };
    let about = ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("ConfigMap".to_owned()),
        name: Some(NAME.to_owned()),
        namespace: Some(installation.namespace.clone()),
        ..ObjectReference::default()
    };
    let event_note = EventNote { warning, reason, note: note.to_owned() };
    report::publish(&context.client, about, &installation.namespace, &event_note, context.clock.now()).await;
}
