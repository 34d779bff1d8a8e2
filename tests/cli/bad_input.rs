//! Wrong usage: one sentence and the documented code, and nothing half done.

use super::rig::{Rig, program, ran};

#[test]
fn paths_that_cannot_be_mapped() {
    let rig = Rig::new();
    let dir = rig.path();
    let inside = dir.join("state/inside");
    let dir = dir.to_str().unwrap();
    let table: [(&[&str], &str); 13] = [
        (&["--workspace", "relative"], "must be absolute"),
        (&["--workspace", "/"], "is the root"),
        (&["--workspace", "/x/../y"], "contains '..'"),
        (&["--shared-path", "relative/x"], "must be absolute"),
        (&["--shared-path", "/proc"], "belongs to the kernel"),
        (&["--shared-path", "/sys/fs"], "belongs to the kernel"),
        (&["--shared-path", "/dev/"], "belongs to the kernel"),
        (&["--shared-path", "//"], "is the root"),
        (&["--shared-path", "/harness/"], "mapped twice"),
        (
            &["--shared-path", "/harness/x"],
            "inside the mapped path /harness",
        ),
        (
            &["--shared-path", "/no-x", "--shared-path", "/no-x/."],
            "mapped twice",
        ),
        (&["--workspace", dir], "the state directory"),
        (
            &["--workspace", inside.to_str().unwrap()],
            "inside the state directory",
        ),
    ];
    for (arguments, part) in table {
        let ran = rig.run(&[&["mount"], arguments].concat());
        ran.refused(2, part);
        assert!(
            !rig.state().exists(),
            "{arguments:?} left a state directory"
        );
    }
}

#[test]
fn a_stage_that_is_not_there() {
    let rig = Rig::new();
    for command in [
        &["status"][..],
        &["unmount"],
        &["unmount", "--keep-state"],
        &["diff"],
        &["step", "list"],
        &["step", "begin", "a"],
        &["step", "merge", "a", "b"],
        &["step", "discard", "a"],
        &["group", "declare", "g", "a"],
        &["snapshot", "list"],
        &["snapshot", "create", "s"],
        &["export", "s", "--to", "out"],
        &["apply", "out"],
        &["debug", "bundle"],
    ] {
        rig.run(command).refused(3, "there is no stage");
    }
    rig.run(&["mount", "--resume"]).refused(3, "to resume");
    assert!(!rig.state().exists());
    assert!(!rig.path().join("out").exists());
}

#[test]
fn commands_that_run_commands_keep_their_codes_apart() {
    let rig = Rig::new();
    rig.run(&["step", "run", "a", "--", "true"])
        .refused(125, "there is no stage");
    rig.run(&["step", "exec", "a", "--", "true"])
        .refused(125, "there is no stage");
    for wrong in [
        &["step", "run", "a"][..],
        &["step", "run", "a", "--what", "--", "true"],
        &["step", "run", "a", "--grace", "soon", "--", "true"],
        &["step", "run", "a", "--on-conflict", "maybe", "--", "true"],
        &["step", "exec"],
    ] {
        assert_eq!(rig.run(wrong).code, 125, "{wrong:?}");
    }
    for wrong in [
        &["what"][..],
        &["step"],
        &["step", "merge"],
        &["mount", "--what"],
        &[],
    ] {
        assert_eq!(rig.run(wrong).code, 2, "{wrong:?}");
    }
    let missing = [
        "step",
        "run",
        "a",
        "--result",
        "no/such/dir/r.json",
        "--",
        "true",
    ];
    rig.run(&missing).refused(125, "--result");
}

#[test]
fn the_result_file_says_that_harness_fs_failed() {
    let rig = Rig::new();
    let ran = rig.run(&["step", "run", "a", "--result", "r.json", "--", "true"]);
    assert_eq!(ran.code, 125);
    let text = std::fs::read_to_string(rig.path().join("r.json")).unwrap();
    let result: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(result["step"], "a");
    assert_eq!(result["outcome"], "failed");
    assert_eq!(result["merged"], false);
    assert!(result["message"].as_str().unwrap().contains("no stage"));
}

