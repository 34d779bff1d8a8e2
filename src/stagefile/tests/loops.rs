use super::*;

/// The runs of a step with this strategy, given as one line.
fn expansion(strategy: &str) -> Expansion {
    let stage = good(&of_step(&format!(
        "type: Run\nstrategy: {strategy}\nspec: {{command: x}}"
    )));
    expand(only_step(&stage).strategy.as_ref(), &stage.context()).unwrap()
}

fn postfixes(expansion: &Expansion) -> Vec<&str> {
    let instances = expansion.instances.iter();
    instances
        .map(|instance| instance.postfix.as_str())
        .collect()
}

fn labels(expansion: &Expansion) -> Vec<&str> {
    let instances = expansion.instances.iter();
    instances.map(|instance| instance.label.as_str()).collect()
}

fn value<'i>(instance: &'i Instance, key: &str) -> Option<&'i str> {
    let found = instance.values.iter().find(|(name, _)| name == key);
    found.map(|(_, value)| value.as_str())
}

#[test]
fn without_a_strategy_there_is_one() {
    let expansion = expand(None, &Context::default()).unwrap();
    assert_eq!(expansion.instances, [Instance::single()]);
    assert!(expansion.instances[0].env.is_empty());
}

#[test]
fn a_matrix_has_all_combinations() {
    let matrix = expansion("{matrix: {os: [linux, mac], python: [3.10, 3.12]}, maxConcurrency: 2}");
    assert_eq!(postfixes(&matrix), ["_0_0", "_0_1", "_1_0", "_1_1"]);
    assert_eq!(
        labels(&matrix),
        ["linux, 3.10", "linux, 3.12", "mac, 3.10", "mac, 3.12"]
    );
    assert_eq!(matrix.max_concurrency, 2);
    let last = &matrix.instances[3];
    assert_eq!(value(last, "matrix.os"), Some("mac"));
    assert_eq!(value(last, "matrix.python"), Some("3.12"));
    assert_eq!(value(last, "strategy.iteration"), Some("3"));
    assert_eq!(value(last, "strategy.iterations"), Some("4"));
    assert_eq!(value(last, "strategy.identifierPostFix"), Some("_1_1"));
    assert_eq!(
        last.env,
        [
            ("HARNESS_NODE_INDEX".to_owned(), "3".to_owned()),
            ("HARNESS_NODE_TOTAL".to_owned(), "4".to_owned())
        ]
    );
}

#[test]
fn combinations_can_be_excluded() {
    let matrix = expansion(
        "{matrix: {os: [linux, mac], v: [1, 2], exclude: [{os: mac, v: 1}, {v: 2}], maxConcurrency: 9}}",
    );
    assert_eq!(labels(&matrix), ["linux, 1"]);
    assert_eq!(matrix.max_concurrency, 1);
    assert_eq!(matrix.instances[0].total, 1);
}

#[test]
fn a_node_name_is_the_label() {
    let matrix =
        expansion("{matrix: {v: [1, 2], nodeName: 'v<+matrix.v><+strategy.identifierPostFix>'}}");
    assert_eq!(labels(&matrix), ["v1_0", "v2_1"]);
    let repeat = expansion("{repeat: {items: [a, b], nodeName: 'on <+repeat.item>'}}");
    assert_eq!(labels(&repeat), ["on a", "on b"]);
}

#[test]
fn repeat_and_parallelism_count() {
    let times = expansion("{repeat: {times: 3}, maxConcurrency: 1}");
    assert_eq!(postfixes(&times), ["_0", "_1", "_2"]);
    assert_eq!(times.max_concurrency, 1);
    let parallelism = expansion("{parallelism: 4, maxConcurrency: 3}");
    assert_eq!(postfixes(&parallelism), ["_0", "_1", "_2", "_3"]);
    assert_eq!(parallelism.max_concurrency, 3);
    let items = expansion("{repeat: {items: [x, y], maxConcurrency: 1}}");
    assert_eq!(value(&items.instances[1], "repeat.item"), Some("y"));
    assert_eq!(items.max_concurrency, 1);
}

