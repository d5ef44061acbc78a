//! One question to an API server and its answer, read with deadlines and bounds.

use std::error::Error;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use http::{Response, StatusCode, header};
use http_body_util::BodyExt;
use kube::client::Body;
use serde::Deserialize;
use tokio::time::{Instant, timeout, timeout_at};

use super::api::{Fault, Reason, chain};
use super::clients::{Target, TokenError};
use super::life::Life;
use super::limits::Limits;

/// Bytes of a refusal that are read: enough for its reason.
const REFUSAL: usize = 64 << 10;

/// Sends a request; its answer, if it is not a refusal.
///
/// # Errors
/// If the server cannot be reached, says nothing in time, or refuses.
pub(super) async fn ask(
    target: &Target,
    request: http::Request<Vec<u8>>,
    limits: &Limits,
) -> Result<Response<Body>, Fault> {
    let patience = limits.connect + limits.head;
    let sent = timeout(patience, target.client.send(request.map(Body::from))).await;
    let Ok(answer) = sent else {
        return Err(Fault::new(
            Reason::Silent,
            format!("no answer within {} s", patience.as_secs_f32()),
        ));
    };
    let answer = answer.map_err(|e| not_sent(&e))?;
    target.life.sign();
    if answer.status().is_success() {
        return Ok(answer);
    }
    Err(refusal(answer, &target.life, limits).await)
}

/// The whole body of an answer.
///
/// # Errors
/// If it comes too slowly, breaks off, or is larger than `most` bytes (called `limit`).
pub(super) async fn body(
    answer: Response<Body>,
    life: &Life,
    limits: &Limits,
    most: usize,
    limit: &str,
) -> Result<Vec<u8>, Fault> {
    let mut body = answer.into_body();
    let mut pace = Pace::new(limits);
    let mut all = Vec::new();
    loop {
        let Ok(frame) = timeout_at(pace.end, body.frame()).await else {
            return Err(pace.slow());
        };
        let Some(frame) = frame else { return Ok(all) };
        let frame = frame.map_err(|e| broken_off(&e))?;
        life.sign();
        let Ok(data) = frame.into_data() else {
            continue;
        };
        if all.len() + data.len() > most {
            return Err(Fault::new(
                Reason::TooLarge,
                format!("{limit} is larger than {most} bytes"),
            ));
        }
        pace.came(data.len());
        all.extend_from_slice(&data);
    }
}

/// The least speed of an answer.
struct Pace {
    window: Duration,
    least: usize,
    came: usize,
    end: Instant,
}

impl Pace {
    fn new(limits: &Limits) -> Self {
        Self {
            window: limits.window,
            least: limits.window_bytes,
            came: 0,
            end: Instant::now() + limits.window,
        }
    }

    fn came(&mut self, bytes: usize) {
        self.came += bytes;
        if self.came >= self.least {
            self.came = 0;
            self.end = Instant::now() + self.window;
        }
    }

    fn slow(&self) -> Fault {
        Fault::new(
            Reason::Silent,
            format!(
                "the answer stopped or drips: less than {} bytes in {} s",
                self.least,
                self.window.as_secs_f32()
            ),
        )
    }
}

/// Lines of a watch.
pub(super) struct Lines {
    body: Body,
    life: Arc<Life>,
    buffer: BytesMut,
    /// Bytes of the buffer that hold no line feed.
    searched: usize,
    /// Since a line is incomplete.
    pace: Option<Pace>,
    limits: Limits,
}

/// What a watch says next.
pub(super) enum Said {
    /// A line, without its end.
    Line(BytesMut),
    /// Nothing until the given time.
    Nothing,
    /// No more.
    End,
}

impl Lines {
    /// Lines of an answer.
    pub fn new(answer: Response<Body>, life: Arc<Life>, limits: &Limits) -> Self {
        Self {
            body: answer.into_body(),
            life,
            buffer: BytesMut::new(),
            searched: 0,
            pace: None,
            limits: limits.clone(),
        }
    }

