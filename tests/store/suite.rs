//! What every store has to do, whatever it is.

use std::collections::BTreeMap;
use std::io::{Cursor, Read, Seek, SeekFrom};
use std::sync::Barrier;

use harness_fs::store::{Condition, Digest, Kind, Listed, Put, RefName, Store, Target};

pub const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";

/// Bytes that repeat nowhere; two of different seeds are different.
pub fn bytes(seed: u64, size: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2) + 1;
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        // Knuth's MMIX generator.
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        bytes.extend_from_slice(&(state >> 16).to_le_bytes()[..6]);
    }
    bytes.truncate(size);
    bytes
}

pub fn put(store: &Store, content: &[u8]) -> (Digest, Put) {
    let digest = Digest::of(content);
    let put = store.put_blob(&digest, content.len() as u64, &mut Cursor::new(content));
    (digest, put.unwrap())
}

pub fn get(store: &Store, digest: &Digest, size: usize) -> Vec<u8> {
    let mut got = Vec::new();
    store.get_blob(digest, size as u64, &mut got).unwrap();
    got
}

/// Puts a manifest with its blobs, as a save does, and returns what a ref needs.
pub fn put_image(store: &Store, seed: u64) -> Target {
    let config = bytes(seed, 100);
    let (digest, _) = put(store, &config);
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"{MANIFEST_TYPE}","config":{{"mediaType":"application/vnd.harness.fs.test","digest":"{digest}","size":100}},"layers":[]}}"#
    );
    store
        .put_manifest(MANIFEST_TYPE, manifest.as_bytes())
        .unwrap()
}

pub fn name(scope: &str, key: &str) -> RefName {
    RefName::new(scope, key).unwrap()
}

fn kind<T: std::fmt::Debug>(result: harness_fs::store::Result<T>) -> Kind {
    result.unwrap_err().kind()
}

/// Blobs of many sizes come back as they went, are sent once, and are read in parts.
pub fn blobs(store: &Store) {
    // Around a part and a whole, and the empty one.
    for (seed, size) in [
        (1, 0),
        (2, 1),
        (3, 100_000),
        (4, 16 << 20),
        (5, (16 << 20) + 1),
        (6, 21 << 20),
    ] {
        let content = bytes(seed, size);
        assert_eq!(
            store.blob_size(&Digest::of(&content)).unwrap(),
            None,
            "{size}"
        );
        let (digest, first) = put(store, &content);
        assert_eq!(
            (first, put(store, &content).1),
            (Put::Sent, Put::There),
            "{size}"
        );
        assert_eq!(store.blob_size(&digest).unwrap(), Some(size as u64));
        assert!(get(store, &digest, size) == content, "{size}");
        for (start, end) in [
            (0, size.min(10)),
            (size / 3, size / 3 + size.min(70_000) / 2),
            (size.saturating_sub(5), size),
        ] {
            let part = store.read_range(&digest, start as u64..end as u64).unwrap();
            assert!(part == content[start..end], "{start} to {end} of {size}");
        }
        if size > 0 {
            let beyond = store.read_range(&digest, size as u64 - 1..size as u64 + 1);
            assert_eq!(kind(beyond), Kind::Corrupt, "{size}");
        }
    }
    let missing = Digest::of(b"nobody has put this");
    assert_eq!(
        kind(store.get_blob(&missing, 1, &mut Vec::new())),
        Kind::NotFound
    );
    assert_eq!(kind(store.read_range(&missing, 0..1)), Kind::NotFound);
}

/// What is not what its digest says does not get in, large or small.
pub fn wrong_content(store: &Store) {
    for size in [1000, 18 << 20] {
        let right = bytes(11, size);
        let digest = Digest::of(&right);
        let mut flipped = right.clone();
        flipped[size - 1] ^= 1;
        let mut longer = right.clone();
        longer.push(0);
        for wrong in [&flipped, &longer, &right[..size - 1].to_vec()] {
            let put = store.put_blob(&digest, size as u64, &mut Cursor::new(wrong));
            assert_eq!(kind(put), Kind::Local, "{} of {size}", wrong.len());
            assert_eq!(store.blob_size(&digest).unwrap(), None);
        }
        put(store, &right);
        // Asked for with another size, it is not what was meant.
        let got = store.get_blob(&digest, size as u64 - 1, &mut Vec::new());
        assert_eq!(kind(got), Kind::Corrupt);
        let got = store.get_blob(&digest, size as u64 + 1, &mut Vec::new());
        assert_eq!(kind(got), Kind::Corrupt);
    }
}

