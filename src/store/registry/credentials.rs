//! Credentials that `docker login`, `podman login` or an image pull secret left:
//! `config.json` and the credential helpers that it names (docker's
//! "Credential helper protocol").

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::Value;

use crate::store::failure::{Failure, Kind, Result};

/// What a registry or its token server is shown.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Credentials {
    Password {
        user: String,
        password: String,
    },
    /// A token that token servers exchange for others.
    Identity(String),
}

/// What a helper calls itself when its secret is an identity token.
const TOKEN_USER: &str = "<token>";
/// A helper may ask a server.
const HELPER_TIME: Duration = Duration::from_secs(30);
/// Docker's own registry has an older name in these files.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: String,
}

/// Where such files lie, in the order that podman looks.
fn files() -> Vec<PathBuf> {
    let from = |variable: &str| {
        std::env::var_os(variable)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let places = [
        from("REGISTRY_AUTH_FILE"),
        from("XDG_RUNTIME_DIR").map(|dir| dir.join("containers/auth.json")),
        from("DOCKER_CONFIG")
            .or_else(|| Some(from("HOME")?.join(".docker")))
            .map(|dir| dir.join("config.json")),
    ];
    places.into_iter().flatten().collect()
}

/// The credentials for a registry, if there are any.
///
/// # Errors
/// `Denied` for a file or a helper that cannot be used.
pub(super) async fn of(registry: &str) -> Result<Option<Credentials>> {
    let registry = registry.to_owned();
    let find = move || {
        for file in files() {
            if let Some(found) = in_file(&file, &registry)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    };
    // Files and helpers take their time, which the runtime's threads do not have.
    let found = tokio::task::spawn_blocking(find).await;
    found.unwrap_or_else(|error| Err(Failure::new(Kind::Local, error.to_string())))
}

fn in_file(file: &Path, registry: &str) -> Result<Option<Credentials>> {
    let denied = |what: &dyn std::fmt::Display| {
        Failure::new(
            Kind::Denied,
            format!("credentials in {}: {what}", file.display()),
        )
    };
    let text = match std::fs::read(file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(denied(&error)),
    };
    // The message of a parser repeats nothing of the file but a position.
    let config: Value = serde_json::from_slice(&text).map_err(|error| denied(&error))?;
    let names = [
        registry.to_owned(),
        format!("https://{registry}"),
        format!("https://{registry}/v1/"),
    ];
    let hub = matches!(
        registry,
        "docker.io" | "registry-1.docker.io" | "index.docker.io"
    );
    let names = names.into_iter().chain(hub.then(|| DOCKER_HUB.to_owned()));
    for name in names {
        let helper = config["credHelpers"][&name].as_str();
        let helper = helper.or(config["credsStore"].as_str());
        if let Some(helper) = helper.filter(|helper| !helper.is_empty())
            && let Some(found) = ask_helper(helper, &name)?
        {
            return Ok(Some(found));
        }
        let entry = &config["auths"][&name];
        if let Some(token) = entry["identitytoken"]
            .as_str()
            .filter(|token| !token.is_empty())
        {
            return Ok(Some(Credentials::Identity(token.to_owned())));
        }
        if let Some(auth) = entry["auth"].as_str().filter(|auth| !auth.is_empty()) {
            let pair = STANDARD
                .decode(auth)
                .ok()
                .and_then(|pair| String::from_utf8(pair).ok());
            let pair = pair.as_deref().and_then(|pair| pair.split_once(':'));
            let (user, password) =
                pair.ok_or_else(|| denied(&format!("the entry of {name} is damaged")))?;
            return Ok(Some(Credentials::Password {
                user: user.to_owned(),
                password: password.trim_end_matches('\0').to_owned(),
            }));
        }
    }
    Ok(None)
}

/// Asks `docker-credential-<helper> get`; `None` if it knows none.
fn ask_helper(helper: &str, registry: &str) -> Result<Option<Credentials>> {
    let denied = |what: &dyn std::fmt::Display| {
        Failure::new(Kind::Denied, format!("docker-credential-{helper}: {what}"))
    };
    if helper.contains('/') {
        return Err(denied(&"this is not the name of a helper"));
    }
    let mut child = std::process::Command::new(format!("docker-credential-{helper}"))
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| denied(&error))?;
    if let Some(mut input) = child.stdin.take() {
        // One that does not want it has ended, and its exit code says how. Both ways less than a pipe holds.
        let _ = input.write_all(registry.as_bytes());
    }
    let begun = Instant::now();
    loop {
        match child.try_wait().map_err(|error| denied(&error))? {
            Some(_) => break,
            None if begun.elapsed() < HELPER_TIME => std::thread::sleep(Duration::from_millis(5)),
            None => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(denied(&"it took too long"));
            }
        }
    }
    let output = child.wait_with_output().map_err(|error| denied(&error))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stdout).to_lowercase();
        return match said.contains("not found") {
            true => Ok(None),
            false => Err(denied(&output.status)),
        };
    }
    let answer: Answer =
        serde_json::from_slice(&output.stdout).map_err(|_| denied(&"its answer cannot be read"))?;
    Ok(Some(match answer.username.as_str() {
        TOKEN_USER => Credentials::Identity(answer.secret),
        _ => Credentials::Password {
            user: answer.username,
            password: answer.secret,
        },
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(config: &str, registry: &str) -> Result<Option<(String, String)>> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.json");
        std::fs::write(&file, config).unwrap();
        let found = in_file(&file, registry)?;
        Ok(found.map(|found| match found {
            Credentials::Password { user, password } => (user, password),
            Credentials::Identity(token) => (TOKEN_USER.to_owned(), token),
        }))
    }

    #[test]
    fn a_file_of_docker_login() {
        let pair = |user: &str, password: &str| Some((user.to_owned(), password.to_owned()));
        let auth = STANDARD.encode("me:pass:word");
        let config = format!(
            r#"{{"auths":{{"r.example:5000":{{"auth":"{auth}"}},"https://s.example":{{"identitytoken":"t"}},
            "{DOCKER_HUB}":{{"auth":"{auth}"}},"empty.example":{{}}}}}}"#
        );
        assert_eq!(
            found(&config, "r.example:5000").unwrap(),
            pair("me", "pass:word")
        );
        assert_eq!(found(&config, "s.example").unwrap(), pair(TOKEN_USER, "t"));
        assert_eq!(
            found(&config, "registry-1.docker.io").unwrap(),
            pair("me", "pass:word")
        );
        assert_eq!(found(&config, "empty.example").unwrap(), None);
        assert_eq!(found(&config, "r.example").unwrap(), None);
    }

    #[test]
    fn damage_is_told_without_what_the_file_holds() {
        let geheim = STANDARD.encode("geheim");
        for config in [
            &format!(r#"{{"auths":{{"r":{{"auth":"{geheim}"}}}}}}"#),
            r#"{"auths":{"r":{"auth":"geheim!"}}}"#,
            "geheim",
        ] {
            let failure = found(config, "r").unwrap_err();
            assert_eq!(failure.kind(), Kind::Denied);
            let text = failure.to_string();
            assert!(
                !text.contains("geheim") && !text.contains(&geheim),
                "{text}"
            );
        }
    }

    #[test]
    fn a_helper_that_is_not_there_or_is_a_path_is_told() {
        for helper in ["harness-fs-has-no-such-helper", "../evil"] {
            let config = format!(r#"{{"credHelpers":{{"r":"{helper}"}}}}"#);
            let failure = found(&config, "r").unwrap_err();
            assert_eq!(failure.kind(), Kind::Denied);
            assert!(failure.to_string().contains(helper), "{failure}");
        }
    }
}
