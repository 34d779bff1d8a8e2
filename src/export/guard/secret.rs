//! Whether a file of a known name holds a secret.

use std::io::Read;
use std::os::fd::OwnedFd;

use memchr::memmem::{find, find_iter};

use super::known::DOCKER_KEYS;
use super::setting::{PROPERTIES, Syntax, YAML, is_only_references};
use crate::error::Result;

/// What makes a file of a known name a secret. None is empty.
#[derive(Debug)]
pub(super) enum Test {
    /// The name.
    Name,
    /// A private key, anywhere in it.
    PrivateKey,
    /// One of these keys, in lower case, with a value; or a URL with a password.
    Settings(Syntax, &'static [&'static str]),
    /// A value of a variable whose name speaks of a secret; or such a URL.
    Variables(Syntax),
    /// A password in a Maven `settings.xml`.
    Passwords,
    /// A password or an API key in a `NuGet.Config`.
    NuGet,
    /// A login in Bundler's configuration.
    Bundler,
    /// A login in Docker's configuration, or what [`Test::CloudAccount`] finds:
    /// many programs have a `config.json`.
    Registries,
    /// A value below one of the keys of Composer's `auth.json`.
    Composer,
    /// A key of a Google service account, or a user's token.
    CloudAccount,
}

/// Configuration that is longer stays in: what nobody wrote by hand is not
/// worth the memory.
const LOOK: u64 = 4 << 20;

/// Sizes of what Google hands out, with room: most JSON is not even opened.
const CLOUD_ACCOUNT: std::ops::RangeInclusive<u64> = 200..=16 << 10;

/// Applies a test; `open` is called only where the content decides.
///
/// # Errors
/// What opening and reading report.
pub(super) fn holds(
    test: &Test,
    size: u64,
    open: impl FnOnce() -> Result<OwnedFd>,
) -> Result<bool> {
    if size == 0 {
        return Ok(false);
    }
    match test {
        Test::Name => return Ok(true),
        Test::CloudAccount if !CLOUD_ACCOUNT.contains(&size) => return Ok(false),
        Test::Registries if size > LOOK => return Ok(false),
        Test::PrivateKey => return is_key(std::fs::File::from(open()?)),
        _ if size > LOOK => return Ok(true),
        _ => {}
    }
    let mut bytes = Vec::new();
    std::fs::File::from(open()?)
        .take(LOOK)
        .read_to_end(&mut bytes)?;
    // UTF-16, as PowerShell writes it, or no text at all: in doubt it stays in.
    if bytes.contains(&0) {
        return Ok(!matches!(test, Test::CloudAccount | Test::Registries));
    }
    Ok(match test {
        Test::Name | Test::PrivateKey => true,
        Test::Settings(syntax, keys) => syntax.sets(&bytes, keys) || has_key(&bytes),
        Test::Variables(syntax) => syntax.sets_secret_variable(&bytes) || has_key(&bytes),
        Test::Passwords => has_password(&bytes),
        Test::NuGet => has_nuget_login(&bytes),
        Test::Bundler => YAML.sets_bundler_login(&bytes),
        Test::Registries => {
            let registries = find(&bytes, b"\"auths\"").is_some();
            (registries && YAML.sets(&bytes, DOCKER_KEYS)) || is_cloud_account(&bytes)
        }
        Test::Composer => has_composer_token(&bytes),
        Test::CloudAccount => is_cloud_account(&bytes),
    })
}

/// Reads all of a file: a bundle may have the key at its end.
fn is_key(mut file: impl Read) -> Result<bool> {
    const CHUNK: usize = 64 << 10;
    /// Longer than what `has_key` looks for.
    const OVERLAP: usize = 64;
    let mut bytes = Vec::with_capacity(OVERLAP + CHUNK);
    let mut first = true;
    loop {
        let read = file.by_ref().take(CHUNK as u64).read_to_end(&mut bytes)?;
        if has_key(&bytes) || (first && (is_der_key(&bytes) || bytes.starts_with(PUTTY))) {
            return Ok(true);
        }
        if read == 0 {
            return Ok(false);
        }
        first = false;
        bytes.drain(..bytes.len().saturating_sub(OVERLAP));
    }
}

const PUTTY: &[u8] = b"PuTTY-User-Key-File-";

/// A key in text: PEM, OpenSSH, RFC 4716, OpenPGP, or SSH 1.
fn has_key(bytes: &[u8]) -> bool {
    const AFTER: [&[u8]; 4] = [b"-----", b" ----", b" BLOCK-----", b" FILE FORMAT"];
    const TEXT: &[u8] = b"PRIVATE KEY";
    find_iter(bytes, TEXT).any(|at| {
        let rest = &bytes[at + TEXT.len()..];
        AFTER.iter().any(|after| rest.starts_with(after))
    })
}

/// Whether DER begins like a private key: PKCS #1, PKCS #8 and its encrypted
/// form, SEC 1, or PKCS #12. Certificates and public keys begin otherwise.
fn is_der_key(bytes: &[u8]) -> bool {
    let Some(inner) = sequence(bytes) else {
        return false;
    };
    // EncryptedPrivateKeyInfo: the algorithm is one of PKCS #5 or PKCS #12.
    const PKCS: &[u8] = b"\x2a\x86\x48\x86\xf7\x0d\x01";
    if let Some(algorithm) = sequence(inner) {
        let object = algorithm.strip_prefix(b"\x06").and_then(|it| it.get(1..));
        let rest = object.and_then(|object| object.strip_prefix(PKCS));
        return rest.is_some_and(|rest| rest.starts_with(b"\x05") || rest.starts_with(b"\x0c\x01"));
    }
    // The version, and then an integer, the algorithm, or the key itself.
    matches!(
        inner,
        [0x02, 0x01, 0x00, 0x02 | 0x30, ..]
            | [0x02, 0x01, 0x01, 0x04 | 0x30, ..]
            | [0x02, 0x01, 0x03, 0x30, ..]
    )
}

