//! Built by scripts/bench; what it prints does not matter.

use itertools::Itertools;
use serde::Serialize;

#[derive(Serialize)]
struct Row {
    name: String,
    sizes: Vec<usize>,
}

fn main() -> anyhow::Result<()> {
    let sizes = (1..=10).map(|n| n * n).collect_vec();
    let row = Row { name: hex::encode("bench"), sizes };
    println!("{}", serde_json::to_string(&row)?);
    Ok(())
}
