use super::*;

/// A stage whose only step, after a step `before` with an output, has this command.
fn with_command(command: &str) -> String {
    let command = command.replace('\'', "''");
    format!(
        "identifier: build
name: Build it
variables:
- {{name: tag, type: String, value: v1}}
- {{name: list, type: String, value: 'a,b'}}
- {{name: n, type: Number, value: 3}}
- {{name: yes, type: String, value: 'true'}}
execution:
  steps:
  - step:
      identifier: before
      type: Run
      spec: {{command: x, outputVariables: [{{name: out}}]}}
  - step:
      identifier: after
      name: The last one
      type: Run
      spec:
        command: '{command}'
"
    )
}

/// The context in which the second step of that stage begins.
fn context_of(stage: &Stage) -> Context {
    let mut context = stage.context();
    let before = Path::root().join("before", &Instance::single());
    context.ended(&before, Status::Succeeded);
    context.output(&before, "out", "42");
    match &stage.body[1] {
        Node::Step(step) => context.enter_step(step),
        other => panic!("{other:#?}"),
    }
}

fn evaluate(command: &str) -> Result<String, Problem> {
    let variables = [
        ("pipeline.variables.region", "eu"),
        ("secrets.getValue('npm')", "s3cret"),
        ("codebase.branch", "main"),
    ];
    let stage = good_with(&with_command(command), &variables);
    let Node::Step(step) = &stage.body[1] else {
        panic!()
    };
    let Command::Script { script, .. } = &step.command else {
        panic!()
    };
    script.evaluate(&context_of(&stage))
}

#[test]
fn texts_have_values() {
    for (text, value) in [
        ("no expression", "no expression"),
        ("a < b > c", "a < b > c"),
        ("<+stage.variables.tag>", "v1"),
        ("<+variables.tag>", "v1"),
        ("<+ stage.variables.tag >", "v1"),
        ("<+pipeline.stages.build.variables.tag>", "v1"),
        (
            "-t <+stage.variables.tag>-<+stage.variables.n>.",
            "-t v1-3.",
        ),
        (
            "<+stage.name>/<+stage.identifier>/<+stage.type>",
            "Build it/build/CI",
        ),
        ("<+step.name>/<+step.identifier>", "The last one/after"),
        ("<+env.HOME>", "/root"),
        ("<+pipeline.variables.region>", "eu"),
        ("<+secrets.getValue(\"npm\")>", "s3cret"),
        ("<+secrets.getValue('npm')>", "s3cret"),
        ("<+codebase.branch>", "main"),
        ("<+steps.before.output.outputVariables.out>", "42"),
        ("<+execution.steps.before.output.outputVariables.out>", "42"),
        (
            "<+stage.spec.execution.steps.before.output.outputVariables.out>",
            "42",
        ),
        (
            "<+pipeline.stages.build.spec.execution.steps.before.output.outputVariables.out>",
            "42",
        ),
        ("<+execution.steps.get(\"before\").status>", "SUCCEEDED"),
        ("<+execution.steps.before.status>", "SUCCEEDED"),
        ("<+stage.variables.tag == \"v1\">", "true"),
        ("<+stage.variables.n + 1>", "4"),
        ("<+stage.variables.tag + \"-x\">", "v1-x"),
        ("<+<+stage.variables.tag>.toUpperCase()>", "V1"),
        (
            "<+stage.variables.tag.replace(\"v\", \"version \")>",
            "version 1",
        ),
        ("<+stage.variables.list.length()>", "3"),
        ("<+(1 > 2) ? \"a\" : \"b\">", "b"),
        (
            "<+stage.variables.yes ? \"<+stage.variables.tag>!\" : \"\">",
            "v1!",
        ),
    ] {
        assert_eq!(evaluate(text).as_deref(), Ok(value), "{text}");
    }
}

