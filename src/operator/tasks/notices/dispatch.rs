//! Dispatches notices that are due, channel by channel.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

use crate::domain::id::PolicyId;
use crate::ledger::report::{Channel, Ended, NOTICE_TRIES, NOTICES_MAX, Queued};
use crate::operator::error::{Error, Result};
use crate::operator::tasks::notices::deliver::{Group, NoticeDelivery, Went};

/// Pause after a round that took its maximum.
const BUSY_PAUSE: Duration = Duration::from_secs(5);
/// Time to gather notices, so that thresholds crossed together are sent together.
const GATHER: Duration = Duration::from_secs(1);
/// Maximum pause without a new announcement: earlier failures may be due again.
const IDLE_PAUSE: Duration = Duration::from_secs(30);
/// Events written in one round: with the pause as many per second as statuses for figures.
const EVENTS: usize = 25;
const WEBHOOKS: usize = 100;
/// Account notices taken in one round: with the pause at most twenty mails per second, for all policies.
const ACCOUNT_MAILS: usize = 100;
/// Time in a round for mail to the accounts of one policy: a slow upstream must not delay the mail of other policies'
/// accounts for minutes. The rest waits for its next turn.
const ACCOUNT_MAIL_LIMIT: Duration = Duration::from_secs(30);
/// Age at which notices are forgotten: longer than any period, and than most balances last.
const FORGOTTEN_AFTER: SignedDuration = SignedDuration::from_hours(24 * 800);
const FORGET_EVERY: Duration = Duration::from_secs(3600);
const FORGET_AT_ONCE: usize = 500;

impl NoticeDelivery<'_> {
    /// Sends the announced notices, until the future is dropped.
    pub async fn run(&self) {
        tokio::join!(
            keep(self, Channel::Event),
            keep(self, Channel::Mail),
            keep(self, Channel::AccountMail),
            keep(self, Channel::Webhook),
            forget(self)
        );
    }
}

async fn keep(delivery: &NoticeDelivery<'_>, channel: Channel) {
    let mut announced = delivery.notices.announced.subscribe();
    loop {
        announced.mark_unchanged();
        let most = most(channel);
        match round(delivery, channel, most).await {
            Ok(taken) if taken == most => tokio::time::sleep(BUSY_PAUSE).await,
            Ok(_) => {
                // A round follows whether or not there was an announcement.
                drop(tokio::time::timeout(IDLE_PAUSE, announced.changed()).await);
                tokio::time::sleep(GATHER).await;
            }
            Err(error) => {
                tracing::warn!(channel = channel.as_str(), error = &error as &dyn std::error::Error, "sending notices");
                tokio::time::sleep(IDLE_PAUSE).await;
            }
        }
    }
}

fn most(channel: Channel) -> usize {
    match channel {
        Channel::Event => EVENTS,
        // All that wait for one policy go into one mail.
        Channel::Mail => NOTICES_MAX,
        Channel::AccountMail => ACCOUNT_MAILS,
        Channel::Webhook => WEBHOOKS,
    }
}

async fn forget(delivery: &NoticeDelivery<'_>) {
    loop {
        let before = delivery.clock.now().saturating_sub(FORGOTTEN_AFTER).unwrap_or(Timestamp::MIN);
        match delivery.ledger.forget_notices(before, FORGET_AT_ONCE).await {
            Ok(count) if count == FORGET_AT_ONCE as u64 => tokio::time::sleep(BUSY_PAUSE).await,
            Ok(_) => tokio::time::sleep(FORGET_EVERY).await,
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "forgetting old notices");
                tokio::time::sleep(IDLE_PAUSE).await;
            }
        }
    }
}

/// Runs one round. Returns how many notices it took.
async fn round(delivery: &NoticeDelivery<'_>, channel: Channel, most: usize) -> Result<usize> {
    let claimed = delivery.ledger.claim_notices(channel, most).await.map_err(Error::ledger("claiming notices"))?;
    let taken = claimed.len();
    let mut by_policy: BTreeMap<PolicyId, Vec<Vec<Queued>>> = BTreeMap::new();
    let mut dead = Vec::new();
    for queued in claimed {
        // The process that tried it last died over it.
        if queued.tries > NOTICE_TRIES {
            dead.push((queued, Went::Unwanted));
        } else {
            // In the order in which they were handed out, which is by turns.
            let groups = by_policy.entry(queued.notice.policy).or_default();
            let is_theirs = |group: &&mut Vec<Queued>| !is_told_apart(channel) || is_of(group, &queued);
            match groups.iter_mut().find(is_theirs) {
                Some(group) => group.push(queued),
                None => groups.push(vec![queued]),
            }
        }
    }
    note(delivery, channel, dead).await?;
    for (policy, groups) in by_policy {
        let begun = Instant::now();
        for queued in groups {
            let group = Group { with: delivery, policy, queued: &queued };
            let went = match channel {
                Channel::Event => group.events().await,
                Channel::Mail => group.mail().await,
                Channel::AccountMail if begun.elapsed() > ACCOUNT_MAIL_LIMIT => group.put_off(),
                Channel::AccountMail => group.account_mail().await,
                Channel::Webhook => group.webhooks().await,
            };
            note(delivery, channel, queued.into_iter().zip(went).collect()).await?;
        }
    }
    Ok(taken)
}

fn is_of(group: &[Queued], queued: &Queued) -> bool {
    group.first().is_some_and(|first| first.notice.topic.holder == queued.notice.topic.holder)
}

/// True if each holder's notices go separately, to recipients of its own, and not with all of its policy's.
fn is_told_apart(channel: Channel) -> bool {
    match channel {
        Channel::Event | Channel::Mail | Channel::Webhook => false,
        Channel::AccountMail => true,
    }
}

/// Records the outcomes at once, so that a process that dies sends few notices again.
async fn note(delivery: &NoticeDelivery<'_>, channel: Channel, all: Vec<(Queued, Went)>) -> Result<()> {
    let end = |(queued, went): &(Queued, Went)| match went {
        Went::Sent => Some((queued.id, Ended::Sent)),
        Went::Unwanted => Some((queued.id, Ended::GivenUp)),
        Went::Failed(_) => (queued.tries >= NOTICE_TRIES).then_some((queued.id, Ended::GivenUp)),
    };
    let ended: Vec<(i64, Ended)> = all.iter().filter_map(end).collect();
    if !ended.is_empty() {
        delivery.ledger.close_notices(&ended).await.map_err(Error::ledger("noting that notices were sent"))?;
    }
    for (queued, went) in &all {
        if let Went::Failed(problem) = went {
            let (channel, notice, tries) = (channel.as_str(), queued.notice.to_string(), queued.tries);
            tracing::warn!(channel, notice, tries, most = NOTICE_TRIES, problem, "telling of a threshold");
        }
        count(delivery, channel, went);
    }
    Ok(())
}

fn count(delivery: &NoticeDelivery<'_>, channel: Channel, went: &Went) {
    let result = match went {
        Went::Sent => "sent",
        Went::Failed(_) => "failed",
        Went::Unwanted => "unwanted",
    };
    delivery.notices.deliveries.with_label_values(&[channel.as_str(), result]).inc();
}
