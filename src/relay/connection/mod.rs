//! One connection: the socket's bytes become commands, decisions become replies.
//!
//! Replies go out in the order of their commands, those to all buffered commands in one write. Every wait has a
//! deadline. A shutdown takes effect between commands, so no whole command and no body is cut off.

mod data;

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::admit::Admission;
use super::auth::{Denied, Identity, Origin};
use super::auth_throttle::{self, AuthThrottle};
use super::body_memory::BodyMemory;
use super::client_stream::{ClientStream, Cut, NoTls};
use super::connection_limits::{ConnectionLimits, Permit};
use super::metrics::{Late, LoginResult, ProxyRefusal, SessionEnd, TlsFailure};
use super::settings::RelaySettings;
use super::smtp::command::{self, Mail, Recipient, text_of};
use super::smtp::proxy;
use super::smtp::reply::Reply;
use super::smtp::sasl::Login;
use super::smtp::session::{Answer, Next, SessionParameters, SmtpSession};
use super::unauthenticated::{Place, Unauthenticated};
use crate::domain::credential::Username;
use crate::domain::id::KeyId;
use crate::domain::sender::Address;
use crate::runtime::relay_config::{LineEnds, Listener, ListenerMode};

/// The state that all connections share.
pub struct SharedState {
    pub admission: Arc<Admission>,
    pub limits: ConnectionLimits,
    pub unauthenticated: Unauthenticated,
    pub bodies: BodyMemory,
    pub throttle: AuthThrottle,
    /// Cancelled when sessions must end at their next command.
    pub draining: CancellationToken,
}

/// The address and listener of a connection, with the place that it takes.
pub struct AcceptedConnection {
    pub address: IpAddr,
    pub listener: Arc<Listener>,
    /// Released after the login.
    pub place: Place,
}

pub struct Connection {
    shared: Arc<SharedState>,
    settings: Arc<RelaySettings>,
    listener: Arc<Listener>,
    address: IpAddr,
    stream: ClientStream,
    session: SmtpSession,
    accepted: Instant,
    /// `None` after the login.
    place: Option<Place>,
    identity: Option<Identity>,
    /// The sender of the open transaction was refused, and that was counted.
    sender_refused: bool,
    _permits: Option<(Permit<KeyId>, Permit<Arc<str>>)>,
    /// The step that the client is expected to take next.
    waiting_for: Late,
}

/// The decision whether the session goes on.
#[derive(PartialEq, Eq)]
enum Flow {
    On,
    End,
}

impl Connection {
    pub fn new(
        shared: Arc<SharedState>,
        settings: Arc<RelaySettings>,
        stream: ClientStream,
        accepted: AcceptedConnection,
    ) -> Self {
        let limits = &settings.config.limits;
        let parameters = SessionParameters {
            hostname: settings.config.hostname.clone(),
            mode: accepted.listener.mode,
            message_bytes: limits.message_bytes,
            errors: limits.errors,
            auth_attempts: limits.auth_attempts,
            carries: shared.admission.carries(limits.message_bytes),
        };
        Self {
            shared,
            accepted: Instant::now(),
            settings,
            listener: accepted.listener,
            address: accepted.address,
            stream,
            session: SmtpSession::new(parameters),
            place: Some(accepted.place),
            identity: None,
            sender_refused: false,
            _permits: None,
            waiting_for: Late::Command,
        }
    }

    /// Serves until one side ends the connection. A broken connection is no error of the relay's.
    pub async fn serve(mut self) {
        if let Err(error) = self.converse().await {
            if error.kind() == io::ErrorKind::TimedOut {
                if self.is_over() && !self.stream.is_stuck() {
                    self.shared.admission.metrics.session_ended(SessionEnd::Age);
                    self.say(&Reply::SessionOver);
                } else {
                    self.shared.admission.metrics.timed_out(self.late());
                    self.say(&Reply::TimedOut);
                }
            }
            tracing::debug!(listener = self.listener.name, %error, "connection ended");
        }
        self.stream.close().await;
    }

