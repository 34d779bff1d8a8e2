//! What an export makes of the directory that it writes to.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use harness_fs::error::{Error, Result};
use harness_fs::export::{ExportOptions, ExportReport};
use nix::errno::Errno;

use super::fixture::{Fixture, assert_same, dump, mkdir, rich, write};
use super::patient::export;

fn export_as(fixture: &Fixture, layout: &Path, name: &str) -> Result<ExportReport> {
    let options = ExportOptions {
        name: name.to_owned(),
        ..ExportOptions::default()
    };
    export(&fixture.stack, true, &fixture.mapped, layout, options)
}

fn mode(path: &Path) -> u32 {
    path.metadata().expect("stat").permissions().mode() & 0o7777
}

fn chmod(path: &Path, mode: u32) {
    std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).expect("chmod");
}

fn list(dir: &Path) -> BTreeSet<OsString> {
    std::fs::read_dir(dir)
        .expect("list")
        .map(|entry| entry.expect("entry").file_name())
        .collect()
}

fn blobs(layout: &Path) -> Vec<PathBuf> {
    let dir = layout.join("blobs/sha256");
    list(&dir).iter().map(|name| dir.join(name)).collect()
}

fn largest(layout: &Path) -> PathBuf {
    let size = |path: &PathBuf| path.metadata().expect("stat").len();
    blobs(layout).into_iter().max_by_key(size).expect("a blob")
}

/// Fails after the layers were written.
fn fail(fixture: &Fixture, layout: &Path) -> Error {
    let odd = <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(b"/\xff");
    let odd = [PathBuf::from(odd)];
    let options = ExportOptions::default();
    export(&fixture.stack, true, &odd, layout, options).expect_err("not UTF-8")
}

#[test]
fn what_private_files_held_stays_private() {
    let fixture = rich();
    let above = fixture.tmp.path().join("e1");
    let layout = above.join("e2/out");
    export_as(&fixture, &layout, "s").expect("export");
    assert_eq!((mode(&above), mode(&above.join("e2"))), (0o755, 0o755));
    for dir in ["", "blobs", "blobs/sha256"] {
        assert_eq!(mode(&layout.join(dir)), 0o700, "{dir}");
    }
    let files = ["index.json", "oci-layout"].map(|name| layout.join(name));
    for file in blobs(&layout).iter().chain(&files) {
        assert_eq!(mode(file), 0o600, "{}", file.display());
    }
}

#[test]
fn a_directory_that_is_there_keeps_its_mode() {
    let mut fixture = rich();
    let layout = fixture.tmp.path().join("out");
    mkdir(&layout);
    chmod(&layout, 0o2770);
    export_as(&fixture, &layout, "s").expect("export");
    assert_eq!(mode(&layout), 0o2770);
    assert_eq!(mode(&layout.join("index.json")), 0o600);
    // Shared by its owner, it stays shared.
    for file in blobs(&layout) {
        chmod(&file, 0o644);
    }
    chmod(&layout.join("index.json"), 0o644);
    let before = blobs(&layout);
    fixture.layer("000004-more", |layer| {
        layer.file("0/more", b"more");
    });
    export_as(&fixture, &layout, "t").expect("export");
    let files = ["index.json", "oci-layout"].map(|name| layout.join(name));
    assert!(blobs(&layout).len() > before.len());
    for file in blobs(&layout).iter().chain(&files) {
        assert_eq!(mode(file), 0o644, "{}", file.display());
    }
}

