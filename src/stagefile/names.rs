//! What the steps of a stage file are called while they run.

use super::Instance;

/// Names that a stage has for itself; see `stage::names`.
const RESERVED: [&str; 5] = ["stage", "base", "head", "join", "import"];

/// Names become directory names, with a number before them.
const LONGEST: usize = 180;

/// Where a step or group is in its stage: the identifiers from the outside in, each with the
/// postfix of its instance, such as `checks.lint_0`. Identifiers hold no dot, so no two are alike.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Path {
    text: String,
}

impl Path {
    /// The stage itself.
    pub fn root() -> Path {
        Path::default()
    }

    /// Something in it.
    #[must_use]
    pub fn join(&self, identifier: &str, instance: &Instance) -> Path {
        let dot = if self.text.is_empty() { "" } else { "." };
        let text = format!("{}{dot}{identifier}{}", self.text, instance.postfix);
        Path { text }
    }

    /// With dots between, as [`super::Context::ended`] wants it.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The name of the step in the stage, valid and unique.
    pub fn step_name(&self) -> String {
        let mut name = self.text.clone();
        if RESERVED.contains(&name.as_str()) {
            // No identifier holds a dash.
            name = format!("step-{name}");
        }
        if name.len() > LONGEST {
            let hash = fnv1a(name.as_bytes());
            name.truncate(LONGEST - 17);
            name = format!("{name}-{hash:016x}");
        }
        name
    }
}

/// FNV-1a: two long names that begin alike must differ, the same on every run.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
