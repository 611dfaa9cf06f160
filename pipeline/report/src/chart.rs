//! Charts as inline SVG. Colours are classes (`c0` to `c7`), so that the page's style sets them for light and dark.

use crate::format::{escape, number};
use std::fmt::Write;

/// Colours there are for series; the last is for what is left over.
pub const NUM_COLOURS: usize = 8;

/// A drawing under construction.
struct Svg {
    out: String,
}

impl Svg {
    /// Of `width` by `height` units; `title` and `description` are what a screen reader says.
    fn new(width: f64, height: f64, title: &str, description: &str) -> Self {
        let mut svg = Self { out: String::with_capacity(8 << 10) };
        svg.put(format_args!(
            "<svg viewBox=\"0 0 {width:.0} {height:.0}\" role=\"img\" aria-label=\"{}. {}\" preserveAspectRatio=\"xMidYMid meet\">\n",
            escape(title),
            escape(description)
        ));
        svg
    }

    /// Writing to a `String` cannot fail.
    fn put(&mut self, arguments: std::fmt::Arguments<'_>) {
        let _ = self.out.write_fmt(arguments);
    }

    fn rectangle(&mut self, [x, y, width, height]: [f64; 4], class: &str, tip: &str) {
        self.put(format_args!("<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" rx=\"1.5\" class=\"{class}\">"));
        self.put(format_args!("<title>{}</title></rect>\n", escape(tip)));
    }

    fn text(&mut self, x: f64, y: f64, class: &str, text: &str) {
        self.put(format_args!("<text x=\"{x:.1}\" y=\"{y:.1}\" class=\"{class}\">{}</text>\n", escape(text)));
    }

    fn line(&mut self, [x1, y1, x2, y2]: [f64; 4], class: &str) {
        self.put(format_args!("<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" class=\"{class}\"/>\n"));
    }

    fn finish(mut self) -> String {
        self.out.push_str("</svg>");
        self.out
    }
}

/// One column of a funnel.
pub struct Column {
    pub name: String,
    pub total: String,
    /// What is lost before it.
    pub lost: String,
}

/// A funnel: one column per stage, one band per series, from left to right. `series` are (name, colour, value per column).
pub fn funnel(title: &str, columns: &[Column], series: &[(String, usize, Vec<u64>)], show: fn(u64) -> String) -> String {
    let (width, height, top, node) = (1000.0, 330.0, 46.0, 14.0);
    let totals: Vec<u64> = (0..columns.len()).map(|at| series.iter().map(|(_, _, values)| value(values, at)).sum()).collect();
    let most = totals.iter().copied().max().unwrap_or(0).max(1) as f64;
    let body = height - top - 34.0;
    let margin = 58.0;
    let step = if columns.len() > 1 { (width - 2.0 * margin) / (columns.len() - 1) as f64 } else { 0.0 };
    let description: Vec<String> = columns.iter().map(|column| format!("{} {}", column.name, column.total)).collect();
    let mut svg = Svg::new(width, height, title, &description.join(", "));
    let scaled = |value: u64| body * value as f64 / most;
    // Columns are centred, so that what is lost narrows the stream from both sides.
    let mut starts: Vec<f64> = totals.iter().map(|total| top + (body - scaled(*total)) / 2.0).collect();
    for (name, colour, values) in series {
        for at in 0..columns.len() {
            let (x, y, h) = (margin + step * at as f64, starts.get(at).copied().unwrap_or(top), scaled(value(values, at)));
            if at + 1 < columns.len() {
                let (next_x, next_y, next_h) = (x + step, starts.get(at + 1).copied().unwrap_or(top), scaled(value(values, at + 1)));
                let (from, to, middle) = (x + node / 2.0, next_x - node / 2.0, x + step / 2.0);
                svg.put(format_args!(
                    "<path class=\"flow c{colour}\" d=\"M{from:.1} {y:.1}C{middle:.1} {y:.1} {middle:.1} {next_y:.1} {to:.1} {next_y:.1}\
                     V{:.1}C{middle:.1} {:.1} {middle:.1} {:.1} {from:.1} {:.1}Z\"/>\n",
                    next_y + next_h,
                    next_y + next_h,
                    y + h,
                    y + h
                ));
            }
            if h > 0.0 {
                let stage = columns.get(at).map_or("", |column| column.name.as_str());
                svg.rectangle(
                    [x - node / 2.0, y, node, h],
                    &format!("c{colour}"),
                    &format!("{name}, {stage}: {}", show(value(values, at))),
                );
            }
            if let Some(start) = starts.get_mut(at) {
                *start += h;
            }
        }
    }
    for (at, column) in columns.iter().enumerate() {
        let x = margin + step * at as f64;
        svg.text(x, 16.0, "label mid", &column.name);
        svg.text(x, 34.0, "strong mid", &column.total);
        svg.text(x, height - 8.0, "lost mid", &column.lost);
    }
    svg.finish()
}