/// Refs are created once, replaced only by who has read them, and deleted.
pub fn refs(store: &Store) {
    let (first, second) = (put_image(store, 1), put_image(store, 2));
    let name = name("main", "npm-linux");
    assert_eq!(kind(store.read_ref(&name)), Kind::NotFound);
    let created = store.put_ref(&name, &first, &Condition::Create).unwrap();
    let read = store.read_ref(&name).unwrap();
    assert_eq!((&read.target, &read.version), (&first, &created));
    assert_eq!(
        store.get_manifest(&read.target).unwrap().len() as u64,
        first.size
    );

    assert_eq!(
        kind(store.put_ref(&name, &second, &Condition::Create)),
        Kind::Conflict
    );
    let replaced = store
        .put_ref(&name, &second, &Condition::Replace(created.clone()))
        .unwrap();
    assert_eq!(store.read_ref(&name).unwrap().target, second);
    let stale = store.put_ref(&name, &first, &Condition::Replace(created));
    assert_eq!(kind(stale), Kind::Conflict);
    assert_eq!(store.read_ref(&name).unwrap().version, replaced);
    store.put_ref(&name, &first, &Condition::Always).unwrap();
    assert_eq!(store.read_ref(&name).unwrap().target, first);

    store.delete_ref(&name).unwrap();
    store.delete_ref(&name).unwrap();
    assert_eq!(kind(store.read_ref(&name)), Kind::NotFound);
    let gone = store.put_ref(&name, &first, &Condition::Replace(replaced));
    assert_eq!(kind(gone), Kind::Conflict);
}

/// Keys and scopes are any text, and lists find them by how they begin.
pub fn names_and_lists(store: &Store) {
    let target = put_image(store, 3);
    let long = "x".repeat(512);
    let almost = format!("{}y", "x".repeat(511));
    let keys = [
        "npm-linux-1",
        "npm-linux-2",
        "npm",
        "npm_linux",
        "npm/../../etc/passwd",
        "..",
        ".",
        "-",
        "_",
        "a b",
        "é",
        "\u{1F980}",
        "a\nb",
        "a\0b",
        "%2F",
        "{{ checksum \"x\" }}",
        "KEY",
        "key",
        long.as_str(),
        almost.as_str(),
    ];
    for scope in ["main", "main/2", "pr_1"] {
        for key in keys {
            store
                .put_ref(&name(scope, key), &target, &Condition::Create)
                .unwrap();
        }
    }
    let listed = |scope: Option<&str>, prefix: &str| -> Vec<RefName> {
        let mut names: Vec<_> = store
            .list_refs(scope, prefix)
            .unwrap()
            .into_iter()
            .map(|listed| listed.name)
            .collect();
        names.sort();
        names
    };
    let expected = |scopes: &[&str], prefix: &str| -> Vec<RefName> {
        let of = |scope: &&str| {
            keys.iter()
                .filter(|key| key.starts_with(prefix))
                .map(|key| name(scope, key))
                .collect::<Vec<_>>()
        };
        let mut names: Vec<_> = scopes.iter().flat_map(of).collect();
        names.sort();
        names
    };
    for prefix in [
        "",
        "npm",
        "npm-linux-",
        "npm_",
        "x",
        &long[..511],
        &long,
        "a",
        "_",
        "none",
    ] {
        assert_eq!(
            listed(Some("main"), prefix),
            expected(&["main"], prefix),
            "{prefix:?}"
        );
    }
    assert_eq!(
        listed(None, "npm"),
        expected(&["main", "main/2", "pr_1"], "npm")
    );
    assert_eq!(listed(Some("mai"), ""), []);
    for key in keys {
        store.read_ref(&name("main", key)).unwrap();
    }
}

/// A list begins with what was written last, as far as the store's clock tells; there is nothing in an empty store.
pub fn newest_first(store: &Store) {
    assert_eq!(store.list_refs(None, "").unwrap(), []);
    let target = put_image(store, 4);
    let written = ["b", "c", "a", "b"];
    for key in written {
        store
            .put_ref(&name("s", key), &target, &Condition::Always)
            .unwrap();
    }
    let listed = store.list_refs(Some("s"), "").unwrap();
    assert_eq!(listed.len(), 3);
    let last = |listed: &Listed| written.iter().rposition(|key| *key == listed.name.key());
    for pair in listed.windows(2) {
        // S3 counts in seconds.
        let same = pair[0].modified == pair[1].modified;
        assert!(last(&pair[0]) > last(&pair[1]) || same, "{listed:?}");
        assert!(pair[0].modified >= pair[1].modified, "{listed:?}");
    }
}

