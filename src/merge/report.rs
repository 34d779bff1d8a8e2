//! The report of a merge, as text and as JSON lines.

use std::collections::BTreeSet;
use std::fmt;

use super::{Conflict, Outcome, Party};
use crate::tree::shown::shown;

impl Outcome {
    /// The report for people: deletions first, then by path, and at the end what to add to have
    /// the unresolved ones decided.
    pub fn text(&self) -> String {
        self.to_string()
    }

    /// The report for programs: one JSON object per conflict and line, in the same order.
    pub fn json_lines(&self) -> Result<String, serde_json::Error> {
        let mut lines = String::new();
        for conflict in &self.conflicts {
            lines.push_str(&serde_json::to_string(conflict)?);
            lines.push('\n');
        }
        Ok(lines)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for conflict in &self.conflicts {
            writeln!(f, "{conflict}")?;
        }
        let hints: BTreeSet<_> = self.unresolved().filter_map(|c| c.hint.as_ref()).collect();
        if hints.is_empty() {
            return Ok(());
        }
        let open = self.unresolved().count();
        let plural = if open == 1 { "" } else { "s" };
        writeln!(
            f,
            "{open} conflict{plural} undecided, nothing was merged. To decide:"
        )?;
        let options: BTreeSet<_> = hints.iter().map(|hint| hint.option.as_str()).collect();
        for option in options {
            writeln!(f, "  {option}")?;
        }
        writeln!(
            f,
            "or, for every merge, as an option of `harness-fs mount`:"
        )?;
        let lines: BTreeSet<_> = hints.iter().map(|hint| hint.line.as_str()).collect();
        for line in lines {
            writeln!(f, "  {line}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}  {}", self.class.as_str(), shown(&self.path))?;
        if self.count > 1 {
            write!(f, "  ({} changed paths)", self.count)?;
        }
        write!(f, "\n    {}; {}", self.stage, self.step)?;
        for related in &self.related {
            write!(f, "\n    together with {}", shown(related))?;
        }
        write!(f, "\n    policy: {}", self.policy)?;
        for kept_as in &self.kept_as {
            write!(f, ": the later one is {}", shown(kept_as))?;
        }
        match self.hint.as_ref().and_then(|hint| hint.reason) {
            Some(reason) => write!(f, ": {reason}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.writer, self.did.verb())?;
        if let Some(facts) = &self.facts {
            write!(f, " ({} bytes", facts.size)?;
            if let Some(digest) = &facts.digest {
                write!(f, ", {digest}")?;
            }
            write!(f, ")")?;
        }
        Ok(())
    }
}
