//! `stage run`: whole stages, driven by a file.

use std::path::Path;

use super::rig::{Ran, Rig, ran};

/// Runs a shell script in a mount namespace of its own. `$H` is the program, `$W` a directory
/// with a file, `$T` another; `steps` is the text of a stage file's steps, in `$F`, with `$W`
/// as the workspace. No stage is mounted, neither at the beginning nor at the end.
pub(super) fn with_file(steps: &str, script: &str) -> Ran {
    let file = format!("workspace:\n  path: WORKSPACE\nexecution:\n  steps:\n{steps}");
    with_whole_file(&file, script)
}

fn with_whole_file(file: &str, script: &str) -> Ran {
    let rig = Rig::new();
    let (workspace, other) = (rig.path().join("ws"), rig.path().join("tmp"));
    std::fs::create_dir(&workspace).unwrap();
    std::fs::create_dir(&other).unwrap();
    std::fs::write(workspace.join("file"), "base\n").unwrap();
    let file = file.replace("WORKSPACE", workspace.to_str().unwrap());
    std::fs::write(other.join("stage.yaml"), file).unwrap();
    let ran = in_namespace(&rig, &workspace, &other, script);
    assert_eq!(ran.code, 0, "{}\n{}", ran.out, ran.err);
    ran
}

fn in_namespace(rig: &Rig, workspace: &Path, other: &Path, script: &str) -> Ran {
    let whole = format!(
        "is() {{ [ \"$1\" = \"$2\" ] || {{ echo \"'$1' is not '$2'\" >&2; exit 99; }}; }}\n\
         code() {{ want=$1; shift; got=0; \"$@\" || got=$?; is \"$got\" \"$want\"; }}\n\
         until_so() {{ tries=0; until \"$@\"; do tries=$((tries + 1)); [ $tries -lt 600 ] || exit 98; sleep 0.05; done; }}\n\
         F=$T/stage.yaml\n{script}\n\
         is \"$(grep -c \"$W\" /proc/self/mountinfo || true)\" 0\n[ ! -e \"$HARNESS_FS_STATE_DIR\" ]"
    );
    let command = rig.command(&rig.state());
    let program = command.get_program().to_owned();
    let mut unshare = std::process::Command::new("timeout");
    unshare.args([
        "-k",
        "5",
        "300",
        "unshare",
        "-m",
        "--propagation",
        "private",
    ]);
    unshare.args([
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
        "sh",
        "-euc",
        &whole,
    ]);
    unshare
        .env("H", program)
        .env("W", workspace)
        .env("T", other);
    unshare.env("HARNESS_FS_STATE_DIR", rig.state());
    for name in ["HARNESS_FS_STAGE", "HARNESS_FS_STEP"] {
        unshare.env_remove(name);
    }
    ran(unshare.output().unwrap())
}

/// A step; each line of the command is one of the list.
pub(super) fn step(identifier: &str, command: &str) -> String {
    step_with(identifier, command, "")
}

/// The same, with further fields of the step.
pub(super) fn step_with(identifier: &str, command: &str, fields: &str) -> String {
    let mut text = format!("    - step:\n        identifier: {identifier}\n        type: Run\n");
    for line in fields.lines() {
        text += &format!("        {line}\n");
    }
    text += "        spec:\n          command: |\n";
    for line in command.lines() {
        text += &format!("            {line}\n");
    }
    text
}

pub(super) fn parallel(members: &[String]) -> String {
    let mut text = "    - parallel:\n".to_owned();
    for member in members {
        for line in member.lines() {
            text += &format!("    {line}\n");
        }
    }
    text
}

const RETRY: &str = "failureStrategies:
  - onFailure:
      errors: [AllErrors]
      action: {type: Retry, spec: {retryCount: 2, retryIntervals: [1s], onRetryFailure: {action: {type: Ignore}}}}";

pub(super) fn strategy(action: &str) -> String {
    format!(
        "failureStrategies: [{{onFailure: {{errors: [AllErrors], action: {{type: {action}}}}}}}]"
    )
}

