//! What is said about mistakes.

use super::*;

/// A step with one more field after a good one, in line 7, or in its spec, in line 8.
fn with(field: &str) -> String {
    of_step(&format!("type: Run\nspec: {{command: x}}\n{field}"))
}

fn in_spec(field: &str) -> String {
    of_step(&format!("type: Run\nspec:\n  command: x\n  {field}"))
}

fn of_stage(field: &str) -> String {
    format!("{}{field}\n", of_step("type: Run\nspec: {command: x}"))
}

#[test]
fn a_file_that_is_no_stage() {
    for (text, what) in [
        ("", "1: the file is empty"),
        ("# only this\n", "1: the file is empty"),
        ("~", "1: the file is empty"),
        (
            "hello",
            "1: the file is no stage: it has neither 'stage', 'spec' nor 'execution'",
        ),
        ("[1", "2: not YAML: "),
        ("a: b: c", "1: not YAML: "),
        (
            "a: *b",
            "1: not YAML: while parsing node, found unknown anchor",
        ),
        (
            "a: 1\n---\nb: 2",
            "2: a second document begins here; a stage file is one",
        ),
        ("a: !secret x", "1: the tag '!secret' has no meaning here"),
        ("? [a]\n: b", "1: a key is text here, not a list or a map"),
        (": b", "1: a key is missing before the ':'"),
        (
            "<<: 1\nexecution: {}",
            "1: '<<' takes a map, or a list of maps, to take fields from",
        ),
        ("a: \"x\\0\"", "1: a NUL character cannot be used here"),
        ("stage:", "1: 'stage' is empty"),
        ("pipeline:", "1: 'pipeline' is empty"),
        ("pipeline: {stages: []}", "1: there is no stage of type CI"),
        ("[]", "1: there is no stage of type CI"),
        (
            "- stage: {type: Approval}",
            "1: there is no stage of type CI",
        ),
        ("pipeline: {name: p}", "1: a pipeline has no 'stages'"),
        (
            "stage: {type: Deployment}",
            "1: a stage of type 'Deployment' is not run here, only CI",
        ),
        ("name: x", "1: a stage has no 'execution' with 'steps'"),
        ("execution: {}", "1: execution has no 'steps'"),
        ("execution: {steps: []}", "1: steps is empty"),
        ("execution: {steps: {}}", "1: steps is a list, not a map"),
        (
            "execution: [1]",
            "1: execution is a map of fields, not a list",
        ),
    ] {
        let problems = wrong(text);
        assert!(
            problems.iter().any(|p| p.starts_with(what)),
            "{text}: {problems:?}"
        );
    }
}

