//! One dialogue with the sink.

use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{Act, At, Received, Shared, SinkTls};

const READ: usize = 64 * 1024;

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

struct Session {
    shared: Arc<Shared>,
    stream: Box<dyn Stream>,
    input: Vec<u8>,
    /// Read up to here.
    at: usize,
    output: Vec<u8>,
    tls: bool,
    greeted: bool,
    auth: Option<String>,
    connection: u64,
    from: Option<(String, String)>,
    to: Vec<String>,
    asked: usize,
}

/// Whether a dialogue goes on.
#[derive(PartialEq, Eq)]
enum Then {
    GoOn,
    HangUp,
    Encrypt,
}

pub(super) async fn serve(stream: TcpStream, connection: u64, shared: Arc<Shared>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let tls = shared.options.tls == SinkTls::Implicit;
    let stream: Box<dyn Stream> = match &shared.tls {
        Some(acceptor) if tls => Box::new(acceptor.accept(stream).await?),
        Some(_) | None => Box::new(stream),
    };
    let mut session = Session {
        shared,
        stream,
        input: Vec::new(),
        at: 0,
        output: Vec::new(),
        tls,
        greeted: false,
        auth: None,
        connection,
        from: None,
        to: Vec::new(),
        asked: 0,
    };
    if session.reply(At::Connect, "220 sink ESMTP\r\n").await? == Then::HangUp {
        return Ok(());
    }
    while let Some(line) = session.line().await? {
        match session.command(&line).await? {
            Then::GoOn => {}
            Then::HangUp => break,
            Then::Encrypt => session = session.encrypt().await?,
        }
    }
    Ok(())
}

