//! A store in a directory.

use std::io::Cursor;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use harness_fs::store::{Condition, Digest, INDEX_TYPE, Kind, Store};

use super::suite;

/// A temporary directory, and the store that is going to be in it.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Place {
        Place(tempfile::tempdir().unwrap())
    }
    fn root(&self) -> std::path::PathBuf {
        self.0.path().join("caches/mine")
    }
    fn open(&self) -> Store {
        Store::open(&format!("file://{}", self.root().display())).unwrap()
    }
    /// All files in the store, but for its lock.
    fn files(&self) -> Vec<String> {
        let found = Command::new("find")
            .arg(self.root())
            .args(["-type", "f", "!", "-name", ".lock", "-printf", "%P\n"])
            .output()
            .unwrap();
        let mut files: Vec<_> = String::from_utf8(found.stdout)
            .unwrap()
            .lines()
            .map(str::to_owned)
            .collect();
        files.sort();
        files
    }
}

#[test]
fn blobs() {
    suite::blobs(&Place::new().open());
}

#[test]
fn wrong_content() {
    let place = Place::new();
    suite::wrong_content(&place.open());
    assert_eq!(
        place
            .files()
            .iter()
            .filter(|file| file.starts_with(".tmp"))
            .count(),
        0
    );
}

#[test]
fn refs() {
    suite::refs(&Place::new().open());
}

#[test]
fn names_and_lists() {
    suite::names_and_lists(&Place::new().open());
}

#[test]
fn newest_first() {
    suite::newest_first(&Place::new().open());
}

#[test]
fn creators_at_once() {
    let place = Place::new();
    suite::creators_at_once(|| place.open(), true);
}

#[test]
fn counters_at_once() {
    let place = Place::new();
    suite::counters_at_once(|| place.open());
}

#[test]
fn prune() {
    suite::prune(&Place::new().open());
}

#[test]
fn reading_makes_nothing() {
    let place = Place::new();
    let store = place.open();
    assert_eq!(store.blob_size(&Digest::of(b"x")).unwrap(), None);
    assert_eq!(store.list_refs(None, "").unwrap(), []);
    assert_eq!(store.list_blobs().unwrap(), []);
    store.delete_ref(&suite::name("s", "k")).unwrap();
    assert_eq!(
        store.read_ref(&suite::name("s", "k")).unwrap_err().kind(),
        Kind::NotFound
    );
    assert!(!place.0.path().join("caches").exists());
}

#[test]
fn it_is_an_image_layout_that_names_each_image() {
    let place = Place::new();
    let store = place.open();
    let target = suite::put_image(&store, 1);
    let name = suite::name("main", "npm/1");
    store.put_ref(&name, &target, &Condition::Create).unwrap();
    let index = std::fs::read(place.root().join("refs/main/npm_2F1")).unwrap();
    let index: serde_json::Value = serde_json::from_slice(&index).unwrap();
    assert_eq!(index["mediaType"], INDEX_TYPE);
    assert_eq!(index["manifests"][0]["digest"], target.digest.to_string());
    let read = |file: &str| -> serde_json::Value {
        serde_json::from_slice(&std::fs::read(place.root().join(file)).unwrap()).unwrap()
    };
    assert_eq!(read("oci-layout")["imageLayoutVersion"], "1.0.0");
    let manifests = |index: serde_json::Value| -> Vec<(String, String)> {
        let list = index["manifests"].as_array().unwrap().clone();
        let of = |image: &serde_json::Value| {
            let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
            (
                text(&image["annotations"]["org.opencontainers.image.ref.name"]),
                text(&image["digest"]),
            )
        };
        list.iter().map(of).collect()
    };
    assert_eq!(
        manifests(read("index.json")),
        [("main/npm+2F1".to_owned(), target.digest.to_string())]
    );
    let second = suite::put_image(&store, 2);
    store.put_ref(&name, &second, &Condition::Always).unwrap();
    assert_eq!(
        manifests(read("index.json")),
        [("main/npm+2F1".to_owned(), second.digest.to_string())]
    );
    store.delete_ref(&name).unwrap();
    assert_eq!(manifests(read("index.json")), []);
}

