//! `cuda/attention_forward.cu`, `cuda/attention_backward.cu` and their siblings for Hopper.

use crate::{Tolerance, Visitor, Work, close, index, largest, numbers, read_exact, read_stored, spoil, stored};
use osler_kernels::Operations;
use osler_kernels::operations::{AttentionInput, AttentionShape};

/// The cases that an emulator can run.
pub fn visit(visitor: &mut impl Visitor) {
    CASES.iter().for_each(|case| visitor.visit(case));
    // Windows next to tiles of 32 keys, which wide heads have, and of 64.
    for (window, head_dim) in [31, 32, 33, 63, 64, 65].into_iter().flat_map(|window| [(window, 32), (window, 256)]) {
        visitor.visit(&Case { name: "window edges", heads: (1, 1), head_dim, lengths: &[110], window, sharpness: 1.0 });
    }
    let documents = |head_dim| Case { name: "documents", heads: (1, 1), head_dim, lengths: &[70, 70], window: 1000, sharpness: 1.0 };
    visitor.visit(&Spoilt { case: documents(32), keys: false });
    visitor.visit(&Spoilt { case: documents(32), keys: true });
    for (before, rows) in [(100, 1), (64, 3), (7, 70)] {
        visitor.visit(&Cached { before, rows, head_dim: 32 });
    }
    HOPPER_CASES.iter().for_each(|case| visitor.visit(case));
    // Windows within a tile, of one, past one, and of one row: tiles are 64 and 128, of wide heads 64.
    for (window, head_dim) in [1, 63, 64, 65, 127, 128].into_iter().flat_map(|window| [(window, 64), (window, 256)]) {
        visitor.visit(&Case { name: "window edges", heads: (1, 1), head_dim, lengths: &[200], window, sharpness: 1.0 });
    }
    let spoilt = Case { name: "documents", heads: (1, 1), head_dim: 64, lengths: &[130, 130], window: 1000, sharpness: 1.0 };
    visitor.visit(&Spoilt { case: spoilt, keys: false });
    // Of heads of 80 and 96 a box has columns of the next.
    for (head_dim, keys) in [80, 96, 128, 256].into_iter().flat_map(|head_dim| [(head_dim, false), (head_dim, true)]) {
        let case = Case { name: "a window", heads: (4, 2), head_dim, lengths: &[70, 70], window: 60, sharpness: 1.0 };
        visitor.visit(&Spoilt { case, keys });
    }
    for (before, rows, head_dim) in [(300, 1, 64), (128, 3, 80), (7, 130, 96), (127, 2, 128), (64, 65, 256)] {
        visitor.visit(&Cached { before, rows, head_dim });
    }
}

/// Cases of sizes that models have.
pub fn visit_large(visitor: &mut impl Visitor) {
    LARGE_CASES.iter().for_each(|case| visitor.visit(case));
}

/// Rows of documents of these lengths, each seeing `window` keys.
pub fn lo(lengths: &[usize], window: usize) -> Vec<u32> {
    let mut start = 0;
    let mut rows = Vec::new();
    for &len in lengths {
        rows.extend((start..start + len).map(|row| start.max((row + 1).saturating_sub(window)) as u32));
        start += len;
    }
    rows
}

struct Case {
    name: &'static str,
    heads: (usize, usize),
    head_dim: usize,
    lengths: &'static [usize],
    window: usize,
    /// Factor on the queries: how far the softmax is from even.
    sharpness: f32,
}

impl Case {
    fn rows(&self) -> usize {
        self.lengths.iter().sum()
    }

    fn query(&self) -> Vec<f32> {
        numbers(self.rows() * self.heads.0 * self.head_dim, 1).iter().map(|x| x * self.sharpness).collect()
    }

    fn key(&self) -> Vec<f32> {
        numbers(self.rows() * self.heads.1 * self.head_dim, 2)
    }

