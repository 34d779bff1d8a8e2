//! What is exported comes back.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use harness_fs::export::{Destination, ExportOptions, import};
use harness_fs::layer::Inos;
use harness_fs::sys::at;
use harness_fs::tree::Kind;

use super::fixture::{Fixture, assert_same, dump, dump_below, mkdir, rich, set_xattr, write};
use super::patient::export;

fn options(name: &str) -> ExportOptions {
    ExportOptions {
        name: name.to_owned(),
        ..ExportOptions::default()
    }
}

fn blobs(layout: &Path) -> BTreeSet<String> {
    std::fs::read_dir(layout.join("blobs/sha256"))
        .expect("blobs")
        .map(|entry| {
            entry
                .expect("entry")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .collect()
}

#[test]
fn with_the_base_a_stage_shows_the_saved_tree() {
    let fixture = rich();
    let before = dump(&fixture.stack);
    let layout = fixture.tmp.path().join("out");
    let report =
        export(&fixture.stack, true, &fixture.mapped, &layout, options("s")).expect("export");
    assert!(report.secrets.is_empty(), "{:?}", report.secrets);
    // It comes back here, and is no surprise elsewhere.
    let told: Vec<_> = report.left_out.iter().map(|e| e.path.clone()).collect();
    assert_eq!(told, [fixture.at("zero")]);
    assert_eq!(report.layers.len(), 3, "the empty layer is left out");
    let (imported, stack) = fixture.import(&layout, "new/layers");
    assert!(imported.has_base);
    assert_same(&dump(&stack), &before);
    // A second generation has the same content, and so the same digests.
    let again = fixture.tmp.path().join("again");
    let second = export(&stack, false, &fixture.mapped, &again, options("s")).expect("export");
    let digests = |report: &harness_fs::export::ExportReport| -> Vec<String> {
        report
            .layers
            .iter()
            .map(|layer| layer.diff_id.clone())
            .collect()
    };
    assert_eq!(digests(&report), digests(&second));
    assert_eq!(report.manifest, second.manifest);
}

#[test]
fn without_the_base_the_layers_lie_on_the_same_base_again() {
    let fixture = rich();
    let layout = fixture.tmp.path().join("out");
    let without = ExportOptions {
        with_base: false,
        ..options("s")
    };
    let report = export(&fixture.stack, true, &fixture.mapped, &layout, without).expect("export");
    assert_eq!(report.layers.len(), 2);
    let (imported, stack) = fixture.import(&layout, "new/layers");
    assert!(!imported.has_base);
    let mut wanted = dump(&fixture.stack);
    let mut is = dump(&stack);
    // The one thing that an import cannot know: names that a layer of the image
    // takes away from a hard link of the container's own.
    for path in ["0/p", "0/plain/r"] {
        for dump in [&mut wanted, &mut is] {
            dump.get_mut(Path::new(path)).expect("there").nlink = 0;
        }
    }
    assert_same(&is, &wanted);
}

#[test]
fn the_same_tree_gives_the_same_bytes() {
    let fixture = rich();
    let mut indexes = Vec::new();
    let mut names = Vec::new();
    for dir in ["a", "b"] {
        let layout = fixture.tmp.path().join(dir);
        export(&fixture.stack, true, &fixture.mapped, &layout, options("s")).expect("export");
        indexes.push(std::fs::read(layout.join("index.json")).expect("index"));
        names.push(blobs(&layout));
    }
    assert_eq!(indexes[0], indexes[1]);
    assert_eq!(names[0], names[1]);
}

#[test]
fn a_layout_holds_several_images_and_drops_what_is_replaced() {
    let mut fixture = rich();
    let layout = fixture.tmp.path().join("out");
    mkdir(&layout);
    let write_as = |fixture: &Fixture, name: &str| {
        export(
            &fixture.stack,
            true,
            &fixture.mapped,
            &layout,
            options(name),
        )
        .expect("export")
    };
    write_as(&fixture, "one");
    let first = blobs(&layout);
    let again = write_as(&fixture, "two");
    assert_eq!(again.new_bytes, 0);
    assert_eq!(first, blobs(&layout));
    let one = dump(&fixture.stack);
    fixture.layer("000004-more", |layer| {
        layer.file("0/more", b"more");
    });
    write_as(&fixture, "two");
    assert_eq!(blobs(&layout).len(), first.len() + 3);
    let (_, stack) = fixture.import(&layout.with_file_name("out:one"), "l1");
    assert_same(&dump(&stack), &one);
    let (_, stack) = fixture.import(&layout.with_file_name("out:two"), "l2");
    assert_same(&dump(&stack), &dump(&fixture.stack));
    let mut ids = |_: &str| "x".to_owned();
    let layers = fixture.tmp.path().join("l3");
    let target = Destination {
        layers: &layers,
        mapped: &fixture.mapped,
        inos: &Inos::new(3),
        wanted: &|| Ok(()),
    };
    let error = import(&layout, target, &mut ids).expect_err("which one?");
    assert!(error.to_string().contains("one, two"), "{error}");
    // Replacing leaves nothing that no image needs.
    fixture.stack = fixture.stack.below(4);
    write_as(&fixture, "two");
    assert_eq!(blobs(&layout), first);
    let left: BTreeSet<_> = std::fs::read_dir(&layout)
        .expect("list")
        .map(|entry| entry.expect("entry").file_name())
        .collect();
    assert_eq!(left.len(), 3, "{left:?}");
}

#[test]
fn a_directory_of_something_else_is_left_alone() {
    let fixture = rich();
    let layout = fixture.tmp.path().join("out");
    mkdir(&layout);
    write(&layout.join("precious"), "x");
    let error = export(&fixture.stack, true, &fixture.mapped, &layout, options("s"))
        .expect_err("not a layout");
    assert!(error.to_string().contains("neither empty nor"), "{error}");
    assert_eq!(std::fs::read_dir(&layout).expect("list").count(), 1);
}

#[test]
fn a_failed_export_leaves_nothing() {
    let fixture = rich();
    let layout = fixture.tmp.path().join("out");
    let bad = ExportOptions {
        allow_secret: vec!["[".to_owned()],
        ..options("s")
    };
    export(&fixture.stack, true, &fixture.mapped, &layout, bad).expect_err("bad glob");
    let odd = [PathBuf::from(
        <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(b"/\xff"),
    )];
    export(&fixture.stack, true, &odd, &layout, options("s")).expect_err("not UTF-8");
    assert!(!layout.exists());
    let left: Vec<_> = std::fs::read_dir(fixture.tmp.path())
        .expect("list")
        .map(|entry| entry.expect("entry").file_name())
        .filter(|name| name.to_string_lossy().contains("export"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn what_cannot_or_must_not_leave_is_listed() {
    let mut fixture = Fixture::new();
    write(&fixture.at(".npmrc"), "registry=https://r/\n");
    write(&fixture.at(".netrc"), "machine m password p");
    write(&fixture.at("id_rsa"), "key");
    write(&fixture.at(".wh.x"), "odd name");
    let here = nix::fcntl::AT_FDCWD;
    at::mknod(here, &fixture.at("sock"), Kind::Socket, 0o600, 0).expect("socket");
    set_xattr(&fixture.at("id_rsa"), "trusted.mine", b"x");
    fixture.take_base();
    fixture.layer("000001-login", |layer| {
        layer.file("0/.npmrc", b"//r/:_authToken=npm_abc\n");
        layer.delete("0/.wh.x");
    });
    let layout = fixture.tmp.path().join("out");
    let named = ExportOptions {
        allow_secret: vec!["id_rsa".to_owned()],
        ..options("s")
    };
    let report = export(&fixture.stack, true, &fixture.mapped, &layout, named).expect("export");
    let paths = |list: &[harness_fs::export::LeftOut]| -> Vec<PathBuf> {
        list.iter().map(|entry| entry.path.clone()).collect()
    };
    let wanted = [".netrc", ".npmrc"].map(|name| fixture.at(name));
    assert_eq!(paths(&report.secrets), wanted);
    let wanted = [".wh.x", ".wh.x", "id_rsa", "sock"].map(|name| fixture.at(name));
    assert_eq!(paths(&report.left_out), wanted);
    let (_, stack) = fixture.import(&layout, "new/layers");
    let names: Vec<_> = dump_below(&stack, Path::new("0")).into_keys().collect();
    // The older .npmrc does not come to light again.
    assert_eq!(names, [PathBuf::new(), "id_rsa".into()]);
}

#[test]
fn what_a_socket_replaced_is_gone_in_the_image_too() {
    let mut fixture = Fixture::new();
    write(&fixture.at("file"), "old");
    mkdir(&fixture.at("dir"));
    write(&fixture.at("dir/inner"), "old");
    write(&fixture.at("id_rsa"), "never exported");
    fixture.take_base();
    let names = ["file", "dir", "id_rsa"];
    for id in ["000001-server", "000002-again"] {
        fixture.layer(id, |layer| {
            for name in names {
                let path = format!("0/{name}");
                layer.parents(&path);
                let to = layer.path(&path);
                at::mknod(layer.open, &to, Kind::Socket, 0o600, 0).expect("socket");
                layer.finish(&to);
            }
        });
    }
    let layout = fixture.tmp.path().join("out");
    let report =
        export(&fixture.stack, true, &fixture.mapped, &layout, options("s")).expect("export");
    let told: BTreeSet<_> = report.left_out.iter().map(|e| e.path.clone()).collect();
    assert_eq!(told, names.map(|name| fixture.at(name)).into());
    // The root, its parents, and a whiteout each: but nothing hides what was never there.
    let parents = fixture.at("").components().count() as u64 - 2;
    let members: Vec<u64> = report.layers.iter().map(|layer| layer.members).collect();
    assert_eq!(members[1..], [parents + 1 + 2, parents + 1]);
    let (_, stack) = fixture.import(&layout, "new/layers");
    let names: Vec<_> = dump_below(&stack, Path::new("0")).into_keys().collect();
    assert_eq!(names, [PathBuf::new()]);
}

#[test]
fn a_tree_deeper_than_a_path_may_be_long_comes_back() {
    let mut fixture = Fixture::new();
    let mut dir = at::open_dir(nix::fcntl::AT_FDCWD, &fixture.mapped[0]).expect("open");
    let name = Path::new("deep");
    for _ in 0..900 {
        at::mkdir(&dir, name, 0o755).expect("mkdir");
        dir = at::open_dir(&dir, name).expect("open");
    }
    let inner = fixture.at(&"deep/".repeat(900)).join("file");
    let flags = nix::fcntl::OFlag::O_CREAT | nix::fcntl::OFlag::O_WRONLY;
    at::open(nix::fcntl::AT_FDCWD, &inner, flags, 0o600).expect("create");
    fixture.take_base();
    let layout = fixture.tmp.path().join("out");
    export(&fixture.stack, true, &fixture.mapped, &layout, options("s")).expect("export");
    let (_, stack) = fixture.import(&layout, "new/layers");
    assert_same(&dump(&stack), &dump(&fixture.stack));
    // It is not too deep to be removed either.
    for dir in ["new", "harness"] {
        let path = fixture.tmp.path().join(dir);
        at::remove_all(nix::fcntl::AT_FDCWD, &path).expect("remove");
        assert!(!path.exists());
    }
}

#[test]
fn default_acls_do_not_grow_on_what_was_made_in_their_directory() {
    let mut fixture = Fixture::new();
    mkdir(&fixture.at("shared/dir"));
    for name in ["shared/file", "shared/dir/file"] {
        write(&fixture.at(name), name);
    }
    std::os::unix::fs::symlink("file", fixture.at("shared/link")).expect("symlink");
    let here = nix::fcntl::AT_FDCWD;
    at::mknod(here, &fixture.at("shared/pipe"), Kind::Fifo, 0o640, 0).expect("mknod");
    let output = Command::new("setfacl")
        .args(["-d", "-m", "u:1000:rwx"])
        .arg(fixture.at("shared"))
        .output();
    assert!(output.expect("setfacl").status.success());
    fixture.take_base();
    let layout = fixture.tmp.path().join("out");
    export(&fixture.stack, true, &fixture.mapped, &layout, options("s")).expect("export");
    let (_, stack) = fixture.import(&layout, "new/layers");
    let is = dump(&stack);
    assert_same(&is, &dump(&fixture.stack));
    let acls = is.values().map(|line| line.xattrs.len()).sum::<usize>();
    assert_eq!(acls, 1);
}

#[test]
fn a_stage_with_further_paths_keeps_its_own_base_there() {
    let mut fixture = Fixture::new();
    write(&fixture.at("saved"), "saved");
    mkdir(&fixture.at("dir"));
    write(&fixture.at("dir/saved"), "saved");
    let mapped = fixture.mapped.clone();
    fixture.mapped.truncate(1);
    fixture.take_base();
    let layout = fixture.tmp.path().join("out");
    export(&fixture.stack, true, &fixture.mapped, &layout, options("s")).expect("export");
    let wanted = dump(&fixture.stack);
    // The next container holds something else.
    std::fs::remove_file(fixture.at("saved")).expect("remove");
    write(&fixture.at("own"), "own");
    write(&fixture.at("dir/own"), "own");
    fixture.mapped = mapped;
    write(&fixture.mapped[1].join("repository"), "own");
    let (imported, stack) = fixture.import(&layout, "new/layers");
    assert!(!imported.has_base);
    let mut is = dump(&stack);
    assert!(is.remove(Path::new("1/repository")).is_some());
    assert!(is.remove(Path::new("1")).is_some());
    assert!(is.remove(Path::new("2")).is_some());
    assert_same(&is, &wanted);
    // The other way round is an error that names the path.
    let all = fixture.tmp.path().join("all");
    fixture.take_base();
    export(&fixture.stack, true, &fixture.mapped, &all, options("s")).expect("export");
    let mut ids = |_: &str| "x".to_owned();
    let layers = fixture.tmp.path().join("l");
    let target = Destination {
        layers: &layers,
        mapped: &fixture.mapped[..1],
        inos: &Inos::new(3),
        wanted: &|| Ok(()),
    };
    let error = import(&all, target, &mut ids).expect_err("not mapped");
    let path = fixture.mapped[1].display().to_string();
    assert!(error.to_string().contains(&path), "{error}");
}

#[test]
fn gnu_tar_reads_every_layer() {
    let fixture = rich();
    let layout = fixture.tmp.path().join("out");
    let report =
        export(&fixture.stack, true, &fixture.mapped, &layout, options("s")).expect("export");
    let mut listing = String::new();
    for layer in &report.layers {
        let digest = layer.digest.trim_start_matches("sha256:");
        let blob = layout.join("blobs/sha256").join(digest);
        let pipe = format!("zstd -dc {} | LC_ALL=C tar -tvf -", blob.display());
        let output = Command::new("sh").args(["-c", &pipe]).output().expect("sh");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{errors}");
        // GNU tar keeps names as they are and does not know how to be told so.
        for line in errors.lines().filter(|line| !line.is_empty()) {
            assert!(line.contains("hdrcharset"), "{errors}");
        }
        assert_eq!(text.lines().count() as u64, layer.members);
        listing.push_str(&text);
    }
    for wanted in [
        "harness/.wh.gone",
        "harness/opq/.wh..wh..opq",
        "harness/moved/.wh..wh..opq",
        "harness/moved/sub/deep/f3",
        "harness/plain/\\377\\376",
        "root/.m2/later",
        "-rws--x--x 0/0",
    ] {
        assert!(listing.contains(wanted), "{wanted} in:\n{listing}");
    }
    let order: Vec<_> = ["harness/.wh.gone", "harness/h1"]
        .iter()
        .map(|name| listing.find(name))
        .collect();
    assert!(order[0] < order[1], "whiteouts come before their siblings");
    assert!(listing.contains(" link to "), "{listing}");
}