#[test]
fn lists_come_from_expressions() {
    for (value, expected) in [
        ("a,b , c", vec!["a", "b", "c"]),
        ("[\"a\", \"b,c\"]", vec!["a", "b,c"]),
        ("[1, true]", vec!["1", "true"]),
        ("[a, b]", vec!["a", "b"]),
        ("one", vec!["one"]),
    ] {
        let text = format!(
            "variables: [{{name: list, value: '{value}'}}]\n{}",
            of_step(
                "type: Run\nstrategy: {repeat: {items: <+stage.variables.list>}}\nspec: {command: x}"
            )
        );
        let stage = good(&text);
        let expansion = expand(only_step(&stage).strategy.as_ref(), &stage.context()).unwrap();
        assert_eq!(labels(&expansion), expected, "{value}");
    }
}

#[test]
fn what_gives_no_runs_is_an_error() {
    for (strategy, line, what) in [
        (
            "{matrix: {a: [1], exclude: [{a: 1}]}}",
            6,
            "the strategy gives nothing to run: every combination is excluded",
        ),
        (
            "{parallelism: 0}",
            6,
            "parallelism is '0'; it is a number from 1 to 256",
        ),
        (
            "{parallelism: 257}",
            6,
            "parallelism is '257'; it is a number from 1 to 256",
        ),
        (
            "{parallelism: many}",
            6,
            "parallelism is 'many'; it is a number from 1 to 256",
        ),
        (
            "{repeat: {times: -1}}",
            6,
            "repeat.times is '-1'; it is a number from 1 to 256",
        ),
        (
            "{parallelism: 2, maxConcurrency: 0}",
            6,
            "maxConcurrency is '0'; it is a number from 1 to 256",
        ),
        (
            "{repeat: {times: 2, items: [a]}}",
            6,
            "repeat has either 'times' or 'items'",
        ),
        (
            "{parallelism: 2, repeat: {times: 2}}",
            6,
            "a strategy is one of 'matrix', 'repeat' and 'parallelism'",
        ),
        (
            "{maxConcurrency: 2}",
            6,
            "a strategy is one of 'matrix', 'repeat' and 'parallelism'",
        ),
        (
            "{matrix: {exclude: [{a: 1}]}}",
            6,
            "a matrix has no axis, such as 'python: [3.11, 3.12]'",
        ),
        (
            "{matrix: {a: []}}",
            6,
            "an axis of the matrix has no values",
        ),
        (
            "{matrix: {a: one}}",
            6,
            "an axis of the matrix is a list, or an expression that gives one",
        ),
        (
            "{matrix: {a: [1], exclude: [{}]}}",
            6,
            "an entry of exclude names no axis",
        ),
        (
            "{matrix: {a: [1], exclude: [{b: 1}]}}",
            6,
            "exclude names 'b', which is no axis of the matrix: a",
        ),
        (
            "{matrix: {a: [{b: 1}]}}",
            6,
            "a value of a strategy is text, not a map",
        ),
        (
            "{matrix: {a: [1], nodeName: x, exclude: [{a: <+matrix.a>}]}}",
            6,
            "<+matrix.a>: there is no matrix around it",
        ),
    ] {
        let problems = wrong(&of_step(&format!(
            "type: Run\nstrategy: {strategy}\nspec: {{command: x}}"
        )));
        assert!(
            problems.contains(&format!("{line}: {what}")),
            "{strategy}: {problems:?}"
        );
    }
    let axis = (0..17)
        .map(|n| n.to_string())
        .collect::<Vec<_>>()
        .join(", ");
    let problems = wrong(&of_step(&format!(
        "type: Run\nstrategy: {{matrix: {{a: [{axis}], b: [{axis}]}}}}\nspec: {{command: x}}"
    )));
    assert_eq!(
        problems,
        ["6: the matrix has 289 combinations; 256 is the most"]
    );
}

#[test]
fn a_result_of_a_loop_is_that_of_one_run() {
    let text = |expression: &str| {
        let looped = "- step: {identifier: t, type: Run, strategy: {matrix: {v: [1, 2]}}, spec: {command: x, outputVariables: [{name: o}]}}\n";
        of_steps(&format!(
            "{looped}- step: {{identifier: z, type: Run, spec: {{command: '<+{expression}>'}}}}"
        ))
    };
    good(&text("steps.t_1.output.outputVariables.o"));
    assert_eq!(
        wrong(&text("steps.t.status")),
        ["4: <+steps.t.status>: 't' runs several times; say which one, such as t_0"]
    );
    assert!(wrong(&text("steps.t_2.status"))[0].contains("there is no step 't_2'"));
}

