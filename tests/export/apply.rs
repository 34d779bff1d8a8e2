//! Applying a tree to an ordinary directory.

use std::io::Read;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;

use harness_fs::layer::{Base, Inos, Stack};
use harness_fs::sys::at;

use super::fixture::{
    Dump, Fixture, assert_same, dump_below, inode, mkdir, rich, set_xattr, write,
};
use super::patient::{apply, apply_all};

/// What a plain directory holds, as a tree.
fn plain(dir: &Path) -> Dump {
    let base = Base::take(&[dir.to_path_buf()], Arc::new(Inos::new(9))).expect("base");
    dump_below(&Stack::new(vec![Arc::new(base)]), Path::new("0"))
}

#[test]
fn an_empty_directory_becomes_the_tree() {
    let fixture = rich();
    let dir = fixture.tmp.path().join("target");
    let report = apply(&fixture.stack, &fixture.mapped, &dir).expect("apply");
    assert!(report.not_kept.is_empty(), "{report:?}");
    assert_eq!(report.not_written, fixture.mapped[1..]);
    let wanted = dump_below(&fixture.stack, Path::new("0"));
    assert_same(&plain(&dir), &wanted);
    let blocks = std::os::unix::fs::MetadataExt::blocks(
        &std::fs::metadata(dir.join("sparse")).expect("stat"),
    );
    assert!(blocks < 1024, "holes stay holes: {blocks}");
    // Again: nothing to do, and nothing is touched.
    let before = inode(&dir.join("keep"));
    let report = apply(&fixture.stack, &fixture.mapped, &dir).expect("apply");
    assert_eq!((report.written, report.removed), (0, 0));
    assert_eq!(inode(&dir.join("keep")), before);
    assert_same(&plain(&dir), &wanted);
}

#[test]
fn the_base_itself_becomes_the_tree() {
    let fixture = rich();
    let wanted = dump_below(&fixture.stack, Path::new("0"));
    let before = inode(&fixture.at("keep"));
    let report = apply(&fixture.stack, &fixture.mapped, &fixture.mapped[0]).expect("apply");
    assert!(report.removed > 0 && report.unchanged > 0, "{report:?}");
    assert_same(&plain(&fixture.mapped[0]), &wanted);
    assert_eq!(inode(&fixture.at("keep")), before);
}

#[test]
fn directories_that_changed_places_do_so_in_the_base() {
    let mut fixture = Fixture::new();
    for name in ["a", "b"] {
        mkdir(&fixture.at(name));
        write(&fixture.at(name).join("same"), &format!("in {name}"));
        write(&fixture.at(name).join(name), name);
    }
    fixture.take_base();
    fixture.layer("000001-swap", |layer| {
        layer.rename_dir("0/a", "0/b");
        layer.rename_dir("0/b", "0/a");
    });
    let wanted = dump_below(&fixture.stack, Path::new("0"));
    assert_ne!(
        wanted[Path::new("a/same")].content,
        plain(&fixture.mapped[0])[Path::new("a/same")].content
    );
    apply(&fixture.stack, &fixture.mapped, &fixture.mapped[0]).expect("apply");
    assert_same(&plain(&fixture.mapped[0]), &wanted);
}

#[test]
fn what_is_in_the_way_goes_and_no_link_is_followed() {
    let fixture = rich();
    let outside = fixture.tmp.path().join("outside");
    mkdir(&outside.join("sub"));
    write(&outside.join("f1"), "precious");
    write(&outside.join("sub/more"), "precious");
    let before = plain(&outside);
    let dir = fixture.tmp.path().join("target");
    mkdir(&dir.join("keep/full"));
    mkdir(&dir.join("extra/deep"));
    symlink(&outside, dir.join("moved")).expect("symlink");
    symlink(&outside, dir.join("extra/deep/link")).expect("symlink");
    symlink(outside.join("f1"), dir.join("meta")).expect("symlink");
    write(&dir.join("plain"), "a file where a directory will be");
    write(&dir.join("h1"), "joined");
    std::fs::hard_link(dir.join("h1"), dir.join("p")).expect("link");
    std::fs::write(dir.join("to_file"), vec![1; 100_000]).expect("write");
    let mut old = std::fs::File::open(dir.join("to_file")).expect("open");
    set_xattr(&dir, "user.extra", b"x");
    apply(&fixture.stack, &fixture.mapped, &dir).expect("apply");
    assert_same(&plain(&dir), &dump_below(&fixture.stack, Path::new("0")));
    assert_same(&plain(&outside), &before);
    let mut content = Vec::new();
    old.read_to_end(&mut content).expect("read");
    assert_eq!(content.len(), 100_000, "who has the old file open keeps it");
}