fn value(values: &[u64], at: usize) -> u64 {
    values.get(at).copied().unwrap_or_default()
}

/// Horizontal bars. Each row is its label, what stands behind the bar, and its parts as (colour, name, value).
pub fn bars(title: &str, rows: &[(String, String, Vec<(usize, String, u64)>)]) -> String {
    let (width, row_height, left, right) = (1000.0, 30.0, 250.0, 230.0);
    let total = |row: &(String, String, Vec<(usize, String, u64)>)| row.2.iter().map(|part| part.2).sum::<u64>();
    let most = rows.iter().map(total).max().unwrap_or(0).max(1) as f64;
    let description: Vec<String> = rows.iter().map(|row| format!("{}: {}", row.0, row.1)).collect();
    let mut svg = Svg::new(width, row_height * rows.len() as f64 + 4.0, title, &description.join(", "));
    for (index, row) in rows.iter().enumerate() {
        let y = row_height * index as f64 + 4.0;
        svg.text(left - 12.0, y + 16.0, "label end", &row.0);
        let mut x = left;
        for (colour, name, value) in &row.2 {
            let length = ((width - left - right) * *value as f64 / most).max(if *value > 0 { 1.5 } else { 0.0 });
            svg.rectangle([x, y + 2.0, length, 20.0], &format!("c{colour}"), &format!("{}, {name}: {}", row.0, number(*value)));
            x += length;
        }
        svg.text(x + 8.0, y + 16.0, "strong", &row.1);
    }
    svg.finish()
}

/// Columns over bins, one series before (pale) and one after (full). `labels` stand at the left edge of their bin, or under the middle of
/// the column where each is a `value` of its own.
pub fn histogram(title: &str, labels: &[String], before: Option<&[u64]>, after: &[u64], axis: &str, value_labels: bool) -> String {
    let (width, height, left, top, bottom) = (1000.0, 300.0, 66.0, 14.0, 46.0);
    let most = before.unwrap_or_default().iter().chain(after).copied().max().unwrap_or(0).max(1);
    let step = (width - left - 10.0) / labels.len().max(1) as f64;
    let mut svg = Svg::new(width, height, title, &format!("{} bins by {axis}; the numbers are in the table below", labels.len()));
    grid(&mut svg, most, [left, top, width - 10.0, height - bottom]);
    let scaled = |value: u64| (height - top - bottom) * value as f64 / most as f64;
    let every = labels.len().div_ceil(16).max(1);
    for (at, label) in labels.iter().enumerate() {
        let x = left + step * at as f64;
        let bars = [(before.map(|values| value(values, at)), "pale", "before"), (Some(value(after, at)), "c0", "after")];
        for (count, class, when) in bars {
            let Some(count) = count.filter(|count| *count > 0) else { continue };
            let from = if value_labels { "" } else { "from " };
            let when = if before.is_some() { when } else { "" };
            let tip = format!("{from}{label}: {} {when}", number(count));
            let tip = tip.trim_end();
            svg.rectangle([x + 1.0, height - bottom - scaled(count), step - 2.0, scaled(count)], class, tip);
        }
        if at % every == 0 {
            let x = if value_labels { x + step / 2.0 } else { x };
            svg.line([x, height - bottom, x, height - bottom + 5.0], "axis");
            svg.text(x, height - bottom + 20.0, "tick mid", label);
        }
    }
    svg.line([left, height - bottom, width - 10.0, height - bottom], "axis");
    svg.text((left + width) / 2.0, height - 6.0, "tick mid", axis);
    svg.finish()
}

/// Horizontal lines at round counts.
fn grid(svg: &mut Svg, most: u64, [left, top, right, bottom]: [f64; 4]) {
    let step = round_step(most);
    let mut count = 0;
    while count <= most {
        let y = bottom - (bottom - top) * count as f64 / most as f64;
        if count > 0 {
            svg.line([left, y, right, y], "grid");
        }
        svg.text(left - 8.0, y + 4.0, "tick end", &number(count));
        count = count.saturating_add(step);
        if count == u64::MAX {
            break;
        }
    }
}

/// 1, 2 or 5 times a power of ten, so that `most` is about four steps.
fn round_step(most: u64) -> u64 {
    let wanted = (most / 4).max(1);
    let mut power = 1_u64;
    while power <= wanted / 10 {
        power *= 10;
    }
    [1_u64, 2, 5, 10].iter().map(|factor| factor.saturating_mul(power)).find(|step| *step >= wanted).unwrap_or(wanted)
}