/// Who read it took an earlier step's result for this one's.
#[test]
fn no_earlier_result_is_left_whatever_goes_wrong() {
    let rig = Rig::new();
    let file = rig.path().join("r.json");
    for wrong in [
        &["step", "run", "a", "--result", "r.json"][..],
        &[
            "step",
            "run",
            "a",
            "--result=r.json",
            "--what",
            "--",
            "true",
        ],
        &["step", "exec", "--result", "r.json"],
        &[
            "--stage", "/", "step", "exec", "a", "--result", "r.json", "--", "true",
        ],
    ] {
        std::fs::write(&file, "of an earlier step").unwrap();
        assert_eq!(rig.run(wrong).code, 125, "{wrong:?}");
        assert!(!file.exists(), "{wrong:?}");
    }
}

#[test]
fn names_and_directories_of_stages() {
    for (option, value) in [("--stage", "a/b"), ("--stage", ""), ("--state-dir", "/")] {
        let ran = ran(program().args([option, value, "status"]).output().unwrap());
        ran.refused(2, "");
    }
    let rig = Rig::new();
    let elsewhere = rig.path().join("elsewhere");
    let ran = ran(rig.command(&elsewhere).arg("status").output().unwrap());
    ran.refused(3, elsewhere.to_str().unwrap());
}

#[test]
fn a_state_directory_that_is_a_file() {
    let rig = Rig::new();
    std::fs::write(rig.state(), "mine").unwrap();
    for command in [&["status"][..], &["mount"], &["mount", "--resume"]] {
        rig.run(command).refused(2, "is not a directory");
    }
    assert_eq!(std::fs::read(rig.state()).unwrap(), b"mine");
}

#[test]
fn a_level_of_the_log_that_is_none() {
    let rig = Rig::new();
    let mount = |level: &str, more: &[&str]| {
        let mut command = rig.command(&rig.state());
        command.env("HARNESS_FS_LOG", level).arg("mount").args(more);
        ran(command.output().unwrap())
    };
    mount("nonsense", &["--workspace", "/x"]).refused(2, "HARNESS_FS_LOG: 'nonsense' is no level");
    assert!(!rig.state().exists());
    // None, and any case, as elsewhere.
    for level in ["", "Debug"] {
        mount(level, &["--resume"]).refused(3, "to resume");
    }
}

#[test]
fn inside_a_step_the_stage_cannot_be_commanded() {
    let rig = Rig::new();
    let mut command = rig.command(&rig.state());
    let ran = ran(command
        .env("HARNESS_FS_STEP", "build")
        .arg("status")
        .output()
        .unwrap());
    ran.refused(3, "inside the step 'build'");
}

#[test]
fn resume_takes_the_options_it_had() {
    let rig = Rig::new();
    let ran = rig.run(&["mount", "--resume", "--shared-path", "/x"]);
    assert_eq!(ran.code, 2, "{ran:?}");
}

#[test]
fn resume_has_no_options_that_it_would_not_heed() {
    let rig = Rig::new();
    for option in [
        &["--workspace", "/x"][..],
        &["--durable"],
        &["--no-passthrough"],
        &["--resume-if-kept"],
    ] {
        let ran = rig.run(&[&["mount", "--resume"], option].concat());
        assert_eq!(ran.code, 2, "{ran:?}");
    }
    let mut with_variable = rig.command(&rig.state());
    with_variable.args(["mount", "--resume"]);
    with_variable.env("HARNESS_FS_NO_PASSTHROUGH", "1");
    ran(with_variable.output().unwrap()).refused(3, "to resume");
}

#[test]
fn a_log_that_cannot_be_kept_is_refused_before_anything_is_mounted() {
    let rig = Rig::new();
    let workspace = rig.path().join("ws");
    std::fs::create_dir(&workspace).unwrap();
    let inside = workspace.join("log");
    for (log, part) in [
        ("no/such/log", "No such file or directory"),
        (".", "is not a regular file"),
        ("/dev/full", "is not a regular file"),
        (inside.to_str().unwrap(), "lies inside the mapped path"),
    ] {
        let workspace = workspace.to_str().unwrap();
        let line = ["mount", "--workspace", workspace, "--log-file", log];
        rig.run(&line).refused(2, part);
        assert!(!rig.state().exists() && !inside.exists(), "{log}");
    }
}