/// Of many who create one ref at once one wins, and it is the winner's. Without conditions on the server more than one
/// may believe so, but the ref is still one of theirs.
pub fn creators_at_once(open: impl Fn() -> Store + Sync, exact: bool) {
    const CREATORS: u64 = 4;
    let store = open();
    let targets: Vec<Target> = (0..CREATORS)
        .map(|seed| put_image(&store, 100 + seed))
        .collect();
    for round in 0..5 {
        let name = name("main", &format!("round-{round}"));
        let barrier = Barrier::new(targets.len());
        let won: Vec<bool> = std::thread::scope(|scope| {
            let threads: Vec<_> = targets
                .iter()
                .map(|target| {
                    let (name, barrier, open) = (&name, &barrier, &open);
                    scope.spawn(move || {
                        let store = open();
                        // Whatever a first request costs is over before the race.
                        assert_eq!(kind(store.read_ref(name)), Kind::NotFound);
                        barrier.wait();
                        match store.put_ref(name, target, &Condition::Create) {
                            Ok(_) => true,
                            Err(failure) => {
                                assert_eq!(failure.kind(), Kind::Conflict, "{failure}");
                                false
                            }
                        }
                    })
                })
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect()
        });
        let read = store.read_ref(&name).unwrap();
        let holder = targets
            .iter()
            .position(|target| *target == read.target)
            .unwrap();
        if exact {
            assert_eq!(won.iter().filter(|won| **won).count(), 1, "round {round}");
            assert!(
                won[holder],
                "round {round}: it is the ref of one who was told that it is not"
            );
        }
    }
}

/// Who replaces what they have read loses no update, however many there are.
pub fn counters_at_once(open: impl Fn() -> Store + Sync) {
    const THREADS: usize = 3;
    const EACH: usize = 4;
    let store = open();
    let name = name("main", "counter");
    let count = |target: &Target| -> usize { target.annotations["count"].parse().unwrap() };
    let mut target = put_image(&store, 7);
    target.annotations = BTreeMap::from([("count".to_owned(), "0".to_owned())]);
    store.put_ref(&name, &target, &Condition::Create).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                let store = open();
                let mut done = 0;
                while done < EACH {
                    let read = store.read_ref(&name).unwrap();
                    let mut next = read.target.clone();
                    next.annotations
                        .insert("count".to_owned(), (count(&next) + 1).to_string());
                    match store.put_ref(&name, &next, &Condition::Replace(read.version)) {
                        Ok(_) => done += 1,
                        Err(failure) => assert_eq!(failure.kind(), Kind::Conflict, "{failure}"),
                    }
                }
            });
        }
    });
    assert_eq!(
        count(&store.read_ref(&name).unwrap().target),
        THREADS * EACH
    );
}

/// Who prunes sees all blobs, and can delete them.
pub fn prune(store: &Store) {
    let contents = [bytes(21, 10), bytes(22, 20), bytes(23, 17 << 20)];
    let mut expected: Vec<_> = contents
        .iter()
        .map(|content| (put(store, content).0, content.len() as u64))
        .collect();
    let listed = || {
        let mut listed: Vec<_> = store
            .list_blobs()
            .unwrap()
            .iter()
            .map(|blob| (blob.digest, blob.size))
            .collect();
        listed.sort();
        listed
    };
    expected.sort();
    assert_eq!(listed(), expected);
    let (gone, _) = expected.remove(0);
    store.delete_blob(&gone).unwrap();
    store.delete_blob(&gone).unwrap();
    assert_eq!(listed(), expected);
    assert_eq!(store.blob_size(&gone).unwrap(), None);
}

/// Content on whose way something happens, once.
pub struct Stopping<'a, F: FnOnce()> {
    content: Cursor<&'a [u8]>,
    after: u64,
    event: Option<F>,
}

impl<'a, F: FnOnce()> Stopping<'a, F> {
    pub fn new(content: &'a [u8], after: u64, event: F) -> Self {
        let content = Cursor::new(content);
        Stopping {
            content,
            after,
            event: Some(event),
        }
    }
}

impl<F: FnOnce()> Read for Stopping<'_, F> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.content.position() >= self.after
            && let Some(event) = self.event.take()
        {
            event();
        }
        self.content.read(buffer)
    }
}

impl<F: FnOnce()> Seek for Stopping<'_, F> {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        self.content.seek(to)
    }
}