#[test]
fn steps_follow_each_other_and_the_directory_is_as_before_or_as_the_stage_made_it() {
    let steps = step("a", "echo 1 >a; echo out; echo err >&2; printf partial")
        + &step(
            "b",
            "cat a file >b; rm file\npwd; echo \"$HARNESS_WORKSPACE $HARNESS_FS_STEP\"",
        );
    let ran = with_file(
        &steps,
        r#"
        "$H" stage run "$F" >"$T/out" 2>"$T/err"
        is "$(head -n 5 "$T/out")" "$(printf 'a | out\na | err\na | partial\nb | %s\nb | %s b' "$W" "$W")"
        grep -qx 'step  result     time   changed           merged  conflicts' "$T/out" || grep -q '^step  result' "$T/out"
        grep -q '^b     succeeded' "$T/out"
        grep -q 'unmounted; discarded 2 layers' "$T/err"
        is "$(ls "$W")" file
        code 0 "$H" stage run "$F" --apply "$T/new" >/dev/null
        is "$(ls "$T/new" | tr '\n' ' ')" "a b "
        is "$(ls "$W")" file
        code 0 "$H" stage run "$F" --export "$T/layout" >/dev/null
        [ -e "$T/layout/index.json" ]
        # What cannot become a layout is refused before anything is run.
        for to in "$T" "$F" "$F/x" "$W/x"; do
            code 2 "$H" stage run "$F" --export "$to" >"$T/out" 2>"$T/err"
            grep -q -e "--export $to: " "$T/err"
            is "$(cat "$T/out")" ""
            [ ! -e "$HARNESS_FS_STATE_DIR" ]
        done
        code 0 "$H" stage run "$F" --apply "$W" >/dev/null
        is "$(cat "$W/b")" "$(printf '1\nbase')"
        [ ! -e "$W/file" ]
        echo base >"$W/file"
        code 0 "$H" stage run "$F" --keep >/dev/null
        is "$(ls "$W" | tr '\n' ' ')" "a b "
        code 2 "$H" stage run "$F" --apply "$W" --replace
        "$H" snapshot create end
        "$H" unmount >/dev/null
        "#,
    );
    assert!(ran.err.contains("stays mounted"), "{}", ran.err);
}

#[test]
fn what_fails_leaves_nothing_and_is_told() {
    let steps = step("a", "echo 1 >a")
        + &step("b", "echo 1 >b; rm file; exit 7; echo not reached")
        + &step("c", "echo 1 >c")
        + &step_with("d", "ls >\"$REPORT\"", "when: {stageStatus: Failure}")
        + &step_with("e", "false; echo not reached", "when: {stageStatus: All}");
    let file = format!(
        "workspace:\n  path: WORKSPACE\nenvVariables: {{REPORT: report}}\nexecution:\n  steps:\n{steps}"
    );
    with_whole_file(
        &file,
        r#"
        code 1 "$H" stage run "$F" --keep --json >"$T/json" 2>"$T/err"
        is "$(cat "$W/report" | tr '\n' ' ')" "a file report "
        grep -q "step 'b' failed: exit code 7" "$T/err"
        python3 - "$T/json" <<'P'
import json, sys
report = json.load(open(sys.argv[1]))
steps = {step["step"]: step for step in report["steps"]}
assert not report["succeeded"] and report["mounted"], report
assert [step["result"] for step in report["steps"]] == ["succeeded", "failed", "skipped", "succeeded", "failed"], report
assert [step["layer"] for step in report["steps"]] == ["merged", "discarded", "none", "merged", "discarded"], report
assert steps["b"]["exit_code"] == 7 and steps["b"]["attempts"] == 1, report
assert steps["a"]["changed"] == 1, report
P
        "$H" unmount >/dev/null
        is "$(ls "$W")" file
        "#,
    );
}

/// Of what failed, too, as the file says.
#[test]
fn what_becomes_of_a_failed_step_is_as_the_file_says() {
    let on_failure =
        |what: &str| format!("workspace: {{onFailure: {what}}}\n{}", strategy("Ignore"));
    let steps = step_with("kept", "echo 1 >kept; exit 1", &on_failure("keep"))
        + &step_with("merged", "echo 1 >merged; exit 1", &on_failure("merge"))
        + &step_with(
            "part",
            "mkdir reports; echo 1 >reports/r; echo 1 >part; exit 1",
            &on_failure("{merge: [\"reports/**\"]}"),
        )
        + &step_with(
            "success",
            "echo 1 >dropped; exit 1",
            &strategy("MarkAsSuccess"),
        )
        + &step(
            "last",
            "test \"<+execution.steps.success.status> <+execution.steps.part.status>\" = 'SUCCEEDED IGNORE_FAILED'",
        );
    let together = parallel(&[
        step_with(
            "p1",
            "mkdir reports/one; echo 1 >reports/one/r; echo 1 >p1; exit 1",
            &on_failure("{merge: [\"reports/**\"]}"),
        ),
        step_with("p2", "echo 1 >p2; exit 1", &on_failure("keep")),
        step("p3", "echo 1 >p3"),
    ]);
    with_file(
        &(steps + &together),
        r#"
        code 0 "$H" stage run "$F" --keep >"$T/out" 2>"$T/err"
        is "$(cd "$W"; find . -type f | sort | tr '\n' ' ')" "./file ./merged ./p3 ./reports/one/r ./reports/r "
        is "$("$H" step list | cut -d ' ' -f 1 | tr '\n' ' ')" "kept p2 "
        "$H" step list | grep -q 'kept  kept .*failed with exit code 1'
        is "$("$H" diff p2)" "A $W/p2"
        grep -q '^p1  *ignored: exit code 1 .* in part' "$T/out"
        "$H" unmount >/dev/null
        "#,
    );
}