    /// The next line. Whoever stops waiting loses nothing.
    ///
    /// # Errors
    /// If a line that has begun comes too slowly, breaks off or is larger than one object
    /// may be.
    pub async fn next(&mut self, until: Instant) -> Result<Said, Fault> {
        loop {
            let line = self.line();
            let size = line.as_ref().map_or(self.buffer.len(), BytesMut::len);
            if size > self.limits.object_bytes {
                return Err(Fault::new(
                    Reason::TooLarge,
                    format!(
                        "a line of the watch is larger than {} bytes, the limit of one object",
                        self.limits.object_bytes
                    ),
                ));
            }
            if let Some(line) = line {
                return Ok(Said::Line(line));
            }
            let end = self.pace.as_ref().map_or(until, |pace| pace.end);
            let frame = match timeout_at(end, self.body.frame()).await {
                Ok(frame) => frame,
                Err(_) => match &self.pace {
                    Some(pace) => return Err(pace.slow()),
                    None => return Ok(Said::Nothing),
                },
            };
            match frame {
                Some(Ok(frame)) => {
                    self.life.sign();
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                        let limits = &self.limits;
                        let pace = self.pace.get_or_insert_with(|| Pace::new(limits));
                        pace.came(data.len());
                    }
                }
                Some(Err(error)) => return Err(broken_off(&error)),
                None if self.buffer.trim_ascii().is_empty() => return Ok(Said::End),
                None => {
                    return Err(Fault::new(
                        Reason::Ended,
                        "the watch ended in the middle of a line",
                    ));
                }
            }
        }
    }

    /// A line that is there already.
    fn line(&mut self) -> Option<BytesMut> {
        loop {
            let unsearched = self.buffer.get(self.searched..).unwrap_or_default();
            let Some(found) = unsearched.iter().position(|byte| *byte == b'\n') else {
                self.searched = self.buffer.len();
                return None;
            };
            let mut line = self.buffer.split_to(self.searched + found + 1);
            self.searched = 0;
            let limits = &self.limits;
            // What follows is another line, with a time of its own.
            self.pace = (!self.buffer.is_empty()).then(|| Pace::new(limits));
            line.truncate(line.trim_ascii_end().len());
            if !line.is_empty() {
                return Some(line);
            }
        }
    }
}

/// Kubernetes' words for a refusal.
#[derive(Deserialize, Default)]
struct Status {
    #[serde(default)]
    code: u16,
    #[serde(default)]
    message: String,
}

/// What a refusal means, in words that say what is wrong.
async fn refusal(answer: Response<Body>, life: &Life, limits: &Limits) -> Fault {
    let code = answer.status();
    let retry_after = answer.headers().get(header::RETRY_AFTER);
    let seconds = retry_after.and_then(|value| value.to_str().ok()?.trim().parse().ok());
    // A refusal without words is one all the same.
    let text = body(answer, life, limits, REFUSAL, "a refusal")
        .await
        .unwrap_or_default();
    let status: Status = serde_json::from_slice(&text).unwrap_or_default();
    Fault {
        retry_after: seconds.map(Duration::from_secs),
        ..coded(code, &status.message)
    }
}

/// What the object of an `ERROR` event means.
pub(super) fn error_event(object: &str) -> Fault {
    let status: Status = serde_json::from_str(object).unwrap_or_default();
    let code = StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    coded(code, &status.message)
}

fn coded(code: StatusCode, message: &str) -> Fault {
    let reason = match code {
        // With 504: its store, or its cache, is older than we are.
        _ if message.contains("Too large resource version") => Reason::Expired,
        StatusCode::UNAUTHORIZED => Reason::Unauthorized,
        StatusCode::FORBIDDEN => Reason::Forbidden,
        StatusCode::NOT_FOUND => Reason::NotServed,
        StatusCode::GONE => Reason::Expired,
        StatusCode::TOO_MANY_REQUESTS
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT => Reason::Busy,
        _ => Reason::ServerError,
    };
    let text = match message {
        "" => code.to_string(),
        message => format!("{code}: {message}"),
    };
    Fault::new(reason, text)
}

fn broken_off(error: &(dyn Error + 'static)) -> Fault {
    let reason = if is_tls(error) {
        Reason::Tls
    } else {
        Reason::Ended
    };
    Fault::new(reason, format!("the answer broke off: {}", chain(error)))
}

fn not_sent(error: &(dyn Error + 'static)) -> Fault {
    let reason = if causes(error).any(|cause| cause.is::<TokenError>()) {
        Reason::Credentials
    } else if is_tls(error) {
        Reason::Tls
    } else {
        Reason::Unreachable
    };
    Fault::new(reason, chain(error))
}

/// True if TLS cannot agree: the certificate, the authority, or what we show.
fn is_tls(error: &(dyn Error + 'static)) -> bool {
    causes(error).any(|cause| {
        let io = cause.downcast_ref::<io::Error>();
        io.is_some_and(|io| io.kind() == io::ErrorKind::InvalidData)
    })
}

/// An error and what it comes from.
fn causes<'a>(
    error: &'a (dyn Error + 'static),
) -> impl Iterator<Item = &'a (dyn Error + 'static)> + 'a {
    std::iter::successors(Some(error), |error: &&'a (dyn Error + 'static)| {
        let error = *error;
        // What an I/O error was made from is not its source, but in it.
        let inner = error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref);
        match inner {
            Some(inner) => Some(inner as &'a (dyn Error + 'static)),
            None => error.source(),
        }
    })
}
