//! Superscripts and MathML as running text.

use super::words;
use crate::Reject;
use crate::xml::{Element, Event, Reader, TextBuilder};

/// Reads a superscript: `^` goes before it only where it would turn a number into another, as in 10<sup>-3</sup>, but not in Ca<sup>2+</sup>.
pub(crate) fn script(reader: &mut Reader<'_>, text: &mut TextBuilder) -> Result<(), Reject> {
    let words = words(reader)?;
    let exponent = words.trim_start_matches(['-', '+', '\u{2212}', '\u{2013}', ' ']).starts_with(|c: char| c.is_ascii_digit());
    if exponent && text.touching().is_some_and(|before| before.is_ascii_digit()) {
        text.inline("^");
    }
    text.inline(&words);
    Ok(())
}

/// Reads a MathML formula, whose start came last, as one line of text: `x^2`, `(a + b)/(c)`, `sqrt(x)`.
pub(crate) fn math(reader: &mut Reader<'_>, text: &mut TextBuilder) -> Result<(), Reject> {
    let mut line = String::new();
    math_children(reader, &mut line)?;
    text.inline(&line);
    Ok(())
}

/// Reads the children of an element one after the other.
fn math_children(reader: &mut Reader<'_>, line: &mut String) -> Result<(), Reject> {
    let outside = reader.depth() - 1;
    while reader.depth() > outside {
        match reader.next()? {
            Event::Text(words) => push_words(line, &words),
            Event::Start(element) => math_element(reader, element, line)?,
            Event::End(_) => {}
            Event::Eof => break,
        }
    }
    Ok(())
}

/// Reads the children of an element each by itself.
fn math_operands(reader: &mut Reader<'_>) -> Result<Vec<String>, Reject> {
    let outside = reader.depth() - 1;
    let mut operands = Vec::new();
    while reader.depth() > outside {
        match reader.next()? {
            Event::Start(element) => {
                let mut operand = String::new();
                math_element(reader, element, &mut operand)?;
                operands.push(operand.trim().to_owned());
            }
            Event::Eof => break,
            _ => {}
        }
    }
    Ok(operands)
}

fn math_element(reader: &mut Reader<'_>, element: Element<'_>, line: &mut String) -> Result<(), Reject> {
    match element.name() {
        // The same formula again, in another language.
        b"annotation" | b"annotation-xml" => return reader.skip_element(),
        b"mo" => {
            let operator = words(reader)?;
            if is_spaced(&operator) {
                line.push(' ');
                line.push_str(&operator);
                line.push(' ');
            } else {
                line.push_str(&operator);
            }
        }
        b"mtext" | b"mi" | b"mn" | b"ms" | b"cn" | b"ci" => {
            let outside = reader.depth() - 1;
            while reader.depth() > outside {
                match reader.next()? {
                    Event::Text(words) => push_words(line, &words),
                    Event::Eof => break,
                    _ => {}
                }
            }
        }
        b"mfrac" => {
            let operands = math_operands(reader)?;
            push_joined_operands(line, &operands, "/");
        }
        b"msup" => push_script(line, &math_operands(reader)?, &["^"]),
        b"mover" => push_accent(line, &math_operands(reader)?),
        b"msub" | b"munder" => push_script(line, &math_operands(reader)?, &["_"]),
        b"msubsup" | b"munderover" => push_script(line, &math_operands(reader)?, &["_", "^"]),
        b"msqrt" => {
            line.push_str("sqrt(");
            math_children(reader, line)?;
            line.push(')');
        }
        b"mroot" => {
            line.push_str("root(");
            line.push_str(&math_operands(reader)?.join(", "));
            line.push(')');
        }
        b"mfenced" => {
            let attribute =
                |name: &[u8], default: &str| element.attribute(name).map_or(default.to_owned(), |value| value.trim().to_owned());
            let (open, close) = (attribute(b"open", "("), attribute(b"close", ")"));
            let separator = attribute(b"separators", ",").chars().next().map_or(String::new(), |separator| format!("{separator} "));
            line.push_str(&open);
            line.push_str(&math_operands(reader)?.join(&separator));
            line.push_str(&close);
        }
        b"mtr" | b"mlabeledtr" | b"matrixrow" => {
            if line.trim_end().ends_with(|c: char| !matches!(c, '(' | '[' | '{' | '|')) {
                line.push_str("; ");
            }
            let operands: Vec<_> = math_operands(reader)?.into_iter().filter(|operand| !operand.is_empty()).collect();
            line.push_str(&operands.join(", "));
        }
        b"mspace" => {
            line.push(' ');
            reader.skip_element()?;
        }
        b"infinity" => {
            line.push('∞');
            reader.skip_element()?;
        }
        _ => math_children(reader, line)?,
    }
    Ok(())
}

/// White space between the elements of a formula means nothing; inside text it is one space.
fn push_words(line: &mut String, words: &str) {
    if words.trim().is_empty() && words.contains(['\n', '\r']) {
        return;
    }
    line.push_str(words);
}

fn push_joined_operands(line: &mut String, operands: &[String], sign: &str) {
    for (index, operand) in operands.iter().enumerate() {
        if index > 0 {
            line.push_str(sign);
        }
        push_operand(line, operand);
    }
}

fn push_operand(line: &mut String, operand: &str) {
    if operand.contains(|c: char| !c.is_alphanumeric() && !matches!(c, '.' | '_')) {
        line.push('(');
        line.push_str(operand);
        line.push(')');
    } else {
        line.push_str(operand);
    }
}

/// Pushes base and scripts; digits under letters (H2O) and the sign of a charge need no mark.
fn push_script(line: &mut String, operands: &[String], signs: &[&str]) {
    let Some((base, scripts)) = operands.split_first() else { return };
    line.push_str(base);
    for (script, sign) in scripts.iter().zip(signs) {
        if script.is_empty() {
            continue;
        }
        let after_letter = line.ends_with(|c: char| c.is_alphabetic() || matches!(c, ')' | ']'));
        let plain = *sign == "_" && after_letter && script.bytes().all(|byte| byte.is_ascii_digit());
        let charge = *sign == "^" && script.chars().count() == 1 && !script.contains(char::is_alphanumeric);
        if plain || charge {
            line.push_str(script);
        } else {
            line.push_str(sign);
            push_operand(line, script);
        }
    }
}

/// Pushes a base and what stands over it, which needs no mark if it is an accent.
fn push_accent(line: &mut String, operands: &[String]) {
    match operands {
        [base, accent] if accent.chars().count() == 1 && !accent.contains(char::is_alphanumeric) => {
            line.push_str(base);
            line.push_str(accent);
        }
        operands => push_script(line, operands, &["^"]),
    }
}

fn is_spaced(operator: &str) -> bool {
    matches!(
        operator,
        "=" | "+"
            | "-"
            | "−"
            | "±"
            | "×"
            | "÷"
            | "<"
            | ">"
            | "≤"
            | "≥"
            | "≠"
            | "≈"
            | "≅"
            | "≡"
            | "∝"
            | "→"
            | "←"
            | "↔"
            | "⇌"
            | "⇄"
            | "⟶"
            | "∈"
            | "∪"
            | "∩"
            | "⇒"
            | "⇔"
            | "∼"
            | "~"
            | "⋅"
            | "·"
            | "*"
    )
}
