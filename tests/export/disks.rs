//! Disks that are full, or that are an overlayfs.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use harness_fs::export::{Destination, ExportOptions, import};
use harness_fs::layer::{Base, Inos, Stack};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::fixture::{Fixture, assert_same, dump, dump_below, mkdir, rich, write};
use super::patient::{apply, export};

/// A mount that goes away with the test.
struct Mounted(PathBuf);

impl Mounted {
    fn new(at: &Path, kind: &str, data: &str) -> Mounted {
        mkdir(at);
        mount(Some("test"), at, Some(kind), MsFlags::empty(), Some(data)).expect("mount");
        Mounted(at.to_path_buf())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        umount2(&self.0, MntFlags::MNT_DETACH).expect("umount");
    }
}

/// A file that zstd cannot make smaller.
fn noise() -> Vec<u8> {
    let mut state = 1_u64;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 56) as u8
    };
    (0..1 << 20).map(|_| next()).collect()
}

fn count(dir: &Path) -> usize {
    std::fs::read_dir(dir).expect("list").count()
}

#[test]
fn a_full_disk_leaves_everything_as_it_was() {
    let mut fixture = Fixture::new();
    write(&fixture.at("small"), "small");
    fixture.take_base();
    let small = Mounted::new(&fixture.tmp.path().join("small"), "tmpfs", "size=256k");
    let layout = small.0.join("layout");
    let options = ExportOptions::default;
    export(&fixture.stack, true, &fixture.mapped, &layout, options()).expect("export");
    let target = small.0.join("target");
    apply(&fixture.stack, &fixture.mapped, &target).expect("apply");
    let was = (
        count(&layout),
        count(&layout.join("blobs/sha256")),
        count(&target),
    );
    let index = std::fs::read(layout.join("index.json")).expect("index");

    fixture.layer("000001-large", |layer| {
        layer.file("0/large", &noise());
        layer.delete("0/small");
    });
    let full = |error: harness_fs::error::Error, path: &Path| {
        assert_eq!(error.errno(), Errno::ENOSPC, "{error}");
        assert!(
            error.to_string().contains(&path.display().to_string()),
            "{error}"
        );
    };
    let error = export(&fixture.stack, true, &fixture.mapped, &layout, options());
    full(error.expect_err("full"), &layout);
    let fresh = small.0.join("fresh");
    let error = export(&fixture.stack, true, &fixture.mapped, &fresh, options());
    full(error.expect_err("full"), &fresh);
    let error = apply(&fixture.stack, &fixture.mapped, &target);
    full(error.expect_err("full"), &target);
    assert_eq!(
        (
            count(&layout),
            count(&layout.join("blobs/sha256")),
            count(&target)
        ),
        was
    );
    assert_eq!(
        std::fs::read(layout.join("index.json")).expect("index"),
        index
    );
    assert!(!fresh.exists());
    assert_eq!(
        std::fs::read(target.join("small")).expect("small"),
        b"small"
    );

    let whole = fixture.tmp.path().join("whole");
    export(&fixture.stack, true, &fixture.mapped, &whole, options()).expect("export");
    let layers = small.0.join("layers");
    let mut count_ids = 0;
    let mut ids = |name: &str| {
        count_ids += 1;
        format!("{count_ids}-{name}")
    };
    let target = Destination {
        layers: &layers,
        mapped: &fixture.mapped,
        inos: &Inos::new(2),
        wanted: &|| Ok(()),
    };
    let error = import(&whole, target, &mut ids);
    full(error.expect_err("full"), Path::new("harness/large"));
    assert_eq!(count(&layers), 0);
}

#[test]
fn a_state_on_an_overlayfs_holds_the_same_tree() {
    let fixture = rich();
    let layout = fixture.tmp.path().join("out");
    export(
        &fixture.stack,
        true,
        &fixture.mapped,
        &layout,
        ExportOptions::default(),
    )
    .expect("export");
    let dirs = ["lower", "upper", "work"].map(|name| fixture.tmp.path().join("disk").join(name));
    for dir in &dirs {
        mkdir(dir);
    }
    let data = format!(
        "lowerdir={},upperdir={},workdir={}",
        dirs[0].display(),
        dirs[1].display(),
        dirs[2].display()
    );
    let _mounted = Mounted::new(&fixture.tmp.path().join("over"), "overlay", &data);
    let (imported, stack) = fixture.import(&layout, "over/layers");
    assert!(imported.has_base);
    assert_same(&dump(&stack), &dump(&fixture.stack));
    let target = fixture.tmp.path().join("over/target");
    let report = apply(&stack, &fixture.mapped, &target).expect("apply");
    // An overlayfs takes a 0:0 device for its own whiteout.
    let lost: Vec<_> = report.not_kept.iter().map(|entry| &entry.path).collect();
    assert_eq!(lost, [Path::new("zero")]);
    let applied = Base::take(&[target], Arc::new(Inos::new(9))).expect("base");
    let applied = Stack::new(vec![Arc::new(applied)]);
    let mut wanted = dump_below(&stack, Path::new("0"));
    wanted.remove(Path::new("zero"));
    assert_same(&dump_below(&applied, Path::new("0")), &wanted);
}
