//! Clients of Amazon's and Google's services: where their credentials come from,
//! and how patient they are.

use object_store::aws::AmazonS3Builder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::{BackoffConfig, ClientOptions, Error, RetryConfig};

use super::failure::{Failure, Kind};
use super::network::{FIRST_PAUSE, LONGEST_PAUSE, Limits};

/// What `gcloud` takes a token from, too.
const GCLOUD_TOKEN: &str = "CLOUDSDK_AUTH_ACCESS_TOKEN";

fn options(limits: Limits, http: bool) -> ClientOptions {
    ClientOptions::new()
        .with_allow_http(http)
        .with_connect_timeout(limits.connect)
        // Not of the whole request: a large blob takes its time.
        .with_timeout_disabled()
        .with_read_timeout(limits.idle)
}

fn retry(limits: Limits) -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig {
            init_backoff: FIRST_PAUSE,
            max_backoff: LONGEST_PAUSE,
            base: 2.0,
        },
        max_retries: limits.retries,
        retry_timeout: limits.total,
    }
}

/// Amazon's, or what speaks its protocol. Credentials come from the environment as for its own tools: static keys, a web
/// identity (IRSA), a container's (ECS, EKS Pod Identity), or the machine's (IMDS).
pub(super) fn amazon(limits: Limits, http: bool) -> AmazonS3Builder {
    AmazonS3Builder::from_env()
        .with_client_options(options(limits, http))
        .with_retry(retry(limits))
}

/// Google's. Credentials come from the environment: a token, a service account's key, the application default
/// credentials that `gcloud` leaves, or the metadata server.
pub(super) fn google(limits: Limits, http: bool) -> GoogleCloudStorageBuilder {
    let builder = GoogleCloudStorageBuilder::from_env()
        .with_client_options(options(limits, http))
        .with_retry(retry(limits));
    match std::env::var(GCLOUD_TOKEN) {
        Ok(token) => builder.with_bearer_token(token),
        Err(_) => builder,
    }
}

/// Which credentials there are is seen when a client is made, whether they are right at its first request.
pub(super) fn unusable(error: Error) -> Failure {
    Failure::new(Kind::Denied, format!("credentials: {error}"))
}
