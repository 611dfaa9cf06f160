use super::*;
use arrow::array::UInt32Array;
use arrow::datatypes::{Field, Schema};
use proptest::prelude::*;

fn spans(ranges: &[(u64, u64)]) -> Vec<Span> {
    ranges.iter().map(|(start, end)| Span { start: *start, end: *end }).collect()
}

#[test]
fn joins_stand_between_remainders_only() {
    let check = |ranges: &[(u64, u64)], want: &str| assert_eq!(cut("abcdef", &spans(ranges), "|"), want);
    check(&[], "abcdef");
    check(&[(0, 6)], "");
    check(&[(0, 2)], "cdef");
    check(&[(4, 6)], "abcd");
    check(&[(2, 4)], "ab|ef");
    check(&[(2, 3), (3, 4)], "ab|ef");
    check(&[(0, 1), (2, 3), (5, 6)], "b|de");
}

proptest! {
    #[test]
    fn maps_follow_every_byte(removed in prop::collection::vec(any::<bool>(), 0..40), join in "[|]{0,3}") {
        let text: String = (0..removed.len()).map(|index| (b'a' + (index % 26) as u8) as char).collect();
        let ranges: Vec<(u64, u64)> =
            removed.iter().enumerate().filter(|(_, gone)| **gone).map(|(index, _)| (index as u64, index as u64 + 1)).collect();
        let left = cut(&text, &spans(&ranges), &join);
        let map = OffsetMap::new(text.len(), &spans(&ranges), join.len());
        prop_assert_eq!(left.len(), map.num_bytes());
        prop_assert_eq!(
            left.replace('|', ""),
            text.bytes().zip(&removed).filter(|(_, gone)| !**gone).map(|(byte, _)| byte as char).collect::<String>()
        );
        for start in 0..removed.len() {
            if !removed[start] {
                prop_assert_eq!(left.as_bytes()[map.start(start)], text.as_bytes()[start]);
                prop_assert_eq!(map.end(start + 1), map.start(start) + 1);
            }
            for end in start..=removed.len() {
                match map.range(start, end) {
                    // A range begins and ends with its first and last kept bytes.
                    Some((new_start, new_end)) => {
                        let kept: Vec<usize> = (start..end).filter(|index| !removed[*index]).collect();
                        prop_assert_eq!(new_start, map.start(kept[0]));
                        prop_assert_eq!(new_end, map.start(kept[kept.len() - 1]) + 1);
                    }
                    None => prop_assert!((start..end).all(|index| removed[index])),
                }
            }
        }
    }
}

fn table(rows: &[(u32, u64, u64, u64)]) -> Result<SpanTable, Error> {
    let column = |value: fn(&(u32, u64, u64, u64)) -> u64| -> ArrayRef { Arc::new(UInt64Array::from_iter_values(rows.iter().map(value))) };
    let none: ArrayRef = Arc::new(UInt64Array::new_null(rows.len()));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(UInt32Array::from_iter_values(rows.iter().map(|row| row.0))),
        column(|row| row.1),
        column(|row| row.2),
        column(|row| row.3),
        none.clone(),
        none,
    ];
    SpanTable::new(&[RecordBatch::try_new(osler_schemas::span::schema(), columns).unwrap()])
}

/// Documents 0, 1, … with the sections of each, and a column that the operator does not know.
fn documents(rows: &[(&str, &[(u64, u64)])]) -> RecordBatch {
    let ranges: Vec<(u64, u64)> = rows.iter().flat_map(|(_, sections)| sections.iter().copied()).collect();
    let fields: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(ranges.iter().map(|(start, end)| format!("{start}-{end}")))),
        Arc::new(UInt32Array::from_value(1, ranges.len())),
        Arc::new(UInt64Array::from_iter_values(ranges.iter().map(|range| range.0))),
        Arc::new(UInt64Array::from_iter_values(ranges.iter().map(|range| range.1))),
    ];
    let DataType::List(item) = document::sections_type() else { unreachable!("sections are a list") };
    let values = StructArray::try_new(document::section_fields(), fields, None).unwrap();
    let offsets = OffsetBuffer::from_lengths(rows.iter().map(|(_, sections)| sections.len()));
    let schema = Schema::new(vec![
        Field::new("ordinal", DataType::UInt64, false),
        Field::new("extra", DataType::UInt64, false),
        Field::new("text", DataType::Utf8, false),
        Field::new("sections", document::sections_type(), false),
        Field::new("num_bytes", DataType::UInt64, false),
        Field::new("num_words", DataType::UInt64, false),
    ]);
    let numbers = |value: u64| -> ArrayRef { Arc::new(UInt64Array::from_value(value, rows.len())) };
    let columns: Vec<ArrayRef> = vec![
        Arc::new(UInt64Array::from_iter_values(0..rows.len() as u64)),
        numbers(7),
        Arc::new(StringArray::from_iter_values(rows.iter().map(|row| row.0))),
        Arc::new(ListArray::new(item, offsets, Arc::new(values), None)),
        numbers(100),
        numbers(100),
    ];
    RecordBatch::try_new(Arc::new(schema), columns).unwrap()
}

