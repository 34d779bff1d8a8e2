use std::fmt::Write;

use super::*;

/// What a file says, in a few lines.
fn outline(stage: &Stage) -> String {
    let mut text = format!("{} ({})\n", stage.identifier, stage.name);
    write_nodes(&stage.body, 1, &mut text);
    text
}

fn write_nodes(nodes: &[Node], depth: usize, text: &mut String) {
    let indent = "  ".repeat(depth);
    for node in nodes {
        match node {
            Node::Step(step) => {
                let kind = match step.kind {
                    StepKind::Run => "run",
                    StepKind::Background => "background",
                };
                write!(text, "{indent}{kind} {}", step.identifier).unwrap();
                if step.strategy.is_some() {
                    text.push_str(" loop");
                }
                if let Some(when) = &step.when {
                    write!(text, " when {:?}", when.status).unwrap();
                    if when.condition.is_some() {
                        text.push_str("+condition");
                    }
                }
                for strategy in &step.failure {
                    let action = match &strategy.action {
                        Action::Retry { count, .. } => format!("Retry*{count}"),
                        action => format!("{action:?}"),
                    };
                    write!(text, " on {:?} {action}", strategy.errors).unwrap();
                }
                for variable in &step.output_variables {
                    write!(text, " -> {}", variable.name).unwrap();
                }
                text.push('\n');
            }
            Node::Group(group) => {
                let looped = if group.strategy.is_some() {
                    " loop"
                } else {
                    ""
                };
                writeln!(text, "{indent}group {}{looped}", group.identifier).unwrap();
                write_nodes(&group.body, depth + 1, text);
            }
            Node::Parallel(parallel) => {
                writeln!(text, "{indent}parallel").unwrap();
                write_nodes(&parallel.members, depth + 1, text);
            }
        }
    }
}

const NODE: &str = include_str!("../../../tests/stage-files/node.yaml");
const MAVEN: &str = include_str!("../../../tests/stage-files/maven.yaml");
const PYTHON: &str = include_str!("../../../tests/stage-files/python.yaml");
const MONOREPO: &str = include_str!("../../../tests/stage-files/monorepo.yaml");
const RELEASE: &str = include_str!("../../../tests/stage-files/release.yaml");

/// All of them.
pub(super) const FILES: [&str; 5] = [NODE, MAVEN, PYTHON, MONOREPO, RELEASE];

fn notices(stage: &Stage) -> Vec<&str> {
    stage
        .notices
        .iter()
        .map(|notice| notice.text.as_str())
        .collect()
}

#[test]
fn node() {
    let stage = good(NODE);
    let expected = "\
build (Build and test)
  run checkout
  run npm_ci
  parallel
    run lint
    run unit
    run bundle -> size
  run verify
";
    assert_eq!(outline(&stage), expected);
    assert_eq!(
        notices(&stage),
        [
            "ignored: properties at line 9 (infrastructure)",
            "ignored: cloneCodebase at line 26 (the workspace is used as it is; nothing is cloned)",
            "ignored: platform at line 27 (infrastructure)",
            "ignored: runtime at line 30 (infrastructure)",
            "ignored: connectorRef at lines 52, 65 (infrastructure)",
            "ignored: image at lines 53, 66 (infrastructure)",
            "ignored: reports at line 103 (test results are shown in Harness; the files stay in \
             the workspace)",
        ]
    );
    assert!(
        stage
            .caching
            .as_ref()
            .is_some_and(|caching| !caching.enabled)
    );
    assert_eq!(stage.workspace.policies.len(), 1);
}

#[test]
fn maven() {
    let stage = good(MAVEN);
    let expected = "\
service (Service)
  run checkout
  background postgres
  group compile
    run resolve
    run javac -> VERSION
  parallel
    group checks
      run wait on [AllErrors] Retry*3
      run integration
    run unit
  run jar
";
    assert_eq!(outline(&stage), expected);
    assert_eq!(stage.shared_paths.len(), 1);
}