#[test]
fn a_retry_begins_on_a_clean_state() {
    let count = "n=$(cat \"$T/n-$1\" 2>/dev/null || echo 0); n=$((n + 1)); echo $n >\"$T/n-$1\"";
    let wreck = |name: &str| {
        format!(
            "set -- {name}; {count}\n[ ! -e wreck ] && [ -e file ]; rm file; echo $n >wreck\n[ $n = 3 ]\nrm wreck; echo base >file; echo {name} >done-{name}"
        )
    };
    let group = "    - stepGroup:\n        identifier: g\n        steps:\n".to_owned()
        + &(step("first", "echo 1 >g-first") + &step_with("again", &wreck("again"), RETRY))
            .lines()
            .map(|line| format!("      {line}\n"))
            .collect::<String>();
    let steps = step_with("alone", &wreck("alone"), RETRY)
        + &parallel(&[
            step_with("member", &wreck("member"), RETRY),
            group,
            step_with("never", "echo 1 >never; exit 1", RETRY),
        ]);
    let ran = with_file(
        &steps,
        r#"
        export T
        code 0 "$H" stage run "$F" --keep >"$T/out"
        is "$(ls "$W" | tr '\n' ' ')" "done-again done-alone done-member file g-first "
        grep -q '^alone  *succeeded at attempt 3' "$T/out"
        grep -q '^g.again  *succeeded at attempt 3' "$T/out"
        grep -q '^never  *ignored: exit code 1' "$T/out"
        is "$("$H" step list)" ""
        "$H" unmount >/dev/null
        "#,
    );
    assert!(ran.err.contains("is run again in 1s"), "{}", ran.err);
}

#[test]
fn members_begin_on_one_state_and_the_successful_are_merged_at_once() {
    let mut members = vec![
        step(
            "a",
            "ls; echo a >a; until [ -e \"$T/b-ran\" ]; do sleep 0.05; done",
        ),
        step("b", "ls; echo b >b; echo 1 >\"$T/b-ran\"; exit 3"),
    ];
    members.push(
        "    - step:\n        identifier: m\n        type: Run\n        strategy:\n          matrix: {x: [1, 2, 3]}\n          maxConcurrency: 2\n        spec:\n          command: |\n            ls; echo \"<+matrix.x> $HARNESS_NODE_INDEX/$HARNESS_NODE_TOTAL\" >m-<+matrix.x>\n".to_owned(),
    );
    let steps = parallel(&members) + &step("after", "echo never");
    with_file(
        &steps,
        r#"
        export T
        code 1 "$H" stage run "$F" --keep >"$T/out"
        is "$(grep '|' "$T/out" | sort -u | tr '\n' ' ')" "a     | file b     | file m_0   | file m_1   | file m_2   | file "
        is "$(cd "$W"; cat a m-*)" "$(printf 'a\n1 0/3\n2 1/3\n3 2/3')"
        [ ! -e "$W/b" ]
        is "$("$H" log | grep -c -e -a -e -m_)" 4
        "$H" unmount >/dev/null
        "#,
    );
}

#[test]
fn what_members_read_of_each_other_is_told_and_is_a_conflict_where_the_file_is_strict() {
    let members = parallel(&[step("format", "echo 2 >file"), step("lint", "cat file")]);
    with_file(
        &members,
        r#"
        code 0 "$H" stage run "$F" >"$T/out"
        grep -q "^read/write: lint read $W/file, which format changed" "$T/out"
        code 0 "$H" stage run "$F" --json 2>/dev/null >"$T/json"
        is "$(python3 -c 'import json, sys; print(*[(r["step"], r["writer"]) for r in json.load(sys.stdin)["races"]])' <"$T/json")" "('lint', 'format')"
        sed 's/^workspace:/workspace:\n  strict: true/' "$F" >"$T/strict.yaml"
        code 4 "$H" stage run "$T/strict.yaml" --keep >"$T/out" 2>"$T/err"
        grep -q "^read/write  $W/file" "$T/err"
        is "$(cat "$W/file")" base
        "$H" unmount >/dev/null
        "#,
    );
}

#[test]
fn shared_paths_are_shared_as_the_file_says() {
    let members = parallel(&[
        step(
            "a",
            "echo a >\"$T/cache/a\"; until [ -e \"$T/cache/b\" ]; do sleep 0.05; done",
        ),
        step(
            "b",
            "echo b >\"$T/cache/b\"; until [ -e \"$T/cache/a\" ]; do sleep 0.05; done; exit 3",
        ),
        step("c", "echo c >\"$T/own/c\""),
    ]);
    with_file(
        &members,
        r#"
        export T
        mkdir "$T/cache" "$T/own"
        { echo "sharedPaths: [$T/cache, $T/own]"; sed "s|^workspace:|workspace:\n  sharing: {$T/cache: shared, $T/own: private}|" "$F"; } >"$T/shared.yaml"
        code 1 "$H" stage run "$T/shared.yaml" --keep >"$T/out" 2>&1
        is "$(cd "$T/cache"; echo *)" "a b"
        [ ! -e "$T/own/c" ]
        is "$("$H" step list)" ""
        "$H" unmount >/dev/null
        # A stage that is mounted otherwise is not taken for it.
        "$H" mount --workspace "$W" --shared-path "$T/cache" --shared-path "$T/own" >/dev/null
        code 2 "$H" stage run "$T/shared.yaml" 2>"$T/err"
        grep -q -e "--sharing $T/cache=shared" "$T/err"
        "$H" unmount >/dev/null
        "#,
    );
}