#[test]
fn matrix_values_are_known_in_the_loop_only() {
    let text = "\
- step: {identifier: a, type: Run, strategy: {matrix: {v: [1]}}, when: {condition: <+matrix.v> == 1}, spec: {command: <+matrix.v>}}
- step: {identifier: b, type: Run, spec: {command: <+matrix.v>}}
- step: {identifier: c, type: Run, strategy: {matrix: {w: [1]}}, spec: {command: <+matrix.v>}}
";
    assert_eq!(
        wrong(&of_steps(text)),
        [
            "4: <+matrix.v>: there is no matrix around it",
            "5: <+matrix.v>: the matrix has no axis 'v': w"
        ]
    );
}

#[test]
fn groups_in_loops_know_both() {
    let text = of_steps(
        "\
- stepGroup:
    identifier: g
    strategy: {matrix: {v: [1, 2]}}
    variables: [{name: dir, value: d<+matrix.v>}]
    steps:
    - step:
        identifier: s
        type: Run
        strategy: {repeat: {items: [a, b]}}
        spec:
          command: <+matrix.v> <+stepGroup.matrix.v> <+repeat.item> <+strategy.iteration> <+stepGroup.strategy.iteration> <+stepGroup.variables.dir> <+stepGroup.name>",
    );
    let stage = good(&text);
    let Node::Group(group) = &stage.body[0] else {
        panic!()
    };
    let Node::Step(step) = &group.body[0] else {
        panic!()
    };
    let outer = expand(group.strategy.as_ref(), &stage.context()).unwrap();
    let around = Path::root().join("g", &outer.instances[1]);
    let context = stage
        .context()
        .enter(&outer.instances[1])
        .enter_group(group, &around);
    let inner = expand(step.strategy.as_ref(), &context).unwrap();
    let context = context.enter(&inner.instances[0]).enter_step(step);
    let Command::Script { script, .. } = &step.command else {
        panic!()
    };
    assert_eq!(script.evaluate(&context).unwrap(), "2 2 a 0 1 d2 g");
    assert_eq!(around.join("s", &inner.instances[0]).as_str(), "g_1.s_0");
}

#[test]
fn one_run_of_a_stage_with_a_strategy_is_chosen() {
    let text = format!(
        "\
strategy: {{matrix: {{os: [linux, mac], v: [1, 2]}}, maxConcurrency: 2}}
variables: [{{name: shard, value: <+strategy.iteration>/<+strategy.iterations>}}]
envVariables: {{OS: <+matrix.os>}}
{}",
        of_step(
            "type: Run\nspec: {command: <+stage.matrix.os> <+matrix.v> <+strategy.identifierPostFix>}"
        )
    );
    let many = "the stage runs 4 times, each in a workspace of its own; choose one run with --var \
                strategy.iteration=N, from 0 to 3";
    assert_eq!(wrong(&text)[0], format!("1: {many}"));
    let problems = read(&text, &given(&[("strategy.iteration", "4")])).unwrap_err();
    assert_eq!(problems[0].what, many);
    let stage = good_with(&text, &[("strategy.iteration", "2")]);
    assert_eq!(stage.context().get("stage.variables.shard"), Some("2/4"));
    let Command::Script { script, .. } = &only_step(&stage).command else {
        panic!()
    };
    assert_eq!(script.evaluate(&stage.context()).unwrap(), "mac 1 _1_0");
    let env: Vec<(&str, String)> = stage
        .env
        .iter()
        .map(|variable| {
            let value = variable.value.evaluate(&stage.context()).unwrap();
            (variable.name.as_str(), value)
        })
        .collect();
    assert_eq!(
        env,
        [
            ("HARNESS_NODE_INDEX", "2".to_owned()),
            ("HARNESS_NODE_TOTAL", "4".to_owned()),
            ("OS", "mac".to_owned())
        ]
    );
    assert_eq!(
        stage.notices[0].text,
        "of the stage's strategy at line 1 this is run 2 of 4: mac, 1"
    );
    // Without a strategy there is nothing to choose, and the number says nothing.
    let plain = of_step("type: Run\nspec: {command: x}");
    let stage = good_with(&plain, &[("strategy.iteration", "0")]);
    assert_eq!(
        stage.notices[0].text,
        "ignored: --var strategy.iteration (the stage does not use it)"
    );
    assert_eq!(stage.context().get("strategy.iteration"), None);
}

