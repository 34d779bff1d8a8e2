//! The URL of a store.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use url::{Host, Url};

use super::failure::{Failure, Kind, Result};
use super::network::Limits;

/// A URL, taken apart.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Location {
    /// The URL for people: without its parameters.
    pub text: String,
    pub place: Place,
}

/// Where a store is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// `file:///dir`
    Directory(PathBuf),
    /// `s3://bucket/prefix?endpoint=&region=&path-style=&allow-http=`
    S3 {
        bucket: Bucket,
        region: Option<String>,
        path_style: Option<bool>,
    },
    /// `gs://bucket/prefix?endpoint=&allow-http=`
    Gcs { bucket: Bucket },
    /// `oci://registry/repository?plain-http=`
    Registry {
        /// Host and port.
        registry: String,
        repository: String,
        plain_http: bool,
        limits: Limits,
    },
}

/// What object stores have in common.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Bucket {
    pub name: String,
    pub prefix: String,
    pub endpoint: Option<String>,
    /// Whether the endpoint may be asked without TLS.
    pub http: bool,
    pub limits: Limits,
}

fn bad(text: impl Into<String>) -> Failure {
    Failure::new(Kind::Invalid, text)
}

const FORMS: &str =
    "file:///directory, s3://bucket/prefix, gs://bucket/prefix or oci://registry/repository";

impl Location {
    /// Takes a URL apart.
    ///
    /// # Errors
    /// `Invalid`, in one sentence that repeats no password.
    pub fn parse(text: &str) -> Result<Location> {
        if !text.contains("://") {
            return Err(bad(format!(
                "this is not the URL of a store, such as {FORMS}"
            )));
        }
        let url =
            Url::parse(text).map_err(|error| bad(format!("the URL of the store: {error}")))?;
        if !url.username().is_empty() || url.password().is_some() {
            let text = "credentials do not belong in the URL of a store, where everybody reads them: they come from the environment";
            return Err(bad(text));
        }
        if url.fragment().is_some() {
            return Err(bad("the URL of a store has no part after a #"));
        }
        let mut parameters = Parameters::of(&url)?;
        let place = match url.scheme() {
            "file" => directory(&url)?,
            "s3" => Place::S3 {
                region: parameters.take("region"),
                path_style: parameters.take_flag("path-style")?,
                bucket: bucket(&url, &mut parameters)?,
            },
            "gs" => Place::Gcs {
                bucket: bucket(&url, &mut parameters)?,
            },
            "oci" => registry(&url, &mut parameters)?,
            other => {
                return Err(bad(format!(
                    "there is no store of the kind {other}://, but {FORMS}"
                )));
            }
        };
        parameters.none_left(url.scheme())?;
        let mut shown = url;
        shown.set_query(None);
        Ok(Location {
            text: shown.to_string(),
            place,
        })
    }
}

fn directory(url: &Url) -> Result<Place> {
    let path = url.to_file_path().ok().filter(|_| !url.has_host());
    let path = path.ok_or_else(|| {
        let path = format!("{}{}", url.host_str().unwrap_or_default(), url.path());
        bad(format!(
            "a directory has three slashes before it: file:///{path}"
        ))
    })?;
    Ok(Place::Directory(path))
}

fn decoded_path(url: &Url) -> Result<String> {
    let bytes = percent_decode(url.path().trim_matches('/'));
    String::from_utf8(bytes).map_err(|_| bad("the prefix in the URL of the store is not UTF-8"))
}

fn percent_decode(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [byte, after @ ..] = rest {
        let escape = after.get(..2).filter(|_| *byte == b'%');
        let value = escape.and_then(|digits| {
            let digits = std::str::from_utf8(digits).ok()?;
            u8::from_str_radix(digits, 16).ok()
        });
        bytes.push(value.unwrap_or(*byte));
        rest = if value.is_some() { &after[2..] } else { after };
    }
    bytes
}

/// Whether a URL leads to this machine, where nobody reads along.
fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