#[test]
fn exports_at_once_to_one_new_directory_lose_nothing() {
    let fixtures: Vec<Fixture> = (0..4)
        .map(|index| {
            let mut fixture = Fixture::new();
            write(&fixture.at("who"), &format!("stage {index}"));
            fixture.take_base();
            fixture
        })
        .collect();
    let tmp = tempfile::tempdir().expect("tempdir");
    let layout = tmp.path().join("new/out");
    std::thread::scope(|scope| {
        // Some that fail, and take back what they made.
        scope.spawn(|| {
            for _ in 0..30 {
                let error = fail(&fixtures[0], &layout);
                let expected = [Errno::EBUSY, Errno::EILSEQ];
                assert!(expected.contains(&error.errno()), "{error}");
            }
        });
        for (index, fixture) in fixtures.iter().enumerate() {
            let layout = &layout;
            scope.spawn(move || {
                for name in [format!("own-{index}"), "common".to_owned()] {
                    while let Err(error) = export_as(fixture, layout, &name) {
                        assert_eq!(error.errno(), Errno::EBUSY, "{error}");
                        assert!(error.to_string().contains("another export"), "{error}");
                        std::thread::yield_now();
                    }
                }
            });
        }
    });
    for (index, fixture) in fixtures.iter().enumerate() {
        let named = tmp.path().join(format!("new/out:own-{index}"));
        let (_, stack) = fixture.import(&named, "layers");
        assert_same(&dump(&stack), &dump(&fixture.stack));
    }
    let index = std::fs::read_to_string(layout.join("index.json")).expect("index");
    assert_eq!(index.matches("\"common\"").count(), 1, "{index}");
    let wanted: BTreeSet<OsString> = ["blobs", "index.json", "oci-layout"].map(Into::into).into();
    assert_eq!(list(&layout), wanted);
    // One configuration and base for each, and the manifests.
    assert_eq!(blobs(&layout).len(), 4 * 3);
}

#[test]
fn what_a_killed_export_left_is_swept_by_the_next() {
    let fixture = rich();
    let layout = fixture.tmp.path().join("out");
    mkdir(&layout.join(".harness-fs-export/deep"));
    write(&layout.join(".harness-fs-export/blob-1"), "half");
    write(&layout.join(".harness-fs-export.lock"), "");
    export_as(&fixture, &layout, "s").expect("export");
    assert_eq!(list(&layout).len(), 3);
    let (_, stack) = fixture.import(&layout, "new/layers");
    assert_same(&dump(&stack), &dump(&fixture.stack));
}

#[test]
fn a_damaged_blob_is_not_taken_for_there() {
    let fixture = rich();
    let layout = fixture.tmp.path().join("out");
    export_as(&fixture, &layout, "s").expect("export");
    let blob = largest(&layout);
    let whole = std::fs::read(&blob).expect("read");
    let zeros = vec![0; whole.len()];
    std::fs::write(&blob, zeros).expect("write");
    let again = export_as(&fixture, &layout, "s").expect("export");
    assert_eq!(again.new_bytes, whole.len() as u64);
    assert_eq!(std::fs::read(&blob).expect("read"), whole);
    let (_, stack) = fixture.import(&layout, "new/layers");
    assert_same(&dump(&stack), &dump(&fixture.stack));
}

#[test]
fn a_failed_export_takes_back_the_directories_it_made() {
    let fixture = rich();
    let above = fixture.tmp.path().join("e1");
    fail(&fixture, &above.join("e2/out"));
    assert!(!above.exists());
    mkdir(&above);
    fail(&fixture, &above);
    assert_eq!(list(&above).len(), 0);
}

#[test]
fn a_link_that_leads_nowhere_is_no_directory() {
    let fixture = rich();
    let link = fixture.tmp.path().join("link");
    std::os::unix::fs::symlink("nowhere", &link).expect("symlink");
    let error = export_as(&fixture, &link, "s").expect_err("dangling");
    assert!(error.to_string().contains("leads nowhere"), "{error}");
}

#[test]
fn the_order_of_the_paths_makes_no_other_image() {
    let mut fixture = rich();
    fixture.take_base();
    let [one, two] = ["one", "two"].map(|name| fixture.tmp.path().join(name));
    let first = export_as(&fixture, &one, "s").expect("export");
    fixture.mapped.reverse();
    fixture.take_base();
    let second = export_as(&fixture, &two, "s").expect("export");
    assert_eq!(first.manifest, second.manifest);
}

#[test]
fn both_a_layout_and_a_snapshot_can_have_a_colon_in_their_names() {
    let fixture = rich();
    let tmp = fixture.tmp.path();
    // What is before a colon can also be a directory of another kind.
    mkdir(&tmp.join("out"));
    let layout = tmp.join("out:1");
    for name in ["v1:2", "v1"] {
        export_as(&fixture, &layout, name).expect("export");
    }
    for (number, name) in ["v1:2", "v1"].iter().enumerate() {
        let named = tmp.join(format!("out:1:{name}"));
        let (_, stack) = fixture.import(&named, &format!("{number}/layers"));
        assert_same(&dump(&stack), &dump(&fixture.stack));
    }
}
