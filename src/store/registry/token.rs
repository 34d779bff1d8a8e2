//! What a registry wants to see before it answers: nothing, a password, or a
//! token from a server that it names (distribution's `spec/auth/token.md`).

use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use parking_lot::Mutex;
use reqwest::header::{AUTHORIZATION, HeaderValue};
use reqwest::{Client, Url};
use serde::Deserialize;

use super::asking::{Access, broken, refused};
use super::cloud;
use super::credentials::{self, Credentials};
use crate::store::failure::{Failure, Kind, Result};
use crate::store::network::{Limits, Patience};

/// Who may do what in a repository.
pub(super) struct Authority {
    registry: String,
    repository: String,
    /// The `Authorization` headers that were accepted, or are about to be tried.
    known: Mutex<HashMap<Access, HeaderValue>>,
}

/// `WWW-Authenticate` (RFC 9110, 11.6.1).
#[derive(Debug, PartialEq, Eq)]
enum Challenge {
    Basic,
    Bearer {
        realm: String,
        service: Option<String>,
    },
}

#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

/// The first challenge that we can meet.
fn parse(header: &str) -> Option<Challenge> {
    let (scheme, rest) = header.split_once(' ').unwrap_or((header, ""));
    if scheme.eq_ignore_ascii_case("basic") {
        return Some(Challenge::Basic);
    }
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let mut parameters = HashMap::new();
    let mut rest = rest;
    while let Some((key, after)) = rest.split_once('=') {
        let key = key.trim_matches([' ', ',']).to_ascii_lowercase();
        let (value, after) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => after.split_once(',').unwrap_or((after, "")),
        };
        parameters.insert(key, value.to_owned());
        rest = after;
    }
    Some(Challenge::Bearer {
        realm: parameters.remove("realm")?,
        service: parameters.remove("service"),
    })
}

fn secret(text: &str) -> Result<HeaderValue> {
    let mut value = HeaderValue::from_str(text).map_err(|_| {
        Failure::new(
            Kind::Denied,
            "the credentials hold characters that cannot be sent",
        )
    })?;
    value.set_sensitive(true);
    Ok(value)
}

fn basic(user: &str, password: &str) -> Result<HeaderValue> {
    secret(&format!(
        "Basic {}",
        STANDARD.encode(format!("{user}:{password}"))
    ))
}

impl Authority {
    pub fn new(registry: &str, repository: &str) -> Authority {
        Authority {
            registry: registry.to_owned(),
            repository: repository.to_owned(),
            known: Mutex::new(HashMap::new()),
        }
    }

    /// What to send with a request, as far as that is known.
    pub fn known(&self, access: Access) -> Option<HeaderValue> {
        self.known.lock().get(&access).cloned()
    }

    /// Gets what a registry has asked for.
    ///
    /// # Errors
    /// `Denied` if there are no credentials, or a token server does not like them.
    pub async fn answer(
        &self,
        http: &Client,
        access: Access,
        challenges: &[String],
        limits: Limits,
    ) -> Result<()> {
        let Some(challenge) = challenges.iter().find_map(|header| parse(header)) else {
            let text = "the registry wants credentials of a kind that is not known here";
            return Err(Failure::new(Kind::Denied, text));
        };
        let credentials = match credentials::of(&self.registry).await? {
            None => cloud::credentials(http, &self.registry, limits).await?,
            found => found,
        };
        let header = match challenge {
            Challenge::Basic => match &credentials {
                Some(Credentials::Password { user, password }) => basic(user, password)?,
                _ => {
                    let text = format!(
                        "there are no credentials for the registry {} (docker login writes them)",
                        self.registry
                    );
                    return Err(Failure::new(Kind::Denied, text));
                }
            },
            Challenge::Bearer { realm, service } => {
                let token = self
                    .token(http, access, &realm, service, &credentials, limits)
                    .await?;
                secret(&format!("Bearer {token}"))?
            }
        };
        self.known.lock().insert(access, header);
        Ok(())
    }

    async fn token(
        &self,
        http: &Client,
        access: Access,
        realm: &str,
        service: Option<String>,
        credentials: &Option<Credentials>,
        limits: Limits,
    ) -> Result<String> {
        let url = Url::parse(realm).map_err(|error| {
            Failure::new(Kind::Denied, format!("the token server {realm:?}: {error}"))
        })?;
        let scope = format!("repository:{}:{}", self.repository, access.actions());
        let mut fields = vec![("scope", scope)];
        fields.extend(service.map(|service| ("service", service)));
        let mut patience = Patience::new(limits);
        let response = loop {
            let request = match credentials {
                Some(Credentials::Identity(identity)) => {
                    let mut form = url::form_urlencoded::Serializer::new(String::new());
                    form.append_pair("grant_type", "refresh_token");
                    form.append_pair("refresh_token", identity);
                    form.append_pair("client_id", "harness-fs");
                    form.extend_pairs(&fields);
                    http.post(url.clone())
                        .header("content-type", "application/x-www-form-urlencoded")
                        .body(form.finish())
                }
                other => {
                    let mut url = url.clone();
                    url.query_pairs_mut().extend_pairs(&fields);
                    let request = http.get(url);
                    match other {
                        Some(Credentials::Password { user, password }) => {
                            request.header(AUTHORIZATION, basic(user, password)?)
                        }
                        _ => request,
                    }
                }
            };
            let failure = match request.send().await {
                Ok(response) if response.status().is_success() => break response,
                Ok(response) => refused(response).await,
                Err(error) => broken(&error),
            };
            if failure.kind() != Kind::Unreachable || !patience.again(None).await {
                return Err(match failure.kind() {
                    Kind::Unreachable => failure,
                    _ => Failure::new(Kind::Denied, format!("the token server: {failure}")),
                });
            }
        };
        let bytes = response.bytes().await.map_err(|error| broken(&error))?;
        let token = serde_json::from_slice::<Token>(&bytes).ok();
        let token = token.and_then(|token| token.token.or(token.access_token));
        token.ok_or_else(|| Failure::new(Kind::Denied, "the token server gave no token"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges() {
        assert_eq!(parse("Basic realm=\"x\""), Some(Challenge::Basic));
        assert_eq!(parse("Negotiate"), None);
        assert_eq!(parse("Bearer service=\"x\""), None);
        let bearer = |realm: &str, service: Option<&str>| {
            let service = service.map(str::to_owned);
            Some(Challenge::Bearer {
                realm: realm.to_owned(),
                service,
            })
        };
        assert_eq!(
            parse("Bearer realm=\"https://a/t\",service=\"a, b\",scope=\"repository:x:pull,push\""),
            bearer("https://a/t", Some("a, b"))
        );
        assert_eq!(
            parse("bearer Realm=https://a/t, x=y"),
            bearer("https://a/t", None)
        );
        assert_eq!(parse("Bearer realm=\"open"), None);
    }
}
