//! Blobs as the export writes them, seen by others.

use std::io::Read;
use std::path::Path;
use std::process::Command;

use harness_fs::error::Error;
use harness_fs::export::chunked::{Archive, Blob, Form, write};
use harness_fs::export::{Compat, ExportOptions, Member, What};
use harness_fs::tree::Time;
use serde_json::Value;
use zstd_chunked::{MetadataReferences, Stream};

use super::fixture::{assert_same, dump, rich};
use super::forge::digest;
use super::frames::{
    CHUNK, annotations, append, blob, bytes, everything, file, member, noise, open, scratch,
};
use super::patient::export;

fn tar_of(blob: &[u8]) -> Vec<u8> {
    zstd::decode_all(blob).expect("zstd")
}

/// The TOC as JSON.
fn toc(blob: &[u8]) -> Value {
    let places = MetadataReferences::from_footer(blob).expect("a footer");
    let range = places.manifest.range;
    let packed = &blob[usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()];
    let json = zstd::decode_all(packed).expect("zstd");
    assert_eq!(json.len() as u64, places.manifest.uncompressed_size);
    serde_json::from_slice(&json).expect("JSON")
}

/// Makes the tar from the index and the contents, with a crate that shares
/// nothing with ours.
fn rebuilt(blob: &[u8], annotations: &std::collections::HashMap<String, String>) -> Vec<u8> {
    let slice = |range: &std::ops::Range<u64>| {
        &blob[usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()]
    };
    let told = MetadataReferences::from_oci(|key| annotations.get(key)).expect("annotations");
    let footer = MetadataReferences::from_footer(blob).expect("a footer");
    assert_eq!(told.manifest.range, footer.manifest.range);
    assert_eq!(told.tarsplit.range, footer.tarsplit.range);
    assert_eq!(
        told.tarsplit.uncompressed_size,
        footer.tarsplit.uncompressed_size
    );
    let manifest = slice(&told.manifest.range);
    assert_eq!(
        told.manifest.digest,
        Some(format!("sha256:{}", digest(manifest)))
    );
    let stream = Stream::new_from_frames(manifest, slice(&told.tarsplit.range)).expect("frames");
    let mut tar = Vec::new();
    let content = |content: &zstd_chunked::ContentReference| {
        let bytes = zstd::decode_all(slice(&content.range))?;
        assert_eq!(format!("sha256:{}", digest(&bytes)), content.digest);
        assert_eq!(bytes.len() as u64, content.size);
        Ok(bytes)
    };
    stream.write_to(&mut tar, content).expect("a tar");
    tar
}

#[test]
fn the_tar_can_be_made_from_the_index() {
    let written = blob(&everything(), 2);
    let blob = bytes(&written);
    assert_eq!((written.form, written.note), (Form::Chunked, None));
    assert_eq!(digest(&blob), written.digest);
    assert_eq!(blob.len() as u64, written.size);
    let tar = tar_of(&blob);
    assert_eq!(digest(&tar), written.diff_id);
    assert_eq!(tar.len() as u64, written.uncompressed);
    let again = rebuilt(&blob, &annotations(&written));
    assert!(again == tar, "another tar");
}

#[test]
fn every_layer_of_an_export_is_a_tar_with_an_index() {
    let fixture = rich();
    let layout = fixture.tmp.path().join("out");
    let report = export(
        &fixture.stack,
        true,
        &fixture.mapped,
        &layout,
        ExportOptions::default(),
    );
    let report = report.expect("export");
    let json = |digest: &str| -> Value {
        let path = layout
            .join("blobs/sha256")
            .join(digest.trim_start_matches("sha256:"));
        serde_json::from_slice(&std::fs::read(path).expect("blob")).expect("JSON")
    };
    let manifest = json(&report.manifest);
    assert_eq!(
        manifest["annotations"]["io.harness.fs.tree-digest"],
        *report.tree_digest
    );
    let mut portable = 0;
    for (layer, descriptor) in report
        .layers
        .iter()
        .zip(manifest["layers"].as_array().expect("layers"))
    {
        assert_eq!(layer.form, Form::Chunked);
        let name = layer.digest.trim_start_matches("sha256:");
        let path = layout.join("blobs/sha256").join(name);
        // As the shell sees it.
        let pipe = format!("zstd -dcq {} | sha256sum", path.display());
        let output = Command::new("sh").args(["-c", &pipe]).output().expect("sh");
        let said = String::from_utf8(output.stdout).expect("text");
        assert_eq!(format!("sha256:{}", &said[..64]), layer.diff_id);
        let told = serde_json::from_value(descriptor["annotations"].clone()).expect("annotations");
        let blob = std::fs::read(&path).expect("blob");
        let tree = &descriptor["annotations"]["io.harness.fs.tree-digest"];
        assert_eq!(*tree, *layer.tree_digest);
        let opened = Blob::open(std::fs::File::open(&path).expect("open"), &told);
        let opened = opened.expect("a blob").expect("a TOC");
        assert_eq!(opened.tree_digest(), layer.tree_digest);
        assert_eq!(opened.entries().len() as u64, layer.members);
        if layer.note.is_none() {
            assert!(rebuilt(&blob, &told) == tar_of(&blob));
            portable += 1;
        } else {
            assert!(MetadataReferences::from_oci(|key| told.get(key)).is_none());
        }
    }
    // One of the layers has a name that is not UTF-8.
    assert_eq!((portable, report.layers.len()), (2, 3));
}

