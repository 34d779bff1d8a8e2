//! Layouts that are damaged or mean harm: each is refused with a sentence, and
//! nothing is left of it.

use std::path::Path;

use tar::EntryType;

use super::forge::{Spoil, Tar, layout, raw, refused, run, start};

#[test]
fn every_form_of_layer_is_read() {
    for kind in ["tar", "tar+gzip", "tar+zstd"] {
        let tmp = tempfile::tempdir().expect("tempdir");
        let spoil = Spoil {
            media_type: Some(kind),
            ..Spoil::default()
        };
        let tar = start()
            .file("harness/a")
            .file("./harness/b")
            .dir("./")
            .end();
        layout(&tmp.path().join("in"), &tar, &spoil);
        let imported = run(tmp.path()).expect(kind);
        assert!(imported.has_base);
        let tree = tmp.path().join("layers/000001-import/tree/0");
        assert_eq!(std::fs::read(tree.join("a")).expect("a"), b"content");
        assert_eq!(std::fs::read(tree.join("b")).expect("b"), b"content");
    }
}

#[test]
fn hostile_archives_are_refused() {
    let link = EntryType::Symlink;
    let hard = EntryType::Link;
    let outside = tempfile::tempdir().expect("tempdir");
    let outside_path = outside.path().to_str().expect("utf-8");
    let record = |key: &str, value: &str| {
        let rest = key.len() + value.len() + 3;
        let length = (rest..).find(|length| rest + length.to_string().len() == *length);
        format!("{} {key}={value}\n", length.expect("a length"))
    };
    let value = |size: usize| "v".repeat(size);
    let many = (0..300).map(|n| record(&format!("SCHILY.xattr.user.{n}"), &value(65_000)));
    let many: Vec<String> = many.collect();
    let table: Vec<(&str, Tar)> = vec![
        ("absolute", start().file("/harness/x")),
        ("absolute", start().file("/etc/passwd")),
        ("upwards", start().file("harness/../../x")),
        ("upwards", start().file("../x")),
        ("outside of the mapped", start().file("etc/passwd")),
        ("outside of the mapped", start().file("harness2")),
        ("outside of the mapped", start().file(".wh.harness")),
        ("NUL", start().pax("20 path=harness/a\0b\n").file("x")),
        ("damaged PAX", start().pax("99 path=harness/a\n").file("x")),
        (
            "more than 64 KiB",
            start()
                .pax(&record("SCHILY.xattr.user.x", &value(65_537)))
                .file("harness/x"),
        ),
        (
            "more than 64 KiB",
            start()
                .pax(
                    &(0..300)
                        .map(|n| record(&format!("SCHILY.xattr.user.{n}{}", value(240)), "v"))
                        .collect::<String>(),
                )
                .file("harness/x"),
        ),
        // Each of the headers would do, and so would each of the values.
        (
            "extension header of",
            start()
                .pax(&many[..150].concat())
                .pax(&many[150..].concat())
                .file("harness/x"),
        ),
        (
            "what is none",
            start()
                .entry("harness/l", link, outside_path, b"")
                .file("harness/l/x"),
        ),
        ("before its directory", Tar::default().file("harness/x")),
        ("before its directory", start().file("harness/d/x")),
        (
            "before its directory",
            start().file("harness/f").file("harness/f/x"),
        ),
        (
            "is a directory or a file",
            Tar::default().entry("harness", link, outside_path, b""),
        ),
        ("twice", start().file("harness/x").file("harness/x")),
        ("twice", start().file("harness/x").dir("harness/x/")),
        ("twice", start().dir("harness/")),
        ("twice", start().file("harness/x").empty("harness/.wh.x")),
        ("twice", start().empty("harness/.wh.x").file("harness/x")),
        (
            "twice",
            start().empty("harness/.wh.x").empty("harness/.wh.x"),
        ),
        (
            "twice",
            start().file("harness/x").entry("harness/x", link, "y", b""),
        ),
        (
            "outside of the mapped",
            start().entry("harness/x", hard, "etc/passwd", b""),
        ),
        (
            "absolute",
            start().entry("harness/x", hard, "/etc/passwd", b""),
        ),
        (
            "upwards",
            start().entry("harness/x", hard, "harness/../../etc/passwd", b""),
        ),
        (
            "not in the archive",
            start().entry("harness/x", hard, "harness/y", b""),
        ),
        (
            "not in the archive",
            start().entry("harness/l", link, "/etc", b"").entry(
                "harness/x",
                hard,
                "harness/l/passwd",
                b"",
            ),
        ),
        (
            "not in the archive",
            start()
                .empty("harness/.wh.y")
                .entry("harness/x", hard, "harness/y", b""),
        ),
        (
            "to a directory",
            start().entry("harness/x", hard, "harness", b""),
        ),
        (
            "twice",
            start()
                .file("harness/x")
                .entry("harness/x", hard, "harness/x", b""),
        ),
        ("not an empty file", start().file("harness/.wh.x")),
        ("not an empty file", start().dir("harness/.wh.x/")),
        ("not known", start().empty("harness/.wh.")),
        ("not known", start().empty("harness/.wh..wh.plnk")),
        ("cannot be opaque", start().empty("harness/.wh..wh..opq")),
        (
            "must not set",
            start()
                .pax("36 SCHILY.xattr.trusted.overlay.x=y\n")
                .file("harness/x"),
        ),
        (
            "must not set",
            start()
                .pax("43 SCHILY.xattr.trusted.overlay.redirect=/\n")
                .dir("harness/x/"),
        ),
        (
            "unknown type",
            start().entry("harness/x", EntryType::new(b'Z'), "", b""),
        ),
        (
            "sparse",
            start().pax("22 GNU.sparse.major=1\n").file("harness/x"),
        ),
        (
            "content where no file",
            start().entry("harness/x", hard, "harness", b"x"),
        ),
        ("extension header of", {
            let mut tar = start();
            let header = raw(b"x", EntryType::XHeader, b"", 1 << 40);
            tar.0.extend_from_slice(header.as_bytes());
            tar
        }),
        ("middle of", {
            let mut tar = start();
            let header = raw(b"harness/x", EntryType::Regular, b"", 1 << 40);
            tar.0.extend_from_slice(header.as_bytes());
            tar
        }),
        ("checksum", {
            let mut tar = start().file("harness/x");
            tar.0[515] ^= 1;
            tar
        }),
        (
            "size that cannot be",
            start()
                .pax("29 size=18446744073709551615\n")
                .file("harness/x"),
        ),
    ];
    for (why, tar) in table {
        let tmp = tempfile::tempdir().expect("tempdir");
        layout(&tmp.path().join("in"), &tar.end(), &Spoil::default());
        refused(tmp.path(), why);
    }
    assert_eq!(std::fs::read_dir(outside.path()).expect("list").count(), 0);
}

