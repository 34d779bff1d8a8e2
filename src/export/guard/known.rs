//! The files that tools keep secrets in, by their names.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::secret::Test;
use super::setting::{CURL, DOTENV, EITHER, GIT, INI, PROPERTIES, TOML, YAML, YARN_1};

const CREDENTIALS: &str = "holds credentials";

/// Files by the end of their path, in lower case: Windows and macOS find
/// `SERVER.PEM` and `.NetRC` too.
const KNOWN: &[(&str, Test)] = &[
    (".netrc", Test::Name),
    ("_netrc", Test::Name),
    (".git-credentials", Test::Name),
    (".config/git/credentials", Test::Name),
    (".aws/credentials", Test::Name),
    (".aws/config", Test::Settings(EITHER, AWS)),
    (".kube/config", Test::Name),
    ("kubeconfig", Test::Settings(YAML, KUBERNETES)),
    (".pgpass", Test::Name),
    (".vault-token", Test::Name),
    (".boto", Test::Name),
    (".s3cfg", Test::Name),
    ("rclone.conf", Test::Name),
    (".rclone.conf", Test::Name),
    (".cargo/credentials", Test::Name),
    (".cargo/credentials.toml", Test::Name),
    (".cargo/config", Test::Settings(TOML, &["token"])),
    (".cargo/config.toml", Test::Settings(TOML, &["token"])),
    (".gem/credentials", Test::Name),
    ("credentials.tfrc.json", Test::Name),
    (".terraformrc", Test::Settings(TOML, &["token"])),
    (".tofurc", Test::Settings(TOML, &["token"])),
    (".config/gh/hosts.yml", Test::Name),
    (".config/hub", Test::Name),
    (
        ".config/glab-cli/config.yml",
        Test::Settings(YAML, &["token"]),
    ),
    (".pulumi/credentials.json", Test::Name),
    (".databrickscfg", Test::Settings(EITHER, DATABRICKS)),
    (".curlrc", Test::Settings(CURL, CURL_KEYS)),
    ("sops/age/keys.txt", Test::Name),
    (".gnupg/secring.gpg", Test::Name),
    (".azure/accesstokens.json", Test::Name),
    (".azure/msal_token_cache.json", Test::Name),
    ("application_default_credentials.json", Test::Name),
    ("gcloud/credentials.db", Test::Name),
    ("gcloud/access_tokens.db", Test::Name),
    (".m2/settings-security.xml", Test::Name),
    ("settings.xml", Test::Passwords),
    ("gradle.properties", Test::Variables(PROPERTIES)),
    (".credentials", Test::Name), // sbt's and Ivy's
    (".bundle/config", Test::Bundler),
    ("nuget.config", Test::NuGet),
    (".dockercfg", Test::Name),
    (".docker/config.json", DOCKER),
    (".dockerconfigjson", DOCKER),
    ("containers/auth.json", DOCKER),
    // `DOCKER_CONFIG` names a directory of any name; Helm has one as well.
    ("config.json", Test::Registries),
    ("auth.json", Test::Composer),
    (".npmrc", NPM),
    ("etc/npmrc", NPM),
    (".yarnrc", Test::Settings(YARN_1, NPM_KEYS)),
    (
        ".yarnrc.yml",
        Test::Settings(YAML, &["npmauthtoken", "npmauthident"]),
    ),
    (".pypirc", Test::Settings(EITHER, &["password"])),
    ("pip.conf", Test::Settings(EITHER, &["password"])),
    ("pip.ini", Test::Settings(EITHER, &["password"])),
    (".condarc", Test::Settings(YAML, &["password"])),
    (".config/pypoetry/auth.toml", Test::Name),
    (".my.cnf", Test::Settings(INI, &["password"])),
    (".mylogin.cnf", Test::Name),
    (".gitconfig", Test::Settings(GIT, GIT_KEYS)),
    (".config/git/config", Test::Settings(GIT, GIT_KEYS)),
    (".gitmodules", Test::Settings(GIT, GIT_KEYS)),
    (".env", Test::Variables(DOTENV)),
    (".envrc", Test::Variables(DOTENV)),
];

