//! Registries of Amazon and Google, whose passwords are tokens that their other
//! credentials buy: no `docker login` is needed where a machine has those.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use object_store::aws::AwsAuthorizer;
use object_store::client::{HttpRequest, HttpRequestBody};
use reqwest::{Client, Method};
use serde_json::Value;

use super::asking::{broken, refused};
use super::credentials::Credentials;
use crate::store::cloud::{amazon, google, unusable};
use crate::store::failure::{Failure, Kind, Result};
use crate::store::network::Limits;

/// The name that Artifact Registry knows tokens by.
const GOOGLE_USER: &str = "oauth2accesstoken";
/// Clients are made for buckets; this one's is never asked for.
const NO_BUCKET: &str = "none";
const ECR_TARGET: &str = "AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken";

/// The region of `<account>.dkr.ecr.<region>.amazonaws.com`, and the rest of the name.
fn ecr_region(registry: &str) -> Option<(&str, &str)> {
    let (account, rest) = registry.split_once(".dkr.ecr.")?;
    let (region, domain) = rest.split_once('.')?;
    let known = matches!(domain, "amazonaws.com" | "amazonaws.com.cn");
    let is_account = account.len() == 12 && account.bytes().all(|b| b.is_ascii_digit());
    (known && is_account).then_some((region, domain))
}

fn is_google(registry: &str) -> bool {
    registry == "gcr.io" || registry.ends_with(".gcr.io") || registry.ends_with("-docker.pkg.dev")
}

/// The credentials that this machine has for a registry of a cloud; `None` for any other registry.
///
/// # Errors
/// `Denied` if it has none, or they are not accepted; `Unreachable`.
pub(super) async fn credentials(
    http: &Client,
    registry: &str,
    limits: Limits,
) -> Result<Option<Credentials>> {
    if is_google(registry) {
        let client = google(limits, false).with_bucket_name(NO_BUCKET);
        let client = client.build().map_err(unusable)?;
        let credential = client
            .credentials()
            .get_credential()
            .await
            .map_err(unusable)?;
        return Ok(Some(Credentials::Password {
            user: GOOGLE_USER.to_owned(),
            password: credential.bearer.clone(),
        }));
    }
    match ecr_region(registry) {
        Some((region, domain)) => {
            let endpoint = std::env::var("AWS_ENDPOINT_URL_ECR")
                .unwrap_or_else(|_| format!("https://api.ecr.{region}.{domain}"));
            ecr(http, region, &endpoint, limits).await.map(Some)
        }
        None => Ok(None),
    }
}

/// ECR's `GetAuthorizationToken`.
async fn ecr(http: &Client, region: &str, endpoint: &str, limits: Limits) -> Result<Credentials> {
    let client = amazon(limits, false)
        .with_region(region)
        .with_bucket_name(NO_BUCKET);
    let client = client.build().map_err(unusable)?;
    let credential = client
        .credentials()
        .get_credential()
        .await
        .map_err(unusable)?;

    let url = format!("{}/", endpoint.trim_end_matches('/'));
    let invalid =
        |error: &dyn std::fmt::Display| Failure::new(Kind::Invalid, format!("{url}: {error}"));
    let body = "{}";
    let mut signed = HttpRequest::new(HttpRequestBody::from(body.to_owned()));
    *signed.method_mut() = Method::POST;
    *signed.uri_mut() = url.parse().map_err(|error| invalid(&error))?;
    for (name, value) in [
        ("content-type", "application/x-amz-json-1.1"),
        ("x-amz-target", ECR_TARGET),
    ] {
        let value = value.parse().map_err(|error| invalid(&error))?;
        signed.headers_mut().insert(name, value);
    }
    AwsAuthorizer::new(&credential, "ecr", region)
        .try_authorize(&mut signed, None)
        .map_err(unusable)?;
    let request = http.post(&url).headers(signed.headers().clone()).body(body);
    let response = request.send().await.map_err(|error| broken(&error))?;
    if !response.status().is_success() {
        let failure = refused(response).await;
        return Err(match failure.kind() {
            Kind::Unreachable => failure,
            _ => Failure::new(Kind::Denied, format!("ECR: {failure}")),
        });
    }
    let answer = response.bytes().await.map_err(|error| broken(&error))?;
    password(&answer).ok_or_else(|| Failure::new(Kind::Denied, "ECR gave no token"))
}

/// The user and password in an answer of ECR.
fn password(answer: &[u8]) -> Option<Credentials> {
    let answer: Value = serde_json::from_slice(answer).ok()?;
    let token = answer["authorizationData"][0]["authorizationToken"].as_str()?;
    let pair = String::from_utf8(STANDARD.decode(token).ok()?).ok()?;
    let (user, password) = pair.split_once(':')?;
    Some(Credentials::Password {
        user: user.to_owned(),
        password: password.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registries_of_clouds_are_known_by_name_and_no_others() {
        let ecr = "123456789012.dkr.ecr.eu-west-1.amazonaws.com";
        assert_eq!(ecr_region(ecr), Some(("eu-west-1", "amazonaws.com")));
        // Whoever has such a name is not Amazon or Google, and must not be shown their tokens.
        for name in [
            "123456789012.dkr.ecr.eu-west-1.amazonaws.com.evil.example",
            "x.dkr.ecr.r.amazonaws.com",
            "ghcr.io",
        ] {
            assert_eq!(ecr_region(name), None, "{name}");
        }
        assert!(
            is_google("gcr.io") && is_google("eu.gcr.io") && is_google("europe-docker.pkg.dev")
        );
        assert!(!is_google("gcr.io.evil.example") && !is_google("notgcr.io"));
    }

    #[test]
    fn an_answer_of_ecr() {
        let token = STANDARD.encode("AWS:geheim");
        let answer = format!(r#"{{"authorizationData":[{{"authorizationToken":"{token}"}}]}}"#);
        let Some(Credentials::Password {
            user,
            password: secret,
        }) = password(answer.as_bytes())
        else {
            panic!("no password");
        };
        assert_eq!((user.as_str(), secret.as_str()), ("AWS", "geheim"));
        for bad in [
            "",
            "{}",
            r#"{"authorizationData":[]}"#,
            r#"{"authorizationData":[{"authorizationToken":"!"}]}"#,
        ] {
            assert!(password(bad.as_bytes()).is_none(), "{bad}");
        }
    }
}