#[test]
fn an_unknown_field_has_its_line_and_the_nearest_name() {
    for (text, what) in [
        (
            in_spec("commmand: y"),
            "8: unknown field 'commmand' of the spec of a Run step; did you mean 'command'?",
        ),
        (
            in_spec("envVariable: {}"),
            "8: unknown field 'envVariable' of the spec of a Run step; did you mean 'envVariables'?",
        ),
        (
            in_spec("environmentVariables: {}"),
            "8: unknown field 'environmentVariables' of the spec of a Run step; did you mean 'envVariables'?",
        ),
        (
            in_spec("timeout: 1m"),
            "8: unknown field 'timeout' of the spec of a Run step; it belongs beside 'spec'",
        ),
        (
            in_spec("entrypoint: [a]"),
            "8: unknown field 'entrypoint' of the spec of a Run step; write it as 'command'",
        ),
        (
            with("command: x"),
            "7: unknown field 'command' of a step; it belongs in 'spec'",
        ),
        (
            with("failureStrategy: []"),
            "7: unknown field 'failureStrategy' of a step; did you mean 'failureStrategies'?",
        ),
        (
            with("template: {}"),
            "7: unknown field 'template' of a step; templates are kept in Harness, not here: write out what it stands for",
        ),
        (
            with("workspace: {path: /x}"),
            "7: unknown field 'path' of workspace of a step; it belongs in 'workspace' of the stage",
        ),
        (
            with("strategy: {matrx: {a: [1]}, parallelism: 1}"),
            "7: unknown field 'matrx' of a strategy; did you mean 'matrix'?",
        ),
        (
            with("when: {stagestatus: All}"),
            "7: unknown field 'stagestatus' of when; did you mean 'stageStatus'?",
        ),
        (
            with("when: {pipelineStatus: All}"),
            "7: unknown field 'pipelineStatus' of when; it has condition, stageStatus",
        ),
        (
            of_stage("sharedpaths: []"),
            "7: unknown field 'sharedpaths' of a stage; did you mean 'sharedPaths'?",
        ),
        (
            of_stage("steps: []"),
            "7: unknown field 'steps' of a stage; it belongs in 'execution'",
        ),
        (
            of_stage("workspace: {polices: []}"),
            "7: unknown field 'polices' of workspace; did you mean 'policies'?",
        ),
        (
            of_stage("workspace: {sharedPaths: []}"),
            "7: unknown field 'sharedPaths' of workspace; it belongs beside 'workspace'",
        ),
        (
            of_stage("caching: {enabled: true, path: []}"),
            "7: unknown field 'path' of caching; did you mean 'paths'?",
        ),
        (
            "stage: {sharedPaths: [/x], spec: {execution: {steps: []}}}".to_owned(),
            "1: unknown field 'sharedPaths' of a stage; it belongs in 'spec'",
        ),
        (
            "stage: {spec: {timeout: 1m, execution: {steps: []}}}".to_owned(),
            "1: unknown field 'timeout' of the spec of a stage; it belongs beside 'spec'",
        ),
        (
            of_steps("- type: Run\n  spec: {command: x}"),
            "3: unknown field 'type' of an entry of a list of steps; put 'step:' before it",
        ),
    ] {
        let problems = wrong(&text);
        assert!(problems.contains(&what.to_owned()), "{problems:#?}\n{what}");
    }
}

