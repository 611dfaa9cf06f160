//! Recipe files: TOML in which unknown keys are refused with the nearest name, and every key can be overridden by its dotted name.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// What is wrong with a recipe, and how to mend it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecipeError {
    #[error("recipe {path}: cannot be read")]
    Read { path: String, source: std::io::Error },
    #[error("recipe {path}: {message}")]
    Toml { path: String, message: String },
    #[error("recipe key `{key}`: {problem}")]
    Key { key: String, problem: String },
}

/// Most threads that a run, or a rank, may take: more only cost memory.
pub const THREADS_MAX: u16 = 512;

/// Reads a recipe; `overrides` are (dotted key, TOML value) pairs that win over the file. An element of a list is addressed by its name:
/// `source.epmc.language`.
///
/// # Errors
/// [`RecipeError`] that names the key and, for an unknown one, the nearest that exists.
pub fn parse<T: Serialize + DeserializeOwned + Default>(path: &str, text: &str, overrides: &[(String, String)]) -> Result<T, RecipeError> {
    let toml = |error: toml::de::Error| RecipeError::Toml { path: path.to_string(), message: explain(&error.to_string()) };
    if overrides.is_empty() {
        // Straight from the text, so that an error shows the line it is on.
        return toml::from_str(text).map_err(toml);
    }
    let mut table: toml::Table = toml::from_str(text).map_err(toml)?;
    for (key, value) in overrides {
        set(&mut table, key, parse_value::<T>(key, value))?;
    }
    toml::Value::Table(table).try_into().map_err(toml)
}

/// Every key with the value in force, as TOML.
pub fn to_toml(recipe: &impl Serialize) -> String {
    toml::to_string(recipe).unwrap_or_else(|error| format!("# cannot be written as TOML: {error}\n"))
}

/// Adds the nearest name to serde's list of the keys that exist.
fn explain(message: &str) -> String {
    let Some(start) = message.find("unknown field `") else { return message.trim_end().to_string() };
    let rest = &message[start + "unknown field `".len()..];
    let Some((unknown, tail)) = rest.split_once('`') else { return message.trim_end().to_string() };
    match nearest(unknown, tail.split('`').skip(1).step_by(2)) {
        Some(nearest) => format!("{}unknown key `{unknown}`; did you mean `{nearest}`?{}", &message[..start], known(tail)),
        None => message.trim_end().to_string(),
    }
}

fn known(tail: &str) -> String {
    let names: Vec<&str> = tail.split('`').skip(1).step_by(2).collect();
    format!("\nkeys here: {}", names.join(", "))
}

/// The name that is most like `wanted`.
pub fn nearest<'a>(wanted: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    names.min_by_key(|name| edit_distance(wanted, name))
}

/// Levenshtein distance in characters.
fn edit_distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, a) in left.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, b) in right.iter().enumerate() {
            let substitute = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = substitute.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[right.len()]
}

/// A flag's value: TOML where it parses as TOML, else a plain string. A key that holds a string takes `2024` as one, and one that holds a name or a
/// list takes a list.
fn parse_value<T: Serialize + DeserializeOwned + Default>(key: &str, text: &str) -> toml::Value {
    let plain = || toml::Value::String(text.to_string());
    let parsed = toml::from_str::<toml::Table>(&format!("v = {text}")).ok().and_then(|mut table| table.remove("v"));
    let parsed = parsed.unwrap_or_else(plain);
    let Ok(mut here) = toml::Value::try_from(T::default()) else { return parsed };
    for part in key.split('.') {
        match here.as_table_mut().and_then(|table| table.remove(part)) {
            Some(value) => here = value,
            None => return parsed,
        }
    }
    let is_text = here.is_str() && !parsed.is_str() && (takes::<T>(key, plain()) || !takes::<T>(key, parsed.clone()));
    if is_text { plain() } else { parsed }
}

/// Whether a recipe of defaults may have this value.
fn takes<T: Serialize + DeserializeOwned + Default>(key: &str, value: toml::Value) -> bool {
    let Ok(mut table) = toml::Table::try_from(T::default()) else { return false };
    set(&mut table, key, value).is_ok() && table.try_into::<T>().is_ok()
}

/// Sets a dotted key. Elements of lists are addressed by name.
fn set(table: &mut toml::Table, key: &str, value: toml::Value) -> Result<(), RecipeError> {
    let wrong = |problem: String| RecipeError::Key { key: key.to_string(), problem };
    let mut parts: Vec<&str> = key.split('.').collect();
    let last = parts.pop().unwrap_or_default();
    let mut here = table;
    let mut index = 0;
    while index < parts.len() {
        let part = parts[index];
        let next = here.entry(part).or_insert_with(|| toml::Value::Table(toml::Table::new()));
        here = match next {
            toml::Value::Table(table) => table,
            toml::Value::Array(items) => {
                index += 1;
                let name = parts.get(index).copied().ok_or_else(|| wrong("names a list; write its element's name next".into()))?;
                let found = items
                    .iter_mut()
                    .filter_map(toml::Value::as_table_mut)
                    .find(|item| item.get("name").and_then(toml::Value::as_str) == Some(name));
                found.ok_or_else(|| wrong(format!("no element is called `{name}`")))?
            }
            _ => return Err(wrong(format!("`{part}` is a value, not a table"))),
        };
        index += 1;
    }
    here.insert(last.to_string(), value);
    Ok(())
}
