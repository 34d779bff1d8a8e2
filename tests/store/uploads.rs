//! What is sent, how often, and what is left of an upload that fails.

use harness_fs::store::{Digest, Kind as Failed, Put};

use super::rig::{KINDS, Kind, Server, shared};
use super::suite;

#[test]
fn a_save_that_is_done_again_sends_only_what_is_missing() {
    for kind in KINDS {
        let proxy = shared(kind).proxy();
        let store = proxy.store(&format!("again{}", proxy.port()), "");
        let contents: Vec<_> = (0..3).map(|seed| suite::bytes(seed, 20_000)).collect();
        // The first time it is killed after two blobs.
        for content in &contents[..2] {
            suite::put(&store, content);
        }
        proxy.log();
        let put: Vec<_> = contents
            .iter()
            .map(|content| suite::put(&store, content).1)
            .collect();
        assert_eq!(put, [Put::There, Put::There, Put::Sent], "{kind:?}");
        let sent = proxy
            .log()
            .into_iter()
            .filter(|line| line.starts_with("PUT"))
            .count();
        assert_eq!(sent, 1, "{kind:?}");
    }
}

#[test]
fn a_large_blob_goes_in_parts_and_a_part_that_fails_is_sent_again_alone() {
    for kind in [Kind::S3, Kind::Gcs] {
        let proxy = shared(kind).proxy();
        let store = proxy.store(&format!("parts{}", proxy.port()), "");
        let content = suite::bytes(1, 20 << 20);
        proxy.breaks("^PUT .*partNumber=2", "middle", 1);
        let (digest, _) = suite::put(&store, &content);
        let log = proxy.log();
        let parts = |number: u32| {
            log.iter()
                .filter(|line| line.contains(&format!("partNumber={number}&")))
                .count()
        };
        assert_eq!(
            (parts(1), parts(2), parts(3)),
            (1, 2, 1),
            "{kind:?}: {log:?}"
        );
        assert!(
            suite::get(&store, &digest, content.len()) == content,
            "{kind:?}"
        );
    }
}

#[test]
fn a_blob_on_its_way_to_a_registry_begins_anew_when_it_breaks() {
    let proxy = shared(Kind::Registry).proxy();
    let store = proxy.store(&format!("anew{}", proxy.port()), "");
    let content = suite::bytes(1, 20 << 20);
    proxy.breaks("^PUT .*blobs/uploads", "middle", 2);
    let (digest, put) = suite::put(&store, &content);
    assert_eq!(put, Put::Sent);
    assert!(suite::get(&store, &digest, content.len()) == content);
}

/// What object stores keep of an upload that nobody ends costs money and is not seen.
#[test]
fn an_upload_that_fails_is_taken_back() {
    let server = Server::start(Kind::S3);
    let proxy = server.proxy();
    let store = proxy.store("back", "retries=0");
    let content = suite::bytes(1, 20 << 20);
    let digest = Digest::of(&content);
    proxy.breaks("^PUT .*partNumber=3", "reset", 1000);
    let put = store.put_blob(
        &digest,
        content.len() as u64,
        &mut std::io::Cursor::new(&content),
    );
    assert_eq!(put.unwrap_err().kind(), Failed::Unreachable);
    let log = proxy.log();
    assert!(
        log.iter().any(|line| line.starts_with("DELETE ")
            && line.contains("uploadId=")
            && line.ends_with(" 204")),
        "{log:?}"
    );
    assert_eq!(store.blob_size(&digest).unwrap(), None);
    assert_eq!(store.list_blobs().unwrap(), []);
}