impl Session {
    /// The next line without its end; `None` when the client is gone. Sends the replies first when nothing is there.
    async fn line(&mut self) -> io::Result<Option<String>> {
        loop {
            if let Some(length) = self.input[self.at..].iter().position(|&byte| byte == b'\n') {
                let line = &self.input[self.at..self.at + length];
                let line = String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(line)).into_owned();
                self.at += length + 1;
                return Ok(Some(line));
            }
            if !self.more().await? {
                return Ok(None);
            }
        }
    }

    /// Reads more. False: the client is gone.
    async fn more(&mut self) -> io::Result<bool> {
        self.flush().await?;
        self.input.drain(..self.at);
        self.at = 0;
        self.input.reserve(READ);
        Ok(self.stream.read_buf(&mut self.input).await? > 0)
    }

    async fn flush(&mut self) -> io::Result<()> {
        if !self.output.is_empty() {
            self.stream.write_all(&self.output).await?;
            self.stream.flush().await?;
            self.output.clear();
        }
        Ok(())
    }

    /// Says `text`, or does what it was told to do here.
    async fn reply(&mut self, at: At, text: &str) -> io::Result<Then> {
        self.answer(|told| told == at, text).await.map(|(then, _)| then)
    }

    /// The same, and whether it said `text` in the end.
    async fn answer(&mut self, here: impl Fn(At) -> bool, text: &str) -> io::Result<(Then, bool)> {
        let mut act = self.shared.act(here);
        if let Some(Act::StallThen(later)) = act {
            self.flush().await?;
            self.shared.clone().stall().await;
            act = Some(*later);
        }
        match act {
            // What comes after one stall does not stall again.
            None | Some(Act::StallThen(_)) => {}
            Some(Act::Reply(instead)) => {
                self.say(instead);
                return Ok((Then::GoOn, false));
            }
            Some(Act::ReplyAndDrop(instead)) => {
                self.say(instead);
                self.flush().await?;
                return Ok((Then::HangUp, false));
            }
            Some(Act::Answer(octets)) => {
                self.output.extend_from_slice(octets);
                return Ok((Then::GoOn, true));
            }
            Some(Act::Inject(bytes)) => {
                self.output.extend_from_slice(text.as_bytes());
                self.output.extend_from_slice(bytes);
                return Ok((Then::GoOn, true));
            }
            Some(Act::Drop) => {
                self.flush().await?;
                return Ok((Then::HangUp, false));
            }
            Some(Act::Stall) => {
                self.flush().await?;
                self.shared.clone().stall().await;
            }
            Some(Act::Delay(delay)) => {
                self.flush().await?;
                tokio::time::sleep(delay).await;
            }
        }
        self.output.extend_from_slice(text.as_bytes());
        Ok((Then::GoOn, true))
    }

    fn say(&mut self, line: &str) {
        self.output.extend_from_slice(line.as_bytes());
        self.output.extend_from_slice(b"\r\n");
    }

    async fn command(&mut self, line: &str) -> io::Result<Then> {
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        match verb.to_ascii_uppercase().as_str() {
            "EHLO" | "HELO" => {
                *self.shared.hello.lock().unwrap_or_else(PoisonError::into_inner) = line.to_owned();
                self.ehlo().await
            }
            "STARTTLS" => self.start_tls().await,
            "AUTH" => self.authenticate(rest).await,
            "MAIL" => self.mail(rest).await,
            "RCPT" => self.recipient(rest).await,
            "DATA" => self.data().await,
            "RSET" => {
                self.clear();
                self.say("250 2.0.0 cleared");
                Ok(Then::GoOn)
            }
            "NOOP" => {
                self.say("250 2.0.0 ok");
                Ok(Then::GoOn)
            }
            "QUIT" => {
                self.shared.quits.fetch_add(1, Ordering::SeqCst);
                self.say("221 2.0.0 bye");
                self.flush().await?;
                Ok(Then::HangUp)
            }
            _ => {
                self.say("500 5.5.1 what?");
                Ok(Then::GoOn)
            }
        }
    }

    fn clear(&mut self) {
        self.from = None;
        self.to.clear();
        self.asked = 0;
    }

    async fn ehlo(&mut self) -> io::Result<Then> {
        self.greeted = true;
        self.clear();
        let options = &self.shared.options;
        let mut words = vec!["sink".to_owned()];
        if options.pipelining {
            words.push("PIPELINING".into());
        }
        if options.eight_bit_mime {
            words.push("8BITMIME".into());
        }
        if options.smtputf8 {
            words.push("SMTPUTF8".into());
        }
        if let Some(size) = options.size {
            words.push(format!("SIZE {size}"));
        }
        if options.tls == SinkTls::StartTls && !self.tls {
            words.push("STARTTLS".into());
        } else if options.login.is_some() {
            words.push(format!("AUTH {}", options.mechanisms));
        }
        words.push("ENHANCEDSTATUSCODES".into());
        let last = words.len() - 1;
        let text: String = words
            .iter()
            .enumerate()
            .map(|(index, word)| format!("250{}{word}\r\n", if index == last { ' ' } else { '-' }))
            .collect();
        self.reply(At::Ehlo, &text).await
    }

    async fn start_tls(&mut self) -> io::Result<Then> {
        if self.shared.tls.is_none() || self.tls {
            self.say("503 5.5.1 not now");
            return Ok(Then::GoOn);
        }
        let (then, said) = self.answer(|told| told == At::StartTls, "220 2.0.0 go ahead\r\n").await?;
        self.flush().await?;
        Ok(if then == Then::GoOn && said { Then::Encrypt } else { then })
    }

    async fn encrypt(self) -> io::Result<Self> {
        let acceptor = self.shared.tls.clone().ok_or(io::ErrorKind::Unsupported)?;
        let stream: Box<dyn Stream> = Box::new(acceptor.accept(self.stream).await?);
        Ok(Self { stream, input: Vec::new(), at: 0, tls: true, greeted: false, ..self })
    }

    async fn authenticate(&mut self, rest: &str) -> io::Result<Then> {
        let mut words = rest.split(' ');
        let mechanism = words.next().unwrap_or("").to_ascii_uppercase();
        let given = match mechanism.as_str() {
            "PLAIN" => {
                let initial = words.next().map(str::to_owned);
                let Some(answer) = self.ask(initial, "334 ").await? else { return Ok(Then::HangUp) };
                let mut parts = answer.split('\0').skip(1).map(str::to_owned);
                parts.next().zip(parts.next())
            }
            "LOGIN" => {
                let Some(user) = self.ask(None, "334 VXNlcm5hbWU6").await? else { return Ok(Then::HangUp) };
                let Some(password) = self.ask(None, "334 UGFzc3dvcmQ6").await? else { return Ok(Then::HangUp) };
                Some((user, password))
            }
            _ => None,
        };
        if given.is_some() && given == self.shared.options.login {
            let (then, said) = self.answer(|told| told == At::Auth, "235 2.7.0 welcome\r\n").await?;
            self.auth = given.map(|(user, _)| user).filter(|_| said);
            return Ok(then);
        }
        self.say("535 5.7.8 wrong");
        Ok(Then::GoOn)
    }

    /// A base64 answer of the client, decoded; it may have come with the command.
    async fn ask(&mut self, initial: Option<String>, prompt: &str) -> io::Result<Option<String>> {
        let answer = match initial {
            Some(answer) => answer,
            None => {
                self.say(prompt);
                match self.line().await? {
                    Some(answer) => answer,
                    None => return Ok(None),
                }
            }
        };
        let bytes = BASE64.decode(answer.trim()).unwrap_or_default();
        Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
    }

    async fn mail(&mut self, rest: &str) -> io::Result<Then> {
        if !self.greeted || self.from.is_some() {
            self.say("503 5.5.1 out of order");
            return Ok(Then::GoOn);
        }
        if self.shared.options.login.is_some() && self.auth.is_none() {
            self.say("530 5.7.0 log in first");
            return Ok(Then::GoOn);
        }
        let Some((address, parameters)) = path(rest, "FROM:") else {
            self.say("501 5.5.4 MAIL FROM:<address>");
            return Ok(Then::GoOn);
        };
        let (then, said) = self
            .answer(
                |told| told == At::Mail || matches!(told, At::MailOf(of) if of == address),
                "250 2.1.0 sender ok\r\n",
            )
            .await?;
        if said {
            self.from = Some((address, parameters));
        }
        Ok(then)
    }

    async fn recipient(&mut self, rest: &str) -> io::Result<Then> {
        if self.from.is_none() {
            self.say("503 5.5.1 MAIL first");
            return Ok(Then::GoOn);
        }
        let Some((address, _)) = path(rest, "TO:") else {
            self.say("501 5.5.4 RCPT TO:<address>");
            return Ok(Then::GoOn);
        };
        self.asked += 1;
        let asked = self.asked;
        let here = |told| matches!(told, At::Recipient(n) if n == 0 || n == asked);
        let (then, said) = self.answer(here, "250 2.1.5 recipient ok\r\n").await?;
        if said {
            self.to.push(address);
        }
        Ok(then)
    }

    async fn data(&mut self) -> io::Result<Then> {
        let empty = self.to.is_empty();
        let text = if empty { "503 5.5.1 no valid recipients\r\n" } else { "354 end with a dot\r\n" };
        let (then, said) = self.answer(|told| told == At::Data, text).await?;
        if !said || empty || then != Then::GoOn {
            return Ok(then);
        }
        let Some(body) = self.body().await? else { return Ok(Then::HangUp) };
        let (from, parameters) = self.from.take().unwrap_or_default();
        let received = Received {
            from,
            to: std::mem::take(&mut self.to),
            parameters,
            body,
            tls: self.tls,
            auth: self.auth.clone(),
            connection: self.connection,
        };
        self.clear();
        let here = |told| told == At::Final || matches!(told, At::FinalOf(of) if of == received.from);
        let (then, said) = self.answer(here, "250 2.0.0 taken\r\n").await?;
        // Without a word, but complete: that is what an upstream that dies after the dot may have done.
        let silent = then == Then::HangUp && self.output.is_empty() && !said;
        if said || silent {
            self.shared.record(received);
        }
        Ok(then)
    }

    /// Reads a body up to CRLF.CRLF, un-stuffed. `None`: it was told to hang up, or the client did.
    async fn body(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut body = Vec::with_capacity(8 * 1024);
        let mut line_start = true;
        loop {
            while let Some(piece) = piece(&self.input[self.at..]) {
                let mut bytes = &self.input[self.at..self.at + piece];
                self.at += piece;
                if line_start && bytes == b".\r\n" {
                    return Ok(Some(body));
                }
                if line_start && bytes.starts_with(b".") {
                    bytes = &bytes[1..];
                }
                body.extend_from_slice(bytes);
                line_start = body.ends_with(b"\r\n");
            }
            let arrived = body.len();
            let here = |told| matches!(told, At::Body(octets) if arrived >= octets);
            match self.shared.act(here) {
                None => {}
                Some(Act::Drop) => return Ok(None),
                Some(Act::Reply(text)) => {
                    // An upstream that interrupts says it once and reads on.
                    self.say(text);
                    self.flush().await?;
                }
                Some(Act::ReplyAndDrop(text)) => {
                    self.say(text);
                    self.flush().await?;
                    return Ok(None);
                }
                Some(Act::Inject(bytes) | Act::Answer(bytes)) => self.output.extend_from_slice(bytes),
                Some(Act::Stall | Act::StallThen(_)) => self.shared.clone().stall().await,
                Some(Act::Delay(delay)) => tokio::time::sleep(delay).await,
            }
            if !self.more().await? {
                return Ok(None);
            }
        }
    }
}

/// How much of `input` can be taken: a line, or a part of one that cannot be the final dot.
fn piece(input: &[u8]) -> Option<usize> {
    match input.iter().position(|&byte| byte == b'\n') {
        Some(length) => Some(length + 1),
        None if input.len() > 2 => Some(input.len()),
        None => None,
    }
}

/// `FROM:<address> parameters` in its parts.
fn path(rest: &str, keyword: &str) -> Option<(String, String)> {
    let (head, tail) = rest.split_at_checked(keyword.len())?;
    let tail = head.eq_ignore_ascii_case(keyword).then_some(tail)?.trim_start().strip_prefix('<')?;
    let (address, parameters) = tail.split_once('>')?;
    Some((address.to_owned(), parameters.trim().to_owned()))
}