#[test]
fn members_come_in_any_order_after_their_directories() {
    let tmp = tempfile::tempdir().expect("temporary directory");
    let tar = start()
        .dir("harness/a")
        .dir("harness/a/b")
        .dir("harness/ab")
        .file("harness/a/b/deep")
        .file("harness/ab/beside")
        .dir("harness/a/b/c")
        .file("harness/last")
        .file("harness/a/b/c/deeper")
        .file("harness/a/up");
    layout(&tmp.path().join("in"), &tar.end(), &Spoil::default());
    run(tmp.path()).expect("import");
    let tree = tmp.path().join("layers/000001-import/tree/0");
    for file in ["a/b/deep", "ab/beside", "last", "a/b/c/deeper", "a/up"] {
        let content = std::fs::read(tree.join(file)).expect(file);
        assert_eq!(content, b"content", "{file}");
    }
    for dir in ["", "a", "a/b", "a/b/c", "ab"] {
        let time = std::fs::metadata(tree.join(dir)).expect(dir).modified();
        let after = time.expect("time").duration_since(std::time::UNIX_EPOCH);
        assert_eq!(after.expect("after").as_secs(), 1, "{dir}");
    }
}

#[test]
fn a_refusal_names_the_member_once() {
    for (tar, text) in [
        (
            start().file("harness/x").file("harness/x"),
            "layer 1 of the image: harness/x: the archive has this name twice",
        ),
        (
            start().entry("harness/x", EntryType::Link, "/etc/passwd", b""),
            "layer 1 of the image: harness/x: an absolute name",
        ),
        (
            start().empty("harness/.wh."),
            "layer 1 of the image: harness/.wh.: a marker that is not known",
        ),
    ] {
        let tmp = tempfile::tempdir().expect("tempdir");
        layout(&tmp.path().join("in"), &tar.end(), &Spoil::default());
        assert_eq!(run(tmp.path()).expect_err(text).to_string(), text);
    }
}