    async fn converse(&mut self) -> io::Result<()> {
        if self.listener.mode == ListenerMode::Implicit {
            self.start_tls().await?;
        }
        let greeting = self.session.greeting();
        self.say(&greeting);
        let mut deadline = self.command_deadline();
        if self.wait(deadline).await? == Flow::End {
            return Ok(());
        }
        if self.listener.proxy_from.is_empty() && proxy::is_attempt(&self.stream.input) {
            self.shared.admission.metrics.proxy_refused(&self.listener.name, ProxyRefusal::Unexpected);
            tracing::debug!(listener = self.listener.name, peer = %self.address, "no PROXY header is taken here");
            self.say(&Reply::NoService);
            return Ok(());
        }
        loop {
            let flow = match self.stream.cut() {
                Cut::Wait => match self.wait(deadline).await? {
                    Flow::On => continue,
                    Flow::End => return Ok(()),
                },
                Cut::TooLong => {
                    let answer = self.session.unreadable(Reply::CommandTooLong);
                    self.give(&answer)
                }
                Cut::Line(length) => self.line(length).await?,
            };
            if flow == Flow::End {
                return Ok(());
            }
            self.stream.relieve().await?;
            deadline = self.command_deadline();
        }
    }

    /// Returns the step that the client took too long for.
    fn late(&self) -> Late {
        match self.waiting_for {
            _ if self.stream.is_stuck() => Late::Reply,
            Late::Command if !self.session.is_logged_in() => Late::Login,
            waiting_for => waiting_for,
        }
    }

    /// Returns the deadline of the next command (RFC 5321 §4.5.3.2.7), an earlier one before the login: a client
    /// without a name may not hold a place for long.
    fn command_deadline(&self) -> Instant {
        let idle = Instant::now() + seconds(self.settings.config.limits.idle_seconds);
        if !self.session.is_logged_in() {
            idle.min(self.login_deadline())
        } else if self.session.transaction().is_none() {
            idle.min(self.end())
        } else {
            // An open transaction may be finished, but does not keep the session for ever.
            idle.min(self.end() + seconds(self.settings.config.limits.idle_seconds))
        }
    }

    /// Returns the time when the client has to log in again, unless a transaction is open.
    fn end(&self) -> Instant {
        self.accepted + seconds(self.settings.config.limits.session_seconds)
    }

    fn is_over(&self) -> bool {
        self.session.is_logged_in() && self.session.transaction().is_none() && Instant::now() >= self.end()
    }

    /// Returns the time by which the client must have logged in.
    fn login_deadline(&self) -> Instant {
        self.accepted + self.shared.unauthenticated.login_limit(&self.settings.config.limits)
    }

    /// Sends the replies and waits for more input, or for the shutdown. No whole command is buffered here, so none goes
    /// unanswered.
    async fn wait(&mut self, deadline: Instant) -> io::Result<Flow> {
        self.stream.flush().await?;
        tokio::select! {
            biased;
            () = self.shared.draining.cancelled() => {
                self.say(&Reply::Draining);
                Ok(Flow::End)
            }
            () = dismissed(&self.place) => {
                self.shared.admission.metrics.dismissed();
                self.say(&Reply::Crowded);
                Ok(Flow::End)
            }
            read = self.stream.fill(deadline) => Ok(if read? == 0 { Flow::End } else { Flow::On }),
        }
    }

    async fn line(&mut self, length: usize) -> io::Result<Flow> {
        let line = &self.stream.input[..length];
        let bare = self.listener.line_ends == LineEnds::Reject && !line.ends_with(b"\r\n");
        let next = if bare {
            Next::Answer(Answer::close(Reply::BareLineEnd))
        } else if self.session.in_exchange() {
            self.session.auth_line(text_of(line))
        } else {
            self.session.command(command::parse(line))
        };
        self.stream.consume(length);
        self.follow(next).await
    }

