//! `export` and `mount --from` as the command line has them: what they make
//! outside of the state, and what is left when they are ended.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Instant;

use harness_fs::sys::process::Process;
use nix::sys::signal::Signal;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::rig::{LIMIT, Ran, Rig, Started, alone, ended, mounts};

fn mount(rig: &Rig, more: &[&str]) -> Ran {
    let ws = rig.ws();
    rig.run(&[&["mount", "--workspace", ws.to_str().unwrap()], more].concat())
}

fn export(rig: &Rig, to: &str) {
    rig.ok(&["snapshot", "create", "s"]);
    rig.ok(&["export", "s", "--to", to]);
    rig.ok(&["unmount"]);
}

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().permissions().mode() & 0o7777
}

/// Adds a blob; its descriptor.
fn blob(layout: &Path, media_type: &str, bytes: &[u8]) -> serde_json::Value {
    let digest: String = Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    fs::create_dir_all(layout.join("blobs/sha256")).unwrap();
    fs::write(layout.join("blobs/sha256").join(&digest), bytes).unwrap();
    json!({
        "mediaType": format!("application/vnd.oci.image.{media_type}"),
        "digest": format!("sha256:{digest}"), "size": bytes.len(),
    })
}

/// An image with one file that takes for ever to unpack: a little blob that
/// holds the same zeros over and over.
fn endless(layout: &Path, mapped: &Path) {
    const CHUNK: usize = 16 << 20;
    let chunks = 8192;
    let root = mapped.strip_prefix("/").unwrap().to_str().unwrap();
    let mut headers = Vec::new();
    for (name, kind, size) in [
        (format!("{root}/"), tar::EntryType::Directory, 0),
        (
            format!("{root}/endless"),
            tar::EntryType::Regular,
            (CHUNK * chunks) as u64,
        ),
    ] {
        let mut header = tar::Header::new_ustar();
        header.set_path(name).unwrap();
        header.set_entry_type(kind);
        header.set_mode(0o755);
        header.set_size(size);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_cksum();
        headers.extend_from_slice(header.as_bytes());
    }
    let mut bytes = zstd::encode_all(headers.as_slice(), 1).unwrap();
    let zeros = zstd::encode_all(vec![0; CHUNK].as_slice(), 1).unwrap();
    for _ in 0..chunks {
        bytes.write_all(&zeros).unwrap();
    }
    let layer = blob(layout, "layer.v1.tar+zstd", &bytes);
    let config = json!({
        "architecture": "amd64", "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", "0".repeat(64))]},
    });
    let config = blob(layout, "config.v1+json", config.to_string().as_bytes());
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config, "layers": [layer],
        "annotations": {
            "io.harness.fs.mapped-paths": json!([mapped]).to_string(),
            "io.harness.fs.base": "included",
        },
    });
    let manifest = blob(layout, "manifest.v1+json", manifest.to_string().as_bytes());
    let index = json!({"schemaVersion": 2, "manifests": [manifest]});
    fs::write(layout.join("index.json"), index.to_string()).unwrap();
    fs::write(
        layout.join("oci-layout"),
        "{\"imageLayoutVersion\":\"1.0.0\"}",
    )
    .unwrap();
}

/// Starts a mount that imports for ever, and returns when it does.
fn importing(rig: &Rig) -> Started {
    let ws = rig.ws();
    let layout = rig.path().join("layout");
    endless(&layout, &ws);
    let shared = rig.path().join("new/shared");
    let started = rig.start(&[
        "mount",
        "--workspace",
        ws.to_str().unwrap(),
        "--shared-path",
        shared.to_str().unwrap(),
        "--from",
        layout.to_str().unwrap(),
    ]);
    let deadline = Instant::now() + LIMIT;
    let begun = |name: fs::DirEntry| name.path().join("tree/0/endless").exists();
    let layers = rig.state().join("layers");
    while !fs::read_dir(&layers).is_ok_and(|names| names.flatten().any(begun)) {
        assert!(Instant::now() < deadline, "no import: {}", rig.log());
        std::thread::yield_now();
    }
    started
}