#[test]
fn python() {
    let stage = good(PYTHON);
    let expected = "\
library (Library)
  run checkout
  run test loop
  run types on [Unknown] Ignore on [Timeout] Abort
  run collect when Success+condition
";
    assert_eq!(outline(&stage), expected);
    assert_eq!(
        stage.workspace.on_failure,
        FailedLayer::MergeMatching(vec!["reports/**".to_owned()])
    );
    assert_eq!(
        stage.context().get("stage.variables.module"),
        Some("lib_numbers")
    );
    let Node::Step(test) = &stage.body[1] else {
        panic!()
    };
    let expansion = expand(test.strategy.as_ref(), &stage.context()).unwrap();
    let labels: Vec<&str> = expansion
        .instances
        .iter()
        .map(|instance| instance.label.as_str())
        .collect();
    assert_eq!(
        labels,
        [
            "py3.11-oldest",
            "py3.11-newest",
            "py3.12-oldest",
            "py3.12-newest",
            "py3.13-newest"
        ]
    );
    let last = &expansion.instances[4];
    assert_eq!(last.postfix, "_2_1");
    assert_eq!(expansion.max_concurrency, 3);
}

#[test]
fn monorepo() {
    let stage = good(MONOREPO);
    let expected = "\
monorepo (monorepo)
  run checkout
  run changed -> PACKAGES
  group package loop
    run build -> artifact
    run test loop
    run publish
  run soak loop
  run report
";
    assert_eq!(outline(&stage), expected);
    assert!(stage.notices.is_empty());
    // What the step finds decides how often the group runs.
    let mut context = stage.context();
    let changed = Path::root().join("changed", &Instance::single());
    context.output(&changed, "PACKAGES", "api,web,worker");
    let Node::Group(group) = &stage.body[2] else {
        panic!()
    };
    let expansion = expand(group.strategy.as_ref(), &context).unwrap();
    assert_eq!(expansion.instances.len(), 3);
    assert_eq!(expansion.max_concurrency, 2);
    let instance = &expansion.instances[2];
    let path = Path::root().join("package", instance);
    let mut inside = context.enter(instance).enter_group(group, &path);
    assert_eq!(
        inside.get("stepGroup.variables.directory"),
        Some("packages/worker")
    );
    // Steps of the group find each other without the group's postfix.
    let build = path.join("build", &Instance::single());
    assert_eq!(build.as_str(), "package_2.build");
    inside.output(&build, "artifact", "worker.tgz");
    assert_eq!(
        inside.get("steps.build/output.artifact"),
        Some("worker.tgz")
    );
    context.learn(&inside);
    assert_eq!(context.get("steps.build/output.artifact"), None);
}

#[test]
fn release() {
    let stage = good_with(
        RELEASE,
        &[("secrets.getValue(\"registry_token\")", "s3cret")],
    );
    let expected = "\
release (Release)
  run prepare
  run publish on [AllErrors] Retry*2 -> digest -> ATTEMPTS
  run promote when Success+condition on [AllErrors] MarkAsSuccess
  run announce
  run rollback when Failure
  run tidy when All
";
    assert_eq!(outline(&stage), expected);
    assert_eq!(stage.workspace.on_failure, FailedLayer::Keep);
    assert_eq!(stage.timeout, Some(std::time::Duration::from_secs(1800)));
    let mut context = stage.context();
    assert_eq!(context.get("stage.variables.channel"), Some("stable"));
    assert_eq!(context.get("stage.variables.token"), Some("s3cret"));
    assert!(When::holds(stage.when.as_ref(), false, &context).unwrap());
    let Node::Step(promote) = &stage.body[2] else {
        panic!()
    };
    let publish = Path::root().join("publish", &Instance::single());
    context.output(&publish, "ATTEMPTS", "3");
    assert!(When::holds(promote.when.as_ref(), false, &context).unwrap());
    context.output(&publish, "ATTEMPTS", "1");
    assert!(!When::holds(promote.when.as_ref(), false, &context).unwrap());
    assert!(!When::holds(promote.when.as_ref(), true, &context).unwrap());
}

#[test]
fn without_its_secret_a_release_says_how_to_give_it() {
    let problems = wrong(RELEASE);
    assert_eq!(
        problems,
        [
            "17: <+secrets.getValue(\"registry_token\")>: it is not known here; give it with \
             --var 'secrets.getValue(\"registry_token\")=VALUE'; or give its value with --var \
             'stage.variables.token=VALUE'"
        ]
    );
}