#[test]
fn a_conflict_is_told_and_nothing_of_the_group_is_merged() {
    let members = [
        step("one", "echo 1 >both; echo 1 >one"),
        step("two", "echo 2 >both"),
    ];
    let ran = with_file(
        &(parallel(&members) + &step("after", "true")),
        r#"
        code 4 "$H" stage run "$F" --keep --json >"$T/json"
        is "$(ls "$W")" file
        python3 - "$T/json" <<'P'
import json, sys
one, two, after = json.load(open(sys.argv[1]))["steps"]
assert one["layer"] == two["layer"] == "conflict" and one["result"] == "failed", one
assert one["conflicts"] == [] and two["conflicts"][0]["class"] == "add/add", two
assert after["result"] == "skipped", after
P
        code 0 "$H" step merge one two --on-conflict last
        is "$(cat "$W/both" "$W/one")" "$(printf '2\n1')"
        "$H" unmount >/dev/null
        sed -i 's/^workspace:/workspace:\n  policies: [{match: both, onConflict: keep-both}]/' "$F"
        code 0 "$H" stage run "$F" --apply "$T/new" >/dev/null
        is "$(cat "$T/new/both" "$T/new/both.two")" "$(printf '1\n2')"
        "#,
    );
    assert!(ran.err.contains("add/add"), "{}", ran.err);
}

/// As of any other failure: the step's own strategy comes before those around it.
#[test]
fn members_say_themselves_what_a_conflict_of_all_means() {
    let member = |name: &str, action: &str| {
        step_with(
            name,
            "echo $HARNESS_FS_STEP >both$N; echo 1 >$HARNESS_FS_STEP",
            action,
        )
    };
    let ignored = parallel(&[
        member("one", &strategy("Ignore")),
        member("two", &strategy("MarkAsSuccess")),
    ]);
    let looped = member(
        "loop",
        &format!("strategy: {{repeat: {{times: 2}}}}\n{RETRY}"),
    );
    let failed = parallel(&[
        member("three", &strategy("Ignore")),
        member("four", ""),
        member("five", &strategy("Abort")),
    ]);
    let steps = ignored
        + &looped
        + &step(
            "goes_on",
            "echo <+execution.steps.one.status> <+execution.steps.two.status> >goes_on",
        )
        + &failed
        + &step_with("not", "true", "when: {stageStatus: All}");
    with_file(
        &steps,
        r#"
        code 1 "$H" stage run "$F" --keep >"$T/out" 2>&1
        is "$(cat "$W/goes_on")" "IGNORE_FAILED SUCCEEDED"
        is "$(ls "$W" | tr '\n' ' ')" "file goes_on "
        grep -q '^one  *ignored: a conflict' "$T/out"
        grep -q '^two  *marked as success: a conflict' "$T/out"
        grep -q '^loop_1  *ignored: a conflict' "$T/out"
        grep -q '^three  *ignored: a conflict' "$T/out"
        grep -q '^four  *failed: a conflict' "$T/out"
        grep -q '^not  *aborted' "$T/out"
        "$H" unmount >/dev/null
        "#,
    );
}

#[test]
fn an_abort_ends_what_runs_and_merges_nothing_of_it() {
    let members = [
        step("slow", "echo 1 >slow; echo ready >\"$T/ready\"; sleep 1000"),
        step("quick", "echo 1 >quick"),
        step_with(
            "bad",
            "until [ -e \"$T/ready\" ]; do sleep 0.05; done; exit 9",
            &strategy("Abort"),
        ),
    ];
    with_file(
        &(step("before", "echo 1 >before")
            + &parallel(&members)
            + &step_with("after", "true", "when: {stageStatus: All}")),
        r#"
        export T
        code 1 "$H" stage run "$F" --keep >"$T/out" 2>"$T/err"
        is "$(ls "$W" | tr '\n' ' ')" "before file "
        grep -q '^slow  *aborted' "$T/out"
        grep -q '^bad  *failed: exit code 9' "$T/out"
        grep -q '^after  *aborted' "$T/out"
        is "$("$H" step list)" ""
        "$H" unmount >/dev/null
        "#,
    );
}