#[test]
fn conditions_are_decided() {
    for (condition, holds) in [
        ("true", true),
        ("false", false),
        ("!true", false),
        ("<+stage.variables.yes>", true),
        ("!<+stage.variables.yes>", false),
        ("<+stage.variables.tag> == \"v1\"", true),
        ("<+stage.variables.tag> == 'v1'", true),
        ("<+stage.variables.tag> != \"v1\"", false),
        ("\"<+stage.variables.tag>\" == \"v1\"", true),
        ("<+<+stage.variables.tag> == \"v1\">", true),
        ("<+stage.variables.n> == 3", true),
        ("<+stage.variables.n> == 3.0", true),
        ("<+stage.variables.n> == \"3.0\"", false),
        (
            "<+stage.variables.n> > 2 && <+stage.variables.n> <= 3",
            true,
        ),
        (
            "<+stage.variables.n> < 3 || <+stage.variables.n> >= 4",
            false,
        ),
        ("<+stage.variables.yes> == true", true),
        ("<+stage.variables.yes> == \"true\"", true),
        ("true || false && false", true),
        ("(true || false) && false", false),
        ("!(<+stage.variables.tag> == \"v2\")", true),
        ("<+stage.variables.tag>.startsWith(\"v\")", true),
        ("<+stage.variables.tag>.endsWith(\"v\")", false),
        ("<+stage.variables.list>.contains(\"b\")", true),
        (
            "<+stage.variables.list.split(\",\").contains(\"a,b\")>",
            false,
        ),
        ("<+stage.variables.list>.isEmpty()", false),
        ("<+stage.variables.tag>.equals(\"v1\")", true),
        ("<+execution.steps.before.status> == \"SUCCEEDED\"", true),
        (
            "<+execution.steps.before.output.outputVariables.out> == null",
            false,
        ),
        ("<+stage.variables.tag> == \"a\\\"b\"", false),
    ] {
        let quoted = condition.replace('\'', "''");
        let text = with_command("x").replace(
            "      name: The last one\n",
            &format!("      name: The last one\n      when: {{condition: '{quoted}'}}\n"),
        );
        let stage = good(&text);
        let Node::Step(step) = &stage.body[1] else {
            panic!()
        };
        let decided = When::holds(step.when.as_ref(), false, &context_of(&stage));
        assert_eq!(decided, Ok(holds), "{condition}");
    }
}

#[test]
fn what_did_not_happen_is_null_in_conditions_and_an_error_in_texts() {
    let text = with_command("<+steps.before.output.outputVariables.out>").replace(
        "      name: The last one\n",
        "      when: {condition: <+steps.before.output.outputVariables.out> == null}\n",
    );
    let stage = good(&text);
    let mut context = stage.context();
    context.ended(
        &Path::root().join("before", &Instance::single()),
        Status::Skipped,
    );
    assert_eq!(context.get("steps.before/status"), Some("SKIPPED"));
    let Node::Step(step) = &stage.body[1] else {
        panic!()
    };
    assert_eq!(When::holds(step.when.as_ref(), false, &context), Ok(true));
    let Command::Script { script, .. } = &step.command else {
        panic!()
    };
    let problem = script.evaluate(&context).unwrap_err();
    assert_eq!(
        problem.to_string(),
        "line 19, column 19: <+steps.before.output.outputVariables.out> has no value"
    );
}

#[test]
fn when_follows_the_stage() {
    let when = |status: &str| {
        let fields = format!("type: Run\nwhen: {{stageStatus: {status}}}\nspec: {{command: x}}");
        only_step(&good(&of_step(&fields))).when.clone()
    };
    let context = Context::default();
    for (when, succeeded, failed) in [
        (None, true, false),
        (when("Success"), true, false),
        (when("Failure"), false, true),
        (when("All"), true, true),
    ] {
        assert_eq!(When::holds(when.as_ref(), false, &context), Ok(succeeded));
        assert_eq!(When::holds(when.as_ref(), true, &context), Ok(failed));
    }
}

#[test]
fn a_condition_must_say_yes_or_no() {
    let fields = "type: Run\nwhen: {condition: <+stage.name>}\nspec: {command: x}";
    let stage = good(&of_step(fields));
    let when = only_step(&stage).when.as_ref();
    let problem = When::holds(when, false, &stage.context()).unwrap_err();
    assert_eq!(
        problem.what,
        "the condition says 'stage', which is neither true nor false"
    );
    // It is not asked if the status is wrong.
    assert_eq!(When::holds(when, true, &stage.context()), Ok(false));
}

#[test]
fn what_cannot_be_read_is_told() {
    for (command, what) in [
        (
            "<+",
            "the expression ends where a name, a quoted text or a number should come: '<+'",
        ),
        (
            "<+a",
            "the expression ends where the '>' that ends it should come: '<+a'",
        ),
        (
            "<+a b>",
            "in the expression, 'b>' stands where the '>' that ends it should come",
        ),
        (
            "<+>",
            "in the expression, '>' stands where a name, a quoted text or a number should come",
        ),
        (
            "<+a.>",
            "in the expression, '>' stands where a name after the '.' should come",
        ),
        ("<+\"a>", "a quoted text has no end: '<+\"a>'"),
        (
            "<+stage.name.reverse()>",
            "'reverse' is no method that is known here: contains, ",
        ),
        (
            "<+stage.name.contains()>",
            "contains() takes 1 arguments, not 0",
        ),
        (
            "<+1.2.3>",
            "in the expression, '1.2.3>' stands where a number should come",
        ),
    ] {
        let problems = wrong(&with_command(command));
        assert!(
            problems.len() == 1 && problems[0].starts_with(&format!("19: {what}")),
            "{command}: {problems:?}"
        );
    }
    let text = with_command("x").replace(
        "      name: The last one\n",
        "      when: {condition: <+stage.name> == main}\n",
    );
    assert_eq!(wrong(&text), ["16: 'main' is neither quoted nor in <+…>"]);
}

