//! Path patterns: `*`, `?`, `[a-z]`, `{a,b}`, and `**` for any number of folders; `\` takes the next character as it is.
//!
//! `*` and `?` stay within one path component. Matching takes time proportional to pattern × path at worst, whatever the pattern.

/// Most patterns that one pattern's braces may expand to.
const ALTERNATIVES_MAX: usize = 4096;

/// A compiled pattern.
#[derive(Debug, Clone)]
pub struct Glob {
    alternatives: Vec<Vec<Component>>,
}

#[derive(Debug, Clone, PartialEq)]
enum Component {
    /// `**`: any number of components, none included.
    AnyDepth,
    Name(Vec<Token>),
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Char(char),
    AnyRun,
    AnyOne,
    Class { ranges: Vec<(char, char)>, negated: bool },
}

impl Glob {
    /// Compiles `pattern`.
    ///
    /// # Errors
    /// What is wrong with the pattern, in words.
    pub fn new(pattern: &str) -> Result<Self, String> {
        let alternatives = expand(pattern)?.iter().map(|alternative| components(alternative)).collect::<Result<_, _>>()?;
        Ok(Self { alternatives })
    }

    /// Whether the whole of `path` (components separated by `/`) matches.
    pub fn matches(&self, path: &str) -> bool {
        let path: Vec<&str> = path.split('/').filter(|component| !component.is_empty()).collect();
        self.alternatives.iter().any(|components| matches_components(components, &path))
    }
}

/// Whether `text` holds a character that a pattern gives a meaning to.
pub fn is_pattern(text: &str) -> bool {
    text.contains(['*', '?', '[', '{', '\\'])
}

/// Splits a pattern into the folder that all its matches lie in and the rest; the rest is empty where nothing is variable.
pub fn fixed_prefix(pattern: &str) -> (&str, &str) {
    let Some(variable) = pattern.find(['*', '?', '[', '{', '\\']) else { return (pattern, "") };
    match pattern[..variable].rfind('/') {
        Some(0) => ("/", &pattern[1..]),
        Some(slash) => (&pattern[..slash], &pattern[slash + 1..]),
        None => ("", pattern),
    }
}

/// Writes out the braces: `a{b,c}` becomes `ab` and `ac`.
///
/// # Errors
/// An unclosed brace, or more alternatives than anyone means.
pub fn expand(pattern: &str) -> Result<Vec<String>, String> {
    let mut finished = Vec::new();
    let mut pending = vec![pattern.to_string()];
    while let Some(candidate) = pending.pop() {
        match braces(&candidate)? {
            None => finished.push(candidate),
            Some((open, parts, close)) => {
                for &(start, end) in parts.iter().rev() {
                    pending.push(format!("{}{}{}", &candidate[..open], &candidate[start..end], &candidate[close + 1..]));
                }
            }
        }
        if finished.len() + pending.len() > ALTERNATIVES_MAX {
            return Err(format!("its braces give more than {ALTERNATIVES_MAX} alternatives"));
        }
    }
    Ok(finished)
}

/// The first outermost brace group: where it opens, the byte ranges of its parts, where it closes.
#[expect(clippy::type_complexity, reason = "three plain facts for one caller")]
fn braces(pattern: &str) -> Result<Option<(usize, Vec<(usize, usize)>, usize)>, String> {
    let (mut depth, mut open, mut part_start, mut in_class) = (0usize, 0, 0, false);
    let mut parts = Vec::new();
    let mut characters = pattern.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '\\' => drop(characters.next()),
            '[' => in_class = true,
            ']' => in_class = false,
            _ if in_class => {}
            '{' => {
                depth += 1;
                if depth == 1 {
                    (open, part_start) = (at, at + 1);
                }
            }
            ',' if depth == 1 => {
                parts.push((part_start, at));
                part_start = at + 1;
            }
            '}' if depth > 0 => {
                depth -= 1;
                if depth == 0 {
                    parts.push((part_start, at));
                    return Ok(Some((open, parts, at)));
                }
            }
            _ => {}
        }
    }
    if depth > 0 { Err("a `{` is not closed by a `}`".into()) } else { Ok(None) }
}