#[test]
fn a_field_of_the_wrong_kind() {
    for (text, what) in [
        (
            in_spec("shell: Fish"),
            "8: unknown shell 'Fish'; it is one of Sh, Bash, Python, Pwsh",
        ),
        (
            in_spec("shell: bash"),
            "8: unknown shell 'bash'; did you mean 'Bash'?",
        ),
        (
            in_spec("shell: Powershell"),
            "8: the shell 'Powershell' is that of Windows; use 'Pwsh'",
        ),
        (
            in_spec("envVariables: [a]"),
            "8: envVariables is a map, not a list",
        ),
        (
            in_spec("envVariables: {A: [1]}"),
            "8: the value of an environment variable is text, not a list",
        ),
        (
            in_spec("envVariables: {'A=B': 1}"),
            "8: 'A=B' cannot name an environment variable",
        ),
        (
            in_spec("runAsUser: root"),
            "8: runAsUser is a number from 0 to 4294967294, not 'root'",
        ),
        (
            in_spec("runAsUser: -1"),
            "8: runAsUser is a number from 0 to 4294967294, not '-1'",
        ),
        (
            in_spec("outputVariables: {a: b}"),
            "8: outputVariables is a list, not a map",
        ),
        (
            in_spec("outputVariables: [{type: String}]"),
            "8: an output variable has no 'name'",
        ),
        (
            in_spec("outputVariables: [{name: a b}]"),
            "8: the name of an output variable is the name of a variable in the script, of letters, digits and '_', not 'a b'",
        ),
        (
            in_spec("outputVariables: [{name: a}, {name: a}]"),
            "8: an output variable 'a' is there already",
        ),
        (
            in_spec("outputVariables: [{name: a, type: Number}]"),
            "8: unknown type of an output variable 'Number'; it is one of String, Secret",
        ),
        (
            in_spec("command: y"),
            "8: 'command' is there twice, first at line 7",
        ),
        (
            with("timeout: 10"),
            "7: timeout is a time such as 30s, 10m, 1h 30m or 1d, not '10'",
        ),
        (
            with("timeout: 0s"),
            "7: timeout is a time such as 30s, 10m, 1h 30m or 1d, not '0s'",
        ),
        (
            with("timeout: <+matrix.t>"),
            "7: <+matrix.t>: there is no matrix around it",
        ),
        (
            with("when: {stageStatus: Failed}"),
            "7: unknown stageStatus 'Failed'; did you mean 'Failure'?",
        ),
        (with("when: Always"), "7: when is a map of fields, not text"),
        (
            with("workspace: {onFailure: delete}"),
            "7: onFailure is discard, keep, merge or {merge: [PATTERN, …]}, not 'delete'",
        ),
        (
            with("workspace: {onFailure: {merge: []}}"),
            "7: merge names no pattern, such as \"reports/**\"",
        ),
        (
            with("workspace: {onFailure: {keep: []}}"),
            "7: onFailure as a map has 'merge', a list of patterns",
        ),
        (
            with("workspace: {onFailure: {merge: ['[']}}"),
            "7: bad pattern '[': unclosed character class; missing ']'",
        ),
        (
            with("workspace: {onConflict: keepboth}"),
            "7: unknown policy 'keepboth'; did you mean 'keep-both'?",
        ),
        (
            of_stage("workspace: {path: harness}"),
            "7: the path 'harness' must be absolute, such as /vol",
        ),
        (
            of_stage("workspace: {path: /a/../b}"),
            "7: the path '/a/../b' contains '..'",
        ),
        (
            of_stage("workspace: {strict: maybe}"),
            "7: strict is true or false, not 'maybe'",
        ),
        (
            of_stage("workspace: {keepBothAs: plain}"),
            "7: keepBothAs: ",
        ),
        (
            of_stage("workspace: {policies: [{match: 'a'}]}"),
            "7: a policy has 'match', such as \"reports/**\", and 'onConflict'",
        ),
        (
            of_stage("workspace: {policies: [{match: '', onConflict: last}]}"),
            "7: a pattern is empty",
        ),
        (
            of_stage("workspace: {sharing: {/x: merge}}"),
            "7: sharing names '/x', which is not in sharedPaths",
        ),
        (
            of_stage("workspace: {sharing: {/x: mine}}\nsharedPaths: [/x]"),
            "7: unknown sharing mode 'mine'; it is one of merge, shared, private, locked",
        ),
        (
            of_stage("sharedPaths: [/x, /x/]"),
            "7: '/x' is shared already",
        ),
        (
            of_stage("sharedPaths: [x]"),
            "7: the path 'x' must be absolute, such as /vol",
        ),
        (
            of_stage("sharedPaths: /x"),
            "7: sharedPaths is a list, not text",
        ),
        (
            of_stage("sharedPaths: [<+steps.s.status>]"),
            "7: <+steps.s.status>: there is no step 's'",
        ),
        (
            of_stage("caching: {enabled: often}"),
            "7: enabled is true or false, not 'often'",
        ),
        (
            of_stage("caching: {policy: push-pull}"),
            "7: unknown caching policy 'push-pull'; it is one of pull, push, pull-push",
        ),
        (
            of_stage("variables: [{value: x}]"),
            "7: a variable has no 'name'",
        ),
        (
            of_stage("variables: [{name: 'a b'}]"),
            "7: the name of a variable consists of letters, digits, '_', '-' and '.', not 'a b'",
        ),
        (
            of_stage("variables: [{name: a}, {name: a}]"),
            "7: a variable 'a' is there already",
        ),
        (
            of_stage("variables: [{name: a, type: Text}]"),
            "7: unknown type of a variable 'Text'; it is one of String, Number, Secret",
        ),
        (
            of_stage("strategy: {parallelism: 2}"),
            "7: the stage runs 2 times, each in a workspace of its own; choose one run with --var strategy.iteration=N, from 0 to 1",
        ),
        (
            of_stage("identifier: 'a b'"),
            "7: the identifier 'a b' is not a letter or '_', followed by up to 127 letters, digits, '_' or '$'",
        ),
        (
            of_stage("name: \"a\\nb\""),
            "7: the name 'a\\nb' contains control characters",
        ),
        (of_stage("name: ''"), "7: the name '' is empty"),
    ] {
        let problems = wrong(&text);
        assert!(
            problems.iter().any(|p| p.starts_with(what)),
            "{problems:#?}\n{what}"
        );
    }
}

