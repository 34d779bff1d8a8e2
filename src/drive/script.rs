//! The command of a step, as words to execute.

use crate::stagefile::{Command, Context, OutputVariable, Place, Problem, Shell, Step};

use super::worker::CHANNEL;

/// What execve(2) takes of one argument or variable, with the byte that ends it: `MAX_ARG_STRLEN`.
const LONGEST: usize = 128 << 10;

/// Refuses what Linux would not start a program with.
///
/// # Errors
/// A sentence about `what`, at `place`.
pub fn fits(what: &str, length: usize, place: Place) -> Result<(), Problem> {
    if length < LONGEST {
        return Ok(());
    }
    let text = format!(
        "{what} is {length} bytes long, and Linux starts no program with {LONGEST} or more in one piece: let a step \
         leave what is long in a file"
    );
    Err(Problem::new(place, text))
}

/// The program and its arguments. Scripts stop at the first command that fails; those with
/// output variables tell their values at their end.
///
/// # Errors
/// An expression that has no value, or one that makes too much of it.
pub fn words(step: &Step, context: &Context) -> Result<Vec<String>, Problem> {
    let words = match &step.command {
        Command::Words(words) => words
            .iter()
            .map(|word| word.evaluate(context))
            .collect::<Result<_, _>>()?,
        Command::Script { shell, script } => {
            let script = script.evaluate(context)?;
            run(*shell, script + &tail(*shell, &step.output_variables))
        }
    };
    let place = match &step.command {
        Command::Script { script, .. } => script.place,
        Command::Words(_) => step.place,
    };
    for word in &words {
        fits("the command", word.len(), place)?;
    }
    Ok(words)
}

fn run(shell: Shell, script: String) -> Vec<String> {
    let words = |words: &[&str]| {
        let words = words.iter().map(|word| (*word).to_owned());
        words.collect::<Vec<_>>()
    };
    let (mut program, script) = match shell {
        Shell::Sh => (words(&["sh", "-e", "-c"]), script),
        Shell::Bash => (words(&["bash", "-e", "-c"]), script),
        Shell::Python => (words(&["python3", "-c"]), script),
        Shell::Pwsh => (
            words(&["pwsh", "-NoProfile", "-NonInteractive", "-Command"]),
            format!("$ErrorActionPreference = 'Stop'\n{script}"),
        ),
    };
    program.push(script);
    program
}

/// What writes the values to [`CHANNEL`]. A variable that is not there has no value. The exit
/// code stays that of the script.
fn tail(shell: Shell, variables: &[OutputVariable]) -> String {
    if variables.is_empty() {
        return String::new();
    }
    let each = |write: &dyn Fn(&str, &str) -> String| {
        let lines = variables.iter();
        lines
            .map(|variable| write(&variable.name, &variable.from))
            .collect::<String>()
    };
    match shell {
        Shell::Sh | Shell::Bash => {
            let lines = each(&|name, from| {
                format!(
                    "if [ -n \"${{{from}+x}}\" ]; then printf '{name}\\0%s\\0' \"${from}\" >&{CHANNEL}; fi\n"
                )
            });
            format!("\nharness_fs_status=$?\n{lines}exit $harness_fs_status\n")
        }
        Shell::Python => {
            let lines = each(&|name, from| format!("    ('{name}', '{from}'),\n"));
            format!(
                "\nimport os as _harness_fs_os\nfor _harness_fs_name, _harness_fs_from in (\n{lines}):\n    \
                 _harness_fs_value = globals().get(_harness_fs_from, _harness_fs_os.environ.get(_harness_fs_from))\n    \
                 if _harness_fs_value is not None:\n        \
                 _harness_fs_os.write({CHANNEL}, ('%s\\0%s\\0' % (_harness_fs_name, _harness_fs_value)).encode())\n"
            )
        }
        Shell::Pwsh => {
            let lines = each(&|name, from| {
                format!(
                    "$harnessFsValue = if (Test-Path variable:{from}) {{ ${from} }} else {{ $env:{from} }}\n\
                     if ($null -ne $harnessFsValue) {{ [IO.File]::AppendAllText('/proc/self/fd/{CHANNEL}', \
                     \"{name}`0$harnessFsValue`0\") }}\n"
                )
            });
            format!("\n{lines}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stagefile::Place;

    fn variable(name: &str, from: &str) -> OutputVariable {
        OutputVariable {
            name: name.to_owned(),
            from: from.to_owned(),
            secret: false,
            place: Place::default(),
        }
    }

    /// Runs a script whose channel is standard output.
    fn ended(shell: Shell, script: &str) -> (Option<i32>, String) {
        let tail = tail(shell, &[variable("a", "A"), variable("b", "B")]);
        let whole = run(shell, format!("{script}{tail}"));
        let mut outer = std::process::Command::new("sh");
        outer.args(["-c", &format!("exec \"$@\" {CHANNEL}>&1"), "-"]);
        let output = outer.args(whole).env("A", "of the environment").output();
        let output = output.unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        (output.status.code(), text)
    }

    #[test]
    fn values_are_those_at_the_end() {
        for shell in [Shell::Sh, Shell::Bash] {
            let multi = ended(shell, "A=1\nA='x\ny'; # last");
            assert_eq!(multi, (Some(0), "a\0x\ny\0".to_owned()));
            assert_eq!(ended(shell, "B=1; false; B=2"), (Some(1), String::new()));
            let code = ended(shell, "set +e; A=; B=2; (exit 3)");
            assert_eq!(code, (Some(3), "a\0\0b\x002\0".to_owned()));
        }
        let python = ended(Shell::Python, "B = 7 * 6");
        assert_eq!(
            python,
            (Some(0), "a\0of the environment\0b\x0042\0".to_owned())
        );
        assert_eq!(ended(Shell::Python, "raise SystemExit(2)").0, Some(2));
    }

    #[test]
    fn scripts_without_output_variables_are_as_written() {
        assert_eq!(
            run(Shell::Sh, "make".to_owned() + &tail(Shell::Sh, &[])),
            ["sh", "-e", "-c", "make"]
        );
    }
}
