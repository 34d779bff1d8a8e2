//! How often a strategy runs what it is on, and with what.

/// One run of a step or group that may have a strategy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// What its identifier gets: `_0`, `_1`, …; nothing without a strategy.
    pub postfix: String,
    /// What its name gets for people, such as `_3.12_linux`; nothing without a strategy.
    pub label: String,
    /// From 0.
    pub index: usize,
    /// How many there are.
    pub total: usize,
    /// What expressions see, for [`super::Context::enter`].
    pub values: Vec<(String, String)>,
    /// `HARNESS_NODE_INDEX` and `HARNESS_NODE_TOTAL`; nothing without a strategy.
    pub env: Vec<(String, String)>,
}

impl Instance {
    /// The only one, of what has no strategy.
    pub fn single() -> Instance {
        Instance {
            postfix: String::new(),
            label: String::new(),
            index: 0,
            total: 1,
            values: Vec::new(),
            env: Vec::new(),
        }
    }
}

/// All runs of a step or group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expansion {
    /// In the order in which they are merged. Never empty.
    pub instances: Vec<Instance>,
    /// How many may run at the same time; at least 1.
    pub max_concurrency: usize,
}