#[test]
fn what_is_not_known_is_told_with_a_way_out() {
    for (expression, what) in [
        (
            "stage.variables.tga",
            "the stage has no variable 'tga'; did you mean 'tag'?",
        ),
        (
            "stage.variables.other",
            "the stage has no variable 'other'; give it with --var 'stage.variables.other=VALUE'",
        ),
        ("env.NOPE", "the environment has no variable 'NOPE'"),
        (
            "pipeline.variables.x",
            "it is not known here; give it with --var 'pipeline.variables.x=VALUE'",
        ),
        (
            "secrets.getValue(\"account.key\")",
            "it is not known here; give it with --var 'secrets.getValue(\"account.key\")=VALUE'",
        ),
        (
            "pipeline.stages.other.spec.execution.steps.a.status",
            "it is not known here; give it with --var \
             'pipeline.stages.other.spec.execution.steps.a.status=VALUE'",
        ),
        ("matrix.python", "there is no matrix around it"),
        (
            "repeat.item",
            "it is known inside a 'repeat' with items only",
        ),
        (
            "strategy.iteration",
            "inside a strategy there are strategy.iteration, strategy.iterations and \
             strategy.identifierPostFix",
        ),
        ("stepGroup.name", "it is not known in this place"),
        (
            "steps.befor.status",
            "there is no step 'befor'; did you mean 'before'?",
        ),
        ("steps.zzz.status", "there is no step 'zzz'"),
        (
            "steps.after.status",
            "this is in step 'after', which has not ended then",
        ),
        (
            "steps.before.output.outputVariables.oud",
            "step 'before' has no output variable 'oud'; did you mean 'out'?",
        ),
        (
            "steps.before.output.outputVariables.version",
            "step 'before' has no output variable 'version'; add it to the step's \
             outputVariables, at line 11",
        ),
        (
            "steps.before.startTs",
            "of a step that has ended there are status and output.outputVariables.NAME, not \
             'startTs'",
        ),
        (
            "input",
            "it is a runtime input: write its value here, or put it in a variable of the stage, \
             which --var 'stage.variables.NAME=VALUE' can set",
        ),
    ] {
        let problems = wrong(&with_command(&format!("echo <+{expression}>")));
        assert_eq!(problems, [format!("19: <+{expression}>: {what}")]);
    }
}

#[test]
fn steps_know_only_what_has_ended() {
    let step = |id: &str, refers: &str| {
        format!("- step: {{identifier: {id}, type: Run, spec: {{command: '{refers}'}}}}\n")
    };
    let indented = |text: &str| {
        text.lines()
            .map(|line| format!("      {line}\n"))
            .collect::<String>()
    };
    // Later.
    let text = of_steps(&(step("a", "<+steps.b.status>") + &step("b", "x")));
    assert_eq!(
        wrong(&text),
        ["3: <+steps.b.status>: step 'b', at line 4, comes later"]
    );
    // At the same time.
    let members = step("a", "x") + &step("b", "<+steps.a.status>");
    let text = of_steps(&format!("- parallel:\n{}", indented(&members)));
    assert_eq!(
        wrong(&text),
        ["5: <+steps.a.status>: step 'a', at line 4, has not ended then: it runs at the same time"]
    );
    // In a group at the same time, however far on that is.
    let inner = step("g1", "x") + &step("g2", "x") + &step("g3", "<+execution.steps.a.status>");
    let group = format!(
        "- stepGroup:\n    identifier: g\n    steps:\n{}",
        indented(&inner)
    );
    let text = of_steps(&format!(
        "- parallel:\n{}{}",
        indented(&step("a", "x")),
        indented(&group)
    ));
    assert!(wrong(&text)[0].ends_with("has not ended then: it runs at the same time"));
    // After all of that.
    let text = text.replace("<+execution.steps.a.status>", "<+steps.g2.status>")
        + "    - step: {identifier: z, type: Run, spec: {command: '<+steps.a.status> \
           <+execution.steps.g.steps.g3.status> <+steps.g.status>'}}\n";
    good(&text);
    // A group's own step is not known outside by its name alone, and the group has no outputs.
    let outside = text.replace("<+steps.a.status>", "<+steps.g3.status>");
    assert!(wrong(&outside)[0].contains("there is no step 'g3'"));
    let outputs = text.replace("<+steps.g.status>", "<+steps.g.output.outputVariables.x>");
    assert!(wrong(&outputs)[0].contains("'g' is a step group"));
    // In the background.
    let text = of_steps(
        &(step("db", "x").replace("Run", "Background") + &step("a", "<+steps.db.status>")),
    );
    assert_eq!(
        wrong(&text),
        [
            "4: <+steps.db.status>: step 'db' runs in the background until the stage ends; it has \
          no result"
        ]
    );
}

