//! Whatever stands in a file: no panic, no deep recursion, no memory that grows beyond its size.

use proptest::prelude::*;

use super::outline::FILES;
use super::*;

/// Reads it; if it is good, goes through all that a runner would ask before the first step.
fn survives(text: &str) {
    match read(text, &given(&[])) {
        Ok(stage) => walk(&stage.body, &stage.context()),
        Err(problems) => {
            assert!(!problems.is_empty());
            for problem in problems {
                let text = problem.in_file("f");
                assert!(!text.chars().any(char::is_control), "{text:?}");
                assert!(text.len() < 5000, "{text}");
            }
        }
    }
}

fn walk(nodes: &[Node], context: &Context) {
    for node in nodes {
        match node {
            Node::Step(step) => {
                let _ = When::holds(step.when.as_ref(), false, context);
                let _ = expand(step.strategy.as_ref(), context);
                if let Command::Script { script, .. } = &step.command {
                    let _ = script.evaluate(context);
                }
            }
            Node::Group(group) => walk(&group.body, context),
            Node::Parallel(parallel) => walk(&parallel.members, context),
        }
    }
}

/// Pieces that mean something to YAML, to the reader, or to expressions.
const PIECES: [&str; 48] = [
    "\n",
    "\n  ",
    "\n    ",
    "\n      ",
    "- ",
    ": ",
    ":",
    "? ",
    "{",
    "}",
    "[",
    "]",
    ",",
    "\"",
    "'",
    "|\n",
    ">-\n",
    "&a ",
    "*a ",
    "<<: ",
    "!!str ",
    "!x ",
    "# ",
    "---\n",
    "...\n",
    "%YAML 1.2\n",
    "\t",
    "\0",
    "\u{feff}",
    "é",
    "<+",
    ">",
    "<+matrix.x>",
    "<+steps.a.status>",
    " == ",
    " && ",
    "(",
    ")",
    "!",
    "?",
    "1",
    "step",
    "stepGroup",
    "parallel",
    "execution",
    "steps",
    "spec",
    "null",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_text(text in ".{0,200}") {
        survives(&text);
    }

    #[test]
    fn any_pieces(pieces in prop::collection::vec(prop::sample::select(PIECES.to_vec()), 0..60)) {
        survives(&pieces.concat());
    }

    /// A good file in which some places are written over.
    #[test]
    fn damaged_files(
        file in prop::sample::select(FILES.to_vec()),
        damage in prop::collection::vec(
            (any::<prop::sample::Index>(), 0usize..6, prop::sample::select(PIECES.to_vec())), 1..6),
    ) {
        let mut text: Vec<char> = file.chars().collect();
        for (at, removed, piece) in damage {
            let start = at.index(text.len() + 1);
            let end = (start + removed).min(text.len());
            text.splice(start..end, piece.chars());
            if text.is_empty() {
                break;
            }
        }
        survives(&text.into_iter().collect::<String>());
    }

    /// A good file in which lines are moved, doubled and left out.
    #[test]
    fn shuffled_files(
        file in prop::sample::select(FILES.to_vec()),
        moves in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 1..5),
    ) {
        let mut lines: Vec<&str> = file.lines().collect();
        for (from, to) in moves {
            let line = lines[from.index(lines.len())];
            let at = to.index(lines.len());
            lines.insert(at, line);
        }
        survives(&lines.join("\n"));
    }

    #[test]
    fn any_expression(pieces in prop::collection::vec(prop::sample::select(vec![
        "<+", ">", "(", ")", "!", "==", "!=", "&&", "||", "<", ">=", "+", "?", ":", ".", ",", "\"", "'",
        "matrix", "steps", "secrets", "getValue", "get", "split", "true", "null", "1", "-", "a", " ",
        "<+env.HOME>", "\\", "é",
    ]), 0..40)) {
        let text = pieces.concat();
        let quoted = text.replace('\'', "''");
        survives(&of_step(&format!("type: Run\nwhen: {{condition: '{quoted}'}}\nspec:\n  command: '{quoted}'")));
    }

    #[test]
    fn any_given_variable(text in ".{0,60}") {
        let _ = variable(&text);
    }
}

#[test]
fn deep_nesting_is_an_error() {
    for (open, close) in [("[", "]"), ("{a: ", "}"), ("- ", ""), ("? ", "")] {
        let text = format!("a: \n {}x{}", open.repeat(100_000), close.repeat(100_000));
        survives(&text);
    }
    let problems = wrong(&format!("a: {}x{}", "[".repeat(70), "]".repeat(70)));
    assert_eq!(problems, ["1: nested more than 60 deep"]);
    let problems = wrong(&"[".repeat(1_000_000));
    assert_eq!(problems, ["1: not YAML: recursion limit exceeded"]);
}

#[test]
fn aliases_do_not_multiply() {
    // Nine to the ninth, if they were followed.
    let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for n in 1..=9 {
        let before = format!("*a{}", n - 1);
        let list = [before.as_str(); 9].join(", ");
        text.push_str(&format!("a{n}: &a{n} [{list}]\n"));
    }
    let problems = wrong(&text);
    assert!(
        problems.last().unwrap().contains("too large"),
        "{problems:?}"
    );
    // The same of long texts.
    let long = "x".repeat(200_000);
    let list = vec!["*t"; 1000].join(", ");
    let problems = wrong(&format!("t: &t {long}\nu: [{list}]\n"));
    assert!(
        problems.last().unwrap().contains("too large"),
        "{problems:?}"
    );
    // And of merge keys.
    let mut text = "m0: &m0 {a: 1, b: 2}\n".to_owned();
    for n in 1..=40 {
        text.push_str(&format!(
            "m{n}: &m{n} {{<<: [*m{0}, *m{0}], k{n}: *m{0}}}\n",
            n - 1
        ));
    }
    survives(&text);
    assert_eq!(
        wrong("a: &a [*a]\n").last().unwrap(),
        "1: the alias is inside what it stands for"
    );
}