#[test]
fn steps_that_cannot_be_run() {
    for (text, what) in [
        (of_step("spec: {command: x}"), "4: a step has no 'type': Run or Background"),
        (of_step("type: Run"), "4: a step has no 'spec'"),
        (of_step("type: Run\nspec: {}"), "a Run step has no 'command'"),
        (of_step("type: Run\nspec: {command: ' '}"), "6: the command is empty"),
        (of_step("type: Background\nspec: {image: postgres}"), "6: a Background step has no 'command': what its image would run is not known here"),
        (of_step("type: Background\nspec: {entrypoint: []}"), "6: entrypoint names no program"),
        (of_step("type: Background\nstrategy: {parallelism: 2}\nspec: {command: a}"), "6: a background step runs once; it has no 'strategy'"),
        (of_step("type: Background\nworkspace: {onFailure: keep}\nspec: {command: a}"), "6: a background step works in the stage itself; it has no 'workspace'"),
        (of_step("type: Background\nspec: {command: a, outputVariables: []}"), "6: unknown field 'outputVariables' of the spec of a Background step; a background step has no outputs"),
        (of_step("type: Plugin\nspec: {}"), "5: a step of type 'Plugin' cannot be run here; there are Run and Background; write it as a Run step"),
        (of_step("type: run\nspec: {}"), "5: a step of type 'run' cannot be run here; did you mean 'Run'?"),
        (of_steps("- step: {type: Run, spec: {command: x}}"), "3: a step has no 'identifier'"),
        (of_steps("- step: {identifier: a, type: Run, spec: {command: x}}\n- parallel:\n  - step: {identifier: a, type: Run, spec: {command: x}}"), "5: the identifier 'a' is there already, at line 3"),
        (of_steps("- stepGroup: {identifier: g}"), "3: a step group has no 'steps'"),
        (of_steps("- stepGroup: {identifier: g, steps: []}"), "3: steps is empty"),
        (of_steps("- parallel: []"), "3: parallel is empty"),
        (of_steps("- parallel:\n  - parallel: []"), "4: a member of 'parallel' is a step or a stepGroup; a stepGroup can have a 'parallel' in it"),
        (of_steps("- {}"), "3: an entry of a list of steps is one of 'step', 'stepGroup', 'parallel'"),
        (of_steps("- x"), "3: an entry of a list of steps is a map of fields, not text"),
        ("execution: {steps: [{step: {identifier: a, type: Run, spec: {command: x}}}], rollbackSteps: [1]}".to_owned(), "1: rollbackSteps are not run here; use a step with 'when: {stageStatus: Failure}'"),
    ] {
        let problems = wrong(&text);
        assert!(problems.iter().any(|p| p.contains(what)), "{problems:#?}\n{what}");
    }
}