#[test]
fn neither_threads_nor_their_speed_make_a_difference() {
    let items = everything();
    let one = blob(&items, 1);
    for threads in [4, 3] {
        let other = blob(&items, threads);
        assert_eq!(other.digest, one.digest);
        assert_eq!(other.annotations, one.annotations);
        assert_eq!(other.tree_digest, one.tree_digest);
    }
}

#[test]
fn digests_are_what_they_were() {
    let items = [
        (member("harness", What::Dir), Vec::new()),
        file("harness/a", b"content".to_vec()),
        file("harness/b", noise(9, 100_000)),
    ];
    let written = blob(&items, 1);
    // docs/format.md: no program of ours, no version of zstd makes another.
    assert_eq!(
        written.tree_digest,
        "sha256:b176e4a4e14d7eb9b774b98bf5784ae13c7fef84f9d5eaec5887fff6c92772c5"
    );
    assert_eq!(
        written.diff_id,
        "e05e04d09710d696c7be56a38d40f310b0f8112e8f1e9a945276d98b4f93c735"
    );
    // Another version of zstd may. Then every layer that anybody stored is
    // uploaded once more: to be told in the change log.
    assert_eq!(
        written.digest,
        "d184426ca51073e2bfe8131d7d0e72d621a2dc79dfe75299ce06c6e70733044f"
    );
}

#[test]
fn the_tree_digest_is_that_of_the_documentation() {
    let mut items = everything();
    items.retain(|(_, content)| content.len() <= 10_000);
    let written = blob(&items, 1);
    let mut text = b"io.harness.fs tree 1\n".to_vec();
    for record in toc(&bytes(&written))["entries"]
        .as_array()
        .expect("entries")
    {
        if record["type"] == "chunk" {
            continue;
        }
        let it = items
            .iter()
            .find(|(m, _)| m.name() == record["name"].as_str().unwrap().as_bytes());
        let mtime = it.expect("there").0.mtime;
        let number = |key: &str| record[key].as_u64().unwrap_or(0);
        let string = |key: &str| record[key].as_str().unwrap_or("").to_owned();
        for field in [
            string("type"),
            string("name"),
            string("linkName"),
            format!("{:o}", number("mode")),
            number("uid").to_string(),
            number("gid").to_string(),
            mtime.sec.to_string(),
            mtime.nsec.to_string(),
            number("devMajor").to_string(),
            number("devMinor").to_string(),
            number("size").to_string(),
            string("digest").trim_start_matches("sha256:").to_owned(),
        ] {
            text.extend_from_slice(field.as_bytes());
            text.push(0);
        }
        let xattrs = &it.expect("there").0.xattrs;
        text.extend_from_slice(format!("{}\0", xattrs.len()).as_bytes());
        for (name, value) in xattrs {
            text.extend_from_slice(format!("{}\0{}\0", name.display(), value.len()).as_bytes());
            text.extend_from_slice(value);
            text.push(0);
        }
    }
    assert_eq!(written.tree_digest, format!("sha256:{}", digest(&text)));
    // Each of these is another tree.
    let base = written.tree_digest;
    let changes: [fn(&mut Member); 6] = [
        |m| m.perm = 0o600,
        |m| m.uid = 1,
        |m| m.gid = 1,
        |m| m.mtime.nsec = 1,
        |m| m.path = b"d/other".to_vec(),
        |m| drop(m.xattrs.insert("user.x".into(), Vec::new())),
    ];
    for change in changes {
        let before = items[2].clone();
        change(&mut items[2].0);
        assert_ne!(blob(&items, 2).tree_digest, base);
        items[2] = before;
    }
    items[2].1[0] ^= 1;
    assert_ne!(blob(&items, 2).tree_digest, base);
}