#[test]
fn values_go_from_step_to_step() {
    let give = "outputVariables: [{name: plain}, {name: other, value: SOME}, {name: unset}, {name: hidden, type: Secret}]";
    let steps = "    - step:\n        identifier: give\n        type: Run\n        spec:\n          shell: Bash\n          command: |\n            plain='a b'; SOME=\"$(printf '1\\n2')\"; hidden=s3cret-value\n          outputVariables: [{name: plain}, {name: other, value: SOME}, {name: unset}, {name: hidden, type: Secret}]\n".to_owned()
        + &step("take", "echo \"got <+execution.steps.give.output.outputVariables.plain>\"\necho \"<+execution.steps.give.output.outputVariables.hidden>\"\ntest \"<+execution.steps.give.output.outputVariables.other>\" = \"$(printf '1\\n2')\"")
        + &step_with("skipped", "false", "when: {condition: '<+execution.steps.give.output.outputVariables.plain> == \"c\"'}")
        + &step("python", "true")
        + &step("unset", "echo <+execution.steps.give.output.outputVariables.unset>");
    let steps = steps.replace(
        "identifier: python\n        type: Run\n        spec:\n",
        "identifier: python\n        type: Run\n        spec:\n          shell: Python\n",
    );
    let steps = steps.replace(
        "            true\n",
        "            assert open('file').read() == 'base\\n'\n",
    );
    assert!(steps.contains(give));
    with_file(
        &steps,
        r#"
        code 1 "$H" stage run "$F" >"$T/out" 2>"$T/err"
        grep -q '^take    | got a b$' "$T/out"
        code 1 grep -q s3cret "$T/out" "$T/err"
        grep -q '^skipped  *skipped: its condition' "$T/out"
        grep -q '^python  *succeeded' "$T/out"
        grep -q "^unset  *failed: $F:[0-9]*:[0-9]*: .*unset.* has no value" "$T/out"
        "#,
    );
}

#[test]
fn a_step_that_takes_too_long_is_ended_with_all_it_has_started() {
    let steps = step_with(
        "long",
        "sleep 1000 & echo $! >\"$T/pid\"; sleep 1000",
        &format!(
            "timeout: 10s\n{}",
            strategy("Ignore").replace("AllErrors", "Timeout")
        ),
    )
    .replace("timeout: 10s", "timeout: 1s")
        + &step("left", "sleep 1000 >/dev/null 2>&1 & echo 1 >left");
    with_file(
        &steps,
        r#"
        export T
        code 0 "$H" stage run "$F" >"$T/out" 2>"$T/err"
        grep -q '^long  *ignored: it took longer than 1s' "$T/out"
        [ ! -e "/proc/$(cat "$T/pid")" ]
        grep -q '^left: ended what it had left running: sleep' "$T/out"
        "#,
    );
}

#[test]
fn commands_run_as_a_user() {
    let steps = step("own", "id -u; chmod 777 .")
        + &step("other", "id -u; id -g; echo \"$HOME\"; echo 1 >made").replace(
            "          command: |\n            id -u; id -g",
            "          runAsUser: 12345\n          command: |\n            id -u; id -g",
        );
    with_file(
        &steps,
        r#"
        chmod 755 "$T" "$T/.."
        code 0 "$H" stage run "$F" --keep >"$T/out"
        is "$(grep '^other |' "$T/out" | tr '\n' ' ')" "other | 12345 other | 0 other | / "
        is "$(stat -c %u "$W/made")" 12345
        "$H" unmount >/dev/null
        "#,
    );
}

#[test]
fn background_steps_live_in_the_stage_until_its_end() {
    let steps = "    - step:\n        identifier: db\n        type: Background\n        spec:\n          command: |\n            trap 'echo end >>\"$T/log\"; exit 0' TERM\n            echo started; sleep 1000 & echo $! >\"$T/pid\"\n            i=0; while :; do i=$((i + 1)); [ -e new ] && [ ! -e seen ] && cat new >seen; sleep 0.05; done\n    - step:\n        identifier: fails\n        type: Background\n        spec:\n          command: echo died; exit 4\n".to_owned()
        + &step("write", "echo 1 >new")
        + &step("wait", "[ -e seen ] || { sleep 0.1; exit 1; }; cat seen >copy")
            .replace("        type: Run\n", &format!("        type: Run\n{}\n", RETRY.replace("retryCount: 2", "retryCount: 50").lines().map(|line| format!("        {line}")).collect::<Vec<_>>().join("\n")));
    with_file(
        &steps,
        r#"
        export T
        code 0 "$H" stage run "$F" --apply "$T/new" >"$T/out" 2>"$T/err"
        is "$(cat "$T/new/copy" "$T/log")" "$(printf '1\nend')"
        [ ! -e "/proc/$(cat "$T/pid")" ]
        grep -q '^db    | started' "$T/out"
        grep -q '^db  *ran in the background' "$T/out"
        grep -q '^fails  *failed: it ended before the stage, exit code 4' "$T/out"
        "#,
    );
}

#[test]
fn a_background_step_of_which_the_command_line_is_killed_has_failed() {
    let steps = "    - step:\n        identifier: db\n        type: Background\n        spec:\n          command: sleep 1000\n".to_owned()
        + &step("wait", "until [ -e \"$T/go\" ]; do sleep 0.05; done");
    with_file(
        &steps,
        r#"
        export T
        "$H" stage run "$F" >"$T/out" 2>&1 & run=$!
        listed() { "$H" step list 2>/dev/null | grep -q '^db .*pid'; }
        until_so listed
        kill -KILL "$("$H" step list | sed -n 's/^db .*pid //p')"
        gone() { ! listed; }
        until_so gone
        >"$T/go"
        code 0 wait "$run"
        grep -q '^db  *failed: its command line was killed' "$T/out"
        "#,
    );
}

