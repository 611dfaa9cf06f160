//! Licences: from the words and addresses that sources use to one id, and whether a source lets it in.
//!
//! A statement may name several licences (of the article, of its data, of a picture). The id is that of the most restrictive one, since
//! the text cannot be told apart by them. Words that restrict (`non-commercial`, `no derivatives`, `share alike`) count wherever they
//! stand; a version counts when stated, and is left out when not: `CC-BY`.

/// Licences let in by default: those that allow commercial use and adaptation and ask for no more than attribution. Share-alike ones
/// (`CC-BY-SA-*`, such as Wikipedia's) are a decision for the recipe.
pub const PERMISSIVE: &[&str] = &[
    "public-domain",
    "CC0-*",
    "CC-PDM-*",
    "CC-BY-*",
    "OGL-UK-*",
    "ODC-By-*",
    "PDDL-*",
    "etalab-*",
    "DL-DE-BY-*",
    "DL-DE-ZERO-*",
    "MIT",
    "Apache-*",
    "BSD-*",
];

/// Longest statement looked at; licence texts given in full say what they are at their start.
const STATEMENT_BYTES_MAX: usize = 16 << 10;

/// What a source says to a licence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Allowed,
    /// No licence is stated, or none that is understood.
    Unknown,
    NotAllowed,
}

/// Whether one of `patterns` lets the licence `id` in.
///
/// A pattern is an id, in any case. `-*` at its end stands for any version or none, and for nothing else: `CC-BY-*` is `CC-BY` and
/// `CC-BY-4.0`, never `CC-BY-NC-4.0`. The pattern `*` lets in everything, the unknown too.
pub fn allowed(id: Option<&str>, patterns: &[String]) -> Verdict {
    if patterns.iter().any(|pattern| pattern == "*") {
        return Verdict::Allowed;
    }
    let Some(id) = id else { return Verdict::Unknown };
    if patterns.iter().any(|pattern| matches(id, pattern)) { Verdict::Allowed } else { Verdict::NotAllowed }
}

fn matches(id: &str, pattern: &str) -> bool {
    let Some(family) = pattern.strip_suffix("-*") else { return id.eq_ignore_ascii_case(pattern) };
    let Some((start, version)) = id.split_at_checked(family.len()) else { return false };
    let is_version = version.is_empty()
        || version.strip_prefix('-').is_some_and(|version| {
            version.starts_with(|digit: char| digit.is_ascii_digit()) && !version.contains(|character: char| character.is_whitespace())
        });
    start.eq_ignore_ascii_case(family) && is_version
}

/// The id of the licence that `stated` names: an SPDX id where there is one, without a version where none is stated. `None` where nothing
/// is named that is known here.
pub fn normalize(stated: &str) -> Option<String> {
    let text = fold(stated);
    let mut found = creative_commons(&text);
    if let Some(known) = known_names(&text) {
        found.push(known);
    }
    found.sort_by_key(|license| std::cmp::Reverse(license.restriction));
    let strictest = found.first()?;
    // Of equally strict ones, a stated version says more than none.
    let equals = || found.iter().filter(|license| license.restriction == strictest.restriction && license.family == strictest.family);
    let version = equals().find_map(|license| license.version.as_deref());
    Some(match version {
        Some(version) => format!("{}-{version}", strictest.family),
        None => strictest.family.clone(),
    })
}

/// One licence named in a statement.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Named {
    family: String,
    version: Option<String>,
    /// Orders licences by how much they forbid.
    restriction: u32,
}

/// Lower case, one space for any white space, one hyphen for any dash, Latin letters without their accents.
fn fold(stated: &str) -> String {
    let mut text = String::with_capacity(stated.len().min(STATEMENT_BYTES_MAX) + 4);
    for character in stated.chars() {
        if text.len() >= STATEMENT_BYTES_MAX {
            break;
        }
        match character {
            '\u{ad}' | '\u{200b}' | '\u{feff}' => {}
            '\u{2010}'..='\u{2015}' | '\u{2212}' | '_' => text.push('-'),
            space if space.is_whitespace() => {
                if !text.ends_with(' ') {
                    text.push(' ');
                }
            }
            other => text.extend(other.to_lowercase().filter_map(without_accent)),
        }
    }
    text
}