#[test]
fn large_files_are_in_chunks_and_holes_are_marked() {
    let written = blob(&everything(), 2);
    let toc = toc(&bytes(&written));
    let records: Vec<_> = toc["entries"].as_array().expect("entries").iter().collect();
    let chunks = |name: &str| -> Vec<&Value> {
        records
            .iter()
            .copied()
            .filter(|record| record["name"] == name)
            .collect()
    };
    let one = chunks("d/one-chunk");
    assert_eq!(one.len(), 1);
    assert!(one[0].get("chunkSize").is_none());
    let two = chunks("d/two-chunks");
    assert_eq!(two.len(), 2);
    assert_eq!(two[0]["type"], "reg");
    assert_eq!(
        (&two[0]["chunkSize"], &two[1]["chunkSize"]),
        (&CHUNK.into(), &1.into())
    );
    assert_eq!(two[1]["chunkOffset"], CHUNK);
    assert_eq!(two[1]["type"], "chunk");
    assert_eq!(two[0]["endOffset"], two[1]["endOffset"]);
    let kinds: Vec<_> = chunks("d/holes")
        .iter()
        .map(|chunk| chunk["chunkType"].clone())
        .collect();
    assert_eq!(
        kinds,
        ["zeros".into(), Value::Null, "zeros".into(), "zeros".into()]
    );
    // Of a file in one chunk nothing is said of chunks.
    assert!(chunks("d/zeros")[0].get("chunkType").is_none());
    assert!(chunks("d/empty")[0].get("digest").is_none());
    assert!(chunks("d/link")[0].get("digest").is_none());
    // In the archive a directory ends with a slash.
    assert_eq!(chunks("d/").len(), 1);
}

/// What JSON and RFC 3339 cannot hold.
fn awkward() -> Vec<Member> {
    let plain = || member("plain", What::File(3));
    let mut all = vec![
        Member {
            path: b"not-\xff-utf8".to_vec(),
            ..plain()
        },
        Member {
            path: b"not-\xfe-utf8".to_vec(),
            ..plain()
        },
        Member {
            what: What::Symlink(b"\xff".to_vec()),
            ..plain()
        },
        Member {
            what: What::HardLink(b"not-\xff-utf8".to_vec()),
            ..plain()
        },
        Member {
            mtime: Time {
                sec: 1 << 40,
                nsec: 5,
            },
            ..plain()
        },
        Member {
            mtime: Time {
                sec: -(1 << 40),
                nsec: 5,
            },
            ..plain()
        },
    ];
    let mut last = plain();
    let name = <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(b"user.\xff");
    last.xattrs.insert(name.to_owned(), b"x".to_vec());
    last.xattrs.insert("user.plain".into(), b"y".to_vec());
    all.push(last);
    for (number, it) in all.iter_mut().enumerate().skip(2) {
        it.path = format!("plain-{number}").into_bytes();
    }
    all
}

#[test]
fn what_json_cannot_hold_comes_back_and_is_hidden_from_others() {
    for it in awkward() {
        let written = blob(&[(it.clone(), b"abc".to_vec())], 1);
        let blob = bytes(&written);
        assert_eq!(written.form, Form::Chunked);
        assert!(
            written.note.expect("a note").contains("harness-fs alone"),
            "{it:?}"
        );
        let told = annotations(&written);
        assert!(
            told.keys().all(|key| key.starts_with("io.harness.fs.")),
            "{told:?}"
        );
        let opened = open(&written);
        assert_eq!(opened.entries()[0].member, it);
        assert_eq!(opened.tree_digest(), written.tree_digest);
        assert_eq!(digest(&tar_of(&blob)), written.diff_id);
        assert!(toc(&blob)["entries"][0]["io.harness.fs"].is_object());
    }
    // Names that look alike when they are made UTF-8.
    let all: Vec<_> = awkward()
        .into_iter()
        .map(|it| (it, b"abc".to_vec()))
        .collect();
    let written = blob(&all, 1);
    let opened = open(&written);
    for (it, _) in &all {
        assert_eq!(opened.find(&it.path).map(|entry| &entry.member), Some(it));
    }
    // tar-split has them as they are.
    let blob = bytes(&written);
    let places = MetadataReferences::from_footer(&blob).expect("a footer");
    let range = places.tarsplit.range;
    let packed = &blob[usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()];
    let lines = String::from_utf8(tar_of(packed)).expect("text");
    let line = lines
        .lines()
        .find(|line| line.contains("name_raw"))
        .expect("one");
    let line: Value = serde_json::from_str(line).expect("JSON");
    assert_eq!(line["name_raw"], "bm90Lf8tdXRmOA==");
    assert!(line.get("name").is_none());
}