#[test]
fn a_signal_ends_the_stage_and_nothing_of_what_runs_is_merged() {
    let steps = step("before", "echo 1 >before")
        + &step(
            "long",
            "echo 1 >long; trap 'echo got it; exit 0' TERM; echo 1 >\"$T/ready\"; while :; do sleep 0.05; done",
        )
        + &step("after", "true");
    with_file(
        &steps,
        r#"
        export T
        "$H" stage run "$F" --keep >"$T/out" 2>"$T/err" & pid=$!
        until_so [ -e "$T/ready" ]
        kill -TERM "$pid"
        code 143 wait "$pid"
        is "$(ls "$W" | tr '\n' ' ')" "before file "
        grep -q '^long   | got it' "$T/out"
        grep -q '^after  *aborted' "$T/out"
        is "$("$H" step list)" ""
        # On a stage that is there already, and killed: nothing is left of what ran.
        rm "$T/ready"
        "$H" stage run "$F" >/dev/null 2>&1 & pid=$!
        until_so [ -e "$T/ready" ]
        kill -KILL "$pid"
        empty() { [ -z "$("$H" step list)" ]; }
        until_so empty
        is "$(ls "$W" | tr '\n' ' ')" "before file "
        "$H" unmount >/dev/null
        # One of its own is unmounted.
        rm "$T/ready"
        "$H" stage run "$F" >/dev/null 2>&1 & pid=$!
        until_so [ -e "$T/ready" ]
        kill -INT "$pid" || true
        kill -TERM "$pid"
        got=0; wait "$pid" || got=$?
        [ "$got" = 143 ] || [ "$got" = 130 ]
        "#,
    );
}

/// What a stage has made in hours is not lost because it could not be written.
#[test]
fn what_could_not_be_exported_stays_and_is_told() {
    let steps = step(
        "a",
        "echo 1 >a; mkdir \"$T/layout\"; echo mine >\"$T/layout/file\"",
    );
    let ran = with_file(
        &steps,
        r#"
        export T
        code 1 "$H" stage run "$F" --export "$T/layout" >"$T/out"
        grep -q '^a  *succeeded' "$T/out"
        is "$(ls "$W" | tr '\n' ' ')" "a file "
        "$H" unmount >/dev/null
        "#,
    );
    assert!(ran.err.contains("stays mounted with what"), "{}", ran.err);
}

