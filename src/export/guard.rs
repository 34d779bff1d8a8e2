//! The guard: secrets stay on the machine unless their path is named.
//!
//! Whatever leaves (an image layout, later a store) asks it about every regular
//! file. It knows the files that tools keep credentials in. Where a name alone
//! says too little it looks inside: certifi's `cacert.pem` is no secret, nor is
//! an `.npmrc` that names a registry. It does not search for secrets elsewhere.

use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use nix::errno::Errno;

use crate::error::{Context, Error, Result};

/// How much of a file is looked at; key and configuration files are smaller.
const LOOK: u64 = 1 << 20;

/// Decides what stays in.
#[derive(Debug)]
pub struct Guard {
    allowed: GlobSet,
}

/// What makes a file of a known name a secret.
enum Test {
    /// The name.
    Name,
    /// One of these texts in it.
    Holds(&'static [&'static str]),
    /// One of these keys with a value that is not a `${VARIABLE}`.
    Sets(&'static [&'static str]),
    /// An assignment to a variable whose name speaks of a secret.
    SecretVariable,
}

const PRIVATE_KEY: Test = Test::Holds(&["PRIVATE KEY-----"]);

/// Files by the end of their path.
const KNOWN: &[(&str, Test)] = &[
    (".netrc", Test::Name),
    ("_netrc", Test::Name),
    (".git-credentials", Test::Name),
    (".config/git/credentials", Test::Name),
    (".aws/credentials", Test::Name),
    (".kube/config", Test::Name),
    (".pypirc", Test::Name),
    (".pgpass", Test::Name),
    (".vault-token", Test::Name),
    (".boto", Test::Name),
    (".s3cfg", Test::Name),
    (".cargo/credentials", Test::Name),
    (".cargo/credentials.toml", Test::Name),
    (".gem/credentials", Test::Name),
    (".terraform.d/credentials.tfrc.json", Test::Name),
    (".config/gh/hosts.yml", Test::Name),
    (".azure/accessTokens.json", Test::Name),
    (".azure/msal_token_cache.json", Test::Name),
    ("application_default_credentials.json", Test::Name),
    ("gcloud/credentials.db", Test::Name),
    ("gcloud/access_tokens.db", Test::Name),
    (".m2/settings-security.xml", Test::Name),
    (".dockercfg", Test::Name),
    (".docker/config.json", DOCKER),
    ("containers/auth.json", DOCKER),
    (
        ".npmrc",
        Test::Sets(&["_authToken", "_password", "_auth", "_secret"]),
    ),
    (".yarnrc.yml", Test::Sets(&["npmAuthToken", "npmAuthIdent"])),
    (
        ".m2/settings.xml",
        Test::Holds(&["<password>", "<passphrase>"]),
    ),
    (".my.cnf", Test::Sets(&["password"])),
    (".gradle/gradle.properties", Test::SecretVariable),
];

const DOCKER: Test = Test::Holds(&["\"auth\"", "\"identitytoken\"", "\"registrytoken\""]);

/// Names that ssh-keygen(1) gives to private keys.
const SSH_KEYS: &[&str] = &[
    "id_rsa",
    "id_dsa",
    "id_ecdsa",
    "id_ecdsa_sk",
    "id_ed25519",
    "id_ed25519_sk",
    "id_xmss",
];

/// Endings of `.env.*` files that are there to be published.
const ENV_SAMPLES: &[&str] = &["example", "sample", "template", "dist", "defaults"];

impl Guard {
    /// A guard that lets pass, besides what is no secret, the files named here:
    /// absolute paths as users see them, or globs; a pattern without a slash
    /// means that name anywhere.
    ///
    /// # Errors
    /// `EINVAL` for a pattern that is no glob.
    pub fn new(allowed: &[String]) -> Result<Guard> {
        let mut set = GlobSetBuilder::new();
        let bad = |error: globset::Error| Error::new(Errno::EINVAL, error.to_string());
        for pattern in allowed {
            let whole = if pattern.contains('/') {
                pattern.clone()
            } else {
                format!("**/{pattern}")
            };
            let glob = GlobBuilder::new(&whole).literal_separator(true).build();
            set.add(glob.map_err(bad)?);
        }
        Ok(Guard {
            allowed: set.build().map_err(bad)?,
        })
    }

    /// Why the regular file at `path`, as users see it, has to stay in; `None`
    /// if it may leave. `open` is called only where the content decides.
    ///
    /// # Errors
    /// What opening and reading report, naming the path.
    pub fn withholds(
        &self,
        path: &Path,
        open: impl FnOnce() -> Result<OwnedFd>,
    ) -> Result<Option<&'static str>> {
        let Some((test, why)) = suspect(path) else {
            return Ok(None);
        };
        if self.allowed.is_match(path) {
            return Ok(None);
        }
        if matches!(test, Test::Name) {
            return Ok(Some(why));
        }
        let read = || -> Result<Vec<u8>> {
            let mut bytes = Vec::new();
            let file = std::fs::File::from(open()?);
            file.take(LOOK).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        let bytes = read().context(|| path.display().to_string())?;
        Ok(test.finds(&bytes).then_some(why))
    }
}