#[test]
fn a_put_that_is_cut_off_leaves_nothing_that_is_seen() {
    let place = Place::new();
    let store = place.open();
    let content = suite::bytes(1, 5 << 20);
    let digest = Digest::of(&content);
    let mut source = suite::Stopping::new(&content, 3 << 20, || panic!("killed"));
    let cut = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        store.put_blob(&digest, content.len() as u64, &mut source)
    }));
    assert!(cut.is_err());
    assert_eq!(store.blob_size(&digest).unwrap(), None);
    assert_eq!(store.list_blobs().unwrap(), []);
    // What a kill leaves, which no destructor cleans up, goes when it is a day old.
    let old = place.root().join(".tmp/left");
    let young = place.root().join(".tmp/young");
    for file in [&old, &young] {
        std::fs::write(file, "x").unwrap();
    }
    let day_before = std::time::SystemTime::now() - std::time::Duration::from_secs(25 * 3600);
    std::fs::File::options()
        .write(true)
        .open(&old)
        .unwrap()
        .set_modified(day_before)
        .unwrap();
    suite::put(&place.open(), &content);
    assert_eq!((old.exists(), young.exists()), (false, true));
}

#[test]
fn a_directory_of_something_else_is_left_alone() {
    let place = Place::new();
    std::fs::create_dir_all(place.root()).unwrap();
    std::fs::write(place.root().join("thesis.txt"), "x").unwrap();
    let failure = place
        .open()
        .put_blob(&Digest::of(b"y"), 1, &mut Cursor::new(b"y"))
        .unwrap_err();
    assert_eq!(failure.kind(), Kind::Invalid);
    assert!(
        failure.to_string().contains("neither empty nor a store"),
        "{failure}"
    );
    assert_eq!(place.files(), ["thesis.txt"]);
}

#[test]
fn damage_is_found_and_a_cut_blob_is_sent_again() {
    let place = Place::new();
    let store = place.open();
    let content = suite::bytes(1, 3 << 20);
    let (digest, _) = suite::put(&store, &content);
    let blob = place.root().join("blobs/sha256").join(digest.hex());
    let mut damaged = content.clone();
    damaged[2 << 20] ^= 4;
    std::fs::write(&blob, &damaged).unwrap();
    let failure = store
        .get_blob(&digest, content.len() as u64, &mut Vec::new())
        .unwrap_err();
    assert_eq!(failure.kind(), Kind::Corrupt);
    assert!(
        failure
            .to_string()
            .starts_with(&format!("file://{}: blob {digest}", place.root().display())),
        "{failure}"
    );
    // As a disk leaves it that lost its power under another program.
    std::fs::write(&blob, &content[..1 << 20]).unwrap();
    assert_eq!(suite::put(&store, &content).1, harness_fs::store::Put::Sent);
    assert!(suite::get(&store, &digest, content.len()) == content);
    let name = suite::name("s", "k");
    let target = suite::put_image(&store, 1);
    store.put_ref(&name, &target, &Condition::Create).unwrap();
    std::fs::write(place.root().join("refs/s/k"), "{\"schemaVersion\":2").unwrap();
    assert_eq!(store.read_ref(&name).unwrap_err().kind(), Kind::Corrupt);
}

#[test]
fn nothing_is_read_through_links_or_pipes() {
    let place = Place::new();
    let store = place.open();
    let (digest, _) = suite::put(&store, b"content");
    let blob = place.root().join("blobs/sha256").join(digest.hex());
    let elsewhere = place.0.path().join("elsewhere");
    std::fs::rename(&blob, &elsewhere).unwrap();
    symlink(&elsewhere, &blob).unwrap();
    assert_eq!(
        store
            .get_blob(&digest, 7, &mut Vec::new())
            .unwrap_err()
            .kind(),
        Kind::Invalid
    );
    std::fs::remove_file(&blob).unwrap();
    nix::unistd::mkfifo(&blob, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
    assert_eq!(
        store
            .get_blob(&digest, 7, &mut Vec::new())
            .unwrap_err()
            .kind(),
        Kind::Invalid
    );
}

#[test]
fn a_store_is_its_owners_until_somebody_shares_it() {
    let place = Place::new();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    let (digest, _) = suite::put(&place.open(), b"one");
    let blobs = place.root().join("blobs/sha256");
    assert_eq!(
        (mode(&place.root()), mode(&blobs.join(digest.hex()))),
        (0o700, 0o600)
    );
    std::fs::set_permissions(
        place.root().join("oci-layout"),
        std::fs::Permissions::from_mode(0o644),
    )
    .unwrap();
    let store = place.open();
    let (digest, _) = suite::put(&store, b"two");
    assert_eq!(mode(&blobs.join(digest.hex())), 0o644);
    let target = suite::put_image(&store, 1);
    store
        .put_ref(&suite::name("s", "k"), &target, &Condition::Create)
        .unwrap();
    assert_eq!(
        (
            mode(&place.root().join("refs/s")),
            mode(&place.root().join("refs/s/k"))
        ),
        (0o755, 0o644)
    );
}
