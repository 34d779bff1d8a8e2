//! What the guard keeps in, under whatever name, and what passes it.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use harness_fs::export::{ExportOptions, ExportReport};
use harness_fs::layer::copy_up::{self, Extent};

use super::fixture::{Changes, Fixture, mkdir, write};
use super::patient::export;

/// In every file that is to stay in.
const SECRET: &str = "hunter2";

fn try_export(
    fixture: &Fixture,
    allow: &[&str],
    base: bool,
) -> harness_fs::error::Result<ExportReport> {
    let options = ExportOptions {
        name: "s".to_owned(),
        with_base: base,
        allow_secret: allow.iter().map(ToString::to_string).collect(),
        ..ExportOptions::default()
    };
    let layout = fixture.tmp.path().join("out");
    let _ = std::fs::remove_dir_all(&layout);
    export(&fixture.stack, true, &fixture.mapped, &layout, options)
}

/// Exports; returns the withheld names below the first mapped path, with the
/// reasons, and how many files with the secret left.
fn exported(fixture: &Fixture, allow: &[&str], base: bool) -> (Vec<(String, String)>, usize) {
    let report = try_export(fixture, allow, base).expect("export");
    let held = report.secrets.iter().map(|left| {
        let path = left.path.strip_prefix(&fixture.mapped[0]).expect("below");
        let why = left
            .why
            .replace(&format!("{}/", fixture.mapped[0].display()), "");
        (path.to_string_lossy().into_owned(), why)
    });
    let mut leaked = 0;
    for layer in &report.layers {
        let digest = layer.digest.trim_start_matches("sha256:");
        let blob = fixture.tmp.path().join("out/blobs/sha256").join(digest);
        let bytes = zstd::decode_all(std::fs::File::open(blob).expect("blob")).expect("zstd");
        let found = bytes
            .windows(SECRET.len())
            .filter(|text| *text == SECRET.as_bytes());
        leaked += found.count();
    }
    (held.collect(), leaked)
}

fn names(held: &[(String, String)]) -> Vec<&str> {
    held.iter().map(|(name, _)| name.as_str()).collect()
}

/// Copies a lower file up, all of it or its metadata.
fn copy(layer: &Changes<'_>, path: &str, extent: Extent) {
    layer.parents(path);
    let found = layer.stack.find(Path::new(path)).expect("find");
    let (from, to) = (Path::new(path), layer.path(path));
    copy_up::entry(
        layer.open,
        layer.stack,
        &found.expect("there"),
        from,
        &to,
        extent,
    )
    .expect("copy-up");
}

#[test]
fn every_name_of_a_withheld_file_stays_in() {
    let mut fixture = Fixture::new();
    mkdir(&fixture.at("dir"));
    write(
        &fixture.at(".netrc"),
        &format!("machine h password {SECRET}"),
    );
    write(&fixture.at("id_rsa"), SECRET);
    write(&fixture.at("other"), "no secret");
    for (from, to) in [
        (".netrc", "innocent-hardlink"),
        (".netrc", ".npmrc"),
        ("id_rsa", "aaa-hardlink-before"),
        ("id_rsa", "dir/below"),
        ("other", "dir/other"),
    ] {
        std::fs::hard_link(fixture.at(from), fixture.at(to)).expect("link");
    }
    fixture.take_base();
    // The names share a metadata copy, whose content is still the base's.
    fixture.layer("000001-chmod", |layer| {
        layer.chmod_lower("0/innocent-hardlink", 0o644);
    });
    let (held, leaked) = exported(&fixture, &[], true);
    let wanted = [
        (".netrc", "holds credentials"),
        (
            ".npmrc",
            "is the same file as .netrc, which holds credentials",
        ),
        (
            "aaa-hardlink-before",
            "is the same file as id_rsa, which is a private key",
        ),
        (
            "dir/below",
            "is the same file as id_rsa, which is a private key",
        ),
        ("id_rsa", "is a private key"),
        (
            "innocent-hardlink",
            "is the same file as .netrc, which holds credentials",
        ),
    ];
    let wanted = wanted.map(|(name, why)| (name.to_owned(), why.to_owned()));
    assert_eq!(held, wanted);
    assert_eq!(leaked, 0);
}

#[test]
fn a_name_that_another_layer_gives_counts_too() {
    for extent in [Extent::Whole, Extent::Metadata] {
        let mut fixture = Fixture::new();
        write(&fixture.at("plain"), SECRET);
        mkdir(&fixture.at("aws"));
        write(&fixture.at("aws/credentials"), SECRET);
        write(&fixture.at(".env"), &format!("TOKEN={SECRET}"));
        fixture.take_base();
        fixture.layer("000001-link", |layer| {
            copy(layer, "0/plain", extent);
            layer.link("0/plain", "0/.netrc");
            layer.rename_dir("0/aws", "0/.aws");
            // As `mv .env saved`.
            copy(layer, "0/.env", extent);
            layer.link("0/.env", "0/saved");
            layer.delete("0/.env");
        });
        let (held, leaked) = exported(&fixture, &[], true);
        let wanted = [
            ".aws/credentials",
            ".env",
            ".netrc",
            "aws/credentials",
            "plain",
            "saved",
        ];
        assert_eq!(names(&held), wanted);
        assert_eq!(leaked, 0);
        // A layer alone is no way round: its base tells what the file is.
        let (held, leaked) = exported(&fixture, &[], false);
        assert_eq!(
            names(&held),
            [".aws/credentials", ".netrc", "plain", "saved"]
        );
        assert_eq!(leaked, 0);
    }
}

