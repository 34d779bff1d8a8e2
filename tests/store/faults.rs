//! What a network and servers do wrong, and what becomes of it.

use harness_fs::store::{Condition, Kind as Failed, Put, Store};
use serde_json::json;

use super::rig::{KINDS, Kind, Proxy, Server, absent, shared};
use super::suite;

/// How blobs are asked for, in each protocol.
const GET_BLOB: &str = "^GET .*blobs(/|%2F)sha256";

fn each(test: impl Fn(Kind, &Proxy, &Store) + Sync) {
    std::thread::scope(|scope| {
        for kind in KINDS {
            let test = &test;
            scope.spawn(move || {
                let proxy = shared(kind).proxy();
                // A prefix for each proxy, so for each test.
                let store = proxy.store(&format!("faults{}", proxy.port()), "");
                test(kind, &proxy, &store);
            });
        }
    });
}

#[test]
fn what_passes_is_tried_again() {
    each(|kind, proxy, store| {
        let mut seed = 0;
        for fault in [
            json!({"match": "", "do": "status", "status": 500, "times": 2}),
            json!({"match": "", "do": "status", "status": 503, "times": 1}),
            json!({"match": "", "do": "status", "status": 429, "times": 2, "headers": {"Retry-After": "0"}}),
            json!({"match": "", "do": "reset", "times": 2}),
        ] {
            seed += 1;
            let content = suite::bytes(seed, 50_000);
            proxy.faults(json!([fault]));
            let (digest, put) = suite::put(store, &content);
            assert_eq!(put, Put::Sent, "{kind:?} {fault}");
            proxy.faults(json!([fault]));
            assert!(
                suite::get(store, &digest, content.len()) == content,
                "{kind:?} {fault}"
            );
            let target = suite::put_image(store, seed);
            let name = suite::name("s", &format!("k{seed}"));
            proxy.faults(json!([fault]));
            store.put_ref(&name, &target, &Condition::Create).unwrap();
            proxy.faults(json!([fault]));
            assert_eq!(
                store.read_ref(&name).unwrap().target,
                target,
                "{kind:?} {fault}"
            );
            proxy.faults(json!([fault]));
            assert_eq!(
                store.list_refs(Some("s"), "").unwrap().len() as u64,
                seed,
                "{kind:?} {fault}"
            );
        }
    });
}

#[test]
fn what_does_not_pass_is_an_outage_and_no_miss() {
    each(|kind, proxy, _| {
        let store = &proxy.store(&format!("outage{}", proxy.port()), "retries=1&timeout=20s");
        let content = suite::bytes(1, 1000);
        let (digest, _) = suite::put(store, &content);
        let name = suite::name("s", "k");
        store
            .put_ref(&name, &suite::put_image(store, 1), &Condition::Create)
            .unwrap();
        for fault in [
            json!({"match": "", "do": "status", "status": 503, "times": 1000}),
            json!({"match": "", "do": "reset", "times": 1000}),
        ] {
            proxy.faults(json!([fault]));
            let failures = [
                store.blob_size(&digest).unwrap_err(),
                store.get_blob(&digest, 1000, &mut Vec::new()).unwrap_err(),
                store.read_range(&digest, 0..10).unwrap_err(),
                store.read_ref(&name).unwrap_err(),
                store
                    .put_ref(&name, &absent(), &Condition::Always)
                    .unwrap_err(),
                store.list_refs(None, "").unwrap_err(),
                store.delete_ref(&name).unwrap_err(),
            ];
            for failure in failures {
                assert_eq!(
                    failure.kind(),
                    Failed::Unreachable,
                    "{kind:?} {fault}: {failure}"
                );
                assert!(failure.to_string().starts_with(store.url()), "{failure}");
            }
        }
    });
}

#[test]
fn a_server_that_is_not_there_is_an_outage() {
    for (kind, url) in [
        (
            Kind::S3,
            "s3://bucket/p?endpoint=http://127.0.0.1:1&retries=1",
        ),
        (
            Kind::Gcs,
            "gs://bucket/p?endpoint=http://127.0.0.1:1&retries=1",
        ),
        (Kind::Registry, "oci://127.0.0.1:1/p?retries=1"),
    ] {
        let store = Store::open(url).unwrap();
        let failure = store.read_ref(&suite::name("s", "k")).unwrap_err();
        assert_eq!(failure.kind(), Failed::Unreachable, "{kind:?}: {failure}");
        assert!(
            failure.to_string().contains("refused"),
            "{kind:?}: {failure}"
        );
    }
}

/// The time-out is the caller's, and here short.
#[test]
fn silence_is_an_outage_after_the_time_out() {
    each(|kind, proxy, _| {
        let store = proxy.store(
            &format!("silence{}", proxy.port()),
            "timeout=200ms&retries=1",
        );
        let content = suite::bytes(1, 1000);
        let (digest, _) = suite::put(
            &proxy.store(&format!("silence{}", proxy.port()), ""),
            &content,
        );
        proxy.breaks("", "silence", 1000);
        for failure in [
            store.get_blob(&digest, 1000, &mut Vec::new()).unwrap_err(),
            store.read_ref(&suite::name("s", "k")).unwrap_err(),
        ] {
            assert_eq!(failure.kind(), Failed::Unreachable, "{kind:?}: {failure}");
        }
        // Once only: the next try is answered.
        proxy.breaks("", "silence", 1);
        let patient = proxy.store(&format!("silence{}", proxy.port()), "timeout=1s&retries=3");
        assert!(suite::get(&patient, &digest, 1000) == content, "{kind:?}");
    });
}