    /// What both passes give for queries and keys.
    fn of<O: Operations>(&self, device: &O, query: &[f32], key: &[f32]) -> Vec<Vec<f32>> {
        let rows = self.rows();
        let (query_heads, key_heads) = self.heads;
        let shape = AttentionShape { rows, query_heads, key_heads, head_dim: self.head_dim };
        let (queries, keys) = (rows * query_heads * self.head_dim, rows * key_heads * self.head_dim);
        let (query, key, value) = (stored(device, query), stored(device, key), stored(device, &numbers(keys, 3)));
        let lo = index(device, &lo(self.lengths, self.window));
        let input = || AttentionInput { query: &query, key: &key, value: &value, lo: &lo };
        let (mut output, mut sums) = (device.new_stored(queries).unwrap(), device.new_exact(rows * query_heads).unwrap());
        device.attention_forward(shape, input(), &mut output, &mut sums).unwrap();
        let grad = stored(device, &numbers(queries, 4));
        let mut query_grad = stored(device, &numbers(queries, 5));
        let [mut key_grad, mut value_grad] = [6, 7].map(|salt| stored(device, &numbers(keys, salt)));
        device.attention_backward(shape, input(), &output, &sums, &grad, &mut query_grad, &mut key_grad, &mut value_grad).unwrap();
        vec![
            read_stored(device, &output, queries),
            read_exact(device, &sums, rows * query_heads),
            read_stored(device, &query_grad, queries),
            read_stored(device, &key_grad, keys),
            read_stored(device, &value_grad, keys),
        ]
    }

    fn judge_forward(&self, got: &[Vec<f32>], wanted: &[Vec<f32>]) -> Result<(), String> {
        // Probabilities are rounded below running maxima that differ between the two, half a unit (1/512) each, and so are results. Values are
        // at most 1.5, and probabilities add up to one.
        close("output", &got[0], &wanted[0], Tolerance { relative: 1.0 / 128.0, absolute: 1.5 / 256.0 })?;
        // Scores of some hundreds in f32.
        close("log_sum_exp", &got[1], &wanted[1], Tolerance { relative: 2e-6, absolute: 1e-5 * self.sharpness.max(1.0) })
    }
}

impl Work for Case {
    fn run<O: Operations>(&self, device: &O) -> Vec<Vec<f32>> {
        self.of(device, &self.query(), &self.key())
    }

    fn name(&self) -> String {
        let Self { name, heads, head_dim, window, .. } = self;
        format!("attention, {name}: {heads:?} heads of {head_dim}, {} rows, window {window}", self.rows())
    }

    fn judge(&self, got: &[Vec<f32>], wanted: &[Vec<f32>]) -> Result<(), String> {
        self.judge_forward(got, wanted)?;
        for (at, what) in [(2, "query_grad"), (3, "key_grad"), (4, "value_grad")] {
            // Sums of terms rounded to 1/512 that may cancel: as large as the largest gradient. Of one row there is none but noise.
            let absolute = largest(&wanted[at]) / 128.0 + 1e-6;
            close(what, &got[at], &wanted[at], Tolerance { relative: 1.0 / 128.0, absolute })?;
        }
        Ok(())
    }
}

/// A case where a row's query has an infinite number, and another row's one that is none: their results are no numbers, and those of all other
/// rows as ever. Or two rows' keys: then those of the rows that see them. Backward, what is not a number may reach whatever is multiplied with it,
/// hidden or not: devices differ there.
struct Spoilt {
    case: Case,
    keys: bool,
}

impl Work for Spoilt {
    fn run<O: Operations>(&self, device: &O) -> Vec<Vec<f32>> {
        let (mut query, mut key) = (self.case.query(), self.case.key());
        let spoilt = if self.keys { &mut key } else { &mut query };
        let (infinite, none) = (spoilt.len() / 2, spoilt.len() / 3);
        spoil(spoilt, infinite, none);
        self.case.of(device, &query, &key)
    }

    fn name(&self) -> String {
        format!("{}, {} spoilt", self.case.name(), if self.keys { "keys" } else { "queries" })
    }

    fn judge(&self, got: &[Vec<f32>], wanted: &[Vec<f32>]) -> Result<(), String> {
        self.case.judge_forward(got, wanted)
    }
}