/// As with nohup(1): the kernel queues a signal that is blocked, also where it is ignored.
#[test]
fn a_signal_that_is_ignored_from_the_start_ends_nothing() {
    let steps = step(
        "long",
        "echo 1 >\"$T/ready\"; until [ -e \"$T/go\" ]; do sleep 0.05; done; echo 1 >long",
    );
    with_file(
        &steps,
        r#"
        export T
        (trap '' HUP; exec "$H" stage run "$F" --keep) >"$T/out" 2>"$T/err" & pid=$!
        until_so [ -e "$T/ready" ]
        kill -HUP "$pid"
        kill -HUP "$("$H" status --json | sed -n 's/^    "pid": \([0-9]*\),/\1/p')"
        >"$T/go"
        code 0 wait "$pid"
        is "$(ls "$W" | tr '\n' ' ')" "file long "
        rm "$T/ready" "$T/go"
        # In a step, too, whose command has other ideas.
        (trap '' HUP; exec "$H" step run own -- python3 -c 'import os, signal, time
signal.signal(signal.SIGHUP, signal.SIG_DFL)
open(os.environ["T"] + "/ready", "w")
while not os.path.exists(os.environ["T"] + "/go"): time.sleep(0.05)
open("own", "w")') 2>"$T/err" & pid=$!
        until_so [ -e "$T/ready" ]
        kill -HUP "$pid"
        >"$T/go"
        code 0 wait "$pid"
        is "$(ls "$W" | tr '\n' ' ')" "file long own "
        "$H" unmount >/dev/null
        "#,
    );
}

#[test]
fn paths_that_cannot_be_mapped_are_mistakes_with_their_lines() {
    let file = "workspace:\n  path: WORKSPACE\nsharedPaths:\n  - /proc/x\n  - WORKSPACE/in\n  - /root/.good\n  \
                - /root/.good/in\nexecution:\n  steps:\n"
        .to_owned()
        + &step("a", "true");
    with_whole_file(
        &file,
        r#"
        for check in --check --; do
            code 2 "$H" stage run $check "$F" >"$T/out" 2>"$T/err"
            is "$(cat "$T/out")" ""
            is "$(sed -n 's/^.*stage.yaml:\([0-9]*:[0-9]*\): .*/\1/p' "$T/err" | tr '\n' ' ')" "4:5 5:5 7:5 "
            grep -q 'stage.yaml has 3 mistakes; nothing was run' "$T/err"
        done
        "#,
    );
}

/// A signal while the stage is being mounted comes too early for any step.
#[test]
fn a_signal_at_the_beginning_leaves_no_stage() {
    with_file(
        &step("a", "true"),
        r#"
        for i in 1 2 3 4 5 6 7 8 9 10; do
            "$H" stage run "$F" >/dev/null 2>"$T/err" & pid=$!
            until grep -q "$W" /proc/self/mountinfo; do [ -e "/proc/$pid/exe" ] || break; done
            kill -TERM "$pid" || true
            got=0; wait "$pid" || got=$?
            [ "$got" = 143 ] || [ "$got" = 0 ] || { cat "$T/err" >&2; exit 97; }
            gone() { [ ! -e "$HARNESS_FS_STATE_DIR" ]; }
            until_so gone
        done
        "#,
    );
}

#[test]
fn mistakes_are_told_with_their_lines_before_anything_is_mounted() {
    let steps = step_with("a", "echo <+no.such.thing>", "timeuot: 5m");
    with_file(
        &steps,
        r#"
        code 2 "$H" stage run "$F" 2>"$T/err"
        grep -q "stage.yaml:[0-9]*:[0-9]*: .*timeuot.*timeout" "$T/err"
        grep -q "stage.yaml:[0-9]*:[0-9]*: .*no.such.thing" "$T/err"
        code 2 "$H" stage run --check "$F" 2>/dev/null
        [ ! -e "$HARNESS_FS_STATE_DIR" ]
        code 2 "$H" stage run "$T/none.yaml" 2>"$T/err"
        grep -q "none.yaml: " "$T/err"
        printf 'execution:\n  steps:\n    - step: {identifier: a, type: Run, spec: {command: pwd}}\n' >"$F"
        code 0 "$H" stage run --check "$F" >"$T/out"
        grep -q 'step a' "$T/out"
        code 0 "$H" stage run --check --json - <"$F" | python3 -m json.tool >/dev/null
        [ ! -e "$HARNESS_FS_STATE_DIR" ]
        # Another workspace than that of the stage that is there.
        "$H" mount --workspace "$W" >/dev/null
        code 2 "$H" stage run "$F" 2>"$T/err"
        grep -q -e "--workspace $W runs the file there" "$T/err"
        code 0 "$H" stage run "$F" --workspace "$W" >"$T/out"
        grep -qx "a | $W" "$T/out"
        "$H" status >/dev/null
        "$H" unmount >/dev/null
        code 2 "$H" stage run "$F" --workspace "$W" --apply "$W/.." 2>/dev/null
        "#,
    );
}

/// The same steps give the same tree, whoever is faster.
#[test]
fn fifty_runs_with_random_delays_give_one_tree() {
    let member = |name: &str| {
        step(
            name,
            &format!(
                "sleep 0.0$(od -An -N1 -tu1 /dev/urandom | tr -d ' ')\nmkdir -p out; echo {name} >out/both; echo {name} >>log; echo {name} >{name}; chmod 7{}5 file",
                name.len()
            ),
        )
    };
    let members = [member("a"), member("bb"), member("ccc"), member("dddd")];
    let steps = step("start", "echo start >log") + &parallel(&members);
    let file = format!(
        "workspace:\n  path: WORKSPACE\n  policies:\n    - {{match: log, onConflict: append}}\n    - {{match: out/both, onConflict: keep-both}}\nexecution:\n  steps:\n{steps}"
    );
    with_whole_file(
        &file,
        r#"
        "$H" mount --workspace "$W" --policy log=append --policy out/both=keep-both >/dev/null
        "$H" snapshot create start
        digest() { (cd "$W"; find . -printf '%P %y %m %s\n' | sort; find . -type f | sort | xargs sha256sum) | sha256sum; }
        first=
        for run in $(seq 50); do
            "$H" stage run "$F" >"$T/out" 2>&1 || { cat "$T/out"; exit 1; }
            this=$(digest)
            [ -n "$first" ] || first=$this
            is "$this" "$first"
            "$H" snapshot restore start >/dev/null
        done
        "$H" unmount >/dev/null
        "#,
    );
}

/// As `mount --sharing`; members take turns although they are merged together.
#[test]
fn paths_are_shared_as_the_file_says() {
    let turn = |name: &str| {
        step(
            name,
            &format!(
                "mkdir \"$T/locked/taken\"; sleep 0.2; rmdir \"$T/locked/taken\"; echo {name} >>\"$T/locked/all\"\necho {name} >\"$T/private/own\"; echo {name} >\"$T/live/{name}\"; exit $CODE"
            ),
        )
    };
    let bad = turn("b").replace("$CODE", "1");
    let steps = parallel(&[
        turn("a").replace("$CODE", "0"),
        bad,
        turn("c").replace("$CODE", "0"),
    ]) + &step_with(
        "d",
        "cat \"$T/locked/all\" | sort | tr -d '\\n' >all; ls \"$T/live\" \"$T/private\"",
        "when: {stageStatus: All}",
    );
    let file = format!(
        "workspace:\n  path: WORKSPACE\n  sharing: {{TMP/locked: locked, TMP/private: private, TMP/live: shared}}\nsharedPaths: [TMP/locked, TMP/private, TMP/live]\nexecution:\n  steps:\n{steps}"
    );
    with_whole_file(
        &file,
        r#"
        export T
        sed -i "s|TMP|$T|g" "$F"
        code 1 "$H" stage run "$F" --keep >"$T/out"
        is "$(cat "$W/all")" abc
        is "$(ls "$T/private")" ""
        is "$(ls "$T/live" | tr '\n' ' ')" "a b c "
        "$H" unmount >/dev/null
        mkdir -p "$T/live"
        "$H" mount --workspace "$W" --shared-path "$T/locked" --shared-path "$T/private" --shared-path "$T/live" >/dev/null
        code 2 "$H" stage run "$F" 2>"$T/err"
        grep -q -e "--sharing $T/locked=locked" "$T/err"
        "$H" unmount >/dev/null
        "#,
    );
}

/// Whole stages, as Harness users write them.
fn whole(name: &str, arguments: &str, afterwards: &str) -> Ran {
    let file = format!(
        "{}/tests/stage-files/{name}.yaml",
        env!("CARGO_MANIFEST_DIR")
    );
    let rig = Rig::new();
    let (workspace, other) = (rig.path().join("none"), rig.path().join("tmp"));
    std::fs::create_dir(&other).unwrap();
    let script = format!(
        "for dir in /harness /tmp/harness-fs-{name}; do mkdir -p $dir; mount -t tmpfs own $dir; done\n\
         cd /\ncode 0 \"$H\" stage run {file} {arguments} --keep >\"$T/out\"\n{afterwards}\n\
         \"$H\" unmount >/dev/null\numount /harness /tmp/harness-fs-{name}; rmdir /tmp/harness-fs-{name} || true"
    );
    let ran = in_namespace(&rig, &workspace, &other, &script);
    let said = std::fs::read_to_string(other.join("out")).unwrap_or_default();
    assert_eq!(ran.code, 0, "{said}\n{}\n{}", ran.out, ran.err);
    ran
}

#[test]
fn the_stage_of_a_maven_service() {
    whole(
        "maven",
        "",
        "is \"$(cat /harness/target/service-1.4.0.jar)\" 'class Orders {}'",
    );
}

#[test]
fn the_stage_of_a_node_service() {
    let ran = whole("node", "", "[ -e /harness/reports/summary.txt.unit ]");
    assert!(ran.err.contains("policy: keep-both"), "{}", ran.err);
}

#[test]
fn the_stage_of_a_python_library() {
    whole(
        "python",
        "",
        "grep -q '^types  *ignored: exit code 1 .* in part' \"$T/out\"",
    );
}

#[test]
fn the_stage_of_a_monorepo() {
    whole("monorepo", "", "is \"$(cat /harness/soak.log | wc -l)\" 3");
}

#[test]
fn the_stage_of_a_release() {
    let secret = "--var 'secrets.getValue(\"registry_token\")=hunter22'";
    whole(
        "release",
        secret,
        "! grep -q hunter22 \"$T/out\"; [ ! -e /harness/promoted ]",
    );
}

#[test]
fn a_cache_is_restored_before_the_first_step_and_saved_after_the_last() {
    let file = "\
workspace:
  path: WORKSPACE
caching:
  enabled: true
  key: <+pipeline.variables.key>
  paths: [deps]
  restoreKeys: [k-]
execution:
  steps:
  - step:
      identifier: build
      type: Run
      spec: {command: 'ls deps 2>/dev/null || true; mkdir -p deps; echo 1 >deps/<+pipeline.variables.key>; exit <+pipeline.variables.code>'}
";
    with_whole_file(
        file,
        r#"
        export HARNESS_FS_STORE="file://$T/store"
        run() { key=$1 code=$2; shift 2; "$H" stage run "$F" --var pipeline.variables.key="$key" --var pipeline.variables.code="$code" "$@" 2>"$T/err"; }
        run k-1 0 >"$T/out"
        grep -q "^harness-fs: cache: nothing is saved under 'k-1'" "$T/err"
        grep -q "^harness-fs: cache: saved 'k-1': " "$T/err"
        [ ! -e "$W/deps" ]
        # The newest that begins so; and what failed is not saved.
        code 1 run k-2 3 >"$T/out"
        grep -q "^harness-fs: cache: restored 'k-1': " "$T/err"
        grep -q "cache: not saved, since the stage did not succeed" "$T/err"
        grep -q '^build.*k-1$' "$T/out"
        run k-2 0 --json >"$T/out"
        grep -q '"key": "k-2"' "$T/out"
        run k-3 0 >"$T/out"
        grep -q '^build.*k-2$' "$T/out"
        is "$("$H" cache list | wc -l)" 3
        # Damage is no miss: nothing has run.
        for blob in "$T"/store/blobs/sha256/*; do printf x >"$blob"; done
        code 1 run k-3 0 >"$T/out"
        is "$(cat "$T/out")" ""
        # An outage is told, and the stage runs.
        export HARNESS_FS_STORE='s3://b/x?endpoint=http://127.0.0.1:9&retries=0' AWS_ACCESS_KEY_ID=a AWS_SECRET_ACCESS_KEY=b
        run k-4 0 >"$T/out"
        grep -q "cache: not restored: " "$T/err"; grep -q "cache: not saved: " "$T/err"
        "#,
    );
}