    async fn follow(&mut self, next: Next) -> io::Result<Flow> {
        let answer = match next {
            Next::Answer(answer) => answer,
            Next::StartTls => return self.upgrade().await.map(|()| Flow::On),
            Next::Prompt(prompt) => Answer::say(Reply::Challenge(prompt)),
            Next::Login(login) => self.login(login).await?,
            // If the next message is buffered already, the session never waits and would not notice the shutdown.
            Next::Mail(_) if self.shared.draining.is_cancelled() => Answer::close(Reply::Draining),
            Next::Mail(_) if self.is_over() => {
                self.shared.admission.metrics.session_ended(SessionEnd::Age);
                Answer::close(Reply::SessionOver)
            }
            Next::Mail(mail) => match self.may_open(&mail).await {
                Ok(()) => {
                    self.session.begin(mail);
                    self.sender_refused = false;
                    Answer::say(Reply::SenderOk)
                }
                Err(reply) => {
                    if matches!(reply, Reply::LoginOver(_)) {
                        self.shared.admission.metrics.session_ended(SessionEnd::Login);
                    }
                    self.session.answer(reply)
                }
            },
            Next::Recipient(recipient) => match self.may_add(recipient).await {
                Ok(address) => {
                    self.session.add(address);
                    Answer::say(Reply::RecipientOk)
                }
                Err(reply) => self.session.answer(reply),
            },
            Next::Data => self.data().await?,
        };
        Ok(self.give(&answer))
    }

    fn give(&mut self, answer: &Answer) -> Flow {
        self.say(&answer.reply);
        if answer.close { Flow::End } else { Flow::On }
    }

    fn say(&mut self, reply: &Reply) {
        self.shared.admission.metrics.reply(reply);
        self.stream.say(reply);
    }

    async fn upgrade(&mut self) -> io::Result<()> {
        self.say(&Reply::ReadyForTls);
        self.stream.flush().await?;
        self.start_tls().await?;
        self.session.encrypted();
        Ok(())
    }

    async fn start_tls(&mut self) -> io::Result<()> {
        let certificates = self.settings.certificates.as_ref();
        // A listener with TLS and no certificate does not pass `RelayConfig::validate`.
        let server = certificates.ok_or_else(|| io::Error::from(io::ErrorKind::Unsupported))?.server();
        self.waiting_for = Late::Tls;
        let limit = Instant::now() + seconds(self.settings.config.limits.tls_seconds);
        let limit = limit.min(self.login_deadline());
        let started = tokio::select! {
            biased;
            started = self.stream.start_tls(server, limit) => started,
            () = dismissed(&self.place) => {
                self.shared.admission.metrics.dismissed();
                return Err(io::Error::from(io::ErrorKind::ConnectionAborted));
            }
            // No command came yet, so none is cut off; a silent client must not hold up the shutdown for a minute.
            () = self.shared.draining.cancelled() => return Err(io::Error::from(io::ErrorKind::ConnectionAborted)),
        };
        self.waiting_for = Late::Command;
        let metrics = &self.shared.admission.metrics;
        match started {
            Ok(agreed) => agreed.iter().for_each(|agreed| metrics.shook_hands(agreed)),
            Err(NoTls { why, error }) => {
                metrics.tls_failed(why);
                if why == TlsFailure::Injected {
                    tracing::debug!(listener = self.listener.name, peer = %self.address, "octets before the TLS handshake");
                }
                if why == TlsFailure::Late {
                    self.waiting_for = Late::Tls;
                }
                return Err(error);
            }
        }
        Ok(())
    }

