//! Servers, and the proxy that breaks what goes to them.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, OnceLock};

use harness_fs::store::{Digest, Store, Target};
use serde_json::{Value, json};

use super::suite;

/// What is in the environment that `tests/store/run` makes.
pub const PASSWORD: &str = "right";
const USER: &str = "tester";
/// Patient enough for a machine that is busy, and quick to give up what the tests break for good.
const LIMITS: &str = "retries=3&timeout=20s";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    S3,
    Gcs,
    Registry,
}

pub const KINDS: [Kind; 3] = [Kind::S3, Kind::Gcs, Kind::Registry];

/// A program that talks in lines of JSON and ends with its standard input, so that none is left whatever becomes of us.
struct Helper {
    process: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    port: u16,
}

impl Helper {
    fn start(program: &str, arguments: &[&str]) -> Helper {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/store")
            .join(program);
        let mut process = Command::new(path)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = process.stdin.take();
        let output = BufReader::new(process.stdout.take().unwrap());
        let mut helper = Helper {
            process,
            input,
            output,
            port: 0,
        };
        helper.port = helper.line()["port"].as_u64().unwrap().try_into().unwrap();
        helper
    }

    fn line(&mut self) -> Value {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|_| panic!("a helper has ended: {line:?}"))
    }

    fn order(&mut self, order: &Value) -> Value {
        let input = self.input.as_mut().unwrap();
        writeln!(input, "{order}").unwrap();
        input.flush().unwrap();
        self.line()
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        drop(self.input.take());
        let _ = self.process.wait();
    }
}

/// A server of its own directory.
pub struct Server {
    kind: Kind,
    helper: Helper,
    directory: tempfile::TempDir,
}

impl Server {
    /// With the credentials that are in the environment.
    pub fn start(kind: Kind) -> Server {
        Server::with_password(kind, PASSWORD)
    }

    pub fn with_password(kind: Kind, password: &str) -> Server {
        assert!(
            std::env::var_os("HARNESS_FS_CACHE").is_some(),
            "these tests need servers: run tests/store/run"
        );
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().to_str().unwrap().to_owned();
        let helper = match kind {
            Kind::S3 => Helper::start("serve", &["s3", &path, USER, password]),
            Kind::Gcs => Helper::start("serve", &["gcs", &path, password]),
            Kind::Registry => Helper::start("serve", &["registry", &path]),
        };
        Server {
            kind,
            helper,
            directory,
        }
    }

    /// A registry that wants a password for everything.
    pub fn registry_with_password() -> Server {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().to_str().unwrap().to_owned();
        let helper = Helper::start("serve", &["registry", &path, PASSWORD]);
        Server {
            kind: Kind::Registry,
            helper,
            directory,
        }
    }

    pub fn port(&self) -> u16 {
        self.helper.port
    }

    /// Where it keeps what it has.
    pub fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    pub fn url(&self, prefix: &str, parameters: &str) -> String {
        url(self.kind, self.port(), prefix, parameters)
    }

    /// A store that is another one for each prefix.
    pub fn store(&self, prefix: &str, parameters: &str) -> Store {
        Store::open(&self.url(prefix, parameters)).unwrap()
    }

    pub fn proxy(&self) -> Proxy {
        let helper = Helper::start("proxy", &[&self.port().to_string()]);
        Proxy {
            kind: self.kind,
            port: helper.port,
            helper: Mutex::new(helper),
        }
    }
}

/// Later parameters replace the usual limits.
fn url(kind: Kind, port: u16, prefix: &str, parameters: &str) -> String {
    let parameters = if parameters.is_empty() {
        LIMITS
    } else {
        parameters
    };
    match kind {
        Kind::S3 => format!("s3://bucket/{prefix}?endpoint=http://127.0.0.1:{port}&{parameters}"),
        Kind::Gcs => format!("gs://bucket/{prefix}?endpoint=http://127.0.0.1:{port}&{parameters}"),
        Kind::Registry => format!("oci://127.0.0.1:{port}/{prefix}?{parameters}"),
    }
}

/// One server of each kind for all tests that break nothing.
pub fn shared(kind: Kind) -> &'static Server {
    static SERVERS: [OnceLock<Server>; 3] = [const { OnceLock::new() }; 3];
    SERVERS[kind as usize].get_or_init(|| Server::start(kind))
}

/// A proxy before a server.
pub struct Proxy {
    kind: Kind,
    port: u16,
    helper: Mutex<Helper>,
}

impl Proxy {
    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn store(&self, prefix: &str, parameters: &str) -> Store {
        Store::open(&url(self.kind, self.port, prefix, parameters)).unwrap()
    }

    /// Breaks the next `times` requests that match.
    pub fn breaks(&self, matching: &str, what: &str, times: u32) {
        self.faults(json!([{"match": matching, "do": what, "times": times}]));
    }

    /// What was to be broken before has to have been.
    pub fn faults(&self, faults: Value) {
        let answer = self.order(&json!({"faults": faults}));
        assert_eq!(
            answer["idle"],
            json!([]),
            "nothing was asked that these match"
        );
    }

    /// Hands on one `PUT` at a time: s3s-fs looks at a condition and then writes.
    pub fn serial(self) -> Proxy {
        self.order(&json!({"serial": true}));
        self
    }

    /// Wants a token, which who shows these credentials gets.
    pub fn wants_token(&self, login: &str) {
        self.order(&json!({"login": login}));
    }

    /// `METHOD PATH STATUS` of what was asked since the last order.
    pub fn log(&self) -> Vec<String> {
        let answer = self.order(&json!({"log": true}));
        let lines = answer["log"].as_array().unwrap();
        lines
            .iter()
            .map(|line| line.as_str().unwrap().to_owned())
            .collect()
    }

    fn order(&self, order: &Value) -> Value {
        self.helper.lock().unwrap().order(order)
    }
}

/// What a ref could name, for those who see it refused before that is looked at.
pub fn absent() -> Target {
    Target {
        media_type: suite::MANIFEST_TYPE.to_owned(),
        digest: Digest::of(b"no manifest"),
        size: 11,
        annotations: Default::default(),
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.faults(json!([]));
        }
    }
}