fn components(pattern: &str) -> Result<Vec<Component>, String> {
    let mut components = Vec::new();
    for text in pattern.split('/').filter(|text| !text.is_empty()) {
        let component = if text == "**" { Component::AnyDepth } else { Component::Name(tokens(text)?) };
        // `**/**` says no more than `**`, and costs backtracking.
        if component != Component::AnyDepth || components.last() != Some(&Component::AnyDepth) {
            components.push(component);
        }
    }
    Ok(components)
}

fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        let token = match character {
            '\\' => Token::Char(characters.next().ok_or("it ends in a `\\`")?),
            '?' => Token::AnyOne,
            '*' if tokens.last() == Some(&Token::AnyRun) => continue,
            '*' => Token::AnyRun,
            '[' => class(&mut characters)?,
            other => Token::Char(other),
        };
        tokens.push(token);
    }
    Ok(tokens)
}

fn class(characters: &mut std::str::Chars<'_>) -> Result<Token, String> {
    let mut members = Vec::new();
    let mut negated = false;
    loop {
        match characters.next().ok_or("a `[` is not closed by a `]`")? {
            ']' if !members.is_empty() => break,
            '!' | '^' if members.is_empty() && !negated => negated = true,
            member => members.push(member),
        }
    }
    let mut ranges = Vec::new();
    let mut at = 0;
    while let Some(&first) = members.get(at) {
        match (members.get(at + 1), members.get(at + 2)) {
            (Some('-'), Some(&last)) => {
                ranges.push((first, last));
                at += 3;
            }
            _ => {
                ranges.push((first, first));
                at += 1;
            }
        }
    }
    Ok(Token::Class { ranges, negated })
}

/// Matches with one point to go back to: a later star can always take over what an earlier one would have had to.
fn matches_components(components: &[Component], path: &[&str]) -> bool {
    let (mut c, mut p) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    while p < path.len() {
        match components.get(c) {
            Some(Component::AnyDepth) => {
                retry = Some((c + 1, p));
                c += 1;
                continue;
            }
            Some(Component::Name(tokens)) if matches_name(tokens, path[p]) => {
                (c, p) = (c + 1, p + 1);
                continue;
            }
            _ => {}
        }
        let Some((star, from)) = retry else { return false };
        (c, p) = (star, from + 1);
        retry = Some((star, from + 1));
    }
    components[c..].iter().all(|component| *component == Component::AnyDepth)
}