fn without_accent(character: char) -> Option<char> {
    Some(match character {
        'à'..='å' => 'a',
        'ç' => 'c',
        'è'..='ë' => 'e',
        'ì'..='ï' => 'i',
        'ñ' => 'n',
        'ò'..='ö' => 'o',
        'ù'..='ü' => 'u',
        '\u{300}'..='\u{36f}' => return None,
        other => other,
    })
}

/// Every Creative Commons licence that the folded `text` names by address, by short name or in words.
fn creative_commons(text: &str) -> Vec<Named> {
    let mut found = Vec::new();
    for (at, marker) in text.match_indices("creativecommons.org/") {
        let rest = &text[at + marker.len()..];
        found.extend(from_address(rest).filter(|license| license.family != "CC0" || !concerns_data(rest)));
    }
    let prose = without_addresses(text);
    for (at, marker) in prose.match_indices("cc") {
        let starts_word = !prose[..at].ends_with(|before: char| before.is_alphanumeric());
        if starts_word {
            found.extend(from_short_name(&prose[at + marker.len()..]));
        }
    }
    // From one naming to the next, so that each keeps its own words.
    let starts: Vec<usize> = prose.match_indices("creative commons").map(|(at, marker)| at + marker.len()).collect();
    for (place, &start) in starts.iter().enumerate() {
        let end = starts.get(place + 1).copied().unwrap_or(prose.len());
        found.extend(from_words(&prose[start..end]));
    }
    // What restricts counts wherever it stands, beside an address that says otherwise too.
    let words = Terms::of_statement(&prose);
    for license in &mut found {
        if license.family.starts_with("CC-BY") {
            let terms = Terms::of_family(&license.family).or(words);
            (license.family, license.restriction) = (terms.family(), terms.restriction());
        }
    }
    found
}

/// The terms of an attribution licence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Terms {
    non_commercial: bool,
    no_derivatives: bool,
    share_alike: bool,
}

impl Terms {
    fn of_family(family: &str) -> Self {
        let has = |term: &str| family.split('-').any(|part| part.eq_ignore_ascii_case(term));
        Self { non_commercial: has("nc"), no_derivatives: has("nd"), share_alike: has("sa") }
    }

    fn of_statement(text: &str) -> Self {
        const NO_DERIVATIVES: &[&str] = &[
            "noderiv",
            "no-deriv",
            "no deriv",
            "non-deriv",
            "sem deriv",
            "sin deriv",
            "semderiv",
            "sinderiv",
            "sinobraderivada",
            "semobrasderivadas",
            "sin obra derivada",
            "sem obras derivadas",
            "keine bearbeitung",
            "pas de modification",
        ];
        const SHARE_ALIKE: &[&str] = &[
            "sharealike",
            "share-alike",
            "share alike",
            "compartilhaigual",
            "compartilha-igual",
            "compartilha igual",
            "compartirigual",
            "compartir igual",
            "gleichen bedingungen",
            "partage dans les memes conditions",
        ];
        Self {
            non_commercial: restricts_commerce(text),
            no_derivatives: NO_DERIVATIVES.iter().any(|term| text.contains(term)),
            share_alike: SHARE_ALIKE.iter().any(|term| text.contains(term)),
        }
    }

    fn or(self, other: Self) -> Self {
        Self {
            non_commercial: self.non_commercial || other.non_commercial,
            no_derivatives: self.no_derivatives || other.no_derivatives,
            share_alike: self.share_alike || other.share_alike,
        }
    }

    fn family(self) -> String {
        let mut family = String::from("CC-BY");
        for (is_set, term) in
            [(self.non_commercial, "-NC"), (self.no_derivatives, "-ND"), (self.share_alike && !self.no_derivatives, "-SA")]
        {
            if is_set {
                family.push_str(term);
            }
        }
        family
    }