fn bucket(url: &Url, parameters: &mut Parameters) -> Result<Bucket> {
    let name = url.host_str().filter(|name| !name.is_empty());
    let name = name.ok_or_else(|| bad(format!("the URL {url} names no bucket")))?;
    if url.port().is_some() {
        return Err(bad(
            "a bucket has no port: the server is given as ?endpoint=https://host:port",
        ));
    }
    let allowed = parameters.take_flag("allow-http")?.unwrap_or(false);
    let endpoint = parameters.take("endpoint");
    let mut http = false;
    if let Some(endpoint) = &endpoint {
        let parsed = Url::parse(endpoint);
        let parsed = parsed.map_err(|error| bad(format!("the endpoint of the store: {error}")))?;
        if !parsed.username().is_empty() || parsed.password().is_some() {
            return Err(bad("credentials do not belong in an endpoint"));
        }
        http = match parsed.scheme() {
            "https" => false,
            "http" if allowed || is_loopback(&parsed) => true,
            "http" => {
                let text = format!(
                    "the endpoint {endpoint} would be asked without TLS, which only allow-http=true permits"
                );
                return Err(bad(text));
            }
            _ => {
                return Err(bad(format!(
                    "the endpoint {endpoint:?} is neither https:// nor http://"
                )));
            }
        };
    }
    Ok(Bucket {
        name: name.to_owned(),
        prefix: decoded_path(url)?,
        endpoint,
        http,
        limits: parameters.limits()?,
    })
}

fn registry(url: &Url, parameters: &mut Parameters) -> Result<Place> {
    let host = url.host_str().filter(|host| !host.is_empty());
    let host = host.ok_or_else(|| bad(format!("the URL {url} names no registry")))?;
    let registry = match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    };
    let repository = decoded_path(url)?;
    // distribution-spec, "Pulling manifests": `<name>`.
    let is_part = |part: &str| {
        let edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
        let bytes = part.as_bytes();
        let inside = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(b);
        edge(bytes.first()) && edge(bytes.last()) && bytes.iter().all(inside)
    };
    if !repository.split('/').all(is_part) {
        let text = format!(
            "{repository:?} is not the name of a repository, such as team/project (lower case)"
        );
        return Err(bad(text));
    }
    let server = Url::parse(&format!("http://{registry}"));
    let server = server.map_err(|error| bad(format!("the registry {registry:?}: {error}")))?;
    // As docker has it: a registry on this machine has no TLS unless one says so.
    let plain_http = parameters.take_flag("plain-http")?;
    Ok(Place::Registry {
        plain_http: plain_http.unwrap_or_else(|| is_loopback(&server)),
        registry,
        repository,
        limits: parameters.limits()?,
    })
}

/// What stands behind the question mark.
struct Parameters {
    given: BTreeMap<String, String>,
    known: Vec<&'static str>,
}

impl Parameters {
    fn of(url: &Url) -> Result<Parameters> {
        let mut given = BTreeMap::new();
        for (key, value) in url.query_pairs() {
            if given.insert(key.to_string(), value.to_string()).is_some() {
                return Err(bad(format!(
                    "the parameter {key} stands twice in the URL of the store"
                )));
            }
        }
        Ok(Parameters {
            given,
            known: Vec::new(),
        })
    }

    fn take(&mut self, key: &'static str) -> Option<String> {
        self.known.push(key);
        self.given.remove(key)
    }

    fn take_flag(&mut self, key: &'static str) -> Result<Option<bool>> {
        match self.take(key).as_deref() {
            None => Ok(None),
            Some("true") => Ok(Some(true)),
            Some("false") => Ok(Some(false)),
            Some(other) => Err(bad(format!("{key} is true or false, not {other:?}"))),
        }
    }

    fn limits(&mut self) -> Result<Limits> {
        let mut limits = Limits::default();
        if let Some(retries) = self.take("retries") {
            let parsed = retries.parse().ok().filter(|retries| *retries <= 100);
            limits.retries = parsed
                .ok_or_else(|| bad(format!("retries is a number up to 100, not {retries:?}")))?;
        }
        if let Some(timeout) = self.take("timeout") {
            let parsed = humantime::parse_duration(&timeout);
            limits.idle = parsed
                .ok()
                .filter(|idle| *idle > Duration::ZERO)
                .ok_or_else(|| bad(format!("timeout is a time such as 60s, not {timeout:?}")))?;
            limits.connect = limits.connect.min(limits.idle);
        }
        Ok(limits)
    }