/// What follows the head of a DER sequence.
fn sequence(bytes: &[u8]) -> Option<&[u8]> {
    let (length, rest) = bytes.strip_prefix(b"\x30")?.split_first()?;
    match length {
        0..=0x80 => Some(rest),
        0x81..=0x84 => rest.get(usize::from(length - 0x80)..),
        _ => None,
    }
}

/// Elements of Maven's `settings.xml`, outside of comments: Maven itself comes
/// with one that shows a password in a comment.
fn has_password(bytes: &[u8]) -> bool {
    let text = without_comments(bytes);
    // A server's headers may carry a token.
    let headers = find(&text, b"<httpHeaders").is_some();
    element(&text, b"<password")
        || element(&text, b"<passphrase")
        || (headers && element(&text, b"<value"))
        || PROPERTIES.has_url_with_password(&text)
}

fn without_comments(xml: &[u8]) -> Vec<u8> {
    let mut text = Vec::new();
    let mut rest = xml;
    while let Some(at) = find(rest, b"<!--") {
        text.extend_from_slice(&rest[..at]);
        let end = find(&rest[at..], b"-->").map(|end| at + end + 3);
        rest = end.map_or(&[], |end| &rest[end..]);
    }
    text.extend_from_slice(rest);
    text
}

/// `<add key="ClearTextPassword" value="…"/>`, or such an element in `<apikeys>`.
/// `%NAME%` is a reference (the reference of nuget.config).
fn has_nuget_login(bytes: &[u8]) -> bool {
    let text = without_comments(bytes).to_ascii_lowercase();
    let api_keys = find(&text, b"<apikeys").map(|start| {
        let end = find(&text[start..], b"</apikeys").map_or(text.len(), |end| start + end);
        start..end
    });
    find_iter(&text, b"<add").any(|at| {
        let tag = &text[at..];
        let tag = &tag[..tag.iter().position(|b| *b == b'>').unwrap_or(tag.len())];
        let is_secret = matches!(
            attribute(tag, b"key"),
            Some(b"cleartextpassword" | b"password")
        ) || api_keys.as_ref().is_some_and(|range| range.contains(&at));
        let value = attribute(tag, b"value").unwrap_or_default();
        let reference = value.len() > 2 && value.starts_with(b"%") && value.ends_with(b"%");
        is_secret && !value.is_empty() && !reference
    }) || PROPERTIES.has_url_with_password(&text)
}

/// An attribute of a tag.
fn attribute<'a>(tag: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    find_iter(tag, name).find_map(|at| {
        let before = tag[..at].last().is_some_and(u8::is_ascii_whitespace);
        let rest = tag[at + name.len()..].trim_ascii_start();
        let rest = rest.strip_prefix(b"=").filter(|_| before)?;
        let (quote, value) = rest.trim_ascii_start().split_first()?;
        let end = value.iter().position(|byte| byte == quote)?;
        Some(&value[..end])
    })
}

/// Whether an element has a value that is not `${env.NAME}`.
fn element(text: &[u8], start: &[u8]) -> bool {
    find_iter(text, start).any(|at| {
        let rest = &text[at + start.len()..];
        // A tag holds no `<`: without its end the search ends at the next.
        let end = rest.iter().position(|byte| b"<>".contains(byte));
        let Some((tag, [b'>', value @ ..])) = end.map(|end| rest.split_at(end)) else {
            return false;
        };
        if tag.first().is_some_and(|byte| !byte.is_ascii_whitespace()) {
            return false; // another element, or one without content
        }
        let end = find(value, b"</").unwrap_or(value.len());
        let value = value[..end].trim_ascii();
        !tag.ends_with(b"/") && !value.is_empty() && !is_only_references(value, false)
    })
}

fn has_composer_token(bytes: &[u8]) -> bool {
    const KEYS: [&str; 9] = [
        "http-basic",
        "github-oauth",
        "gitlab-oauth",
        "gitlab-token",
        "bitbucket-oauth",
        "forgejo-token",
        "bearer",
        "custom-headers",
        "client-certificate",
    ];
    let Ok(root) = serde_json::from_slice::<serde_json::Value>(bytes) else {
        return KEYS.iter().any(|key| find(bytes, key.as_bytes()).is_some());
    };
    let mut open: Vec<_> = KEYS.iter().filter_map(|key| root.get(key)).collect();
    while let Some(value) = open.pop() {
        match value {
            serde_json::Value::String(text) if !text.is_empty() => return true,
            serde_json::Value::Array(values) => open.extend(values),
            serde_json::Value::Object(fields) => open.extend(fields.values()),
            _ => {}
        }
    }
    false
}

fn is_cloud_account(bytes: &[u8]) -> bool {
    let has = |text: &str| find(bytes, text.as_bytes()).is_some();
    (has("\"service_account\"") && has_key(bytes))
        || (has("\"authorized_user\"") && has("\"refresh_token\""))
}
