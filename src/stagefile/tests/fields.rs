//! Each field, and what it becomes.

use std::path::PathBuf;
use std::time::Duration;

use super::*;
use crate::merge::Policy;

#[test]
fn the_same_stage_in_all_its_forms() {
    let steps = "steps: [{step: {identifier: s, type: Run, spec: {command: x}}}]";
    for text in [
        format!("execution: {{{steps}}}"),
        format!("spec: {{execution: {{{steps}}}}}"),
        format!("{{type: CI, spec: {{execution: {{{steps}}}}}}}"),
        format!("stage: {{type: CI, spec: {{execution: {{{steps}}}}}}}"),
        format!("- stage: {{spec: {{execution: {{{steps}}}}}}}"),
        format!("pipeline: {{stages: [{{stage: {{spec: {{execution: {{{steps}}}}}}}}}]}}"),
        format!(
            "pipeline: {{stages: [{{stage: {{type: Approval}}}}, {{parallel: [{{stage: {{spec: \
             {{execution: {{{steps}}}}}}}}}]}}]}}"
        ),
        format!("---\n# first\nexecution: {{{steps}}}\n..."),
        format!("\u{feff}execution: {{{steps}}}\r\n"),
    ] {
        let stage = good(&text);
        assert_eq!(only_step(&stage).identifier, "s", "{text}");
        assert_eq!((&*stage.identifier, &*stage.name), ("stage", "stage"));
    }
}

#[test]
fn one_of_several_stages_is_chosen() {
    let stage = |id: &str| {
        format!(
            "- stage: {{identifier: {id}, name: The {id}, type: CI, spec: {{execution: {{steps: \
             [{{step: {{identifier: s, type: Run, spec: {{command: <+pipeline.variables.v>}}}}}}]}}}}}}\n"
        )
    };
    let text = format!(
        "pipeline:\n  name: P\n  variables: [{{name: v, value: 1}}]\n  stages:\n  {}  {}",
        stage("build"),
        stage("test")
    );
    assert_eq!(
        wrong(&text),
        ["5: there are 2 stages of type CI (build, test); choose one with --pipeline-stage NAME"]
    );
    for wanted in ["test", "The test"] {
        let given = Given {
            stage: Some(wanted.to_owned()),
            ..Given::default()
        };
        let stage = read(&text, &given).unwrap();
        assert_eq!(stage.name, "The test");
        assert_eq!(stage.context().get("pipeline.variables.v"), Some("1"));
        assert_eq!(stage.context().get("pipeline.name"), Some("P"));
    }
    let given = Given {
        stage: Some("deploy".to_owned()),
        ..Given::default()
    };
    let problems = read(&text, &given).unwrap_err();
    assert_eq!(
        problems[0].what,
        "there is no CI stage 'deploy': build, test"
    );
    let problems = read(&of_step("type: Run\nspec: {command: x}"), &given).unwrap_err();
    assert_eq!(
        problems[0].what,
        "the file's only stage is not called 'deploy'"
    );
}

#[test]
fn names_and_identifiers_are_made_of_each_other() {
    let step = |fields: &str| {
        let text = of_steps(&format!(
            "- step: {{{fields}, type: Run, spec: {{command: x}}}}"
        ));
        let step = only_step(&good(&text)).clone();
        (step.identifier, step.name)
    };
    let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
    assert_eq!(step("identifier: a"), pair("a", "a"));
    assert_eq!(
        step("name: Unit tests (3.12)"),
        pair("Unit_tests_3_12", "Unit tests (3.12)")
    );
    assert_eq!(step("name: 3rd"), pair("_3rd", "3rd"));
    assert_eq!(step("name: A, identifier: b"), pair("b", "A"));
}

