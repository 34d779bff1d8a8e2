//! Asking a registry: with credentials, again if it helps, and never forever.

use std::error::Error as _;
use std::time::Duration;

use reqwest::header::{AUTHORIZATION, HeaderMap, RETRY_AFTER, WWW_AUTHENTICATE};
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url};

use super::token::Authority;
use crate::store::failure::{Failure, Kind, Result, excerpt};
use crate::store::network::{Limits, Patience};

/// What a request is for; tokens are good for one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Access {
    Pull,
    Push,
    Delete,
}

impl Access {
    /// As token servers call it.
    pub fn actions(self) -> &'static str {
        match self {
            Access::Pull => "pull",
            Access::Push => "pull,push",
            Access::Delete => "delete",
        }
    }
}

/// One repository of a registry.
pub(super) struct Client {
    http: reqwest::Client,
    base: Url,
    authority: Authority,
    pub limits: Limits,
}

/// What the network did instead of carrying a request: the reasons are nested, and each says only its own part.
pub(super) fn broken(error: &reqwest::Error) -> Failure {
    let mut text = match error.url().and_then(Url::host_str) {
        Some(host) => format!("no answer from {host}"),
        None => "no answer".to_owned(),
    };
    let mut reason = error.source();
    if error.is_timeout() {
        text = format!("{text}: it took too long");
        reason = None;
    }
    while let Some(inner) = reason {
        text = format!("{text}: {inner}");
        reason = inner.source();
    }
    Failure::new(Kind::Unreachable, excerpt(&text))
}

/// What an answer says that is none.
pub(super) async fn refused(response: Response) -> Failure {
    let status = response.status();
    let kind = match status {
        StatusCode::NOT_FOUND => Kind::NotFound,
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Kind::Denied,
        StatusCode::PRECONDITION_FAILED | StatusCode::CONFLICT => Kind::Conflict,
        StatusCode::RANGE_NOT_SATISFIABLE => Kind::Corrupt,
        StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED => Kind::Unsupported,
        StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => Kind::Unreachable,
        _ if status.is_client_error() => Kind::Invalid,
        _ => Kind::Unreachable,
    };
    let text = read_most(response, 4096).await.unwrap_or_default();
    let text = excerpt(&String::from_utf8_lossy(&text));
    Failure::new(
        kind,
        format!("the registry answered {status} {text}").trim_end(),
    )
}

/// The first bytes of an answer.
async fn read_most(mut response: Response, most: usize) -> reqwest::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    while bytes.len() < most
        && let Some(chunk) = response.chunk().await?
    {
        bytes.extend_from_slice(&chunk);
    }
    bytes.truncate(most);
    Ok(bytes)
}

fn is_passing(status: StatusCode) -> bool {
    status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED
        || status == StatusCode::TOO_MANY_REQUESTS
        || status == StatusCode::REQUEST_TIMEOUT
}

/// `Retry-After` in seconds (RFC 9110, 10.2.3).
fn asked_pause(response: &Response) -> Option<Duration> {
    let seconds = response.headers().get(RETRY_AFTER)?.to_str().ok()?;
    seconds.trim().parse().ok().map(Duration::from_secs)
}

impl Client {
    pub fn new(
        registry: &str,
        repository: &str,
        plain_http: bool,
        limits: Limits,
    ) -> Result<Client> {
        let invalid =
            |error: &dyn std::fmt::Display| Failure::new(Kind::Invalid, error.to_string());
        let scheme = if plain_http { "http" } else { "https" };
        let base = Url::parse(&format!("{scheme}://{registry}/v2/{repository}/"));
        let base = base.map_err(|error| invalid(&error))?;
        let http = reqwest::Client::builder()
            .connect_timeout(limits.connect)
            .read_timeout(limits.idle)
            .user_agent(concat!("harness-fs/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| broken(&error))?;
        Ok(Client {
            authority: Authority::new(registry, repository),
            http,
            base,
            limits,
        })
    }

    /// The URL of something in the repository.
    pub fn url(&self, path: &str) -> Result<Url> {
        let url = self.base.join(&format!("./{path}"));
        url.map_err(|error| Failure::new(Kind::Invalid, error.to_string()))
    }

    pub fn request(&self, method: Method, url: Url) -> RequestBuilder {
        self.http.request(method, url)
    }

    /// With what the registry has asked for so far; to nobody but the registry.
    pub fn authorized(&self, access: Access, request: RequestBuilder) -> RequestBuilder {
        let ours = match request.try_clone().map(RequestBuilder::build) {
            Some(Ok(request)) => request.url().origin() == self.base.origin(),
            // A body that is a stream cannot be cloned; it goes where the registry has sent us.
            _ => true,
        };
        match self.authority.known(access).filter(|_| ours) {
            Some(authorization) => request.header(AUTHORIZATION, authorization),
            None => request,
        }
    }

    /// Sends a request until it is answered: what passes is tried again, and credentials are fetched when they are asked
    /// for.
    pub async fn ask(
        &self,
        access: Access,
        make: impl Fn(&reqwest::Client) -> RequestBuilder,
    ) -> Result<Response> {
        let mut patience = Patience::new(self.limits);
        let mut authorized = false;
        loop {
            let response = self.authorized(access, make(&self.http)).send().await;
            let (failure, pause) = match response {
                Ok(response) if response.status().is_success() => return Ok(response),
                Ok(response) if response.status() == StatusCode::UNAUTHORIZED && !authorized => {
                    // Once: who is refused with fresh credentials has the wrong ones.
                    authorized = true;
                    let challenges = response.headers().get_all(WWW_AUTHENTICATE);
                    let challenges = challenges.iter().filter_map(|value| value.to_str().ok());
                    let challenges: Vec<String> = challenges.map(str::to_owned).collect();
                    self.authority
                        .answer(&self.http, access, &challenges, self.limits)
                        .await?;
                    continue;
                }
                Ok(response) if is_passing(response.status()) => {
                    let pause = asked_pause(&response);
                    (refused(response).await, pause)
                }
                Ok(response) => return Err(refused(response).await),
                Err(error) => (broken(&error), None),
            };
            if !patience.again(pause).await {
                return Err(failure);
            }
        }
    }

    /// As [`ask`](Client::ask), and reads the answer, of at most so many bytes; what breaks while it is read is asked for again.
    pub async fn read(
        &self,
        access: Access,
        make: impl Fn(&reqwest::Client) -> RequestBuilder,
        most: u64,
    ) -> Result<(Vec<u8>, HeaderMap)> {
        let mut patience = Patience::new(self.limits);
        loop {
            let response = self.ask(access, &make).await?;
            let headers = response.headers().clone();
            let error = match read_most(response, most as usize + 1).await {
                Ok(bytes) if bytes.len() as u64 > most => {
                    let text = "the registry answered with more than was asked for";
                    return Err(Failure::new(Kind::Corrupt, text));
                }
                Ok(bytes) => return Ok((bytes, headers)),
                Err(error) => error,
            };
            if !patience.again(None).await {
                return Err(broken(&error));
            }
        }
    }

    /// Deletes something; that it is not there is no error.
    pub async fn delete(&self, path: String) -> Result<()> {
        let url = self.url(&path)?;
        let make = |http: &reqwest::Client| http.delete(url.clone());
        match self.ask(Access::Delete, make).await {
            Ok(_) => Ok(()),
            Err(failure) if failure.kind() == Kind::NotFound => Ok(()),
            Err(failure) => Err(failure),
        }
    }
}
