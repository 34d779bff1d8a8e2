//! `stage run`: what the table says of steps that did not run, or that have several runs.

use super::stage_run::{parallel, step, step_with, strategy, with_file};

/// A step that leaves an output variable without a value; `also` goes before it in the script.
fn without_value(identifier: &str, also: &str) -> String {
    let text = step(identifier, also);
    text.replace(
        "          command:",
        "          outputVariables: [{name: list}]\n          command:",
    )
}

/// A strategy over the output of the step `find`.
const OVER: &str =
    "strategy: {repeat: {items: <+execution.steps.find.output.outputVariables.list>}}";

fn with_over(fields: &str) -> String {
    format!("{OVER}\n{fields}")
}

#[test]
fn what_a_failed_step_would_have_listed_is_skipped_as_all_else_is() {
    let group = format!(
        "    - stepGroup:\n        identifier: group\n        {OVER}\n        steps:\n          - step: {{identifier: in, type: Run, spec: {{command: \"true\"}}}}\n"
    );
    let steps = without_value("find", "exit 7")
        + &step_with("each", "echo <+repeat.item>", OVER)
        + &group
        + &parallel(&[
            step("one", "echo one"),
            step_with("two", "echo <+repeat.item>", OVER),
        ])
        + &step_with(
            "last",
            "echo <+execution.steps.one.status>",
            "when: {stageStatus: All}",
        )
        + &step_with(
            "asks",
            "true",
            "when: {stageStatus: Success, condition: 'true'}",
        );
    with_file(
        &steps,
        r#"
        code 1 "$H" stage run "$F" >"$T/out" 2>"$T/err"
        for name in each group.in one two asks; do
            grep -q "^$name  *skipped: a step failed before$" "$T/out"
        done
        code 1 grep -q 'has no value' "$T/out" "$T/err"
        grep -q '^last *| SKIPPED$' "$T/out"
        "#,
    );
}

#[test]
fn what_a_skipped_step_would_have_listed_is_skipped_where_its_condition_says_so() {
    let condition = "when: {stageStatus: Success, condition: '<+execution.steps.find.status> == \"SUCCEEDED\"'}";
    let of_the_run = "when: {stageStatus: Success, condition: '<+repeat.item> == \"a\"'}";
    let find = without_value("find", "true").replace(
        "        type: Run\n",
        "        type: Run\n        when: {stageStatus: Success, condition: 'false'}\n",
    );
    let steps = find.clone()
        + &step_with("each", "echo <+repeat.item>", &with_over(condition))
        + &step("after", "echo <+execution.steps.find.status>");
    with_file(
        &steps,
        r#"
        code 0 "$H" stage run "$F" >"$T/out" 2>"$T/err"
        grep -q '^each  *skipped: its condition$' "$T/out"
        grep -q '^after *| SKIPPED$' "$T/out"
        "#,
    );
    // Whether a condition about the run holds nobody can say.
    let steps = find + &step_with("each", "echo <+repeat.item>", &with_over(of_the_run));
    with_file(
        &steps,
        r#"
        code 1 "$H" stage run "$F" >"$T/out" 2>&1
        grep -q "^each  *failed: $F:[0-9]*:[0-9]*: repeat.items has no value" "$T/out"
        "#,
    );
}

#[test]
fn an_expression_without_a_value_is_a_failure_as_any_other() {
    let lacks = "echo <+execution.steps.find.output.outputVariables.list>";
    let steps = without_value("find", "true")
        + &step_with("ignored", lacks, &strategy("Ignore"))
        + &step_with("marked", lacks, &strategy("MarkAsSuccess"))
        + &step_with("each", "true", &with_over(&strategy("Ignore")))
        + &parallel(&[
            step("one", "echo one >one"),
            step_with("two", "true", &with_over(&strategy("Ignore"))),
        ])
        + &step(
            "after",
            "ls; echo <+execution.steps.ignored.status> <+execution.steps.marked.status>",
        )
        + &step_with("ends", lacks, &strategy("Abort"))
        + &step_with("never", "true", "when: {stageStatus: All}");
    with_file(
        &steps,
        r#"
        code 1 "$H" stage run "$F" >"$T/out" 2>&1
        grep -q "^ignored  *ignored: $F:.* has no value" "$T/out"
        grep -q "^marked  *marked as success: $F:.* has no value" "$T/out"
        grep -q "^each  *ignored: $F:.* has no value" "$T/out"
        grep -q "^two  *ignored: $F:.* has no value" "$T/out"
        grep -q '^one  *succeeded' "$T/out"
        grep -q '^after *| one$' "$T/out"
        grep -q '^after *| IGNORE_FAILED SUCCEEDED$' "$T/out"
        grep -q "^ends  *failed: $F:.* has no value" "$T/out"
        grep -q '^never  *aborted' "$T/out"
        "#,
    );
}

