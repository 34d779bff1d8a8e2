//! Stores behind a network, with real servers on this machine. `tests/store/run`
//! installs them and runs this; alone, `cargo test` does not.

#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

mod credentials;
mod faults;
mod interop;
mod memory;
mod rig;
mod suite;
mod uploads;

/// What every store has to do, for each kind behind a network.
macro_rules! suite {
    ($module:ident, $kind:expr) => {
        mod $module {
            use crate::rig::{Kind, shared};
            use crate::suite;

            #[test]
            fn blobs() {
                suite::blobs(&shared($kind).store("blobs", ""));
            }
            #[test]
            fn wrong_content() {
                suite::wrong_content(&shared($kind).store("wrong", ""));
            }
            #[test]
            fn refs() {
                suite::refs(&shared($kind).store("refs", ""));
            }
            #[test]
            fn names_and_lists() {
                suite::names_and_lists(&shared($kind).store("names", ""));
            }
            #[test]
            fn creators_at_once() {
                let exact = $kind != Kind::Registry;
                let proxy = shared($kind).proxy().serial();
                suite::creators_at_once(|| proxy.store("creators", ""), exact);
            }
            #[test]
            fn newest_first() {
                suite::newest_first(&shared($kind).store("newest", ""));
            }
        }
    };
}

suite!(s3, Kind::S3);
suite!(gcs, Kind::Gcs);
suite!(registry, Kind::Registry);

#[test]
fn no_update_of_a_ref_is_lost_in_s3() {
    let proxy = rig::shared(rig::Kind::S3).proxy().serial();
    suite::counters_at_once(|| proxy.store("counters", ""));
}

#[test]
fn no_update_of_a_ref_is_lost_in_gcs() {
    suite::counters_at_once(|| rig::shared(rig::Kind::Gcs).store("counters", ""));
}

#[test]
fn s3_is_pruned() {
    suite::prune(&rig::shared(rig::Kind::S3).store("prune", ""));
}

#[test]
fn gcs_is_pruned() {
    suite::prune(&rig::shared(rig::Kind::Gcs).store("prune", ""));
}

#[test]
fn a_registry_does_not_list_its_blobs_but_deletes_them() {
    let store = rig::shared(rig::Kind::Registry).store("prune", "");
    let (digest, _) = suite::put(&store, b"blob");
    let failure = store.list_blobs().unwrap_err();
    assert_eq!(failure.kind(), harness_fs::store::Kind::Unsupported);
    store.delete_blob(&digest).unwrap();
    store.delete_blob(&digest).unwrap();
    assert_eq!(store.blob_size(&digest).unwrap(), None);
}

/// More than one page of each list.
#[test]
fn long_lists_come_whole() {
    for kind in [rig::Kind::S3, rig::Kind::Registry] {
        let store = rig::shared(kind).store("many", "");
        let target = suite::put_image(&store, 1);
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (store, target) = (&store, &target);
                scope.spawn(move || {
                    for number in 0..260 {
                        let name = suite::name("s", &format!("key-{thread}-{number}"));
                        let always = harness_fs::store::Condition::Always;
                        store.put_ref(&name, target, &always).unwrap();
                    }
                });
            }
        });
        assert_eq!(
            store.list_refs(Some("s"), "key-").unwrap().len(),
            4 * 260,
            "{kind:?}"
        );
    }
}