const DOCKER: Test = Test::Settings(YAML, DOCKER_KEYS);
/// Of a registry in Docker's configuration.
pub(super) const DOCKER_KEYS: &[&str] = &["auth", "identitytoken", "registrytoken", "password"];
const NPM_KEYS: &[&str] = &["_authtoken", "_password", "_auth", "_secret"];
const NPM: Test = Test::Settings(INI, NPM_KEYS);
const DATABRICKS: &[&str] = &["token", "password", "client_secret", "azure_client_secret"];
/// Options with and without their dashes, and headers.
const CURL_KEYS: &[&str] = &[
    "-u",
    "user",
    "--user",
    "proxy-user",
    "--proxy-user",
    "pass",
    "--pass",
    "proxy-pass",
    "--proxy-pass",
    "oauth2-bearer",
    "--oauth2-bearer",
    "authorization",
    "private-token",
    "cookie",
];
const AWS: &[&str] = &["aws_secret_access_key", "aws_session_token"];
const KUBERNETES: &[&str] = &[
    "token",
    "password",
    "client-key-data",
    "id-token",
    "refresh-token",
    "access-token",
];
/// Not of git itself: `password` is what an inline credential helper prints,
/// `token` belongs to tools that keep theirs there.
const GIT_KEYS: &[&str] = &[
    "extraheader",
    "smtppass",
    "password",
    "token",
    "oauth-token",
];

/// Names that ssh-keygen(1) gives to private keys.
const SSH_KEYS: &[&[u8]] = &[
    b"id_rsa",
    b"id_dsa",
    b"id_ecdsa",
    b"id_ecdsa_sk",
    b"id_ed25519",
    b"id_ed25519_sk",
    b"id_xmss",
];

/// Kinds of `.env.*` and `*.env` files that are there to be published, or are programs.
const NO_ENV: &[&[u8]] = &[
    b"example",
    b"sample",
    b"template",
    b"dist",
    b"defaults",
    b"js",
    b"cjs",
    b"mjs",
    b"ts",
    b"cts",
    b"mts",
];

/// Names of JSON files that are many, and never credentials.
const NO_CREDENTIALS: &[&[u8]] = &[b"package.json", b"package-lock.json", b"tsconfig.json"];

/// The test for a path as users see it, by its name only.
pub(super) fn suspect(path: &Path) -> Option<(&'static Test, &'static str)> {
    let path = path.as_os_str().as_bytes().to_ascii_lowercase();
    let name = path.rsplit(|byte| *byte == b'/').next()?;
    let dir = &path[..path.len() - name.len()];
    let below = |text: &str| memchr::memmem::find(dir, text.as_bytes()).is_some();
    for (known, test) in KNOWN {
        let before = path.strip_suffix(known.as_bytes());
        if before.is_some_and(|before| before.last().is_none_or(|byte| *byte == b'/')) {
            let why = match test {
                Test::Variables(_) => "sets secret variables",
                _ => CREDENTIALS,
            };
            return Some((test, why));
        }
    }
    if below(".git/") && matches!(name, b"config" | b"config.worktree") {
        return Some((&Test::Settings(GIT, GIT_KEYS), CREDENTIALS));
    }
    if below("/.aws/sso/cache/") || below("/.aws/cli/cache/") {
        return Some((&Test::Name, CREDENTIALS));
    }
    if let Some(key) = key(name, below("/.ssh/")) {
        return Some(key);
    }
    if below("/private-keys-v1.d/") {
        return Some((&Test::Name, "is a private key"));
    }
    if name.starts_with(b"settings-") && name.ends_with(b".xml") {
        return Some((&Test::Passwords, CREDENTIALS));
    }
    let kind = name.strip_prefix(b".env.");
    if let Some(kind) = kind.or_else(|| name.strip_suffix(b".env")) {
        let last = kind.rsplit(|byte| *byte == b'.').next()?;
        let test = &Test::Variables(DOTENV);
        return (!NO_ENV.contains(&last)).then_some((test, "sets secret variables"));
    }
    if name.ends_with(b".json") && !NO_CREDENTIALS.contains(&name) {
        return Some((&Test::CloudAccount, CREDENTIALS));
    }
    None
}

/// The test for what is named like a key.
fn key(name: &[u8], in_ssh: bool) -> Option<(&'static Test, &'static str)> {
    if name.ends_with(b".pub") {
        return None;
    }
    let id = name.starts_with(b"id_");
    if SSH_KEYS.contains(&name) || (in_ssh && id) {
        return Some((&Test::Name, "is a private key"));
    }
    let host = name.starts_with(b"ssh_host_") && name.ends_with(b"_key");
    if in_ssh || id || host {
        return Some((&Test::PrivateKey, "is a private key"));
    }
    let at = name.iter().rposition(|byte| *byte == b'.')?;
    match &name[at + 1..] {
        b"pem" | b"key" | b"ppk" | b"p8" | b"pk8" | b"der" | b"asc" => {
            Some((&Test::PrivateKey, "holds a private key"))
        }
        b"p12" | b"pfx" | b"jks" | b"jceks" | b"keystore" => Some((&Test::Name, "is a key store")),
        _ => None,
    }
}