    fn restriction(self) -> u32 {
        10 + 4 * u32::from(self.non_commercial) + 2 * u32::from(self.no_derivatives) + u32::from(self.share_alike)
    }
}

/// Whether a `non-commercial` restricts: one that comes after `commercial and`, `commercial or` does not.
fn restricts_commerce(text: &str) -> bool {
    const TERMS: &[&str] = &[
        "noncommercial",
        "non-commercial",
        "non commercial",
        "nao comercial",
        "nao-comercial",
        "naocomercial",
        "no comercial",
        "nocomercial",
        "no-comercial",
        "nicht kommerziell",
        "nicht-kommerziell",
        "pas d'utilisation commerciale",
    ];
    TERMS.iter().any(|term| {
        text.match_indices(term).any(|(at, _)| {
            let before = text[..at].trim_end_matches([' ', '/', '-']);
            let both = ["commercial and", "commercial or", "commercial and/or", "commercial as well as", "commercial"];
            let after = text[at + term.len()..].trim_start();
            let either = ["and commercial", "or commercial", "as well as commercial", "and for commercial", "or for commercial"];
            !both.iter().any(|words| before.ends_with(words)) && !either.iter().any(|words| after.starts_with(words))
        })
    })
}

/// The text without its web addresses, whose words would count twice.
fn without_addresses(text: &str) -> String {
    let mut prose = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("creativecommons.org/").or_else(|| rest.find("://")) {
        prose.push_str(&rest[..at]);
        let end = rest[at..].find([' ', ')', '<', '"', ',', ';']).map_or(rest.len(), |length| at + length);
        prose.push(' ');
        rest = &rest[end..];
    }
    prose.push_str(rest);
    prose
}

/// What follows `creativecommons.org/` in an address.
fn from_address(rest: &str) -> Option<Named> {
    let mut parts = rest.split(|character: char| !(character.is_ascii_alphanumeric() || "-.+".contains(character)));
    let (area, name) = (parts.next()?, parts.next()?);
    let version = parts.next().and_then(version_at_start);
    match (area, name) {
        ("publicdomain", "zero") => Some(zero(Some(version.unwrap_or_else(|| "1.0".into())))),
        ("publicdomain", "mark") => Some(Named { family: "CC-PDM".into(), version: Some("1.0".into()), restriction: 0 }),
        ("licenses", "publicdomain") => Some(public_domain()),
        ("licenses", "zero") => Some(zero(Some("1.0".into()))),
        ("licenses" | "licences", name) if name == "by" || name.starts_with("by-") || name.starts_with("by+") => {
            attribution(Terms::of_family(&name.replace('+', "-")), version)
        }
        // The retired licences without attribution: `nc`, `nd`, `sa` and their sums.
        ("licenses" | "licences", name) if name.split('-').all(|part| ["nc", "nd", "sa", "nd-nc"].contains(&part)) => {
            Some(Named { family: format!("CC-{}", name.to_ascii_uppercase()), version, restriction: 20 })
        }
        _ => None,
    }
}

/// What follows the word `cc`: `0`, ` by-nc 4.0`, `-by-4.0`.
fn from_short_name(rest: &str) -> Option<Named> {
    let separators = [' ', '-', ':'];
    let mut rest = rest.trim_start_matches(separators);
    if let Some(after) = rest.strip_prefix('0').or_else(|| rest.strip_prefix("zero")) {
        let ends_word = !after.starts_with(|next: char| next.is_alphanumeric());
        return (ends_word && !concerns_data(after)).then(|| zero(version_near(after)));
    }
    if let Some(after) = rest.strip_prefix("pdm").or_else(|| rest.strip_prefix("pd")) {
        return (!after.starts_with(|next: char| next.is_alphanumeric())).then(public_domain);
    }
    rest = rest.strip_prefix("by")?;
    let mut terms = Terms::default();
    loop {
        let next = rest.trim_start_matches([' ', '-', '/', '+']);
        let Some((term, after)) = next.split_at_checked(2) else { break };
        if after.starts_with(|next: char| next.is_alphabetic()) && !["nc", "nd", "sa"].iter().any(|other| after.starts_with(other)) {
            break;
        }
        match term {
            "nc" => terms.non_commercial = true,
            "nd" => terms.no_derivatives = true,
            "sa" => terms.share_alike = true,
            _ => break,
        }
        rest = after;
    }
    if rest.starts_with(|next: char| next.is_alphabetic()) && !rest.starts_with("licen") {
        return None;
    }
    attribution(terms, version_near(rest))
}