fn nothing_is_left(rig: &Rig) {
    for (pid, _) in rig.processes() {
        if let Ok(process) = Process::open(pid) {
            assert!(ended(&process, LIMIT), "{pid} is left: {}", rig.log());
        }
    }
    assert_eq!(mounts(), Vec::<String>::new());
    assert!(!rig.state().exists());
    assert!(!rig.path().join("new").exists());
}

#[test]
fn an_import_ends_with_the_command_that_wants_it() {
    alone(|rig| {
        let mut command = importing(rig);
        rig.run(&["status"]).refused(3, "just being mounted");
        rig.run(&["unmount"]).refused(3, "just being mounted");
        mount(rig, &[]).refused(1, "another daemon uses");
        command.kill();
        nothing_is_left(rig);
        rig.run(&["status"]).refused(3, "there is no stage");
        rig.mount();
        rig.ok(&["unmount"]);
    });
}

#[test]
fn a_mount_right_after_one_that_was_killed() {
    alone(|rig| {
        for _ in 0..5 {
            // Its daemon is ending, and takes the state directory along.
            importing(rig).kill();
            rig.mount();
            rig.ok(&["unmount"]);
        }
        nothing_is_left(rig);
    });
}

#[test]
fn an_import_ends_when_it_is_told_to() {
    alone(|rig| {
        let command = importing(rig);
        let client = command.process();
        for (pid, _) in rig.processes() {
            let process = Process::open(pid).unwrap();
            if process.pid != client.pid {
                process.signal(Signal::SIGTERM).unwrap();
            }
        }
        command.end().refused(1, "told to end");
        nothing_is_left(rig);
    });
}

#[test]
fn an_import_whose_daemon_is_killed_leaves_nothing() {
    alone(|rig| {
        let command = importing(rig);
        let client = command.process();
        // The server is whose parent is the supervisor, whose parent is the command.
        let parent = |pid: i32| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
            let fields = stat.rsplit_once(") ").unwrap().1;
            fields.split(' ').nth(1).unwrap().parse::<i32>().unwrap()
        };
        let all = rig.processes();
        let server = all
            .iter()
            .map(|(pid, _)| *pid)
            .find(|pid| *pid != client.pid && parent(*pid) != client.pid);
        let server = Process::open(server.unwrap()).unwrap();
        server.signal(Signal::SIGKILL).unwrap();
        command
            .end()
            .refused(1, "was killed by SIGKILL before its stage was ready");
        nothing_is_left(rig);
    });
}

#[test]
fn a_failed_import_leaves_no_directories() {
    alone(|rig| {
        let shared = rig.path().join("new/shared");
        let shared = ["--shared-path", shared.to_str().unwrap()];
        let from = ["--from", "no-such"];
        let ran = mount(rig, &[&shared[..], &from].concat());
        ran.refused(1, "--from ");
        assert_eq!(ran.err.matches("no-such").count(), 1, "{ran:?}");
        nothing_is_left(rig);
    });
}

#[test]
fn a_failed_import_leaves_a_directory_as_it_was() {
    alone(|rig| {
        fs::create_dir_all(rig.state().join("lost+found")).unwrap();
        mount(rig, &["--from", "no-such"]).refused(1, "--from ");
        let left = fs::read_dir(rig.state()).unwrap().map(|name| name.unwrap());
        let left: Vec<_> = left.map(|name| name.file_name()).collect();
        assert_eq!(left, ["lost+found"]);
        fs::remove_dir(rig.state().join("lost+found")).unwrap();
        mount(rig, &["--from", "no-such"]).refused(1, "--from ");
        assert_eq!(fs::read_dir(rig.state()).unwrap().count(), 0);
    });
}