#[test]
fn of_a_group_that_does_not_run_all_that_is_in_it_has_a_status() {
    let group = |name: &str, when: &str| {
        format!(
            "    - stepGroup:\n        identifier: {name}\n{when}        steps:\n          - stepGroup:\n              identifier: inner\n              steps:\n                - step: {{identifier: in, type: Run, spec: {{command: \"true\"}}}}\n"
        )
    };
    let statuses = |name: &str| {
        format!(
            "echo <+execution.steps.{name}.status> <+execution.steps.{name}.steps.inner.status> <+execution.steps.{name}.steps.inner.steps.in.status>"
        )
    };
    let say = step("say", "list=maybe").replace(
        "          command:",
        "          outputVariables: [{name: list}]\n          command:",
    );
    let steps = say
        + &group(
            "unclear",
            "        when: {stageStatus: All, condition: <+execution.steps.say.output.outputVariables.list>}\n",
        )
        + &group("skipped", "")
        + &step_with("first", &statuses("unclear"), "when: {stageStatus: All}")
        + &step_with("second", &statuses("skipped"), "when: {stageStatus: All}");
    with_file(
        &steps,
        r#"
        code 1 "$H" stage run "$F" >"$T/out" 2>&1
        grep -q '^unclear.inner.in  *failed: .*neither true nor false' "$T/out"
        grep -q '^first *| FAILED FAILED FAILED$' "$T/out"
        grep -q '^second *| SKIPPED SKIPPED SKIPPED$' "$T/out"
        "#,
    );
}

#[test]
fn runs_are_called_by_their_values() {
    let steps = step_with("each", "true", "strategy: {matrix: {a: [x, y], b: [1]}}")
        + &step_with(
            "named",
            "true",
            "strategy: {matrix: {a: [x], nodeName: 'on <+matrix.a> <+secrets.getValue(\"s\")>'}}",
        )
        + &step_with("times", "true", "strategy: {repeat: {times: 2}}");
    with_file(
        &steps,
        r#"
        code 0 "$H" stage run "$F" --var 'secrets.getValue("s")=hidden-value' >"$T/out" 2>&1
        grep -q '^each_0_0 (x, 1)  *succeeded' "$T/out"
        grep -q '^each_1_0 (y, 1)  *succeeded' "$T/out"
        grep -q '^named_0 (on x \*\**)  *succeeded' "$T/out"
        grep -q '^times_0  *succeeded' "$T/out"
        code 0 "$H" stage run "$F" --var 'secrets.getValue("s")=hidden-value' --json >"$T/json" 2>&1
        code 1 grep -q hidden-value "$T/out" "$T/json"
        "#,
    );
}

#[test]
fn a_background_step_took_as_long_as_it_ran() {
    let steps = step("service", "echo $$ >\"$T/pid\"").replace("type: Run", "type: Background")
        + &step(
            "wait",
            "until [ -s \"$T/pid\" ] && [ ! -e \"/proc/$(cat \"$T/pid\")\" ]; do sleep 0.05; done",
        )
        + &step("long", "sleep 2");
    with_file(
        &steps,
        r#"
        export T
        code 0 "$H" stage run "$F" --json >"$T/json" 2>/dev/null
        sed -n 's/^      "seconds": \([0-9.e-]*\),$/\1/p' "$T/json" >"$T/seconds"
        is "$(wc -l <"$T/seconds")" 3
        awk 'NR == 1 { service = $1 } NR > 1 { others += $1 } END { exit !(service < others) }' "$T/seconds"
        "#,
    );
}

#[test]
fn what_there_was_no_room_to_merge_is_kept() {
    let many = |identifier: &str| step(identifier, "yes $HARNESS_FS_STEP | head -c 8M >log");
    let steps = step("before", "echo 1 >before") + &parallel(&[many("one"), many("two")]);
    with_file(
        &steps,
        r#"
        mkdir "$T/small"
        mount -t tmpfs -o size=26m small "$T/small"
        HARNESS_FS_STATE_DIR=$T/small/state
        "$H" mount --workspace "$W" --policy 'log=append'
        code 1 "$H" stage run "$F" >"$T/out" 2>"$T/err"
        grep -q "merging $W/log: .*No space left" "$T/err"
        for name in one two; do
            grep -q "^$name  *failed: the merge of all that ran at once .* no, kept" "$T/out"
            is "$("$H" step list --json | python3 -c 'import json, sys; print(*(s["state"] for s in json.load(sys.stdin) if s["name"] == sys.argv[1]))' $name)" sealed
        done
        is "$(cat "$W/before")" 1
        code 1 cat "$W/log"
        mount -o remount,size=64m "$T/small"
        "$H" step merge one two
        is "$(stat -c %s "$W/log")" 16777216
        "$H" unmount
        umount "$T/small"
        "#,
    );
}

#[test]
fn what_linux_starts_no_program_with_is_said() {
    let large = step("large", "TEXT=$(head -c 140000 /dev/zero | tr '\\0' x)").replace(
        "          command:",
        "          outputVariables: [{name: TEXT}]\n          command:",
    );
    let output = "<+execution.steps.large.output.outputVariables.TEXT>";
    let steps = large
        + &step_with("command", &format!("echo {output}"), &strategy("Ignore"))
        + &step_with(
            "variable",
            "true",
            &format!("{}\nwhen: {{stageStatus: All}}", strategy("Ignore")),
        )
        .replace(
            "          command:",
            &format!("          envVariables: {{LONG: \"{output}\"}}\n          command:"),
        );
    with_file(
        &steps,
        r#"
        code 0 "$H" stage run "$F" >"$T/out" 2>&1
        grep -q "^command  *ignored: .*the command is 14[0-9]* bytes long" "$T/out"
        grep -q "^variable  *ignored: .*the variable LONG is 140005 bytes long" "$T/out"
        "#,
    );
}