/// What follows the words `creative commons`, up to their next naming.
fn from_words(rest: &str) -> Option<Named> {
    const ATTRIBUTION: &[&str] =
        &["attribution", "atribuicao", "atribucion", "reconocimiento", "namensnennung", "attribuzione", "paternite"];
    const REACH_BYTES: usize = 120;
    let near = rest.char_indices().nth(REACH_BYTES).map_or(rest, |(end, _)| &rest[..end]);
    let near = near.split_once(". ").map_or(near, |(sentence, _)| sentence);
    if near.contains("public domain dedication") || near.trim_start().starts_with("zero") || near.contains("cc0") {
        return (!concerns_data(rest)).then(|| zero(version_near(near)));
    }
    let term = near.trim_start_matches([' ', '-', ':']);
    if term.strip_prefix("by").is_some_and(ends_term) {
        return from_short_name(term);
    }
    let at = ATTRIBUTION.iter().filter_map(|word| near.find(word).map(|at| at + word.len())).min()?;
    attribution(Terms::default(), version_near(&near[at..]))
}

/// Whether what follows `by` makes it the licence's term, and not the preposition of `licence by the authors`.
fn ends_term(after: &str) -> bool {
    let next = after.trim_start_matches([' ', '-']);
    let goes_on = ["nc", "nd", "sa", "licen", "international", "unported"].iter().any(|word| next.starts_with(word));
    goes_on || !next.starts_with(|character: char| character.is_alphabetic())
}

/// Whether a waiver is said to be for the data of an article, not for its text.
fn concerns_data(rest: &str) -> bool {
    let near = rest.char_indices().nth(160).map_or(rest, |(end, _)| &rest[..end]);
    ["to the data", "to data", "for the data", "for data"].iter().any(|words| near.contains(words))
}

fn attribution(terms: Terms, version: Option<String>) -> Option<Named> {
    Some(Named { family: terms.family(), version, restriction: terms.restriction() })
}

fn zero(version: Option<String>) -> Named {
    // There is only one version.
    Named { family: "CC0".into(), version: Some(version.unwrap_or_else(|| "1.0".into())), restriction: 1 }
}

fn public_domain() -> Named {
    Named { family: "public-domain".into(), version: None, restriction: 0 }
}

/// A version such as `4.0` or `3.0-igo` that `text` starts with.
fn version_at_start(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let is_version = matches!(bytes, [b'1'..=b'4', b'.', b'0' | b'1' | b'5', ..]) && !bytes.get(3).is_some_and(u8::is_ascii_alphanumeric);
    is_version.then(|| text[..3].to_string())
}

/// The first version within the few words that a name and its version are apart: `license (by) version 4.0`.
fn version_near(text: &str) -> Option<String> {
    const REACH_BYTES: usize = 48;
    for (at, character) in text.char_indices().take_while(|&(at, _)| at < REACH_BYTES) {
        let starts_number = character.is_ascii_digit() && !text[..at].ends_with(|before: char| before.is_ascii_digit() || before == '.');
        if starts_number && let Some(version) = version_at_start(&text[at..]) {
            return Some(version);
        }
    }
    None
}