#[test]
fn a_run_step_has_all_its_fields() {
    let stage = good(
        &of_step(
            "\
name: S
description: what it does
type: Run
timeout: 1h 30m
when: {stageStatus: All, condition: <+env.HOME> != \"\"}
workspace: {onFailure: {merge: [reports/**]}, onConflict: keep-both}
spec:
  shell: Bash
  command: |
    one
    two
  envVariables: {A: 1, B: true, C: <+env.HOME>, D: null, E: '', F: 1.10}
  runAsUser: '1000'
  outputVariables:
  - name: A
  - {name: b, type: Secret, value: C}
  - {name: c, type: String, value: ''}",
        )
        .replace("  - {name: c, type: String, value: ''}", ""),
    );
    let step = only_step(&stage);
    assert_eq!((step.name.as_str(), step.kind), ("S", StepKind::Run));
    assert_eq!(step.timeout, Some(Duration::from_secs(5400)));
    assert_eq!(step.run_as_user, Some(1000));
    let Command::Script { shell, script } = &step.command else {
        panic!()
    };
    assert_eq!(
        (*shell, script.as_literal()),
        (Shell::Bash, Some("one\ntwo\n"))
    );
    let env: Vec<(String, String)> = step
        .env
        .iter()
        .map(|variable| {
            let value = variable.value.evaluate(&stage.context()).unwrap();
            (variable.name.clone(), value)
        })
        .collect();
    let expected = [
        ("A", "1"),
        ("B", "true"),
        ("C", "/root"),
        ("D", ""),
        ("E", ""),
        ("F", "1.10"),
    ];
    assert_eq!(env, expected.map(|(a, b)| (a.to_owned(), b.to_owned())));
    let outputs: Vec<(&str, &str, bool)> = step
        .output_variables
        .iter()
        .map(|variable| (&*variable.name, &*variable.from, variable.secret))
        .collect();
    assert_eq!(outputs, [("A", "A", false), ("b", "C", true)]);
    let when = step.when.as_ref().unwrap();
    assert_eq!(when.status, WhenStatus::All);
    assert_eq!(
        when.condition.as_ref().unwrap().source,
        "<+env.HOME> != \"\""
    );
    let patterns = vec!["reports/**".to_owned()];
    assert_eq!(step.on_failure, Some(FailedLayer::MergeMatching(patterns)));
    assert_eq!(step.on_conflict, Some(Policy::KeepBoth));
}

#[test]
fn every_shell_has_its_name() {
    let shell = |name: &str| {
        let fields = format!("type: Run\nspec: {{command: x, shell: {name}}}");
        match &only_step(&good(&of_step(&fields))).command {
            Command::Script { shell, .. } => *shell,
            Command::Words(_) => panic!(),
        }
    };
    assert_eq!(shell("null"), Shell::Sh);
    assert_eq!(shell("Sh"), Shell::Sh);
    assert_eq!(shell("Bash"), Shell::Bash);
    assert_eq!(shell("Python"), Shell::Python);
    assert_eq!(shell("Pwsh"), Shell::Pwsh);
}

#[test]
fn a_background_step_is_a_script_or_a_program() {
    let stage = good(&of_step(
        "type: Background\ntimeout: 10m\nfailureStrategies: []\nspec: {entrypoint: [redis-server, --port, 6380]}",
    ));
    let step = only_step(&stage);
    assert_eq!(step.kind, StepKind::Background);
    let Command::Words(words) = &step.command else {
        panic!()
    };
    let words: Vec<_> = words.iter().filter_map(Text::as_literal).collect();
    assert_eq!(words, ["redis-server", "--port", "6380"]);
    assert_eq!(step.timeout, None);
    let notices: Vec<String> = stage.notices.iter().map(ToString::to_string).collect();
    assert_eq!(
        notices,
        [
            "ignored: timeout at line 6 (a background step runs until the stage ends)",
            "ignored: failureStrategies at line 7 (a background step runs until the stage ends)"
        ]
    );
    let script = good(&of_step(
        "type: Background\nspec: {command: serve, shell: Bash}",
    ));
    let command = &only_step(&script).command;
    assert!(matches!(
        command,
        Command::Script {
            shell: Shell::Bash,
            ..
        }
    ));
}

#[test]
fn the_workspace_block() {
    let text = format!(
        "\
workspace:
  path: /work//here/
  policies:
  - {{match: 'reports/**', onConflict: keep-both}}
  - {{match: '*.log', onConflict: append}}
  keepBothAs: '{{stem}}.{{step}}{{ext}}'
  onConflict: last
  strict: true
  onFailure: keep
  sharing: {{/root/.npm: shared, /cache/: private}}
sharedPaths: [/root/.npm, /cache, /root/.m2/]
{}",
        of_step("type: Run\nspec: {command: x}")
    );
    let stage = good(&text);
    let workspace = &stage.workspace;
    assert_eq!(workspace.path, PathBuf::from("/work/here"));
    assert_eq!(
        workspace.policies,
        [
            PolicyRule {
                pattern: "reports/**".to_owned(),
                policy: Policy::KeepBoth
            },
            PolicyRule {
                pattern: "*.log".to_owned(),
                policy: Policy::Append
            }
        ]
    );
    let suffix = workspace.keep_both_as.as_ref().unwrap();
    assert_eq!(suffix.as_str(), "{stem}.{step}{ext}");
    assert_eq!(workspace.on_conflict, Some(Policy::Last));
    assert!(workspace.strict);
    assert_eq!(workspace.on_failure, FailedLayer::Keep);
    let shared: Vec<(&str, &str)> = stage
        .shared_paths
        .iter()
        .map(|shared| (shared.path.to_str().unwrap(), shared.mode.as_str()))
        .collect();
    assert_eq!(
        shared,
        [
            ("/root/.npm", "shared"),
            ("/cache", "private"),
            ("/root/.m2", "merge")
        ]
    );
}

#[test]
fn without_a_workspace_block_there_are_defaults() {
    let stage = good(&of_step("type: Run\nspec: {command: x}"));
    let expected = Workspace {
        path: PathBuf::from("/harness"),
        policies: Vec::new(),
        keep_both_as: None,
        on_conflict: None,
        strict: false,
        on_failure: FailedLayer::Discard,
    };
    assert_eq!(stage.workspace, expected);
    assert!(stage.caching.is_none() && stage.shared_paths.is_empty() && stage.notices.is_empty());
    assert!(stage.timeout.is_none() && stage.when.is_none() && stage.failure.is_empty());
}

#[test]
fn caching_is_read_and_what_is_not_known_is_said() {
    let with = |caching: &str| {
        good(&format!(
            "caching: {caching}\n{}",
            of_step("type: Run\nspec: {command: x}")
        ))
    };
    let stage = with(
        "{enabled: true, key: 'k-{{ checksum \"pom.xml\" }}', paths: [/root/.m2], policy: pull, override: false}",
    );
    let caching = stage.caching.as_ref().unwrap();
    assert!(!caching.enabled && !caching.overwrite);
    assert_eq!(caching.policy, CachePolicy::Pull);
    let key = caching.key.as_ref().and_then(Text::as_literal);
    assert_eq!(key, Some("k-{{ checksum \"pom.xml\" }}"));
    assert_eq!(caching.paths[0].as_literal(), Some("/root/.m2"));
    assert_eq!(
        stage.notices[0].text,
        "caching at line 1 is left out: templates in keys ({{ … }}) are not known"
    );
    let none = with("{enabled: true}");
    assert_eq!(
        none.notices[0].text,
        "caching at line 1 is left out: without a key and paths the tools that are used would have to be detected"
    );
    let stage = with(
        "{enabled: true, key: k, paths: [a, b], restoreKeys: [k-], store: 'file:///s', scope: x, \
         scopeFallback: [y, z], failIfKeyNotFound: true, saveOnFailure: true, onStoreError: fail}",
    );
    assert!(stage.notices.is_empty());
    let caching = stage.caching.as_ref().unwrap();
    assert!(caching.enabled && caching.fail_if_key_not_found && caching.save_on_failure);
    assert!(caching.fail_on_store_error);
    let texts: Vec<_> = caching.texts().filter_map(Text::as_literal).collect();
    assert_eq!(texts, ["k", "file:///s", "x", "a", "b", "k-", "y", "z"]);
    let off = with("{enabled: false}");
    assert!(off.notices.is_empty());
    let caching = off.caching.unwrap();
    assert!(caching.overwrite && caching.policy == CachePolicy::PullPush);
}

#[test]
fn groups_nest_and_have_fields_of_their_own() {
    let stage = good(&of_steps(
        "\
- stepGroup:
    name: Outer group
    envVariables: {A: 1}
    when: {stageStatus: Failure}
    failureStrategies: [{onFailure: {errors: [AllErrors], action: {type: Ignore}}}]
    steps:
    - parallel:
      - stepGroup:
          identifier: inner
          strategy: {parallelism: 2}
          steps:
          - step: {identifier: s, type: Run, spec: {command: x}}
      - step: {identifier: t, type: Run, spec: {command: x}}",
    ));
    let Node::Group(group) = &stage.body[0] else {
        panic!()
    };
    assert_eq!(group.identifier, "Outer_group");
    assert_eq!(group.env[0].name, "A");
    assert_eq!(group.when.as_ref().unwrap().status, WhenStatus::Failure);
    assert_eq!(group.failure[0].action, Action::Ignore);
    let Node::Parallel(parallel) = &group.body[0] else {
        panic!()
    };
    assert_eq!(parallel.members.len(), 2);
    let Node::Group(inner) = &parallel.members[0] else {
        panic!()
    };
    assert!(inner.strategy.is_some());
}

#[test]
fn anchors_aliases_and_merge_keys_work() {
    let text = of_steps(
        "\
- step: &base
    identifier: a
    type: Run
    timeout: 5m
    spec: &spec {shell: Bash, command: one}
- step:
    <<: *base
    identifier: b
    spec:
      <<: *spec
      command: two
- step:
    <<: [{timeout: 1m}, *base]
    identifier: c",
    );
    let stage = good(&text);
    let steps: Vec<&Step> = stage
        .body
        .iter()
        .map(|node| match node {
            Node::Step(step) => &**step,
            other => panic!("{other:#?}"),
        })
        .collect();
    let command = |step: &Step| match &step.command {
        Command::Script { shell, script } => (*shell, script.as_literal().unwrap().to_owned()),
        Command::Words(_) => panic!(),
    };
    let minutes = |n: u64| Some(Duration::from_secs(60 * n));
    assert_eq!(command(steps[1]), (Shell::Bash, "two".to_owned()));
    assert_eq!(command(steps[2]), (Shell::Bash, "one".to_owned()));
    assert_eq!(steps[1].timeout, minutes(5));
    assert_eq!(steps[2].timeout, minutes(1));
}

#[test]
fn the_stage_has_fields_of_its_own() {
    let text = format!(
        "\
name: My stage
description: d
tags: {{a: b}}
timeout: 1d
when: {{pipelineStatus: All}}
envVariables: {{CI: true}}
variables:
- {{name: a, type: String, value: x, description: d, required: true}}
- {{name: b, type: Number, value: 1.50}}
- {{name: c, type: Secret, value: <+env.HOME>}}
- {{name: d, type: String, value: null, default: y}}
cloneCodebase: false
{}",
        of_step("type: Run\nspec: {command: x}")
    );
    let stage = good(&text);
    assert_eq!((&*stage.identifier, &*stage.name), ("My_stage", "My stage"));
    assert_eq!(stage.timeout, Some(Duration::from_secs(86_400)));
    assert_eq!(stage.when.as_ref().unwrap().status, WhenStatus::All);
    assert_eq!(stage.env[0].value.as_literal(), Some("true"));
    let values: Vec<Option<&str>> = ["a", "b", "c", "d"]
        .map(|name| format!("stage.variables.{name}"))
        .iter()
        .map(|key| stage.context.get(key))
        .collect();
    assert_eq!(values, [Some("x"), Some("1.50"), Some("/root"), Some("y")]);
    assert!(stage.variables[2].secret && !stage.variables[0].secret);
    assert!(stage.notices.is_empty());
}

#[test]
fn an_empty_timeout_is_none_and_an_entrypoint_goes_first() {
    let stage = good(&of_step("type: Run\ntimeout: \"\"\nspec: {command: x}"));
    assert_eq!(only_step(&stage).timeout, None);
    let stage = good(&of_step(
        "type: Background\nspec: {command: x, entrypoint: [y]}",
    ));
    assert!(matches!(only_step(&stage).command, Command::Words(_)));
    assert_eq!(
        stage.notices[0].text,
        "ignored: command at line 6 (the entrypoint goes before it)"
    );
}

#[test]
fn what_is_left_out_is_named_once() {
    let text = "\
infrastructure: {type: KubernetesDirect, spec: {}}
serviceDependencies: [{identifier: db}]
delegateSelectors: [a]
slsa_provenance: []
execution:
  steps:
  - step: {identifier: a, type: Run, enforce: {}, spec: {command: x, image: i, connectorRef: c, imagePullPolicy: Always, privileged: true, resources: {}}}
  - step: {identifier: b, type: Run, spec: {command: x, image: i}}
";
    let notices: Vec<String> = good(text).notices.iter().map(ToString::to_string).collect();
    assert_eq!(
        notices,
        [
            "ignored: infrastructure at line 1 (infrastructure)",
            "ignored: serviceDependencies at line 2 (services are not started; write them as \
             Background steps)",
            "ignored: delegateSelectors at line 3 (infrastructure)",
            "ignored: enforce at line 7 (infrastructure)",
            "ignored: image at lines 7, 8 (infrastructure)",
            "ignored: connectorRef at line 7 (infrastructure)",
            "ignored: imagePullPolicy at line 7 (infrastructure)",
            "ignored: privileged at line 7 (infrastructure)",
            "ignored: resources at line 7 (infrastructure)",
        ]
    );
}

#[test]
fn what_an_input_allows_is_named_as_not_checked() {
    let stage = good(
        "variables:\n- {name: a, value: '<+input>.default(x).allowedValues(x,y)'}\n\
         - {name: b, value: '<+input>.default(x)'}\n\
         execution: {steps: [{step: {identifier: s, type: Run, spec: {command: '<+stage.variables.a>'}}}]}",
    );
    let notices: Vec<String> = stage.notices.iter().map(ToString::to_string).collect();
    assert_eq!(
        notices,
        ["ignored: <+input>.allowedValues at line 2 (only Harness asks for the value)"]
    );
}