#[test]
fn long_expressions_are_errors() {
    let condition = |text: &str| {
        wrong(&of_step(&format!(
            "type: Run\nwhen:\n  condition: >-\n    {text}\nspec:\n  command: x"
        )))
    };
    let chain = vec!["true"; 10_000].join(" && ");
    assert!(condition(&chain)[0].contains("more than 400 parts"));
    assert!(condition(&"(".repeat(10_000))[0].contains("nested more than 24 deep"));
    assert!(condition(&"!".repeat(10_000))[0].contains("nested more than 24 deep"));
    assert!(condition(&"<+".repeat(10_000))[0].contains("nested more than 24 deep"));
    let calls = format!("<+stage.name{}>", ".trim()".repeat(10_000));
    assert!(condition(&calls)[0].contains("more than 400 parts"));
    let choices = "true ? 1 : ".repeat(10_000);
    assert!(condition(&choices)[0].contains("nested more than 24 deep"));
}

#[test]
fn values_do_not_grow_without_end() {
    // Each variable is the one before, a thousand times.
    let mut text = "variables:\n- {name: v0, value: xxxxxxxxxx}\n".to_owned();
    for n in 1..5 {
        let reference = format!("<+stage.variables.v{}>", n - 1).repeat(1000);
        text.push_str(&format!("- {{name: v{n}, value: {reference}}}\n"));
    }
    text.push_str(&of_step("type: Run\nspec: {command: x}"));
    let problems = wrong(&text);
    assert!(problems[0].contains("longer than 1 MiB"), "{problems:?}");
    let replaced = "<+stage.name.replace(\"s\", \"ssssssssss\")>";
    let text = of_step(&format!("type: Run\nspec: {{command: '{replaced}'}}"));
    survives(&text);
}

/// Where one thing is looked for in all others, the file is not read to its end in any time.
#[test]
fn many_entries_take_no_time_in_their_square() {
    // As many as a file can have.
    let many = |n: usize, each: &dyn Fn(usize) -> String| (0..n).map(each).collect::<String>();
    // Read, and not refused for its size.
    let told = |text: &str| assert_eq!(wrong(text).len(), 101);
    // Expressions on one line.
    let env = many(40_000, &|n| format!("V{n}: <+env.X>, "));
    told(&of_step(&format!(
        "type: Run\nspec: {{command: x, envVariables: {{{env}}}}}"
    )));
    // Steps that refer to what is not there.
    let steps = many(9_000, &|n| {
        format!(
            "- step: {{identifier: s{n}, type: Run, spec: {{command: <+steps.t{n}.status>}}}}\n"
        )
    });
    told(&of_steps(&steps));
    // Unknown fields, and fields that are there twice.
    told(&many(24_000, &|n| format!("executoin{n}: 1\n")).repeat(2));
    // Variables, each made of the next.
    let variables = many(19_000, &|n| {
        format!("- {{name: v{n}, value: <+variables.v{}>}}\n", n + 1)
    });
    let steps = of_step("type: Run\nspec: {command: x}");
    let problems = wrong(&format!("variables:\n{variables}{steps}"));
    assert_eq!(problems, ["2: variables has more than 1000 entries"]);
    let few = (0..900).map(|n| format!("- {{name: v{n}, value: <+variables.v{}>}}\n", n + 1));
    let few: String = few.collect();
    good(&format!(
        "variables:\n{few}- {{name: v900, value: x}}\n{steps}"
    ));
    let long = format!("- {{name: v900, value: {}}}\n", "x".repeat(100_000));
    let problems = wrong(&format!("variables:\n{few}{long}{steps}"));
    assert!(
        problems[0].ends_with("longer than 4 MiB together"),
        "{problems:?}"
    );
    // Axes, and what is excluded.
    let axes = many(24_000, &|n| format!("a{n}: [1], "));
    let strategy = format!("type: Run\nstrategy: {{matrix: {{{axes}}}}}\nspec: {{command: x}}");
    assert!(wrong(&of_step(&strategy))[0].ends_with("a matrix has at most 32 axes"));
    let rules = many(24_000, &|n| format!("{{a: {n}}}, "));
    let strategy = format!(
        "type: Run\nstrategy: {{matrix: {{a: [1], exclude: [{rules}]}}}}\nspec: {{command: x}}"
    );
    assert!(wrong(&of_step(&strategy))[0].ends_with("exclude has more than 1000 entries"));
}

#[test]
fn a_file_that_is_too_long_is_an_error() {
    let text = "#".repeat((4 << 20) + 1);
    assert_eq!(wrong(&text), ["1: the file is longer than 4 MiB"]);
}

#[test]
fn thousands_of_mistakes_are_told_in_part() {
    let mut text = "execution: {steps: []}\n".to_owned();
    for n in 0..5000 {
        text.push_str(&format!("unknown{n}: 1\n"));
    }
    let problems = wrong(&text);
    assert_eq!(problems.len(), 101);
    assert!(problems.last().unwrap().ends_with("more problems"));
}

#[test]
fn what_a_terminal_would_obey_is_not_printed() {
    let problems = wrong("\"a\\e[2Jb\\u202e\": 1\nexecution: {steps: []}");
    assert!(
        problems.iter().any(|p| p.contains("a\\u{1b}[2Jb\\u{202e}")),
        "{problems:?}"
    );
}
