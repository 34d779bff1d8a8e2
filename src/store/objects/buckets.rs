//! Opening buckets.

use std::sync::Arc;

use object_store::path::Path;

use super::Objects;
use crate::store::cloud::{amazon, google, unusable};
use crate::store::failure::Result;
use crate::store::location::Bucket;
use crate::store::network::Network;

/// The endpoint of one bucket, where the server has a host for each.
fn hosted(endpoint: &str, bucket: &str) -> String {
    endpoint.replacen("://", &format!("://{bucket}."), 1)
}

impl Objects {
    /// S3, or what speaks its protocol.
    pub fn s3(bucket: Bucket, region: Option<String>, path_style: Option<bool>) -> Result<Objects> {
        let network = Network::start(bucket.limits)?;
        let mut builder = amazon(bucket.limits, bucket.http).with_bucket_name(&bucket.name);
        if let Some(region) = region {
            builder = builder.with_region(region);
        }
        if let Some(path_style) = path_style {
            builder = builder.with_virtual_hosted_style_request(!path_style);
        }
        if let Some(endpoint) = &bucket.endpoint {
            builder = builder.with_endpoint(match path_style {
                Some(false) => hosted(endpoint, &bucket.name),
                _ => endpoint.clone(),
            });
        }
        let store = Arc::new(builder.build().map_err(unusable)?);
        Ok(Objects {
            network,
            store: store.clone(),
            pages: store,
            prefix: Path::from(bucket.prefix.as_str()),
            by_generation: false,
        })
    }

    /// Google Cloud Storage.
    pub fn gcs(bucket: Bucket) -> Result<Objects> {
        let network = Network::start(bucket.limits)?;
        let mut builder = google(bucket.limits, bucket.http).with_bucket_name(&bucket.name);
        if let Some(endpoint) = &bucket.endpoint {
            builder = builder.with_base_url(endpoint);
        }
        let store = Arc::new(builder.build().map_err(unusable)?);
        Ok(Objects {
            network,
            store: store.clone(),
            pages: store,
            prefix: Path::from(bucket.prefix.as_str()),
            by_generation: true,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_has_a_host_of_its_own_unless_it_is_in_the_path() {
        assert_eq!(
            hosted("https://s3.example:9000", "b"),
            "https://b.s3.example:9000"
        );
    }
}