#[test]
fn names_are_good_for_the_stage() {
    let single = Instance::single();
    let root = Path::root();
    assert_eq!(root.join("lint", &single).step_name(), "lint");
    assert_eq!(
        root.join("a", &single).join("b", &single).step_name(),
        "a.b"
    );
    for reserved in ["stage", "base", "head", "join", "import"] {
        let name = root.join(reserved, &single).step_name();
        assert_eq!(name, format!("step-{reserved}"));
        assert!(crate_names_take(&name));
    }
    // Long ones stay apart.
    let deep = |last: &str| {
        let mut path = Path::root();
        for _ in 0..4 {
            path = path.join(&"x".repeat(100), &single);
        }
        path.join(last, &single).step_name()
    };
    assert_ne!(deep("a"), deep("b"));
    assert!(deep("a").len() <= 200);
    assert_eq!(deep("a"), deep("a"));
}

/// The rules of `stage::names`, which lies above.
fn crate_names_take(name: &str) -> bool {
    !["stage", "base", "head", "join", "import", ".", ".."].contains(&name)
        && !name.is_empty()
        && name.len() <= 200
        && !name.contains('/')
        && !name.starts_with(".shell-")
}

#[test]
fn failures_are_decided_from_the_inside_out() {
    let strategies = |text: &str| -> Vec<FailureStrategy> {
        let fields = format!("type: Run\nfailureStrategies: [{text}]\nspec: {{command: x}}");
        only_step(&good(&of_step(&fields))).failure.clone()
    };
    let on = |errors: &str, action: &str| {
        format!("{{onFailure: {{errors: [{errors}], action: {action}}}}}")
    };
    let ignore = strategies(&on("AllErrors", "{type: Ignore}"));
    let abort = strategies(&on("AllErrors", "{type: Abort}"));
    let timeout = strategies(&on("Timeout", "{type: MarkAsSuccess}"));
    let never = strategies(&on("Verification", "{type: Abort}"));
    let both = strategies(&format!(
        "{}, {}",
        on("AllErrors", "{type: Ignore}"),
        on("Timeout", "{type: Abort}")
    ));
    let failure = strategies(&on("Unknown", "{type: MarkAsFailure}"));
    let (command, late) = (FailureKind::Command, FailureKind::Timeout);
    for (levels, kind, decision) in [
        (vec![], command, Decision::Fail),
        (vec![&ignore[..]], command, Decision::Ignore),
        (vec![&ignore[..], &abort[..]], command, Decision::Ignore),
        (vec![&[], &abort[..]], command, Decision::Abort),
        (vec![&timeout[..], &abort[..]], command, Decision::Abort),
        (
            vec![&timeout[..], &abort[..]],
            late,
            Decision::MarkAsSuccess,
        ),
        (vec![&never[..]], command, Decision::Fail),
        // What names the failure goes before what names all.
        (vec![&both[..]], late, Decision::Abort),
        (vec![&both[..]], command, Decision::Ignore),
        (vec![&failure[..], &ignore[..]], command, Decision::Fail),
    ] {
        assert_eq!(decide(&levels, kind, 0), decision, "{levels:?} {kind:?}");
    }
    let retry = strategies(&on(
        "AllErrors",
        "{type: Retry, spec: {retryCount: 3, retryIntervals: [1s, 2m], onRetryFailure: {action: {type: Ignore}}}}",
    ));
    let seconds = |n| Decision::Retry(std::time::Duration::from_secs(n));
    let decisions: Vec<Decision> = (0..5).map(|n| decide(&[&retry], command, n)).collect();
    assert_eq!(
        decisions,
        [
            seconds(1),
            seconds(120),
            seconds(120),
            Decision::Ignore,
            Decision::Ignore
        ]
    );
    let plain = strategies(&on("AllErrors", "{type: Retry, spec: {retryCount: 1}}"));
    assert_eq!(decide(&[&plain], command, 0), seconds(0));
    assert_eq!(decide(&[&plain], command, 1), Decision::Fail);
}