fn matches_name(tokens: &[Token], name: &str) -> bool {
    let mut t = 0;
    let mut rest = name.chars();
    let mut retry: Option<(usize, std::str::Chars<'_>)> = None;
    loop {
        if let Some(Token::AnyRun) = tokens.get(t) {
            t += 1;
            retry = Some((t, rest.clone()));
            continue;
        }
        let mut after = rest.clone();
        let Some(character) = after.next() else { return tokens[t..].iter().all(|token| *token == Token::AnyRun) };
        if tokens.get(t).is_some_and(|token| matches_one(token, character)) {
            (t, rest) = (t + 1, after);
            continue;
        }
        let Some((star, mut from)) = retry.take() else { return false };
        from.next();
        (t, rest) = (star, from.clone());
        retry = Some((star, from));
    }
}

fn matches_one(token: &Token, character: char) -> bool {
    match token {
        Token::Char(wanted) => *wanted == character,
        Token::AnyOne => true,
        Token::Class { ranges, negated } => ranges.iter().any(|&(first, last)| (first..=last).contains(&character)) != *negated,
        Token::AnyRun => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_what_a_shell_would() {
        for (pattern, path, wanted) in [
            ("*.xml", "a.xml", true),
            ("*.xml", "b/a.xml", false),
            ("**/*.xml", "a.xml", true),
            ("**/*.xml", "b/c/a.xml", true),
            ("**", "b/c/a.xml", true),
            ("b/**", "b/c/a.xml", true),
            ("b/**/a.xml", "b/a.xml", true),
            ("b/**/a.xml", "c/a.xml", false),
            ("**/b/**/a.*", "x/b/y/b/z/a.t", true),
            ("*.{xml,nxml}", "a.nxml", true),
            ("*.{xml,nxml}", "a.txt", false),
            ("{a,b/{c,d}}/*", "b/d/x", true),
            ("{a,b/{c,d}}/*", "b/x", false),
            ("a?c", "aéc", true),
            ("a?c", "ac", false),
            ("[a-c]x", "bx", true),
            ("[!a-c]x", "bx", false),
            ("[]]x", "]x", true),
            ("[,{]x", "{x", true),
            (r"\*x", "*x", true),
            (r"\*x", "ax", false),
            ("*a*b*c*", "xxaxxbxxcxx", true),
            ("*a*b*c*", "xxaxxcxxbxx", false),
            ("a*", "a", true),
            ("part-*.parquet", "part-0001.parquet", true),
            ("name with space.xml", "name with space.xml", true),
        ] {
            assert_eq!(Glob::new(pattern).unwrap().matches(path), wanted, "{pattern} on {path}");
        }
    }

    #[test]
    fn the_folder_of_a_pattern_is_what_comes_before_the_first_variable_component() {
        assert_eq!(fixed_prefix("/data/jats/**/*.xml"), ("/data/jats", "**/*.xml"));
        assert_eq!(fixed_prefix("/data/a*/b.xml"), ("/data", "a*/b.xml"));
        assert_eq!(fixed_prefix("*.xml"), ("", "*.xml"));
        assert_eq!(fixed_prefix("/*.xml"), ("/", "*.xml"));
        assert_eq!(fixed_prefix("/data/x.xml"), ("/data/x.xml", ""));
    }

    #[test]
    fn bad_and_costly_patterns_are_refused_or_cheap() {
        assert!(Glob::new("{a,b").is_err());
        assert!(Glob::new("[a").is_err());
        assert!(Glob::new("a\\").is_err());
        assert!(Glob::new(&"{a,b}".repeat(40)).is_err());
        let hard = Glob::new(&format!("{}b", "*a".repeat(200))).unwrap();
        assert!(!hard.matches(&"a".repeat(5000)));
        let deep = Glob::new(&format!("{}b", "**/a/".repeat(100))).unwrap();
        assert!(!deep.matches(&"a/".repeat(2000)));
    }

    /// The definition, by exponential search.
    fn slow(pattern: &[char], name: &[char]) -> bool {
        match (pattern.first(), name.first()) {
            (None, None) => true,
            (Some('*'), _) if slow(&pattern[1..], name) => true,
            (Some('*'), Some(_)) => slow(pattern, &name[1..]),
            (Some(p), Some(n)) if p == n || *p == '?' => slow(&pattern[1..], &name[1..]),
            _ => false,
        }
    }

    #[test]
    fn every_short_pattern_agrees_with_the_definition() {
        let all = |letters: &[char], longest: usize| {
            let mut words = vec![Vec::new()];
            let mut last = words.clone();
            for _ in 0..longest {
                last = last.iter().flat_map(|word: &Vec<char>| letters.iter().map(move |&l| [&word[..], &[l]].concat())).collect();
                words.extend(last.clone());
            }
            words
        };
        for pattern in all(&['a', 'b', '*', '?'], 5).iter().filter(|pattern| !pattern.is_empty()) {
            // `**` alone is a component of its own kind.
            if pattern.iter().collect::<String>() == "**" {
                continue;
            }
            let glob = Glob::new(&pattern.iter().collect::<String>()).unwrap();
            for name in all(&['a', 'b'], 5).iter().filter(|name| !name.is_empty()) {
                let text: String = name.iter().collect();
                assert_eq!(glob.matches(&text), slow(pattern, name), "{pattern:?} on {text}");
            }
        }
    }
}