#[test]
fn equal_size_and_time_do_not_hide_other_content() {
    let mut fixture = Fixture::new();
    write(&fixture.at("version"), "1.2.3");
    fixture.take_base();
    let dir = fixture.tmp.path().join("target");
    mkdir(&dir);
    write(&dir.join("version"), "1.2.4");
    let report = apply(&fixture.stack, &fixture.mapped, &dir).expect("apply");
    assert_eq!(report.written, 1);
    assert_eq!(std::fs::read(dir.join("version")).expect("read"), b"1.2.3");
}

#[test]
fn all_paths_go_where_they_came_from() {
    let fixture = rich();
    let dir = fixture.tmp.path().join("target");
    mkdir(&dir);
    write(&dir.join("other"), "stays");
    apply_all(&fixture.stack, &fixture.mapped, &dir).expect("apply");
    for (index, path) in fixture.mapped.iter().enumerate() {
        let inner = dir.join(path.strip_prefix("/").expect("absolute"));
        let index = index.to_string();
        assert_same(
            &plain(&inner),
            &dump_below(&fixture.stack, Path::new(&index)),
        );
    }
    assert!(dir.join("other").exists());
    // A symbolic link on the way is not followed.
    let tree = fixture.tmp.path().join("linked");
    let outside = fixture.tmp.path().join("outside");
    mkdir(&tree);
    mkdir(&outside);
    let first = fixture.mapped[0].components().nth(1).expect("tmp");
    symlink(&outside, tree.join(first)).expect("symlink");
    let error = apply_all(&fixture.stack, &fixture.mapped, &tree).expect_err("a link");
    assert!(error.to_string().contains("symbolic link"), "{error}");
    assert_eq!(std::fs::read_dir(&outside).expect("list").count(), 0);
}

#[test]
fn a_second_apply_at_once_is_refused() {
    let fixture = rich();
    let dir = fixture.tmp.path().join("target");
    mkdir(&dir);
    let lock = std::fs::File::open(&dir).expect("open");
    let lock = nix::fcntl::Flock::lock(lock, nix::fcntl::FlockArg::LockExclusive).expect("lock");
    let error = apply(&fixture.stack, &fixture.mapped, &dir).expect_err("locked");
    assert!(error.to_string().contains("another apply"), "{error}");
    drop(lock);
    assert_eq!(std::fs::read_dir(&dir).expect("list").count(), 0);
}

#[test]
fn no_name_is_kept_for_staging() {
    let mut fixture = Fixture::new();
    write(&fixture.at(".harness-fs-apply"), "mine");
    mkdir(&fixture.at(".harness-fs-apply-2/staged-1"));
    fixture.take_base();
    fixture.layer("000001-more", |layer| {
        layer.file("0/.harness-fs-apply-3", b"mine too");
    });
    let wanted = dump_below(&fixture.stack, Path::new("0"));
    let dir = fixture.tmp.path().join("target");
    for _ in 0..2 {
        apply(&fixture.stack, &fixture.mapped, &dir).expect("apply");
        assert_same(&plain(&dir), &wanted);
    }
}

#[test]
fn what_a_killed_apply_left_makes_room() {
    let fixture = rich();
    let dir = fixture.tmp.path().join("target");
    let staging = dir.join(".harness-fs-apply");
    mkdir(&staging);
    std::fs::set_permissions(
        &staging,
        std::os::unix::fs::PermissionsExt::from_mode(0o700),
    )
    .expect("chmod");
    write(&staging.join("staged-1"), "half");
    assert!(!harness_fs::export::target::holds_something(&dir).expect("look"));
    apply(&fixture.stack, &fixture.mapped, &dir).expect("apply");
    assert_same(&plain(&dir), &dump_below(&fixture.stack, Path::new("0")));
}

#[test]
fn what_cannot_be_removed_is_named_before_anything_changes() {
    let fixture = rich();
    let dir = fixture.tmp.path().join("target");
    let locked = dir.join("extra/locked");
    mkdir(&dir.join("extra"));
    write(&dir.join("extra/also"), "there");
    write(&locked, "precious");
    let chattr = |how: &str| {
        let mut chattr = std::process::Command::new("chattr");
        assert!(
            chattr
                .arg(how)
                .arg(&locked)
                .status()
                .expect("chattr")
                .success()
        );
    };
    chattr("+i");
    let before = plain(&dir);
    let refused = apply(&fixture.stack, &fixture.mapped, &dir).expect_err("immutable");
    let removed = at::remove_all(nix::fcntl::AT_FDCWD, &locked).expect_err("immutable");
    let after = plain(&dir);
    chattr("-i");
    assert!(
        refused
            .to_string()
            .contains("extra/locked: it is immutable"),
        "{refused}"
    );
    assert_eq!(removed.errno(), nix::errno::Errno::EPERM);
    assert_same(&after, &before);
    apply(&fixture.stack, &fixture.mapped, &dir).expect("apply");
}