fn run(table: SpanTable, batch: RecordBatch) -> Result<RecordBatch, Error> {
    let mut operator = Cut::with_schema(&ExactDuplicatesConfig::default(), table, batch.schema());
    let mut out: Vec<RecordBatch> = Vec::new();
    operator.push(batch, &mut out)?;
    operator.finish(&mut out)?;
    assert_eq!(out.len(), 1);
    assert_eq!(out[0].schema(), operator.output_schema());
    Ok(out.remove(0))
}

#[test]
fn cuts_texts_and_sections_in_all_passes() {
    let batch = documents(&[
        ("untouched", &[(0, 9)]),
        ("one two three four", &[(0, 18), (4, 8), (8, 18)]),
        ("gone", &[(0, 4)]),
        ("é two", &[(0, 2), (2, 6)]),
    ]);
    // Document 1: "one " + "\n" + "three four", then "one " + "\n" + "thr" + "\n" + "our" of the 15 bytes left.
    let table = table(&[(1, 1, 8, 12), (0, 1, 4, 8), (0, 2, 0, 2), (0, 2, 2, 4), (0, 3, 0, 2)]).unwrap();
    let cut = run(table, batch).unwrap();
    let texts = expect::utf8(&cut, "text").unwrap();
    assert_eq!(texts.iter().flatten().collect::<Vec<_>>(), ["untouched", "one \n\nthr\nour".replace("\n\n", "\n").as_str(), "", " two"]);
    assert_eq!(expect::u64(&cut, "num_bytes").unwrap().values(), &[100, 12, 0, 4]);
    assert_eq!(expect::u64(&cut, "num_words").unwrap().values(), &[100, 3, 0, 1]);
    assert_eq!(expect::u64(&cut, "extra").unwrap().values(), &[7; 4]);
    let sections = expect::list(&cut, "sections").unwrap();
    let got: Vec<Vec<(String, u64, u64)>> = (0..4)
        .map(|row| {
            let sections = sections.value(row);
            let sections = sections.as_struct();
            let number = |column: usize, index| sections.column(column).as_primitive::<UInt64Type>().value(index);
            let title = |index| sections.column(0).as_string::<i32>().value(index).to_string();
            (0..sections.len()).map(|index| (title(index), number(2, index), number(3, index))).collect()
        })
        .collect();
    let section = |title: &str, start, end| (title.to_string(), start, end);
    assert_eq!(got, [vec![section("0-9", 0, 9)], vec![section("0-18", 0, 12), section("8-18", 5, 12)], vec![], vec![section("2-6", 0, 4)]]);
}

#[test]
fn a_slice_of_a_batch_is_cut_alike() {
    let batch = documents(&[("abcd", &[(0, 4)]), ("efgh", &[(0, 2), (2, 4)]), ("ijkl", &[(1, 3)])]);
    let spans = || table(&[(0, 1, 0, 2), (0, 2, 0, 1)]).unwrap();
    let whole = run(spans(), batch.clone()).unwrap();
    assert_eq!(run(spans(), batch.slice(1, 2)).unwrap(), whole.slice(1, 2));
}

#[test]
fn spans_that_do_not_fit_are_refused() {
    for (rows, byte) in [(vec![(0, 0, 2, 9)], "bytes 2 to 9"), (vec![(0, 0, 1, 3)], "bytes 1 to 3"), (vec![(0, 0, 3, 2)], "bytes 3 to 2")] {
        let error = run(table(&rows).unwrap(), documents(&[("éabc", &[])])).unwrap_err().to_string();
        assert!(error.contains(byte) && error.contains("document 0"), "{error}");
    }
    assert!(table(&[(0, 0, 0, 3), (0, 0, 2, 4)]).is_err());
    assert!(table(&[(0, 0, 0, 3), (1, 0, 2, 4)]).is_ok());
}