/// The S-curve: probability that a pair of some similarity is found (line), and the pairs found (columns, on a scale of their square
/// roots, so that few are seen beside many). `points` are (similarity, probability, pairs).
pub fn s_curve(title: &str, points: &[(f64, f64, u64)], threshold: Option<f64>) -> String {
    let (width, height, left, right, top, bottom) = (1000.0, 340.0, 66.0, 66.0, 26.0, 50.0);
    let description =
        "The line is the predicted probability of finding a pair; columns are pairs found; the numbers are in the table below";
    let mut svg = Svg::new(width, height, title, description);
    let x = |similarity: f64| left + (width - left - right) * similarity.clamp(0.0, 1.0);
    let y = |probability: f64| height - bottom - (height - top - bottom) * probability.clamp(0.0, 1.0);
    for quarter in 0..=4 {
        let probability = f64::from(quarter) / 4.0;
        svg.line([left, y(probability), width - right, y(probability)], if quarter == 0 { "axis" } else { "grid" });
        svg.text(left - 8.0, y(probability) + 4.0, "tick end", &format!("{:.0}%", 100.0 * probability));
    }
    for tenth in 0..=10 {
        let similarity = f64::from(tenth) / 10.0;
        svg.text(x(similarity), height - bottom + 20.0, "tick mid", &format!("{similarity:.1}"));
    }
    let most = points.iter().map(|point| point.2).max().unwrap_or(0);
    let bin = points.windows(2).map(|pair| (pair[1].0 - pair[0].0).abs()).fold(1.0_f64, f64::min).max(0.005);
    for (similarity, _, pairs) in points.iter().filter(|point| point.2 > 0) {
        let share = (*pairs as f64 / most.max(1) as f64).sqrt();
        // The last bin holds pairs of similarity 1 alone.
        let (from, to) = (x(*similarity), x(similarity + bin).max(x(*similarity) + 4.0));
        let class = if threshold.is_some_and(|threshold| similarity + 1e-9 < threshold) { "pale" } else { "c2" };
        svg.rectangle(
            [from + 0.5, y(share), to - from - 1.0, y(0.0) - y(share)],
            class,
            &format!("similarity {similarity:.2}: {} pairs", number(*pairs)),
        );
    }
    if most > 0 {
        for count in [most, most.div_ceil(4)] {
            let share = (count as f64 / most as f64).sqrt();
            svg.text(width - right + 8.0, y(share) + 4.0, "tick", &number(count));
        }
    }
    let path: Vec<String> =
        points.iter().map(|(similarity, probability, _)| format!("{:.1} {:.1}", x(*similarity), y(*probability))).collect();
    if !path.is_empty() {
        svg.put(format_args!("<path class=\"curve\" d=\"M{}\"/>\n", path.join("L")));
    }
    if let Some(threshold) = threshold {
        svg.line([x(threshold), top - 6.0, x(threshold), height - bottom], "threshold");
        svg.text(x(threshold) - 8.0, top + 2.0, "strong end", &format!("threshold {threshold}"));
    }
    svg.text((left + width - right) / 2.0, height - 8.0, "tick mid", "Jaccard similarity of a pair");
    svg.finish()
}

/// A line of (x, y) in some colour, or points where there are few.
pub struct Series {
    pub name: String,
    pub colour: usize,
    pub points: Vec<(f64, f64)>,
    /// Whether each point is drawn, too.
    pub dots: bool,
}

/// Lines over one another. `show` writes a value of the vertical axis.
pub fn lines(title: &str, series: &[Series], axis: &str, show: fn(f64) -> String) -> String {
    let (width, height, left, right, top, bottom) = (1000.0, 320.0, 74.0, 20.0, 16.0, 50.0);
    let mut svg = Svg::new(width, height, title, "Lines over steps; the numbers are in the table below");
    let all = || series.iter().flat_map(|series| &series.points).filter(|point| point.1.is_finite());
    let span = |value: fn(&(f64, f64)) -> f64| {
        let (low, high) = all().map(value).fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), at| (low.min(at), high.max(at)));
        if low.is_finite() { (low, if high > low { high } else { low + low.abs().max(1e-12) }) } else { (0.0, 1.0) }
    };
    let ((first, last), (low, high)) = (span(|point| point.0), span(|point| point.1));
    let step = round_fraction((high - low) / 4.0);
    let (low, high) = ((low / step).floor() * step, (high / step).ceil() * step);
    let x = |at: f64| left + (width - left - right) * (at - first) / (last - first);
    let y = |at: f64| height - bottom - (height - top - bottom) * (at - low) / (high - low);
    for number in 0..=((high - low) / step).round() as u32 {
        let value = low + step * f64::from(number);
        svg.line([left, y(value), width - right, y(value)], if number == 0 { "axis" } else { "grid" });
        svg.text(left - 8.0, y(value) + 4.0, "tick end", &show(value));
    }
    for fifth in 0..=5 {
        let value = first + (last - first) * f64::from(fifth) / 5.0;
        svg.text(x(value), height - bottom + 20.0, "tick mid", &number(value.round() as u64));
    }
    for Series { name, colour, points, dots } in series {
        let places: Vec<String> =
            points.iter().filter(|point| point.1.is_finite()).map(|point| format!("{:.1} {:.1}", x(point.0), y(point.1))).collect();
        if !places.is_empty() {
            svg.put(format_args!("<path class=\"series c{colour}\" d=\"M{}\"/>\n", places.join("L")));
        }
        for (at, value) in points.iter().filter(|point| *dots && point.1.is_finite()) {
            svg.put(format_args!("<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"4\" class=\"point c{colour}\">", x(*at), y(*value)));
            svg.put(format_args!("<title>{}</title></circle>\n", escape(&format!("{name}, {axis} {at:.0}: {}", show(*value)))));
        }
    }
    svg.text((left + width - right) / 2.0, height - 8.0, "tick mid", axis);
    svg.finish()
}

