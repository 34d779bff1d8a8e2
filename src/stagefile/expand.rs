//! How often a strategy runs what it is on, and with what.

use super::evaluate::Value;
use super::place::shown;
use super::{Context, Items, Place, Problem, Strategy, StrategyKind, Text};

/// How many instances there may be. Harness stops at 256.
const MOST: usize = 256;

/// One run of a step or group that may have a strategy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// What its identifier gets: `_0`, `_1`, …, and of a matrix `_0_2`, one number for each axis;
    /// nothing without a strategy.
    pub postfix: String,
    /// What it is called for people besides the step's own name: `nodeName`, else its values, such
    /// as `3.12, linux`; nothing without a strategy.
    pub label: String,
    /// From 0.
    pub index: usize,
    /// How many there are.
    pub total: usize,
    /// What expressions see, for [`Context::enter`].
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

/// An instance before it is known how many there are.
struct Draft {
    postfix: String,
    label: String,
    values: Vec<(String, String)>,
    node_name: Option<Text>,
}

/// How often something runs: once without a strategy.
///
/// # Errors
/// What the strategy's expressions evaluate to is no number, no list, nothing at all, or more than
/// 256 instances.
pub fn expand(strategy: Option<&Strategy>, context: &Context) -> Result<Expansion, Problem> {
    let Some(strategy) = strategy else {
        return Ok(Expansion {
            instances: vec![Instance::single()],
            max_concurrency: 1,
        });
    };
    let drafts = match &strategy.kind {
        StrategyKind::Matrix {
            axes,
            exclude,
            node_name,
        } => matrix(axes, exclude, node_name.as_ref(), strategy.place, context)?,
        StrategyKind::Times(times) => counted(count(times, "repeat.times", context)?),
        StrategyKind::Parallelism(times) => counted(count(times, "parallelism", context)?),
        StrategyKind::Items { items, node_name } => listed(items, node_name.as_ref(), context)?,
    };
    let total = drafts.len();
    if total == 0 {
        let what = "the strategy gives nothing to run: every combination is excluded";
        return Err(Problem::new(strategy.place, what));
    }
    let finish = |(index, draft)| finish(index, total, draft, context);
    let instances: Vec<Instance> = drafts
        .into_iter()
        .enumerate()
        .map(finish)
        .collect::<Result<_, _>>()?;
    let max_concurrency = match &strategy.max_concurrency {
        None => total,
        Some(text) => count(text, "maxConcurrency", context)?.min(total),
    };
    Ok(Expansion {
        instances,
        max_concurrency,
    })
}

fn finish(
    index: usize,
    total: usize,
    draft: Draft,
    context: &Context,
) -> Result<Instance, Problem> {
    let mut values = draft.values;
    let mut set = |key: &str, value: String| values.push((key.to_owned(), value));
    set("strategy.iteration", index.to_string());
    set("strategy.iterations", total.to_string());
    set("strategy.identifierPostFix", draft.postfix.clone());
    let mut instance = Instance {
        postfix: draft.postfix,
        label: draft.label,
        index,
        total,
        values,
        env: vec![
            ("HARNESS_NODE_INDEX".to_owned(), index.to_string()),
            ("HARNESS_NODE_TOTAL".to_owned(), total.to_string()),
        ],
    };
    if let Some(name) = &draft.node_name {
        instance.label = name.evaluate(&context.enter(&instance))?;
    }
    instance.label = shown(&instance.label);
    Ok(instance)
}

/// A whole number from 1 to [`MOST`].
fn count(text: &Text, what: &str, context: &Context) -> Result<usize, Problem> {
    let written = text.evaluate(context)?;
    let number = written.trim().parse::<usize>().ok();
    match number {
        Some(number) if (1..=MOST).contains(&number) => Ok(number),
        _ => Err(Problem::new(
            text.place,
            format!(
                "{what} is '{}'; it is a number from 1 to {MOST}",
                shown(&written)
            ),
        )),
    }
}

fn counted(times: usize) -> Vec<Draft> {
    let draft = |index: usize| Draft {
        postfix: format!("_{index}"),
        label: index.to_string(),
        values: Vec::new(),
        node_name: None,
    };
    (0..times).map(draft).collect()
}

