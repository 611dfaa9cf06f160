//! The columns that the cells of a table stand in, where cells span rows or columns.

use super::Element;

/// Columns and rows that spans count for; a file may state any number, and each empty cell costs text.
const SPAN_MAX: usize = 100;

/// Counts columns, of HTML's tables and of CALS's. Works without allocation where nothing spans.
#[derive(Debug, Default)]
pub(crate) struct Grid {
    /// Of each column, how many rows more the cell above takes; empty while none does.
    taken: Vec<usize>,
    /// The columns' names in CALS.
    names: Vec<String>,
    /// The first column behind the last cell.
    column: usize,
    /// The column of the last cell.
    last: usize,
}

/// What a cell says of its place.
struct Place {
    rows: usize,
    columns: usize,
    first: Option<usize>,
}

impl Grid {
    /// Begins a table.
    pub fn clear(&mut self) {
        self.taken.clear();
        self.names.clear();
        (self.column, self.last) = (0, 0);
    }

    /// Begins a head, body or foot, which no cell reaches out of.
    pub fn begin_group(&mut self) {
        self.taken.clear();
    }

    /// Takes the name of the next column from a `colspec`.
    pub fn specify(&mut self, element: &Element<'_>) {
        if self.names.len() < SPAN_MAX {
            self.names.push(element.attribute(b"colname").unwrap_or_default().into_owned());
        }
    }

    /// Begins a row.
    pub fn begin_row(&mut self) {
        self.pass(self.taken.len());
        (self.column, self.last) = (0, 0);
    }

    /// Places a cell and returns how many cells' borders lie between it and the one before, or the start of the row.
    pub fn cell(&mut self, element: &Element<'_>) -> usize {
        let place = self.place(element);
        while self.taken.get(self.column).is_some_and(|&rows| rows > 0) {
            self.pass(self.column + 1);
        }
        self.pass(place.first.unwrap_or_default());
        let borders = self.column - self.last;
        self.last = self.column;
        let end = self.column + place.columns.min(SPAN_MAX.saturating_sub(self.column)).max(1);
        if place.rows > 1 && self.taken.len() < end.min(SPAN_MAX) {
            self.taken.resize(end.min(SPAN_MAX), 0);
        }
        for rows in self.taken.iter_mut().take(end).skip(self.column) {
            *rows = rows.saturating_sub(1).max(place.rows - 1);
        }
        self.column = end;
        borders
    }

    /// Leaves the columns up to `column` as they are in this row.
    fn pass(&mut self, column: usize) {
        for rows in self.taken.iter_mut().take(column).skip(self.column) {
            *rows = rows.saturating_sub(1);
        }
        self.column = self.column.max(column);
    }

    fn place(&self, element: &Element<'_>) -> Place {
        let mut place = Place { rows: 1, columns: 1, first: None };
        let mut end = None;
        let count = |value: &str, least: usize| value.trim().parse().unwrap_or(least).clamp(least, SPAN_MAX);
        for (name, value) in element.attributes() {
            match name {
                b"rowspan" | b"rspan" => place.rows = count(value, 1),
                b"colspan" | b"cspan" => place.columns = count(value, 1),
                b"morerows" => place.rows = count(value, 0) + 1,
                b"namest" => place.first = self.named(value),
                b"colname" if place.first.is_none() => place.first = self.named(value),
                b"nameend" => end = self.named(value),
                _ => {}
            }
        }
        if let (Some(first), Some(end)) = (place.first, end) {
            place.columns = (end + 1).saturating_sub(first).max(1);
        }
        place
    }

    /// The column of a name; where no column was given names, that of the number at the name's end.
    fn named(&self, name: &str) -> Option<usize> {
        if !self.names.is_empty() {
            return self.names.iter().position(|known| known == name);
        }
        let number: usize = name.trim_start_matches(|letter: char| !letter.is_ascii_digit()).parse().ok()?;
        number.checked_sub(1).filter(|&column| column < SPAN_MAX)
    }
}
