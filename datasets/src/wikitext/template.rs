//! The templates that hold text of the sentence around them.

/// A longer name is no template that is rendered.
const NAME_BYTES_MAX: usize = 64;

/// The arguments of a template, in the output of the first pass.
struct Arguments<'a> {
    body: &'a str,
    base: usize,
    pipes: &'a [usize],
}

impl<'a> Arguments<'a> {
    /// Iterates over the arguments behind the name.
    fn all(&self) -> impl Iterator<Item = &'a str> + '_ {
        self.pipes.iter().enumerate().map(|(index, &pipe)| {
            let end = self.pipes.get(index + 1).map_or(self.body.len(), |&next| next - self.base);
            self.body[pipe - self.base + 1..end].trim()
        })
    }

    /// Returns the unnamed argument of that number, from 1.
    fn unnamed(&self, number: usize) -> Option<&'a str> {
        let explicit = ["1=", "2=", "3=", "4=", "5="].get(number - 1)?;
        let plain = self.all().filter(|argument| !is_named(argument)).nth(number - 1);
        plain.or_else(|| self.all().find_map(|argument| argument.strip_prefix(explicit))).map(str::trim)
    }

    fn named(&self, key: &str) -> Option<&'a str> {
        self.all().find_map(|argument| argument.split_once('=').filter(|(name, _)| name.trim() == key).map(|(_, value)| value.trim()))
    }
}

fn is_named(argument: &str) -> bool {
    argument.split_once('=').is_some_and(|(key, _)| {
        let key = key.trim();
        !key.is_empty() && key.len() <= 24 && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b' '))
    })
}

/// Renders the templates that hold text of the sentence around them; `None` for all others.
pub(super) fn template(body: &str, base: usize, pipes: &[usize]) -> Option<String> {
    let name = pipes.first().map_or(body, |&pipe| &body[..pipe - base]).trim();
    if name.len() > NAME_BYTES_MAX {
        return None;
    }
    let name = name.to_lowercase().replace('_', " ");
    let arguments = Arguments { body, base, pipes };
    let first = || arguments.unnamed(1).map(str::to_owned);
    match name.as_str() {
        "!" => Some("|".into()),
        "=" => Some("=".into()),
        "'" => Some("'".into()),
        "'s" => Some("'s".into()),
        "snd" | "spaced ndash" | "spnd" | "spndash" | "spaced en dash" => Some(" – ".into()),
        "ndash" | "en dash" | "–" => Some("–".into()),
        "mdash" | "em dash" | "emdash" | "—" => Some("—".into()),
        "nbsp" | "spaces" | "sp" => Some(" ".into()),
        "·" | "•" | "middot" | "bull" | "dot" => Some(" · ".into()),
        "pi" => Some("π".into()),
        "mu" | "micro" => Some("μ".into()),
        "±" | "pm" | "plusminus" => Some("±".into()),
        "nowrap" | "nobr" | "nobreak" | "small" | "smaller" | "big" | "larger" | "abbr" | "tooltip" | "mvar" | "math" | "var" | "sub"
        | "sup" | "strong" | "em" | "bold" | "italic" | "nobold" | "noitalic" | "visible anchor" | "vanchor" | "gene" | "chem2" | "ce"
        | "sic" | "flag" | "ill" | "interlanguage link" | "as written" | "not a typo" | "proper name" | "midsize" | "overline"
        | "underline" | "mono" | "code" | "samp" | "kbd" | "varserif" | "script" | "linktext" | "longitem" | "keypress" | "pagelist"
        | "formatnum" | "main article text" => first(),
        "lang" | "transl" | "transliteration" | "resize" | "font color" | "color" | "colored text" | "tooltip2" | "wikt-lang" | "langx"
        | "rtl-lang" => arguments.unnamed(2).or(arguments.unnamed(1)).map(str::to_owned),
        name if name.starts_with("lang-") => first(),
        name if name.starts_with("formatnum:") => Some(name["formatnum:".len()..].to_owned()),
        "chem" => Some(arguments.all().collect()),
        "frac" | "sfrac" | "fraction" | "tfrac" => fraction(&arguments),
        "val" => quantity(&arguments),
        "convert" | "cvt" => conversion(&arguments),
        "e" => first().map(|exponent| format!("×10^{exponent}")),
        "10^" => first().map(|exponent| format!("10^{exponent}")),
        "as of" => first().map(|year| format!("As of {year}")),
        "circa" | "c." => Some(first().map_or_else(|| "c.".into(), |year| format!("c. {year}"))),
        "quote" | "blockquote" | "cquote" | "quotation" | "quote box" => {
            let words = arguments.unnamed(1).or(arguments.named("text")).or(arguments.named("quote"))?;
            Some(format!("\n\n{words}\n\n"))
        }
        "term" => first().map(|term| format!("\n\n{term}\n")),
        "defn" => first().map(|definition| format!("\n\n{definition}\n\n")),
        "plainlist" | "flatlist" => first().map(|list| format!("\n{list}\n")),
        "unbulleted list" | "ubl" | "bulleted list" | "blist" => {
            Some(arguments.all().filter(|argument| !is_named(argument)).fold("\n".to_owned(), |list, item| list + "* " + item + "\n"))
        }
        "hlist" => Some(arguments.all().filter(|argument| !is_named(argument)).collect::<Vec<_>>().join(", ")),
        _ => None,
    }
}

