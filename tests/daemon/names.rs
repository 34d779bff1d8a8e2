//! Names and places that are not plain words.

use std::fs;

use crate::rig::{alone, start};

#[test]
fn names_and_places_may_have_spaces_and_backslashes() {
    alone(|rig| {
        let state = rig.path().join("a state\\of mine");
        let ws = rig.ws();
        let run = |arguments: &[&str]| {
            let mut command = rig.command(arguments);
            command.env("HARNESS_FS_STATE_DIR", &state);
            let ran = start(command).end();
            assert_eq!(ran.code, 0, "{arguments:?}: {ran:?}");
        };
        run(&["mount", "--workspace", ws.to_str().unwrap()]);
        run(&["step", "run", "a step", "--", "touch", "one"]);
        run(&["step", "begin", "back\\slash"]);
        run(&["step", "exec", "back\\slash", "--", "touch", "two"]);
        run(&["step", "merge", "back\\slash"]);
        run(&["group", "declare", "a group", "\u{fc}ber"]);
        run(&[
            "step",
            "run",
            "--group",
            "a group",
            "\u{fc}ber",
            "--",
            "touch",
            "three",
        ]);
        run(&["snapshot", "create", "a snapshot"]);
        for name in ["one", "two", "three"] {
            assert!(fs::exists(ws.join(name)).unwrap(), "{name}");
        }
        run(&["unmount"]);
    });
}