    fn none_left(self, scheme: &str) -> Result<()> {
        let Some(key) = self.given.keys().next() else {
            return Ok(());
        };
        let known = match self.known.as_slice() {
            [] => "none".to_owned(),
            known => known.join(", "),
        };
        Err(bad(format!(
            "{scheme}:// has no parameter {key} (it has {known})"
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(url: &str) -> Place {
        Location::parse(url).unwrap().place
    }

    fn error(url: &str) -> String {
        let failure = Location::parse(url).unwrap_err();
        assert_eq!(failure.kind(), Kind::Invalid);
        failure.to_string()
    }

    #[test]
    fn directories() {
        assert_eq!(place("file:///a/b%20c"), Place::Directory("/a/b c".into()));
        assert!(error("file://a/b").contains("file:///a/b"));
        assert!(error("file:///a?region=x").contains("(it has none)"));
    }

    #[test]
    fn buckets() {
        let Place::S3 {
            bucket,
            region,
            path_style,
        } = place(
            "s3://my_bucket/a/b%20c/?endpoint=http://127.0.0.1:9000&region=eu-1&path-style=false&retries=2&timeout=3s",
        )
        else {
            panic!("no S3");
        };
        assert_eq!(
            (bucket.name.as_str(), bucket.prefix.as_str()),
            ("my_bucket", "a/b c")
        );
        assert_eq!(bucket.endpoint.as_deref(), Some("http://127.0.0.1:9000"));
        assert!(bucket.http);
        assert_eq!((region.as_deref(), path_style), (Some("eu-1"), Some(false)));
        assert_eq!(
            (bucket.limits.retries, bucket.limits.idle.as_secs()),
            (2, 3)
        );
        let Place::Gcs { bucket } = place("gs://b") else {
            panic!("no GCS");
        };
        assert_eq!(
            (bucket.prefix.as_str(), bucket.http, bucket.limits),
            ("", false, Limits::default())
        );
    }

    #[test]
    fn registries() {
        let of = |url| match place(url) {
            Place::Registry {
                registry,
                repository,
                plain_http,
                ..
            } => (registry, repository, plain_http),
            other => panic!("{other:?}"),
        };
        let expected = |registry: &str, repository: &str, http| {
            (registry.to_owned(), repository.to_owned(), http)
        };
        assert_eq!(of("oci://ghcr.io/a/b"), expected("ghcr.io", "a/b", false));
        assert_eq!(
            of("oci://localhost:5000/a"),
            expected("localhost:5000", "a", true)
        );
        assert_eq!(
            of("oci://127.0.0.1:5000/a?plain-http=false"),
            expected("127.0.0.1:5000", "a", false)
        );
        assert_eq!(
            of("oci://r.corp:5000/a?plain-http=true"),
            expected("r.corp:5000", "a", true)
        );
    }

    #[test]
    fn one_sentence_for_each_mistake() {
        for (url, text) in [
            ("/cache", "not the URL of a store"),
            ("ftp://x/y", "no store of the kind ftp://"),
            ("s3://", "names no bucket"),
            ("s3:///prefix", "names no bucket"),
            ("s3://b:9000/p", "?endpoint="),
            ("s3://b?regoin=x", "no parameter regoin (it has region"),
            ("s3://b?region=x&region=y", "twice"),
            ("s3://b?path-style=yes", "true or false"),
            ("s3://b?endpoint=http://minio:9000", "allow-http=true"),
            ("s3://b?endpoint=minio:9000", "neither https"),
            ("s3://b?retries=many", "a number"),
            ("s3://b?timeout=0s", "a time such as"),
            ("s3://b#c", "after a #"),
            ("oci://reg.example", "not the name of a repository"),
            ("oci://reg.example/Upper", "lower case"),
            (
                "oci://reg.example/a/../b/%2e%2e",
                "not the name of a repository",
            ),
        ] {
            assert!(error(url).contains(text), "{url}: {}", error(url));
        }
    }

    #[test]
    fn passwords_are_refused_and_not_repeated() {
        for url in [
            "s3://key:geheim@bucket/p",
            "oci://user:geheim@reg/repo",
            "s3://b?endpoint=https://u:geheim@h",
        ] {
            assert!(!error(url).contains("geheim"), "{url}");
        }
        // Not even where the URL cannot be read otherwise.
        assert!(!error("s3://key:geheim@[bad/p").contains("geheim"));
    }
}