/// 1, 2 or 5 times a power of ten, at least `wanted`.
fn round_fraction(wanted: f64) -> f64 {
    let power = 10f64.powf(wanted.max(1e-300).log10().floor());
    [1.0, 2.0, 5.0, 10.0].iter().map(|factor| factor * power).find(|step| *step >= wanted * (1.0 - 1e-9)).unwrap_or(power)
}

/// One bar of 100%, in parts of (colour, name, value).
pub fn mix(title: &str, parts: &[(usize, String, u64)]) -> String {
    let (width, height) = (1000.0, 40.0);
    let total = parts.iter().map(|part| part.2).sum::<u64>().max(1) as f64;
    let description: Vec<String> = parts.iter().map(|(_, name, value)| format!("{name} {:.1}%", 100.0 * *value as f64 / total)).collect();
    let mut svg = Svg::new(width, height, title, &description.join(", "));
    let mut x = 0.0;
    for (colour, name, value) in parts {
        let share = *value as f64 / total;
        let length = width * share;
        svg.rectangle(
            [x, 0.0, (length - 1.5).max(0.5), height],
            &format!("c{colour}"),
            &format!("{name}: {} ({:.1}%)", number(*value), 100.0 * share),
        );
        if share > 0.05 {
            svg.text(x + length / 2.0, 25.0, "inside mid", &format!("{:.0}%", 100.0 * share));
        }
        x += length;
    }
    svg.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grid_steps_are_round() {
        assert_eq!([1, 3, 9, 47, 100, 1_234, 99_999].map(round_step), [1, 1, 2, 20, 50, 500, 50_000]);
    }

    #[test]
    fn lines_of_anything_are_drawn() {
        assert_eq!([0.3, 1.0, 4.9, 7.0, 1e-5].map(round_fraction), [0.5, 1.0, 5.0, 10.0, 1e-5]);
        let series = |points: Vec<(f64, f64)>| [Series { name: "a<b".into(), colour: 0, points, dots: true }];
        for points in [vec![], vec![(1.0, 2.0)], vec![(1.0, 0.0), (2.0, 0.0)], vec![(1.0, f64::NAN), (2.0, 5.0), (3.0, -5.0)]] {
            let svg = lines("t", &series(points), "step", |value| format!("{value:.2}"));
            assert!(svg.ends_with("</svg>") && !svg.contains("NaN") && !svg.contains("inf") && !svg.contains("a<b"), "{svg}");
        }
    }

    #[test]
    fn charts_of_nothing_and_of_hostile_names_are_well_formed() {
        let name = "<a \"b\" & 'c'>".to_string();
        let column = |total: &str| Column { name: name.clone(), total: total.into(), lost: String::new() };
        let drawings = [
            funnel("t", &[], &[], number),
            funnel(&name, &[column("1"), column("0")], &[(name.clone(), 0, vec![1, 0])], number),
            bars(&name, &[]),
            bars(&name, &[(name.clone(), name.clone(), vec![(0, name.clone(), 0), (1, name.clone(), u64::MAX / 2)])]),
            histogram(&name, &[], None, &[], &name, false),
            histogram(&name, &["1".into()], Some(&[0]), &[u64::MAX], &name, true),
            s_curve(&name, &[], None),
            s_curve(&name, &[(0.5, 0.1, 0), (1.0, 1.0, 3)], Some(0.85)),
            mix(&name, &[]),
            mix(&name, &[(0, name.clone(), 0)]),
        ];
        for drawing in drawings {
            assert!(drawing.starts_with("<svg ") && drawing.ends_with("</svg>"));
            assert!(!drawing.contains("NaN") && !drawing.contains("inf") && !drawing.contains("<a "), "{drawing}");
        }
    }
}