/// One head or few, of the sizes that models have; window edges within, at and past tiles of 32 and 64 keys; documents of one token and
/// of none; rows that are no multiple of a tile.
const CASES: &[Case] = &[
    Case { name: "one row", heads: (1, 1), head_dim: 64, lengths: &[1], window: 1, sharpness: 1.0 },
    Case { name: "one tile", heads: (2, 1), head_dim: 64, lengths: &[64], window: 64, sharpness: 1.0 },
    Case { name: "a row more", heads: (1, 1), head_dim: 128, lengths: &[65], window: 65, sharpness: 1.0 },
    Case { name: "odd tail", heads: (4, 2), head_dim: 32, lengths: &[203], window: 1000, sharpness: 2.0 },
    Case { name: "documents", heads: (2, 1), head_dim: 32, lengths: &[1, 0, 37, 64, 1, 1, 0, 90, 3], window: 1000, sharpness: 2.0 },
    Case { name: "window inside a tile", heads: (2, 2), head_dim: 32, lengths: &[150, 20], window: 17, sharpness: 2.0 },
    Case { name: "window of a tile", heads: (1, 1), head_dim: 32, lengths: &[200], window: 64, sharpness: 1.0 },
    Case { name: "window past a tile", heads: (1, 1), head_dim: 32, lengths: &[200], window: 65, sharpness: 1.0 },
    Case { name: "window of one", heads: (1, 1), head_dim: 32, lengths: &[70], window: 1, sharpness: 1.0 },
    Case { name: "heads of 80", heads: (3, 1), head_dim: 80, lengths: &[70], window: 50, sharpness: 1.0 },
    Case { name: "heads of 96", heads: (1, 1), head_dim: 96, lengths: &[67, 3], window: 100, sharpness: 1.0 },
    Case { name: "heads of 128", heads: (4, 1), head_dim: 128, lengths: &[50, 51], window: 40, sharpness: 1.0 },
    Case { name: "heads of 256", heads: (2, 1), head_dim: 256, lengths: &[33, 40], window: 60, sharpness: 1.0 },
    Case { name: "one row", heads: (1, 1), head_dim: 256, lengths: &[1], window: 1, sharpness: 1.0 },
    Case { name: "one tile", heads: (1, 1), head_dim: 256, lengths: &[32], window: 32, sharpness: 1.0 },
    Case { name: "documents", heads: (2, 1), head_dim: 256, lengths: &[1, 0, 37, 1, 1, 0, 90], window: 80, sharpness: 2.0 },
    Case { name: "one key takes all", heads: (1, 1), head_dim: 256, lengths: &[100], window: 100, sharpness: 200.0 },
    Case { name: "one key takes all", heads: (1, 1), head_dim: 32, lengths: &[100], window: 100, sharpness: 200.0 },
];

/// The kernels of Hopper have blocks of 128 rows, tiles of 64 and 128, and all head dimensions but 32. Heads that are not whole boxes of 64
/// columns bring some of the next with them. Backward, blocks of 128 keys add to the same tile of 64 queries in turn; of heads of 256 they
/// have 64 keys, and kernels of their own.
const HOPPER_CASES: &[Case] = &[
    Case { name: "one row", heads: (1, 1), head_dim: 64, lengths: &[1], window: 1, sharpness: 1.0 },
    Case { name: "one tile", heads: (1, 1), head_dim: 64, lengths: &[128], window: 128, sharpness: 1.0 },
    Case { name: "a ring of tiles", heads: (1, 1), head_dim: 64, lengths: &[450], window: 1000, sharpness: 2.0 },
    Case { name: "documents", heads: (2, 1), head_dim: 64, lengths: &[1, 0, 100, 29, 1, 70], window: 1000, sharpness: 2.0 },
    Case { name: "a window", heads: (1, 1), head_dim: 64, lengths: &[300], window: 129, sharpness: 1.0 },
    Case { name: "heads in a group", heads: (3, 1), head_dim: 64, lengths: &[90], window: 30, sharpness: 1.0 },
    Case { name: "heads of 128", heads: (2, 1), head_dim: 128, lengths: &[130, 7], window: 100, sharpness: 1.0 },
    Case { name: "one key takes all", heads: (1, 1), head_dim: 128, lengths: &[150], window: 150, sharpness: 200.0 },
    Case { name: "one row of 128", heads: (1, 1), head_dim: 128, lengths: &[1], window: 1, sharpness: 1.0 },
    Case { name: "blocks of keys", heads: (1, 1), head_dim: 128, lengths: &[460], window: 1000, sharpness: 2.0 },
    Case {
        name: "documents and heads in groups",
        heads: (4, 2),
        head_dim: 128,
        lengths: &[1, 0, 100, 29, 1, 170],
        window: 90,
        sharpness: 1.0,
    },
    Case { name: "heads of 80 on Hopper", heads: (4, 2), head_dim: 80, lengths: &[135, 60], window: 150, sharpness: 1.0 },
    Case { name: "heads of 96 on Hopper", heads: (3, 1), head_dim: 96, lengths: &[140], window: 1000, sharpness: 2.0 },
    Case { name: "one row of 80", heads: (1, 1), head_dim: 80, lengths: &[1], window: 1, sharpness: 1.0 },
    Case { name: "one row of 96", heads: (2, 1), head_dim: 96, lengths: &[1], window: 1, sharpness: 1.0 },
    Case { name: "documents of 80", heads: (2, 1), head_dim: 80, lengths: &[1, 0, 70, 1, 1, 0, 140], window: 65, sharpness: 1.0 },
    Case { name: "documents of 96", heads: (2, 2), head_dim: 96, lengths: &[1, 0, 70, 1, 1, 0, 140], window: 127, sharpness: 1.0 },
    Case { name: "heads of 256 on Hopper", heads: (2, 1), head_dim: 256, lengths: &[133, 70], window: 120, sharpness: 1.0 },
    Case { name: "one row of 256", heads: (1, 1), head_dim: 256, lengths: &[1], window: 1, sharpness: 1.0 },
    Case { name: "one tile", heads: (1, 1), head_dim: 256, lengths: &[64], window: 64, sharpness: 1.0 },
    Case { name: "a row more", heads: (3, 1), head_dim: 256, lengths: &[65], window: 30, sharpness: 1.0 },
    Case { name: "blocks of keys", heads: (1, 1), head_dim: 256, lengths: &[300], window: 1000, sharpness: 2.0 },
    Case { name: "one key takes all", heads: (1, 1), head_dim: 256, lengths: &[150], window: 150, sharpness: 200.0 },
    Case {
        name: "documents and heads in groups",
        heads: (4, 2),
        head_dim: 256,
        lengths: &[1, 0, 70, 29, 1, 1, 0, 100],
        window: 90,
        sharpness: 1.0,
    },
];