fn listed(
    items: &Items,
    node_name: Option<&Text>,
    context: &Context,
) -> Result<Vec<Draft>, Problem> {
    let items = values(items, "repeat.items", context)?;
    let draft = |(index, item): (usize, String)| Draft {
        postfix: format!("_{index}"),
        label: item.clone(),
        values: vec![
            ("repeat.item".to_owned(), item),
            ("repeat.index".to_owned(), index.to_string()),
        ],
        node_name: node_name.cloned(),
    };
    Ok(items.into_iter().enumerate().map(draft).collect())
}

/// The values of an axis: at least one, and not too many.
fn values(items: &Items, what: &str, context: &Context) -> Result<Vec<String>, Problem> {
    let (values, place) = match items {
        Items::List(texts) => {
            let values: Result<Vec<String>, Problem> =
                texts.iter().map(|text| text.evaluate(context)).collect();
            let place = texts.first().map_or(Place::default(), |text| text.place);
            (values?, place)
        }
        Items::Text(text) => {
            let values = match text.value(context)? {
                Value::List(items) => items,
                Value::Null => {
                    let what = format!("{what} has no value");
                    return Err(Problem::new(text.place, what));
                }
                value => list_in(&value.to_text()),
            };
            (values, text.place)
        }
    };
    if values.is_empty() || values.len() > MOST {
        let what = format!("{what} has {} values; it takes 1 to {MOST}", values.len());
        return Err(Problem::new(place, what));
    }
    Ok(values)
}

/// A JSON array, or items with commas between.
fn list_in(text: &str) -> Vec<String> {
    let text = text.trim();
    if let Ok(values) = serde_json::from_str::<Vec<serde_json::Value>>(text) {
        let item = |value: serde_json::Value| match value {
            serde_json::Value::String(text) => text,
            other => other.to_string(),
        };
        return values.into_iter().map(item).collect();
    }
    // `[a, b]` without quotes is what a step's `echo` tends to make.
    let inner = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'));
    let items = inner.unwrap_or(text).split(',');
    let items = items.map(|item| item.trim().to_owned());
    items.filter(|item| !item.is_empty()).collect()
}

fn matrix(
    axes: &[(String, Items)],
    exclude: &[Vec<(String, Text)>],
    node_name: Option<&Text>,
    place: Place,
    context: &Context,
) -> Result<Vec<Draft>, Problem> {
    let mut sets = Vec::new();
    let mut combinations = 1usize;
    for (name, items) in axes {
        let values = values(items, &format!("the axis '{name}'"), context)?;
        combinations = combinations.saturating_mul(values.len());
        sets.push((name, values));
    }
    // More than can run are fine as long as enough are excluded.
    if combinations > MOST * MOST {
        let what = format!("a matrix of {combinations} combinations");
        return Err(Problem::new(place, what));
    }
    let mut excluded = Vec::new();
    for rule in exclude {
        let mut pairs = Vec::new();
        for (name, text) in rule {
            pairs.push((name, text.evaluate(context)?));
        }
        excluded.push(pairs);
    }
    let mut drafts = Vec::new();
    for number in 0..combinations {
        // The last axis changes fastest, as in nested loops.
        let mut rest = number;
        let mut indexes = Vec::new();
        for (_, values) in sets.iter().rev() {
            indexes.push(rest % values.len());
            rest /= values.len();
        }
        indexes.reverse();
        let chosen: Vec<(&String, &String)> = sets
            .iter()
            .zip(&indexes)
            .map(|((name, values), index)| (*name, &values[*index]))
            .collect();
        let matches = |rule: &Vec<(&String, String)>| {
            rule.iter()
                .all(|(axis, value)| chosen.iter().any(|(n, v)| n == axis && *v == value))
        };
        if excluded.iter().any(matches) {
            continue;
        }
        let labels: Vec<&str> = chosen.iter().map(|(_, value)| value.as_str()).collect();
        drafts.push(Draft {
            postfix: indexes.iter().map(|index| format!("_{index}")).collect(),
            label: labels.join(", "),
            values: chosen
                .iter()
                .map(|(name, value)| (format!("matrix.{name}"), (*value).clone()))
                .collect(),
            node_name: node_name.cloned(),
        });
    }
    if drafts.len() > MOST {
        let what = format!(
            "the matrix has {} combinations; {MOST} is the most",
            drafts.len()
        );
        return Err(Problem::new(place, what));
    }
    Ok(drafts)
}