#[test]
fn a_single_file_comes_back_where_there_was_none() {
    alone(|rig| {
        let conf = rig.path().join("etc/conf.ini");
        fs::create_dir(rig.path().join("etc")).unwrap();
        fs::write(&conf, "base").unwrap();
        let shared = ["--shared-path", conf.to_str().unwrap()];
        assert_eq!(mount(rig, &shared).code, 0);
        let script = format!("echo changed > {}", conf.display());
        assert_eq!(rig.step("edit", &[], &script).code, 0);
        export(rig, "layout");
        let from = [&shared[..], &["--from", "layout"]].concat();

        fs::remove_dir_all(rig.path().join("etc")).unwrap();
        let ran = mount(rig, &from);
        assert_eq!(ran.code, 0, "{ran:?}");
        assert_eq!(fs::read_to_string(&conf).unwrap(), "changed\n");
        rig.ok(&["unmount", "--keep-state"]);
        assert_eq!(fs::read_to_string(&conf).unwrap(), "");
        // Another container resumes it.
        fs::remove_dir_all(rig.path().join("etc")).unwrap();
        rig.ok(&["mount", "--resume"]);
        assert_eq!(fs::read_to_string(&conf).unwrap(), "changed\n");
        rig.ok(&["unmount"]);

        fs::remove_file(&conf).unwrap();
        fs::create_dir(&conf).unwrap();
        mount(rig, &from).refused(1, "is a directory, but");
        assert!(!rig.state().exists());
        assert_eq!(fs::read_dir(&conf).unwrap().count(), 0);
    });
}

#[test]
fn a_file_that_was_withheld_is_the_stages_own() {
    alone(|rig| {
        let secret = rig.path().join(".netrc");
        fs::write(&secret, "machine m login l password saved").unwrap();
        let shared = ["--shared-path", secret.to_str().unwrap()];
        assert_eq!(mount(rig, &shared).code, 0);
        assert_eq!(rig.step("s", &[], "echo > made; rm readme").code, 0);
        export(rig, "layout");
        fs::write(&secret, "machine m login l password other").unwrap();
        let ran = mount(rig, &[&shared[..], &["--from", "layout"]].concat());
        assert_eq!(ran.code, 0, "{ran:?}");
        assert!(fs::read_to_string(&secret).unwrap().contains("other"));
        assert!(rig.ws().join("made").exists());
        assert!(!rig.ws().join("readme").exists());
        rig.ok(&["unmount"]);
    });
}

#[test]
fn a_file_that_was_withheld_is_none_where_there_was_none() {
    alone(|rig| {
        let secret = rig.path().join(".netrc");
        fs::write(&secret, "machine m login l password saved").unwrap();
        let shared = ["--shared-path", secret.to_str().unwrap()];
        assert_eq!(mount(rig, &shared).code, 0);
        export(rig, "layout");
        let from = [&shared[..], &["--from", "layout"]].concat();
        fs::remove_file(&secret).unwrap();
        assert_eq!(mount(rig, &from).code, 0);
        assert_eq!(fs::read_to_string(&secret).unwrap(), "");
        rig.ok(&["unmount", "--keep-state"]);
        // Another container resumes it.
        fs::remove_file(&secret).unwrap();
        rig.ok(&["mount", "--resume"]);
        let script = format!("echo mine > {}", secret.display());
        assert_eq!(rig.step("login", &[], &script).code, 0);
        assert_eq!(fs::read_to_string(&secret).unwrap(), "mine\n");
        rig.ok(&["unmount"]);

        fs::remove_file(&secret).unwrap();
        fs::create_dir(&secret).unwrap();
        mount(rig, &from).refused(1, "is a directory, but");
        assert!(!rig.state().exists());
    });
}

#[test]
fn a_layout_is_for_its_owner_and_not_inside_the_state() {
    alone(|rig| {
        rig.mount();
        rig.ok(&["snapshot", "create", "s"]);
        rig.ok(&["export", "s", "--to", "e1/out"]);
        let at = |path: &str| rig.path().join(path);
        assert_eq!(mode(&at("e1")), 0o755);
        assert_eq!(mode(&at("e1/out")), 0o700);
        assert_eq!(mode(&at("e1/out/index.json")), 0o600);
        for inside in ["state/out", "state/layers", "state"] {
            rig.run(&["export", "s", "--to", inside])
                .refused(2, "inside the state directory");
        }
        assert!(!at("state/out").exists());
        rig.ok(&["unmount"]);
    });
}