#[test]
fn a_file_that_no_longer_holds_its_secret_leaves() {
    let mut fixture = Fixture::new();
    write(&fixture.at(".npmrc"), &format!("_auth={SECRET}\n"));
    std::fs::hard_link(fixture.at(".npmrc"), fixture.at("other")).expect("link");
    fixture.take_base();
    fixture.layer("000001-logout", |layer| {
        copy(layer, "0/.npmrc", Extent::Whole);
        let file = layer.path("0/.npmrc");
        let flags = nix::fcntl::OFlag::O_WRONLY | nix::fcntl::OFlag::O_TRUNC;
        let file = harness_fs::sys::at::open(layer.open, &file, flags, 0).expect("open");
        std::io::Write::write_all(&mut std::fs::File::from(file), b"color=true\n").expect("write");
        let (from, to) = (layer.path("0/.npmrc"), layer.path("0/other"));
        harness_fs::sys::at::link(layer.open, &from, layer.open, &to).expect("link");
    });
    let (held, leaked) = exported(&fixture, &[], true);
    assert_eq!(names(&held), [".npmrc", "other"]);
    assert_eq!(leaked, 0);
    let (_, stack) = fixture.import(&fixture.tmp.path().join("out"), "new/layers");
    for name in ["0/.npmrc", "0/other"] {
        assert!(
            stack.find(Path::new(name)).expect("find").is_some(),
            "{name}"
        );
    }
}

#[test]
fn what_is_named_leaves_and_nothing_else() {
    let mut fixture = Fixture::new();
    let odd = PathBuf::from(OsStr::from_bytes(b"\xff.pem"));
    for dir in ["[id]", "i", "keys"] {
        mkdir(&fixture.at(dir));
        write(&fixture.at(dir).join(".env"), &format!("TOKEN={SECRET}"));
    }
    write(
        &fixture.mapped[0].join(&odd),
        &format!("-----BEGIN PRIVATE KEY-----{SECRET}"),
    );
    write(&fixture.at(".netrc"), SECRET);
    std::fs::hard_link(fixture.at(".netrc"), fixture.at("linked")).expect("link");
    fixture.take_base();
    let root = fixture.mapped[0].display().to_string();
    let all = [
        ".netrc",
        "[id]/.env",
        "i/.env",
        "keys/.env",
        "linked",
        "\u{fffd}.pem",
    ];
    for (allow, leaves) in [
        // A report's own text is a path first, and then no glob.
        ("/[id]/.env", &["[id]/.env"][..]),
        ("/[hij]/.env", &["i/.env"]),
        ("/*/.env", &["[id]/.env", "i/.env", "keys/.env"]),
        ("/**/.env", &["[id]/.env", "i/.env", "keys/.env"]),
        ("/\\xff.pem", &["\u{fffd}.pem"]),
        ("/?.pem", &["\u{fffd}.pem"]),
        // With the name for which it stayed in, the file is free.
        ("/.netrc", &[".netrc", "linked"]),
        ("/linked", &["linked"]),
    ] {
        let (held, leaked) = exported(&fixture, &[&format!("{root}{allow}")], true);
        let wanted: Vec<_> = all
            .into_iter()
            .filter(|name| !leaves.contains(name))
            .collect();
        assert_eq!(names(&held), wanted, "{allow}");
        // Two names of one file are written once.
        let written = leaves.len() - usize::from(leaves.contains(&".netrc"));
        assert_eq!(leaked, written, "{allow}");
    }
    let (held, _) = exported(&fixture, &[".env", "*.pem", "linked", ".netrc"], true);
    assert_eq!(held, []);
}

#[test]
fn a_pattern_that_nothing_has_is_named_and_nothing_is_written() {
    let mut fixture = Fixture::new();
    mkdir(&fixture.at(".ssh"));
    write(&fixture.at(".ssh/id_rsa"), SECRET);
    write(&fixture.at("readme"), "text");
    fixture.take_base();
    let root = fixture.mapped[0].display().to_string();
    for wrong in [
        ".netrc",
        "harness/.ssh/id_rsa",
        "./.ssh/id_rsa",
        &format!("{root}/.ssh"),
        &format!("{root}/.ssh/"),
        &format!("{root}/.ssh/id_rsaa"),
        &format!("{root}/.ssh/[i"),
        "[",
        "",
    ] {
        let error = try_export(&fixture, &["id_rsa", wrong], true).expect_err(wrong);
        let text = error.to_string();
        assert!(
            text.contains(&format!("--allow-secret '{wrong}'")),
            "{text}"
        );
        assert!(!fixture.tmp.path().join("out").exists(), "{wrong}");
    }
    for right in [
        "readme",
        "id_*",
        &format!("{root}/.ssh/**"),
        "**/.ssh/id_rsa",
    ] {
        try_export(&fixture, &[right], true).expect(right);
    }
}