/// Licences and statements other than Creative Commons, in the order in which they are looked for.
fn known_names(text: &str) -> Option<Named> {
    const FREE: u32 = 2;
    const COPYLEFT: u32 = 12;
    const CLOSED: u32 = 30;
    const NAMES: &[(&str, &str, u32)] = &[
        ("elsevier user licen", "elsevier-user", CLOSED),
        ("elsevier.com/open-access/userlicense", "elsevier-user", CLOSED),
        ("authorchoice", "acs-authorchoice", CLOSED),
        ("springer.com/tdm", "springer-tdm", CLOSED),
        ("doi.wiley.com/10.1002/tdm-license", "wiley-tdm", CLOSED),
        ("open government licen", "OGL-UK", FREE),
        ("open-government-licence", "OGL-UK", FREE),
        ("ogl-uk", "OGL-UK", FREE),
        ("open data commons attribution", "ODC-By-1.0", FREE),
        ("odc-by", "ODC-By-1.0", FREE),
        ("opendatacommons.org/licenses/by", "ODC-By-1.0", FREE),
        ("public domain dedication and licen", "PDDL-1.0", FREE),
        ("pddl", "PDDL-1.0", FREE),
        ("odbl", "ODbL-1.0", COPYLEFT),
        ("open database licen", "ODbL-1.0", COPYLEFT),
        ("gnu free documentation", "GFDL", COPYLEFT),
        ("etalab", "etalab-2.0", FREE),
        ("licence ouverte", "etalab-2.0", FREE),
        ("dl-de/by", "DL-DE-BY-2.0", FREE),
        ("dl-de-by", "DL-DE-BY-2.0", FREE),
        ("dl-de/zero", "DL-DE-ZERO-2.0", FREE),
        ("dl-de-zero", "DL-DE-ZERO-2.0", FREE),
        ("datenlizenz deutschland - namensnennung", "DL-DE-BY-2.0", FREE),
        ("apache-2.0", "Apache-2.0", FREE),
        ("apache license", "Apache-2.0", FREE),
        ("bsd-3-clause", "BSD-3-Clause", FREE),
        ("bsd-2-clause", "BSD-2-Clause", FREE),
        ("mit license", "MIT", FREE),
        ("mit licence", "MIT", FREE),
    ];
    const PUBLIC_DOMAIN: &[&str] = &[
        "public domain",
        "public-domain",
        "publicdomain",
        "free of all copyright",
        "not subject to copyright",
        "no copyright restriction",
        "work of the u.s. government",
        "work of the us government",
        "work of the united states government",
        "works of the united states government",
        "u.s. government work",
        "us government work",
        "us-gov",
        "written by u.s. government employees",
        "gemeinfrei",
        "dominio publico",
    ];
    if text.trim() == "mit" {
        return Some(Named { family: "MIT".into(), version: None, restriction: FREE });
    }
    if let Some(&(_, id, restriction)) = NAMES.iter().find(|(words, _, _)| text.contains(words)) {
        let version = if id == "OGL-UK" { text.find("government").and_then(|at| version_near(&text[at..])) } else { None };
        return Some(Named { family: id.into(), version, restriction });
    }
    let denies = ["not in the public domain", "not public domain"].iter().any(|words| text.contains(words));
    // The waiver of Creative Commons says these words too, and may be for the data alone.
    let is_waiver = text.contains("public domain dedication") || text.contains("creativecommons.org/");
    if !denies && !is_waiver && PUBLIC_DOMAIN.iter().any(|words| text.contains(words)) {
        return Some(public_domain());
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wordings_give_their_id() {
        let opening = "This is an open-access article distributed under the terms of the Creative Commons";
        let closing = "which permits unrestricted use, distribution, and reproduction in any medium";
        let data =
            "The Creative Commons Public Domain Dedication waiver (http://creativecommons.org/publicdomain/zero/1.0/) applies to the data";
        for (stated, wanted) in [
            ("http://creativecommons.org/licenses/by/4.0/", Some("CC-BY-4.0")),
            ("https://creativecommons.org/licenses/by/4.0/deed.en", Some("CC-BY-4.0")),
            ("http://creativecommons.org/licenses/by/2.0", Some("CC-BY-2.0")),
            ("http://creativecommons.org/licenses/by/2.5", Some("CC-BY-2.5")),
            ("//creativecommons.org/licenses/by-nc-nd/4.0/legalcode", Some("CC-BY-NC-ND-4.0")),
            ("http://creativecommons.org/licenses/by-nc-sa/3.0/igo/", Some("CC-BY-NC-SA-3.0")),
            ("http://creativecommons.org/licenses/by-nc/2.0/uk/", Some("CC-BY-NC-2.0")),
            ("https://creativecommons.org/licenses/by/", Some("CC-BY")),
            ("https://creativecommons.org/publicdomain/zero/1.0/", Some("CC0-1.0")),
            ("http://creativecommons.org/publicdomain/mark/1.0/", Some("CC-PDM-1.0")),
            ("http://creativecommons.org/licenses/publicdomain/", Some("public-domain")),
            ("http://creativecommons.org/licenses/nd-nc/1.0/", Some("CC-ND-NC-1.0")),
            ("cc by", Some("CC-BY")),
            ("cc by-nc-nd", Some("CC-BY-NC-ND")),
            ("cc-by-sa", Some("CC-BY-SA")),
            ("CC BY-NC 4.0", Some("CC-BY-NC-4.0")),
            ("CC BY NC ND 4.0", Some("CC-BY-NC-ND-4.0")),
            ("CC‑BY‑NC", Some("CC-BY-NC")),
            ("CCBY", Some("CC-BY")),
            ("ccbylicense", Some("CC-BY")),
            ("CC-BY-4.0", Some("CC-BY-4.0")),
            ("cc0", Some("CC0-1.0")),
            ("CC0-1.0", Some("CC0-1.0")),
            ("CC BYOB", None),
            ("made available under a Creative Commons licence by the authors", None),
            ("Creative Commons by the authors", None),
            ("Creative Commons BY-NC 4.0", Some("CC-BY-NC-4.0")),
            ("Creative Commons BY 4.0", Some("CC-BY-4.0")),
            ("Creative Commons: by-sa", Some("CC-BY-SA")),
            ("Creative Commons Attribution License", Some("CC-BY")),
            ("This work is licensed under a Creative Commons Attribution 3.0 International License.", Some("CC-BY-3.0")),
            ("This work is licensed under a Creative Commons Attribution 4.0 License", Some("CC-BY-4.0")),
            (
                "under the Creative Commons by Attribution (CC-BY) license ( http://creativecommons.org/licenses/by/4.0/ ).",
                Some("CC-BY-4.0"),
            ),
            (
                "available under a Creative Commons License (Attribution 4.0 International, as described at http://creativecommons.org/licenses/by/4.0/ ).",
                Some("CC-BY-4.0"),
            ),
            ("distributed under the Creative Commons Attribution License 4.0 (CCBY), which permits use", Some("CC-BY-4.0")),
            ("under the terms of the http://creativecommons.org/licenses/by/4.0/ License, which permits use", Some("CC-BY-4.0")),
            (
                "Lizenziert unter der Creative Commons Namensnennung 4.0 International Public License | CC-BY 4.0 International",
                Some("CC-BY-4.0"),
            ),
            ("Este é um artigo publicado em acesso aberto sob a licença Creative Commons Attribution, que permite uso", Some("CC-BY")),
            ("Licença Creative Commons Atribuição-NãoComercial 4.0", Some("CC-BY-NC-4.0")),
            ("licencia Creative Commons Reconocimiento-NoComercial-SinDerivadas", Some("CC-BY-NC-ND")),
            ("Este es un artículo publicado en acceso abierto bajo una licencia Creative Commons", None),
            ("conteúdo protegido sob a Licença Creative Commons (CC-BY).", Some("CC-BY")),
            ("Creative Commons Attribution-NonCommercial-NoDerivs 3.0 Unported", Some("CC-BY-NC-ND-3.0")),
            ("Creative Commons Attribution-ShareAlike License", Some("CC-BY-SA")),
            ("the terms of the Creative Commons Attribution Non-Commercial License", Some("CC-BY-NC")),
            (
                "Creative Commons Attribution License (http://creativecommons.org/licenses/by-nc/2.0/uk/) which permits unrestricted non-commercial use",
                Some("CC-BY-NC-2.0"),
            ),
            ("CC BY 4.0, which permits commercial and non-commercial use", Some("CC-BY-4.0")),
            ("CC BY 4.0, for non-commercial or commercial purposes", Some("CC-BY-4.0")),
            (
                "free of all copyright, and may be freely used by anyone. The work is made available under the Creative Commons CC0 public domain dedication.",
                Some("CC0-1.0"),
            ),
            ("This article is free of all copyright", Some("public-domain")),
            ("Public Domain", Some("public-domain")),
            ("This is a work of the U.S. Government and is not subject to copyright", Some("public-domain")),
            ("This work is not in the public domain", None),
            ("Contains public sector information licensed under the Open Government Licence v3.0.", Some("OGL-UK-3.0")),
            ("http://www.elsevier.com/open-access/userlicense/1.0/", Some("elsevier-user")),
            ("ODC-BY", Some("ODC-By-1.0")),
            ("MIT", Some("MIT")),
            ("Apache-2.0", Some("Apache-2.0")),
            ("GNU Free Documentation License", Some("GFDL")),
            ("© 2019 The Authors. All rights reserved.", None),
            ("", None),
            ("open access", None),
            ("access cc bytes", None),
        ] {
            assert_eq!(normalize(stated).as_deref(), wanted, "{stated}");
        }
        for (stated, wanted) in [
            (format!("{opening} Attribution License, {closing}"), "CC-BY"),
            (format!("{opening} Attribution License (http://creativecommons.org/licenses/by/2.0), {closing}"), "CC-BY-2.0"),
            (
                format!("{opening} Attribution 4.0 International License (http://creativecommons.org/licenses/by/4.0/), {closing}. {data}"),
                "CC-BY-4.0",
            ),
            (format!("{opening} Attribution License, {closing}. {data}"), "CC-BY"),
        ] {
            assert_eq!(normalize(&stated).as_deref(), Some(wanted), "{stated}");
        }
        assert_eq!(normalize(&format!("Copyright 2015. {data} made available in this article")), None);
    }

    #[test]
    fn a_version_pattern_lets_in_versions_only() {
        let patterns: Vec<String> = PERMISSIVE.iter().map(ToString::to_string).collect();
        for (id, wanted) in [
            (Some("CC-BY-4.0"), Verdict::Allowed),
            (Some("CC-BY"), Verdict::Allowed),
            (Some("cc-by-3.0-igo"), Verdict::Allowed),
            (Some("CC0-1.0"), Verdict::Allowed),
            (Some("public-domain"), Verdict::Allowed),
            (Some("BSD-3-Clause"), Verdict::Allowed),
            (Some("CC-BY-NC-4.0"), Verdict::NotAllowed),
            (Some("CC-BY-NC"), Verdict::NotAllowed),
            (Some("CC-BY-SA-4.0"), Verdict::NotAllowed),
            (Some("CC-BY-ND-4.0"), Verdict::NotAllowed),
            (Some("CC-BYTE"), Verdict::NotAllowed),
            (Some("elsevier-user"), Verdict::NotAllowed),
            (None, Verdict::Unknown),
        ] {
            assert_eq!(allowed(id, &patterns), wanted, "{id:?}");
        }
        assert_eq!(allowed(None, &["*".into()]), Verdict::Allowed);
        assert_eq!(allowed(Some("CC-BY-NC-4.0"), &["cc-by-nc-*".into()]), Verdict::Allowed);
        assert_eq!(allowed(Some("é"), &["CC-*".into()]), Verdict::NotAllowed);
    }

    #[test]
    fn no_statement_breaks_it() {
        for stated in [
            "cc",
            "cc-",
            "ccby-",
            "cc by nc n",
            "creativecommons.org/",
            "creativecommons.org/licenses",
            "creative commons",
            "cc é",
            "ß".repeat(40_000).as_str(),
        ] {
            let _ = normalize(stated);
        }
        // Linear, whatever is repeated.
        for repeated in ["cc by-", "creative commons ", "creativecommons.org/licenses/", "://", "non-commercial "] {
            let _ = normalize(&repeated.repeat(100_000));
        }
    }
}