#[test]
fn gzip_is_for_who_knows_no_zstd() {
    let fixture = rich();
    let layout = |name: &str| fixture.tmp.path().join(name);
    let options = |compat| ExportOptions {
        compat,
        ..ExportOptions::default()
    };
    let run = |to: &Path, compat| {
        export(&fixture.stack, true, &fixture.mapped, to, options(compat)).expect("export")
    };
    let zstd = run(&layout("zstd"), None);
    let gzip = run(&layout("gzip"), Some(Compat::Gzip));
    let again = run(&layout("again"), Some(Compat::Gzip));
    assert_eq!(gzip.manifest, again.manifest);
    assert_eq!(gzip.tree_digest, zstd.tree_digest);
    for (a, b) in gzip.layers.iter().zip(&zstd.layers) {
        assert_eq!(a.form, Form::Gzip);
        assert_eq!((&a.diff_id, &a.tree_digest), (&b.diff_id, &b.tree_digest));
        let path = layout("gzip/blobs/sha256").join(a.digest.trim_start_matches("sha256:"));
        let pipe = format!("gzip -dc {} | sha256sum", path.display());
        let output = Command::new("sh").args(["-c", &pipe]).output().expect("sh");
        assert_eq!(
            format!("sha256:{}", &String::from_utf8_lossy(&output.stdout)[..64]),
            a.diff_id
        );
        let file = std::fs::File::open(&path).expect("open");
        assert!(
            Blob::open(file, &Default::default())
                .expect("read")
                .is_none()
        );
    }
    let manifest = gzip.manifest.trim_start_matches("sha256:");
    let manifest = std::fs::read(layout("gzip/blobs/sha256").join(manifest)).expect("manifest");
    let manifest: Value = serde_json::from_slice(&manifest).expect("JSON");
    for layer in manifest["layers"].as_array().expect("layers") {
        assert_eq!(
            layer["mediaType"],
            "application/vnd.oci.image.layer.v1.tar+gzip"
        );
        assert_eq!(
            layer["annotations"].as_object().expect("annotations").len(),
            1
        );
    }
    let (_, stack) = fixture.import(&layout("gzip"), "new/layers");
    assert_same(&dump(&stack), &dump(&fixture.stack));
}

#[test]
fn a_file_that_became_shorter_is_an_error_that_names_it() {
    for threads in [1, 4] {
        let mut make = || Ok(scratch());
        let fill = |archive: &mut Archive<'_>| {
            append(archive, &everything())?;
            let size = What::File(5 * CHUNK as u64);
            archive.append(
                member("shrinks", size),
                Some(&mut std::io::repeat(1).take(CHUNK as u64 + 5)),
            )
        };
        let error = write(scratch(), false, threads, &mut make, &|| Ok(()), fill);
        let error = error.err().expect("too short").to_string();
        assert!(
            error.contains("shrinks") && error.contains("shorter"),
            "{error}"
        );
    }
}

#[test]
fn who_wants_it_no_more_waits_for_nothing() {
    let asked = std::cell::Cell::new(0);
    let wanted = || {
        asked.set(asked.get() + 1);
        match asked.get() {
            5.. => Err(Error::new(nix::errno::Errno::ECANCELED, "no more")),
            _ => Ok(()),
        }
    };
    let mut make = || Ok(scratch());
    let endless = |archive: &mut Archive<'_>| {
        let size = What::File(1 << 50);
        archive.append(member("endless", size), Some(&mut std::io::repeat(1)))
    };
    let error = write(scratch(), false, 2, &mut make, &wanted, endless);
    assert!(
        error
            .err()
            .expect("refused")
            .to_string()
            .contains("no more")
    );
    assert_eq!(asked.get(), 5);
}
