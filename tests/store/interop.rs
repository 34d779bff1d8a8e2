//! Other tools read what a store holds.

use std::process::Command;

use harness_fs::store::{Condition, Digest, Store};

use super::rig::{Kind, shared};
use super::suite;

const CONFIG: &str =
    r#"{"architecture":"amd64","os":"linux","config":{},"rootfs":{"type":"layers","diff_ids":[]}}"#;

/// Puts an image without layers, and says what its reader has to find.
fn put_image(store: &Store) -> Digest {
    let (config, _) = suite::put(store, CONFIG.as_bytes());
    let (media_type, size) = (suite::MANIFEST_TYPE, CONFIG.len());
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"{media_type}","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{config}","size":{size}}},"layers":[]}}"#
    );
    let target = store.put_manifest(media_type, manifest.as_bytes()).unwrap();
    let name = suite::name("main", "npm/1");
    store.put_ref(&name, &target, &Condition::Always).unwrap();
    target.digest
}

/// The digest of the manifest that skopeo copies from there.
fn copied(image: &str) -> Digest {
    let copy = tempfile::tempdir().unwrap();
    let to = format!("dir:{}", copy.path().display());
    let skopeo = Command::new("skopeo")
        .args([
            "copy",
            "--quiet",
            "--insecure-policy",
            "--src-tls-verify=false",
            image,
            &to,
        ])
        .output()
        .unwrap();
    assert!(
        skopeo.status.success(),
        "{image}: {}",
        String::from_utf8_lossy(&skopeo.stderr)
    );
    Digest::of(&std::fs::read(copy.path().join("manifest.json")).unwrap())
}

#[test]
fn skopeo_finds_the_image_of_a_ref_in_a_directory() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("store");
    let store = Store::open(&format!("file://{}", root.display())).unwrap();
    let digest = put_image(&store);
    assert_eq!(
        copied(&format!("oci:{}:main/npm+2F1", root.display())),
        digest
    );
}

#[test]
fn skopeo_finds_the_image_of_a_ref_in_a_registry() {
    let server = shared(Kind::Registry);
    let digest = put_image(&server.store("interop", ""));
    let image = format!("docker://127.0.0.1:{}/interop:main_.npm_2F1", server.port());
    assert_eq!(copied(&image), digest);
}
