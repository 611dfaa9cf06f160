//! Recipes that ship with the program.

/// Name and text of each.
const SHIPPED: [(&str, &str); 3] = [
    ("sample", include_str!("../recipes/sample.toml")),
    ("m42", include_str!("../recipes/m42.toml")),
    ("shared-data", include_str!("../recipes/shared-data.toml")),
];

/// The shipped recipe called `name`.
pub fn shipped(name: &str) -> Option<&'static str> {
    SHIPPED.iter().find(|(shipped, _)| *shipped == name).map(|(_, text)| *text)
}

/// Names of the shipped recipes.
pub fn names() -> [&'static str; 3] {
    SHIPPED.map(|(name, _)| name)
}