    async fn login(&mut self, Login { username, password }: Login) -> io::Result<Answer> {
        let started = Instant::now();
        let origin = Origin { address: self.address, mode: self.listener.mode };
        let settings = self.shared.admission.settings.load_full();
        let limits = &settings.config.limits;
        // Normalised before it is counted, so that no spelling gives a guesser another try.
        let login = Login { username: Username::normalised(&username, &settings.config.hostname), password };
        let SharedState { admission, throttle, limits: permits, unauthenticated, .. } = &*self.shared;
        let attempt = throttle.attempt(self.address, &login.username);
        if !throttle.admits(attempt, limits, started) {
            admission.metrics.login(LoginResult::Guessing);
            self.log_refused(LoginResult::Guessing);
            return self.hold_back(Answer::say(Reply::Guessing), started + auth_throttle::longest(limits)).await;
        }
        let denied = match admission.auth.login(&login, origin).await {
            Ok(identity) => {
                let key = permits.key(identity.key, limits.connections_per_key);
                let namespace = permits.namespace(identity.namespace.clone(), limits.connections);
                let Some(taken) = key.zip(namespace) else {
                    admission.metrics.login(LoginResult::Crowded);
                    return Ok(Answer::close(Reply::Crowded));
                };
                admission.metrics.login(LoginResult::Ok);
                admission.logins.add(identity.key, self.address);
                throttle.succeeded(attempt, limits);
                unauthenticated.logged_in(self.address, limits, Instant::now());
                self._permits = Some(taken);
                self.identity = Some(identity);
                self.place = None;
                self.session.logged_in();
                return Ok(Answer::say(Reply::AuthOk));
            }
            Err(denied) => denied,
        };
        admission.metrics.login(denied.result());
        self.log_refused(denied.result());
        let pause = match denied {
            // Not the client's fault: it costs no try.
            Denied::Unavailable => return Ok(Answer::say(denied.reply())),
            Denied::BadLogin => throttle.failed(attempt, limits, started),
            Denied::WrongNetwork | Denied::NeedsTls | Denied::NotInUse | Denied::Blocked(_) => {
                throttle.refused(attempt, limits, started)
            }
        };
        let answer = self.session.login_failed(denied.reply());
        self.hold_back(answer, started + pause).await
    }

    /// Logs what a device that shows nothing but "Error" was refused for. Not the name: people type passwords there.
    fn log_refused(&self, result: LoginResult) {
        let (listener, peer) = (&self.listener.name, self.address);
        tracing::debug!(listener, %peer, result = result.as_str(), "login refused");
    }

    /// Delays an answer, so that it does not reveal how long it took to find. A connection that is closed meanwhile
    /// never gets it: otherwise a guesser could skip the pause by crowding out its own connections.
    async fn hold_back(&mut self, answer: Answer, until: Instant) -> io::Result<Answer> {
        self.stream.flush().await?;
        tokio::select! {
            () = sleep_until(until) => Ok(answer),
            () = self.shared.draining.cancelled() => Ok(answer),
            () = dismissed(&self.place) => {
                self.shared.admission.metrics.dismissed();
                Ok(Answer::close(Reply::Crowded))
            }
        }
    }

    async fn may_open(&self, mail: &Mail) -> Result<(), Reply> {
        let who = self.identity.as_ref().ok_or(Reply::AuthFirst)?;
        self.shared.admission.begin(who, mail).await
    }

    async fn may_add(&mut self, to: Recipient) -> Result<Address, Reply> {
        let who = self.identity.as_ref().ok_or(Reply::AuthFirst)?;
        let transaction = self.session.transaction().ok_or(Reply::OutOfOrder("MAIL first"))?;
        let added = self.shared.admission.recipient(who, transaction, to).await;
        if let Err(reply) = &added {
            // The sender is the same for all recipients of a message, so its refusal is reported once.
            let is_told = reply.sender_fault().is_some() && std::mem::replace(&mut self.sender_refused, true);
            if !is_told {
                self.shared.admission.recipient_refused(who, reply);
            }
        }
        added
    }
}

/// Waits until another connection gets the place; for ever after the login.
async fn dismissed(place: &Option<Place>) {
    match place {
        Some(place) => place.taken().await,
        None => std::future::pending().await,
    }
}

fn seconds(count: u32) -> Duration {
    Duration::from_secs(u64::from(count))
}