#[test]
fn a_body_that_breaks_off_is_taken_up_where_it_broke() {
    each(|kind, proxy, store| {
        let content = suite::bytes(1, 3 << 20);
        let (digest, _) = suite::put(store, &content);
        proxy.breaks(GET_BLOB, "cut", 2);
        assert!(
            suite::get(store, &digest, content.len()) == content,
            "{kind:?}"
        );
        assert_eq!(proxy.log().len(), 3, "{kind:?}");
        // A part of a blob as well, and for good.
        proxy.breaks(GET_BLOB, "cut", 1);
        assert!(
            store.read_range(&digest, 100..200_000).unwrap() == content[100..200_000],
            "{kind:?}"
        );
        proxy.breaks(GET_BLOB, "cut", 1000);
        let failure = store
            .get_blob(&digest, content.len() as u64, &mut Vec::new())
            .unwrap_err();
        assert_eq!(failure.kind(), Failed::Unreachable, "{kind:?}: {failure}");
    });
}

#[test]
fn damage_is_damage_and_is_not_tried_again() {
    each(|kind, proxy, store| {
        let content = suite::bytes(1, 100_000);
        let (digest, _) = suite::put(store, &content);
        for what in ["flip", "short"] {
            proxy.breaks(GET_BLOB, what, 1);
            let failure = store
                .get_blob(&digest, content.len() as u64, &mut Vec::new())
                .unwrap_err();
            assert_eq!(
                failure.kind(),
                Failed::Corrupt,
                "{kind:?} {what}: {failure}"
            );
            assert!(
                failure.to_string().contains(&digest.to_string()),
                "{failure}"
            );
        }
        let target = suite::put_image(store, 1);
        let name = suite::name("s", "k");
        store.put_ref(&name, &target, &Condition::Create).unwrap();
        for what in ["flip", "short"] {
            proxy.breaks("^GET ", what, 1);
            let failure = store.read_ref(&name).unwrap_err();
            assert_eq!(
                failure.kind(),
                Failed::Corrupt,
                "{kind:?} {what}: {failure}"
            );
            proxy.breaks("^GET ", what, 1);
            let failure = store.get_manifest(&target).unwrap_err();
            assert_eq!(
                failure.kind(),
                Failed::Corrupt,
                "{kind:?} {what}: {failure}"
            );
        }
    });
}

#[test]
fn a_put_of_a_ref_whose_answer_is_lost_does_not_conflict_with_itself() {
    each(|kind, proxy, store| {
        let (first, second) = (suite::put_image(store, 1), suite::put_image(store, 2));
        let name = suite::name("s", "k");
        let put = "^PUT .*(refs(/|%2F)|manifests/s_)";
        proxy.breaks(put, "lost", 1);
        let created = store.put_ref(&name, &first, &Condition::Create).unwrap();
        assert_eq!(store.read_ref(&name).unwrap().version, created, "{kind:?}");
        proxy.breaks(put, "lost", 1);
        store
            .put_ref(&name, &second, &Condition::Replace(created))
            .unwrap();
        assert_eq!(store.read_ref(&name).unwrap().target, second, "{kind:?}");
        // Nor does one that never arrived, or only half.
        proxy.breaks(put, "middle", 1);
        let other = suite::name("s", "k2");
        store.put_ref(&other, &first, &Condition::Create).unwrap();
        assert_eq!(store.read_ref(&other).unwrap().target, first, "{kind:?}");
    });
}

#[test]
fn a_blob_whose_answer_is_lost_is_there() {
    each(|kind, proxy, store| {
        let writes: &[_] = match kind {
            Kind::Registry => &[(1, 1000, "^PUT "), (2, 17 << 20, "^PUT ")],
            _ => &[
                (1, 1000, "^PUT "),
                (2, 17 << 20, "^PUT "),
                (3, 17 << 20, "^POST .*uploadId"),
            ],
        };
        for &(seed, size, write) in writes {
            let content = suite::bytes(seed, size);
            proxy.breaks(write, "lost", 1);
            let (digest, _) = suite::put(store, &content);
            assert_eq!(
                store.blob_size(&digest).unwrap(),
                Some(size as u64),
                "{kind:?} {seed}"
            );
        }
    });
}

#[test]
fn a_bucket_that_is_not_there_is_no_miss() {
    let port = shared(Kind::S3).port();
    let store = Store::open(&format!(
        "s3://no-such-bucket/p?endpoint=http://127.0.0.1:{port}"
    ))
    .unwrap();
    // (s3s-fs says NoSuchKey of a ref there, and makes the bucket for a blob.)
    let failure = store.list_refs(None, "").unwrap_err();
    assert_eq!(failure.kind(), Failed::Invalid, "{failure}");
    assert!(failure.to_string().contains("NoSuchBucket"), "{failure}");
}

/// A server that is killed while it gets a blob, and comes back with what it had.
#[test]
fn a_server_killed_in_the_middle_has_no_half_of_a_blob() {
    for kind in [Kind::S3, Kind::Registry] {
        let server = Server::start(kind);
        let store = server.store("killed", "retries=1");
        let content = suite::bytes(1, 40 << 20);
        let digest = harness_fs::store::Digest::of(&content);
        let data = server.data();
        let mut source = suite::Stopping::new(&content, 30 << 20, move || drop(server));
        let failure = store
            .put_blob(&digest, content.len() as u64, &mut source)
            .unwrap_err();
        assert_eq!(failure.kind(), Failed::Unreachable, "{kind:?}: {failure}");
        let blob = format!("blobs/sha256/{}", digest.hex());
        assert!(!data.join("bucket/killed").join(blob).exists(), "{kind:?}");
    }
}