const LARGE_CASES: &[Case] = &[
    Case { name: "Mistral", heads: (32, 8), head_dim: 128, lengths: &[2048], window: 4096, sharpness: 1.0 },
    Case { name: "a window", heads: (8, 2), head_dim: 128, lengths: &[4096], window: 1024, sharpness: 2.0 },
    Case { name: "documents", heads: (14, 2), head_dim: 64, lengths: &[1000, 1, 513, 0, 127, 1400, 64, 991], window: 4096, sharpness: 2.0 },
    Case { name: "heads of 80", heads: (8, 8), head_dim: 80, lengths: &[1500], window: 4096, sharpness: 1.0 },
    Case { name: "heads of 96", heads: (8, 8), head_dim: 96, lengths: &[1500], window: 4096, sharpness: 1.0 },
    Case { name: "heads of 256", heads: (8, 1), head_dim: 256, lengths: &[1500], window: 4096, sharpness: 1.0 },
];

/// Rows that follow others whose keys and values are held, in buffers with room for more.
struct Cached {
    before: usize,
    rows: usize,
    head_dim: usize,
}

impl Work for Cached {
    fn run<O: Operations>(&self, device: &O) -> Vec<Vec<f32>> {
        let Self { before, rows, head_dim } = *self;
        let shape = AttentionShape { rows, query_heads: 2, key_heads: 1, head_dim };
        let (keys, queries) = ((before + rows + 5) * head_dim, 2 * rows * head_dim);
        let query = stored(device, &numbers(queries, 1));
        let (key, value) = (stored(device, &numbers(keys, 2)), stored(device, &numbers(keys, 3)));
        let lo = index(device, &(0..rows).map(|row| (before + row).saturating_sub(90) as u32).collect::<Vec<_>>());
        let mut output = device.new_stored(queries).unwrap();
        let input = AttentionInput { query: &query, key: &key, value: &value, lo: &lo };
        device.attention_cached(shape, before, input, &mut output).unwrap();
        vec![read_stored(device, &output, queries)]
    }

    fn name(&self) -> String {
        format!("attention, {} rows after {} held ones, heads of {}", self.rows, self.before, self.head_dim)
    }

    fn judge(&self, got: &[Vec<f32>], wanted: &[Vec<f32>]) -> Result<(), String> {
        close("output", &got[0], &wanted[0], Tolerance { relative: 1.0 / 128.0, absolute: 1.5 / 256.0 })
    }
}