/// `{{frac|1|2}}` is 1/2, `{{frac|1|1|2}}` is 1 1/2, `{{frac|2}}` is 1/2.
fn fraction(arguments: &Arguments<'_>) -> Option<String> {
    Some(match (arguments.unnamed(1)?, arguments.unnamed(2), arguments.unnamed(3)) {
        (whole, Some(numerator), Some(denominator)) => format!("{whole} {numerator}/{denominator}"),
        (numerator, Some(denominator), None) => format!("{numerator}/{denominator}"),
        (denominator, None, _) => format!("1/{denominator}"),
    })
}

/// `{{val|5.0|e=-3|u=mg}}` is 5.0×10^-3 mg; a second number is the uncertainty.
fn quantity(arguments: &Arguments<'_>) -> Option<String> {
    let mut text = arguments.unnamed(1).unwrap_or_default().to_owned();
    if let Some(uncertainty) = arguments.unnamed(2) {
        text = text + "±" + uncertainty;
    }
    if let Some(exponent) = arguments.named("e") {
        text = text + "×10^" + exponent;
    }
    if let Some(unit) = arguments.named("u").or(arguments.named("ul")) {
        text = text + if unit.starts_with('%') || unit == "°" { "" } else { " " } + unit;
    }
    (!text.is_empty()).then_some(text)
}

/// `{{convert|10|to|20|kg|lb}}` is 10 to 20 kg: the quantity as the author gave it.
fn conversion(arguments: &Arguments<'_>) -> Option<String> {
    let mut text = String::new();
    let mut unnamed = arguments.all().filter(|argument| !is_named(argument));
    let mut number = unnamed.next()?;
    loop {
        text.push_str(number);
        let next = unnamed.next()?;
        let joint = match next {
            "to" | "and" | "or" | "by" | "x" | "×" | "to about" => format!(" {next} "),
            "-" | "–" => "–".to_owned(),
            "+/-" | "±" => "±".to_owned(),
            unit => {
                let unit = match unit {
                    "C" => "°C",
                    "F" => "°F",
                    "sqkm" | "km2" => "km²",
                    "m2" => "m²",
                    "cm2" => "cm²",
                    "m3" => "m³",
                    "cm3" => "cm³",
                    "impgal" | "usgal" => "gallons",
                    "in" => "inches",
                    unit => unit,
                };
                return Some(text + " " + unit);
            }
        };
        text.push_str(&joint);
        number = unnamed.next()?;
    }
}