#[test]
fn damaged_layouts_are_refused() {
    let tar = start().file("harness/a").end();
    let table: Vec<(&str, Spoil)> = vec![
        (
            "not exported by harness-fs",
            Spoil {
                no_annotations: true,
                ..Spoil::default()
            },
        ),
        (
            "which this stage does not map",
            Spoil {
                mapped: Some("[\"/harness\",\"/root/.m2\"]"),
                ..Spoil::default()
            },
        ),
        (
            "twice",
            Spoil {
                mapped: Some("[\"/harness\",\"/harness\"]"),
                ..Spoil::default()
            },
        ),
        (
            "damaged",
            Spoil {
                mapped: Some("nonsense"),
                ..Spoil::default()
            },
        ),
        (
            "not known",
            Spoil {
                base: Some("maybe"),
                ..Spoil::default()
            },
        ),
        (
            "the image says",
            Spoil {
                diff_id: Some("0".repeat(64)),
                ..Spoil::default()
            },
        ),
        (
            "unknown type",
            Spoil {
                media_type: Some("tar+lzma"),
                ..Spoil::default()
            },
        ),
    ];
    for (why, spoil) in table {
        let tmp = tempfile::tempdir().expect("tempdir");
        layout(&tmp.path().join("in"), &tar, &spoil);
        refused(tmp.path(), why);
    }
}

#[test]
fn damaged_files_are_refused() {
    let tar = start().file("harness/a").end();
    type Damage = Box<dyn Fn(&Path, &Path)>;
    let table: Vec<(&str, Damage)> = vec![
        (
            "no OCI image layout",
            Box::new(|dir, _| std::fs::remove_dir_all(dir).expect("rm")),
        ),
        (
            "no OCI image layout",
            Box::new(|dir, _| {
                std::fs::remove_file(dir.join("oci-layout")).expect("rm");
            }),
        ),
        (
            "version",
            Box::new(|dir, _| {
                let text = "{\"imageLayoutVersion\":\"9.0.0\"}";
                std::fs::write(dir.join("oci-layout"), text).expect("write");
            }),
        ),
        (
            "index.json",
            Box::new(|dir, _| {
                std::fs::write(dir.join("index.json"), "{").expect("write");
            }),
        ),
        (
            "holds no image",
            Box::new(|dir, _| {
                let text = "{\"schemaVersion\":2,\"manifests\":[]}";
                std::fs::write(dir.join("index.json"), text).expect("write");
            }),
        ),
        (
            "index.json",
            Box::new(|dir, _| {
                let text = "{\"schemaVersion\":2,\"manifests\":[{\"mediaType\":\
                \"application/vnd.oci.image.manifest.v1+json\",\
                \"digest\":\"sha256:../../../etc/passwd\",\"size\":1}]}";
                std::fs::write(dir.join("index.json"), text).expect("write");
            }),
        ),
        (
            "No such file",
            Box::new(|_, blob| std::fs::remove_file(blob).expect("rm")),
        ),
        (
            "bytes, its descriptor says",
            Box::new(|_, blob| {
                std::fs::write(blob, "short").expect("write");
            }),
        ),
        (
            "does not match its digest",
            Box::new(|_, blob| {
                let mut bytes = std::fs::read(blob).expect("read");
                let last = bytes.len() - 1;
                bytes[last] ^= 1;
                std::fs::write(blob, bytes).expect("write");
            }),
        ),
        (
            "not a regular file",
            Box::new(|_, blob| {
                std::fs::remove_file(blob).expect("rm");
                nix::unistd::mkfifo(blob, nix::sys::stat::Mode::S_IRWXU).expect("mkfifo");
            }),
        ),
        (
            "blobs/sha256",
            Box::new(|_, blob| {
                std::fs::remove_file(blob).expect("rm");
                std::os::unix::fs::symlink("/etc/passwd", blob).expect("symlink");
            }),
        ),
    ];
    for (why, damage) in table {
        let tmp = tempfile::tempdir().expect("tempdir");
        let dir = tmp.path().join("in");
        let layer = layout(&dir, &tar, &Spoil::default());
        damage(&dir, &dir.join("blobs/sha256").join(layer));
        refused(tmp.path(), why);
    }
}

#[test]
fn every_flipped_byte_is_noticed() {
    let tar = start().file("harness/a").end();
    let tmp = tempfile::tempdir().expect("tempdir");
    let dir = tmp.path().join("in");
    layout(&dir, &tar, &Spoil::default());
    for entry in std::fs::read_dir(dir.join("blobs/sha256")).expect("list") {
        let path = entry.expect("entry").path();
        let whole = std::fs::read(&path).expect("read");
        for at in (0..whole.len()).step_by(11) {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x20;
            std::fs::write(&path, &damaged).expect("write");
            refused(tmp.path(), "digest");
        }
        std::fs::write(&path, &whole).expect("write");
    }
    run(tmp.path()).expect("whole again");
}
