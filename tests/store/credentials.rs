//! Who may: passwords, tokens, and what is said to those who have none.

use harness_fs::store::{Condition, Digest, Failure, Kind as Failed, Store};

use super::rig::{Kind, PASSWORD, Server, absent};
use super::suite;

/// What `docker login` would have left for a registry; the helper of `tests/store/run` reads it.
fn log_in(port: u16, user: &str, password: &str) {
    let directory = std::env::var("DOCKER_CONFIG").unwrap();
    let answer = format!(r#"{{"ServerURL":"x","Username":"{user}","Secret":"{password}"}}"#);
    std::fs::write(format!("{directory}/127.0.0.1:{port}"), answer).unwrap();
}

fn failures(store: &Store) -> Vec<Failure> {
    let digest = Digest::of(b"x");
    vec![
        store.blob_size(&digest).unwrap_err(),
        store.get_blob(&digest, 1, &mut Vec::new()).unwrap_err(),
        store
            .put_blob(&digest, 1, &mut std::io::Cursor::new(b"x"))
            .unwrap_err(),
        store.read_ref(&suite::name("s", "k")).unwrap_err(),
        store
            .put_ref(&suite::name("s", "k"), &absent(), &Condition::Create)
            .unwrap_err(),
        store.list_refs(None, "").unwrap_err(),
    ]
}

#[test]
fn wrong_keys_are_denied_and_not_shown() {
    for kind in [Kind::S3, Kind::Gcs] {
        let server = Server::with_password(kind, "another");
        for failure in failures(&server.store("p", "")) {
            assert_eq!(failure.kind(), Failed::Denied, "{kind:?}: {failure}");
            assert!(!failure.to_string().contains(PASSWORD), "{failure}");
        }
    }
}

#[test]
fn a_registry_with_passwords() {
    let server = Server::registry_with_password();
    for failure in failures(&server.store("p", "")) {
        assert_eq!(failure.kind(), Failed::Denied, "{failure}");
        assert!(failure.to_string().contains("no credentials"), "{failure}");
    }
    log_in(server.port(), "tester", "geheim");
    for failure in failures(&server.store("p", "")) {
        assert_eq!(failure.kind(), Failed::Denied, "{failure}");
        assert!(!failure.to_string().contains("geheim"), "{failure}");
    }
    log_in(server.port(), "tester", PASSWORD);
    suite::refs(&server.store("p", ""));
    suite::blobs(&server.store("p", ""));
}

#[test]
fn a_registry_with_a_token_server() {
    let server = Server::start(Kind::Registry);
    let proxy = server.proxy();
    proxy.wants_token("tester:geheim");
    let url = |prefix: &str| proxy.store(prefix, "");
    for failure in failures(&url("p")) {
        assert_eq!(failure.kind(), Failed::Denied, "{failure}");
    }
    log_in(proxy.port(), "tester", "geheim");
    let store = url("p");
    suite::refs(&store);
    proxy.log();
    suite::put(&store, &suite::bytes(1, 1000));
    let asked = proxy.log();
    assert!(
        !asked.iter().any(|line| line.contains("/-token")),
        "a token is used until it is refused: {asked:?}"
    );
}