#[test]
fn failure_strategies_that_cannot_be_followed() {
    let on = |text: &str| wrong(&with(&format!("failureStrategies: [{text}]")));
    let action = |text: &str| {
        on(&format!(
            "{{onFailure: {{errors: [AllErrors], action: {text}}}}}"
        ))
    };
    for (problems, what) in [
        (on("{}"), "a failure strategy has no 'onFailure'"),
        (
            on("{onFailure: {action: {type: Ignore}}}"),
            "a failure strategy has no 'errors', such as [AllErrors]",
        ),
        (
            on("{onFailure: {errors: [], action: {type: Ignore}}}"),
            "errors is empty; all are AllErrors",
        ),
        (
            on("{onFailure: {errors: [AllErrors]}}"),
            "a failure strategy has no 'action'",
        ),
        (
            on("{onFailure: {errors: [Timeouts], action: {type: Ignore}}}"),
            "unknown error type 'Timeouts'; did you mean 'Timeout'?",
        ),
        (
            on("{errors: [AllErrors], action: {type: Ignore}}"),
            "unknown field 'errors' of a failure strategy; it belongs in 'onFailure'",
        ),
        (action("{}"), "an action has no 'type', such as Ignore"),
        (
            action("{type: Ignored}"),
            "unknown type of action 'Ignored'; did you mean 'Ignore'?",
        ),
        (
            action("{type: Ignore, spec: {x: 1}}"),
            "unknown field 'x' of the spec of this action; it has no fields",
        ),
        (
            action("{type: ManualIntervention, spec: {}}"),
            "the action 'ManualIntervention' cannot be done here: nobody is asked here; there are Retry, Ignore, MarkAsSuccess, MarkAsFailure and Abort",
        ),
        (
            action("{type: StageRollback}"),
            "the action 'StageRollback' cannot be done here: there is nothing to roll back: what a failed step did is not merged; there are Retry, Ignore, MarkAsSuccess, MarkAsFailure and Abort",
        ),
        (
            action("{type: RetryStepGroup}"),
            "the action 'RetryStepGroup' cannot be done here: a group is not begun again; put Retry on its steps; there are Retry, Ignore, MarkAsSuccess, MarkAsFailure and Abort",
        ),
        (
            action("{type: Retry}"),
            "Retry has no 'spec' with retryCount and retryIntervals",
        ),
        (
            action("{type: Retry, spec: {retryIntervals: [1s]}}"),
            "Retry has no 'retryCount'",
        ),
        (
            action("{type: Retry, spec: {retryCount: x}}"),
            "retryCount is a number from 0 to 1000, not 'x'",
        ),
        (
            action("{type: Retry, spec: {retryCount: 1, retryIntervals: [soon]}}"),
            "an interval is a time such as 30s, 10m, 1h 30m or 1d, not 'soon'",
        ),
        (
            action("{type: Retry, retryCount: 1}"),
            "unknown field 'retryCount' of an action; it belongs in 'spec'",
        ),
        (
            action("{type: Retry, spec: {retryCount: 1, onRetryFailure: {action: {type: Retry}}}}"),
            "after the last Retry there cannot be another one",
        ),
        (
            action("{type: Retry, spec: {retryCount: 1, onRetryFailure: {}}}"),
            "onRetryFailure has no 'action'",
        ),
    ] {
        assert!(
            problems.contains(&format!("7: {what}")),
            "{problems:#?}\n{what}"
        );
    }
    // What cannot occur here is left out, and named.
    let stage = good(&with(
        "failureStrategies: [{onFailure: {errors: [Verification], action: {type: Abort}}}]",
    ));
    assert_eq!(
        stage.notices[0].text,
        "ignored: error type Verification at line 7 (it can only occur in Harness itself)"
    );
}

#[test]
fn a_mistake_in_a_step_is_none_of_those_that_refer_to_it() {
    let text = of_steps(
        "\
- step: {identifier: a, type: Run, spec: {comand: x, outputVariables: [{name: o}]}}
- step: {identifier: b, type: Runs, spec: {command: x}}
- step: {identifier: c, type: Run, spec: {command: <+steps.a.output.outputVariables.o> <+steps.b.status>}}",
    );
    assert_eq!(
        wrong(&text),
        [
            "3: a Run step has no 'command'",
            "3: unknown field 'comand' of the spec of a Run step; did you mean 'command'?",
            "4: a step of type 'Runs' cannot be run here; did you mean 'Run'?",
        ]
    );
}

#[test]
fn all_mistakes_are_told_in_order_and_each_once() {
    let text = "\
stage:
  name: x
  typ: CI
  spec:
    execution:
      steps:
      - step: &a
          identifier: a
          type: Run
          timeout: soon
          spec: {comand: x}
      - step:
          <<: *a
          identifier: b
      - stepGroup:
          identifier: g
          steps:
          - step: {identifier: c, type: Runs, spec: {}}
";
    assert_eq!(
        wrong(text),
        [
            "3: unknown field 'typ' of a stage; did you mean 'type'?",
            "10: timeout is a time such as 30s, 10m, 1h 30m or 1d, not 'soon'",
            "11: a Run step has no 'command'",
            "11: unknown field 'comand' of the spec of a Run step; did you mean 'command'?",
            "18: a step of type 'Runs' cannot be run here; did you mean 'Run'?",
        ]
    );
}