/// The test for a path, by its name.
fn suspect(path: &Path) -> Option<(&'static Test, &'static str)> {
    const KEY: &Test = &PRIVATE_KEY;
    const NAME: &Test = &Test::Name;
    const VARIABLE: &Test = &Test::SecretVariable;
    let name = path.file_name()?.to_str()?;
    for (known, test) in KNOWN {
        if path.ends_with(known) {
            return Some((test, "holds credentials"));
        }
    }
    if SSH_KEYS.contains(&name) {
        return Some((NAME, "is a private key"));
    }
    if name.starts_with("id_") && !name.ends_with(".pub") {
        let in_ssh = path.parent().is_some_and(|dir| dir.ends_with(".ssh"));
        return Some((if in_ssh { NAME } else { KEY }, "is a private key"));
    }
    let extension = path.extension().map(OsStrExt::as_bytes);
    if matches!(extension, Some(b"pem" | b"key")) {
        return Some((KEY, "holds a private key"));
    }
    if name == ".env" {
        return Some((VARIABLE, "sets secret variables"));
    }
    let kind = name.strip_prefix(".env.")?;
    (!ENV_SAMPLES.contains(&kind)).then_some((VARIABLE, "sets secret variables"))
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes
        .windows(text.len())
        .any(|window| window == text.as_bytes())
}

/// Splits `key = value` or `key: value`, without quotes and `export`.
fn assignment(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let line = line.trim_ascii();
    if line.starts_with(b"#") || line.starts_with(b";") {
        return None;
    }
    // An npm key holds colons itself: `//registry/:_authToken=…`.
    let at = line
        .iter()
        .position(|byte| *byte == b'=')
        .or_else(|| line.iter().position(|byte| *byte == b':'))?;
    let key = line[..at].trim_ascii();
    let value = line[at + 1..].trim_ascii();
    let value = value.strip_prefix(b"\"").unwrap_or(value);
    let value = value.strip_prefix(b"'").unwrap_or(value);
    // What an environment variable will fill in is no secret yet.
    let empty = value.is_empty() || value.starts_with(b"$") || value == b"\"" || value == b"'";
    (!empty).then_some((key, value))
}

impl Test {
    fn finds(&self, bytes: &[u8]) -> bool {
        let mut lines = bytes.split(|byte| *byte == b'\n').filter_map(assignment);
        match self {
            Test::Name => true,
            Test::Holds(texts) => texts.iter().any(|text| contains(bytes, text)),
            Test::Sets(keys) => lines.any(|(key, _)| {
                keys.iter().any(|known| {
                    key.strip_suffix(known.as_bytes()).is_some_and(|rest| {
                        rest.last().is_none_or(|byte| !byte.is_ascii_alphanumeric())
                    })
                })
            }),
            Test::SecretVariable => lines.any(|(key, _)| {
                let key = key.to_ascii_uppercase();
                [
                    "SECRET",
                    "TOKEN",
                    "PASSWORD",
                    "PASSWD",
                    "API_KEY",
                    "APIKEY",
                    "PRIVATE_KEY",
                    "ACCESS_KEY",
                    "CREDENTIAL",
                ]
                .iter()
                .any(|word| contains(&key, word))
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn withheld(guard: &Guard, path: &str, content: &[u8]) -> bool {
        let open = || {
            let file = tempfile::tempfile()?;
            std::io::Write::write_all(&mut &file, content)?;
            std::io::Seek::rewind(&mut &file)?;
            Ok(file.into())
        };
        guard
            .withholds(Path::new(path), open)
            .expect("readable")
            .is_some()
    }

    #[test]
    fn secrets_stay_and_look_alikes_pass() {
        let guard = Guard::new(&[]).expect("no patterns");
        let key = b"x\n-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA";
        let table: &[(&str, &[u8], bool)] = &[
            ("/root/.netrc", b"", true),
            ("/harness/id_rsa", b"", true),
            ("/harness/id_rsa.pub", b"", false),
            ("/harness/.ssh/id_work", b"", true),
            ("/harness/src/id_map.rs", b"fn main() {}", false),
            ("/harness/deploy/id_deploy", key, true),
            (
                "/harness/certifi/cacert.pem",
                b"-----BEGIN CERTIFICATE-----",
                false,
            ),
            ("/harness/server.pem", key, true),
            ("/harness/tls.key", key, true),
            ("/harness/i18n.key", b"hello", false),
            (
                "/root/.docker/config.json",
                b"{\"credsStore\":\"x\"}",
                false,
            ),
            (
                "/root/.docker/config.json",
                b"{\"auths\":{\"r\":{\"auth\":\"eA==\"}}}",
                true,
            ),
            ("/root/config.json", b"{\"auth\":1}", false),
            ("/root/.aws/credentials", b"", true),
            (
                "/harness/.npmrc",
                b"registry=https://r/\nalways-auth=true\n",
                false,
            ),
            ("/harness/.npmrc", b"//r/:_authToken=${NPM_TOKEN}\n", false),
            ("/harness/.npmrc", b"//r/:_authToken=npm_abc\n", true),
            ("/harness/.npmrc", b"_auth = abc\n", true),
            ("/harness/.npmrc", b"# _auth = abc\n", false),
            (
                "/root/.m2/settings.xml",
                b"<settings><mirrors/></settings>",
                false,
            ),
            ("/root/.m2/settings.xml", b"<password>x</password>", true),
            ("/harness/.env", b"PORT=80\n", false),
            ("/harness/.env", b"export DB_PASSWORD='x'\n", true),
            ("/harness/.env.example", b"DB_PASSWORD=x\n", false),
            ("/harness/.env.production", b"API_KEY=x\n", true),
        ];
        for (path, content, expected) in table {
            assert_eq!(withheld(&guard, path, content), *expected, "{path}");
        }
    }

    #[test]
    fn what_is_named_passes() {
        let patterns = ["/harness/**/id_rsa".to_owned(), ".netrc".to_owned()];
        let guard = Guard::new(&patterns).expect("globs");
        assert!(!withheld(&guard, "/harness/test/id_rsa", b""));
        assert!(withheld(&guard, "/root/id_rsa", b""));
        assert!(!withheld(&guard, "/root/.netrc", b""));
        assert!(Guard::new(&["[".to_owned()]).is_err());
    }
}