#[test]
fn values_can_be_given_on_the_command_line() {
    assert_eq!(
        variable("pipeline.variables.tag=1=2"),
        Ok(("pipeline.variables.tag".to_owned(), "1=2".to_owned()))
    );
    assert_eq!(
        variable("secrets.getValue('a=b')= x"),
        Ok(("secrets.getValue(\"a=b\")".to_owned(), " x".to_owned()))
    );
    assert_eq!(
        variable("variables.x="),
        Ok(("stage.variables.x".to_owned(), String::new()))
    );
    let bracketed = variable("<+pipeline.variables.tag>=1");
    assert_eq!(bracketed.unwrap().0, "pipeline.variables.tag");
    for bad in [
        "",
        "x",
        "=1",
        "a b=1",
        "<+x=1",
        "env.HOME=1",
        "matrix.os=linux",
        "strategy.iterations=1",
        "steps.a.status=FAILED",
        "execution.steps.a.output.outputVariables.x=1",
        "step.name=x",
        "stage.name=x",
        "a.split(\",\")=1",
        "a.=1",
        "1=1",
    ] {
        assert!(variable(bad).is_err(), "{bad}");
    }
    // They go before what the file says.
    let stage = good_with(&with_command("x"), &[("stage.variables.tag", "given")]);
    assert_eq!(stage.context().get("stage.variables.tag"), Some("given"));
    assert_eq!(stage.variables[0].value.as_literal(), Some("given"));
}

#[test]
fn values_that_nothing_uses_are_named() {
    let variables = [
        ("stage.variables.tag", "x"),
        ("stage.variables.tga", "x"),
        ("pipeline.variables.a", "x"),
        ("pipeline.variables.b", "x"),
    ];
    let stage = good_with(&with_command("<+pipeline.variables.a>"), &variables);
    let notices: Vec<String> = stage.notices.iter().map(ToString::to_string).collect();
    assert_eq!(
        notices,
        [
            "ignored: --var pipeline.variables.b (the stage does not use it)",
            "ignored: --var stage.variables.tga (the stage does not use it)"
        ]
    );
}

#[test]
fn secrets_are_known() {
    let text = format!(
        "variables:\n- {{name: a, type: Secret, value: key}}\n- {{name: b, type: Secret, value: ''}}\n{}",
        of_step("type: Run\nspec: {command: <+secrets.getValue(\"npm\")>}")
    );
    let given = [
        ("secrets.getValue(\"key\")", "k"),
        ("secrets.getValue('npm')", "n"),
    ];
    assert_eq!(good_with(&text, &given).secrets(), ["k", "n"]);
}

#[test]
fn variables_are_made_of_each_other_in_any_order() {
    let steps = of_step("type: Run\nspec: {command: x}");
    let stage = good(&format!(
        "variables:\n- {{name: a, value: <+stage.variables.b>!}}\n- {{name: b, value: x}}\n{steps}"
    ));
    assert_eq!(stage.context().get("stage.variables.a"), Some("x!"));
    let circle = format!(
        "variables:\n- {{name: a, value: <+stage.variables.b>}}\n\
         - {{name: b, value: <+stage.variables.a>}}\n{steps}"
    );
    assert_eq!(
        wrong(&circle),
        [
            "2: the variable 'a' is made of itself",
            "3: the variable 'b' is made of itself"
        ]
    );
    // One that lacks something is told, those made of it are not.
    let lacking = format!(
        "variables:\n- {{name: a, value: <+stage.variables.b>}}\n\
         - {{name: b, value: <+input>}}\n{steps}"
    );
    assert_eq!(
        wrong(&lacking),
        [
            "3: <+input>: it is a runtime input: write its value here, or put it in a variable of \
          the stage, which --var 'stage.variables.NAME=VALUE' can set; or give its value with \
          --var 'stage.variables.b=VALUE'"
        ]
    );
    let given = good_with(&lacking, &[("stage.variables.b", "y")]);
    assert_eq!(given.context().get("stage.variables.a"), Some("y"));
}

#[test]
fn expressions_have_the_place_where_they_stand() {
    let text = of_step(
        "type: Run\nspec:\n  command: |\n    one\n    two <+env.A> <+env.HOME> <+env.B>\n  envVariables: {X: \"a\\n<+env.C>\"}",
    );
    let problems = read(&text, &given(&[])).unwrap_err();
    let places: Vec<String> = problems
        .iter()
        .map(|problem| problem.place.to_string())
        .collect();
    assert_eq!(
        places,
        [
            "line 9, column 17",
            "line 9, column 38",
            "line 10, column 33"
        ]
    );
    assert_eq!(
        problems[0].in_file("stage.yaml"),
        "stage.yaml:9:17: <+env.A>: the environment has no variable 'A'"
    );
}
