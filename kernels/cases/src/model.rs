//! One step of a small model of one layer with experts: every operation, forward and backward, each on what the one before made.

use crate::{Visitor, Work, equal, exact, index, numbers, read_exact, read_index, read_stored, stored};
use osler_kernels::Operations;
use osler_kernels::operations::{
    AdamState, AdamW, AttentionInput, AttentionShape, DispatchShape, IGNORED, LinearShape, RotaryShape, RouteShape,
};

/// The cases of all devices.
pub fn visit(visitor: &mut impl Visitor) {
    visitor.visit(&Step);
}

const ROWS: usize = 70;
const HIDDEN: usize = 64;
const HEADS: (usize, usize) = (4, 2);
const HEAD_DIM: usize = 32;
const QUERY: usize = HEADS.0 * HEAD_DIM;
const KEY: usize = HEADS.1 * HEAD_DIM;
const INNER: usize = 40;
const EXPERTS: usize = 4;
const TOP_K: usize = 2;
const CHOICES: usize = ROWS * TOP_K;
const VOCABULARY: usize = 50;

const ROUTE: RouteShape = RouteShape { rows: ROWS, experts: EXPERTS, top_k: TOP_K };
const MOVES: DispatchShape = DispatchShape { rows: ROWS, top_k: TOP_K, hidden: HIDDEN };
const ATTENTION: AttentionShape = AttentionShape { rows: ROWS, query_heads: HEADS.0, key_heads: HEADS.1, head_dim: HEAD_DIM };

const fn linear(rows: usize, inputs: usize, outputs: usize) -> LinearShape {
    LinearShape { rows, inputs, outputs }
}

const fn rotary(heads: usize) -> RotaryShape {
    RotaryShape { rows: ROWS, heads, head_dim: HEAD_DIM }
}

/// Weights of about one over the square root of their inputs, so that activations stay of about one.
fn weight<O: Operations>(device: &O, len: usize, inputs: usize, salt: u64) -> O::Stored {
    let factor = 1.0 / (inputs as f32).sqrt();
    stored(device, &numbers(len, salt).iter().map(|x| x * factor).collect::<Vec<_>>())
}

/// Weights of norms, about one.
fn norm<O: Operations>(device: &O, len: usize, salt: u64) -> O::Stored {
    stored(device, &numbers(len, salt).iter().map(|x| 1.0 + 0.1 * x).collect::<Vec<_>>())
}

/// What both halves read: tokens, positions, angles, what each row sees.
struct Shared<O: Operations> {
    tokens: O::Index,
    targets: O::Index,
    positions: O::Index,
    lo: O::Index,
    table: O::Exact,
}

impl<O: Operations> Shared<O> {
    fn new(device: &O) -> Self {
        // Two documents, and a window.
        let start = |row: usize| if row < 30 { 0 } else { 30 };
        let rows = || 0..ROWS;
        let tokens: Vec<u32> = rows().map(|row| (row * row % VOCABULARY) as u32).collect();
        let targets: Vec<u32> = rows().map(|row| if row == 29 { IGNORED } else { (row * 3 % VOCABULARY) as u32 }).collect();
        let positions: Vec<u32> = rows().map(|row| (row - start(row)) as u32).collect();
        let lo: Vec<u32> = rows().map(|row| start(row).max((row + 1).saturating_sub(25)) as u32).collect();
        let angle = |at: usize| (at / HEAD_DIM) as f32 / 100f32.powf((at % (HEAD_DIM / 2)) as f32 / (HEAD_DIM / 2) as f32);
        let table: Vec<f32> =
            (0..ROWS * HEAD_DIM).map(|at| if at % HEAD_DIM < HEAD_DIM / 2 { angle(at).cos() } else { angle(at).sin() }).collect();
        Self {
            tokens: index(device, &tokens),
            targets: index(device, &targets),
            positions: index(device, &positions),
            lo: index(device, &lo),
            table: exact(device, &table),
        }
    }
}

/// The attention half: from embeddings to the sum that the second norm reads, and back.
struct Attention<O: Operations> {
    weights: [O::Stored; 4],
    norms: [O::Stored; 3],
    embedding: O::Stored,
    rows: Vec<O::Stored>,
    scales: Vec<O::Exact>,
    log_sum_exp: O::Exact,
}

impl<O: Operations> Attention<O> {
    fn forward(device: &O, shared: &Shared<O>) -> Self {
        let stored = |len| device.new_stored(len).unwrap();
        let weights = [(QUERY, 11), (KEY, 12), (KEY, 13)].map(|(outputs, salt)| weight(device, HIDDEN * outputs, HIDDEN, salt));
        let [query_weight, key_weight, value_weight] = weights;
        let output_weight = weight(device, HIDDEN * QUERY, QUERY, 14);
        let (bias, embedding) = (weight(device, QUERY, 16, 15), self::stored(device, &numbers(VOCABULARY * HIDDEN, 16)));
        let norms = [norm(device, HIDDEN, 17), norm(device, HEAD_DIM, 18), norm(device, HEAD_DIM, 19)];
        let [mut input, mut normed, mut result] = [(); 3].map(|()| stored(ROWS * HIDDEN));
        let [mut query, mut query_turned, mut output] = [(); 3].map(|()| stored(ROWS * QUERY));
        let [mut key, mut key_turned, mut value] = [(); 3].map(|()| stored(ROWS * KEY));
        let [mut scale, mut query_scale, mut key_scale, mut log_sum_exp] =
            [ROWS, ROWS * HEADS.0, ROWS * HEADS.1, ROWS * HEADS.0].map(|len| device.new_exact(len).unwrap());
        device.embedding_forward(HIDDEN, &shared.tokens, &embedding, &mut input).unwrap();
        device.rmsnorm_forward(1e-5, &input, &norms[0], &mut normed, &mut scale).unwrap();
        device.linear_forward(linear(ROWS, HIDDEN, QUERY), &normed, &query_weight, Some(&bias), &mut query).unwrap();
        device.linear_forward(linear(ROWS, HIDDEN, KEY), &normed, &key_weight, None, &mut key).unwrap();
        device.linear_forward(linear(ROWS, HIDDEN, KEY), &normed, &value_weight, None, &mut value).unwrap();
        let (table, positions) = (&shared.table, &shared.positions);
        let turn = |heads, input: &_, norm: &_, output: &mut _, scale: &mut _| {
            device.rotary_forward(rotary(heads), table, positions, input, Some((norm, 1e-6)), output, scale).unwrap();
        };
        turn(HEADS.0, &query, &norms[1], &mut query_turned, &mut query_scale);
        turn(HEADS.1, &key, &norms[2], &mut key_turned, &mut key_scale);
        let seen = AttentionInput { query: &query_turned, key: &key_turned, value: &value, lo: &shared.lo };
        device.attention_forward(ATTENTION, seen, &mut output, &mut log_sum_exp).unwrap();
        device.linear_forward(linear(ROWS, QUERY, HIDDEN), &output, &output_weight, None, &mut result).unwrap();
        Self {
            weights: [query_weight, key_weight, value_weight, output_weight],
            norms,
            embedding,
            rows: vec![input, normed, query, key, value, query_turned, key_turned, output, result],
            scales: vec![scale, query_scale, key_scale],
            log_sum_exp,
        }
    }

    /// Adds its part to `input_grad`, which holds the gradient of the sum; gives the gradients of its weights.
    fn backward(&self, device: &O, shared: &Shared<O>, mut input_grad: O::Stored) -> Vec<Vec<f32>> {
        let stored = |len| device.new_stored(len).unwrap();
        let exact = |len| device.new_exact(len).unwrap();
        let [input, normed, query, key, value, query_turned, key_turned, output, _] = &self.rows[..] else { unreachable!() };
        let [query_weight, key_weight, value_weight, output_weight] = &self.weights;
        let mut weight_grads = [HIDDEN * QUERY, HIDDEN * KEY, HIDDEN * KEY, HIDDEN * QUERY].map(exact);
        let mut norm_grads = [HIDDEN, HEAD_DIM, HEAD_DIM].map(exact);
        let mut bias_grad = exact(QUERY);
        let [mut output_grad, mut query_grad] = [(); 2].map(|()| stored(ROWS * QUERY));
        let [mut key_grad, mut value_grad] = [(); 2].map(|()| stored(ROWS * KEY));
        let mut normed_grad = stored(ROWS * HIDDEN);
        device.linear_backward_input(linear(ROWS, QUERY, HIDDEN), &input_grad, output_weight, false, &mut output_grad).unwrap();
        device.linear_backward_weight(linear(ROWS, QUERY, HIDDEN), &input_grad, output, &mut weight_grads[3], None).unwrap();
        let seen = AttentionInput { query: query_turned, key: key_turned, value, lo: &shared.lo };
        device
            .attention_backward(ATTENTION, seen, output, &self.log_sum_exp, &output_grad, &mut query_grad, &mut key_grad, &mut value_grad)
            .unwrap();
        let [_, query_norm, key_norm] = &mut norm_grads;
        let back = |heads, saved: (&_, &_, &_, &mut _), grad: &mut _| {
            device.rotary_backward(rotary(heads), &shared.table, &shared.positions, Some(saved), grad).unwrap();
        };
        back(HEADS.0, (query, &self.norms[1], &self.scales[1], query_norm), &mut query_grad);
        back(HEADS.1, (key, &self.norms[2], &self.scales[2], key_norm), &mut key_grad);
        let parts = [(&query_grad, query_weight, QUERY), (&key_grad, key_weight, KEY), (&value_grad, value_weight, KEY)];
        for (at, (grad, weight, outputs)) in parts.into_iter().enumerate() {
            let shape = linear(ROWS, HIDDEN, outputs);
            device.linear_backward_input(shape, grad, weight, at > 0, &mut normed_grad).unwrap();
            let bias = (at == 0).then_some(&mut bias_grad);
            device.linear_backward_weight(shape, grad, normed, &mut weight_grads[at], bias).unwrap();
        }
        device.rmsnorm_backward(input, &self.norms[0], &self.scales[0], &normed_grad, &mut input_grad, &mut norm_grads[0]).unwrap();
        let mut table_grad = exact(VOCABULARY * HIDDEN);
        device.embedding_backward(HIDDEN, &shared.tokens, &input_grad, &mut table_grad).unwrap();
        let lens = [HIDDEN * QUERY, HIDDEN * KEY, HIDDEN * KEY, HIDDEN * QUERY, HIDDEN, HEAD_DIM, HEAD_DIM];
        let mut grads: Vec<Vec<f32>> =
            weight_grads.iter().chain(&norm_grads).zip(lens).map(|(grad, len)| read_exact(device, grad, len)).collect();
        grads.push(read_exact(device, &bias_grad, QUERY));
        grads.push(read_exact(device, &table_grad, VOCABULARY * HIDDEN));
        grads
    }
}

/// The half with experts, the last norm and the loss.
struct Experts<O: Operations> {
    router: O::Stored,
    /// Of gates, of what they multiply, and back.
    weights: [O::Stored; 3],
    norms: [O::Stored; 2],
    /// Rows of tokens: the sum, its norm, the last sum, its norm.
    rows: [O::Stored; 4],
    scales: [O::Exact; 2],
    probabilities: O::Exact,
    shares: O::Exact,
    /// Chosen, slots, sources, segments.
    moves: [O::Index; 4],
    balance: [O::Exact; 2],
    /// Rows of choices: sent and returned; gates, what they multiply and the product.
    sent: [O::Stored; 2],
    middle: [O::Stored; 3],
}

const WIDE: LinearShape = linear(CHOICES, HIDDEN, INNER);
const NARROW: LinearShape = linear(CHOICES, INNER, HIDDEN);
const ROUTER: LinearShape = linear(ROWS, HIDDEN, EXPERTS);

impl<O: Operations> Experts<O> {
    fn forward(device: &O, attention: &Attention<O>) -> Self {
        let stored = |len| device.new_stored(len).unwrap();
        let exact = |len| device.new_exact(len).unwrap();
        // Numbers for which no row's choice hangs on the last bit of its logits.
        let router = weight(device, EXPERTS * HIDDEN, 4, 28);
        let weights = [(23, HIDDEN), (24, HIDDEN), (25, INNER)];
        let weights = weights.map(|(salt, inputs)| weight(device, EXPERTS * INNER * HIDDEN, inputs, salt));
        let norms = [norm(device, HIDDEN, 26), norm(device, HIDDEN, 27)];
        let [mut sum, mut normed, mut combined, mut last, mut last_normed] = [(); 5].map(|()| stored(ROWS * HIDDEN));
        let mut scales = [(); 2].map(|()| exact(ROWS));
        let (input, addend) = (&attention.rows[0], &attention.rows[8]);
        device.add_rmsnorm_forward(1e-5, input, addend, &norms[0], &mut sum, &mut normed, &mut scales[0]).unwrap();
        let (mut logits, mut probabilities, mut shares) = (stored(ROWS * EXPERTS), exact(ROWS * EXPERTS), exact(CHOICES));
        let lens = [CHOICES, CHOICES, CHOICES, EXPERTS + 1];
        let [mut chosen, mut slots, mut sources, mut segments] = lens.map(|len| device.new_index(len).unwrap());
        device.linear_forward(ROUTER, &normed, &router, None, &mut logits).unwrap();
        device.route_forward(ROUTE, &logits, &mut probabilities, &mut chosen, &mut shares).unwrap();
        device.dispatch(ROUTE, &chosen, &mut slots, &mut sources, &mut segments).unwrap();
        let (mut statistics, mut balance, mut balance_grad) = (exact(2 * EXPERTS), exact(1), exact(EXPERTS));
        device.balance_add(ROUTE, &probabilities, &chosen, &mut statistics).unwrap();
        device.balance_loss(ROUTE, 1, 0.02, &statistics, &mut balance, &mut balance_grad).unwrap();
        let mut sent = [(); 2].map(|()| stored(CHOICES * HIDDEN));
        let [mut gate, mut up, mut product] = [(); 3].map(|()| stored(CHOICES * INNER));
        device.permute_forward(MOVES, &sources, &normed, &mut sent[0]).unwrap();
        device.grouped_linear_forward(WIDE, &segments, &sent[0], &weights[0], &mut gate).unwrap();
        device.grouped_linear_forward(WIDE, &segments, &sent[0], &weights[1], &mut up).unwrap();
        device.swiglu_forward(&gate, &up, &mut product).unwrap();
        device.grouped_linear_forward(NARROW, &segments, &product, &weights[2], &mut sent[1]).unwrap();
        device.combine_forward(MOVES, &slots, &shares, &sent[1], &mut combined).unwrap();
        device.add_rmsnorm_forward(1e-5, &sum, &combined, &norms[1], &mut last, &mut last_normed, &mut scales[1]).unwrap();
        Self {
            router,
            weights,
            norms,
            rows: [sum, normed, last, last_normed],
            scales,
            probabilities,
            shares,
            moves: [chosen, slots, sources, segments],
            balance: [balance, balance_grad],
            sent,
            middle: [gate, up, product],
        }
    }

    /// The loss, and the gradient that reaches the sum by way of the last norm; with results to compare.
    fn loss(&self, device: &O, shared: &Shared<O>) -> (O::Stored, Vec<Vec<f32>>) {
        let head = weight(device, VOCABULARY * HIDDEN, HIDDEN, 22);
        let [mut last_normed_grad, mut sum_grad] = [(); 2].map(|()| device.new_stored(ROWS * HIDDEN).unwrap());
        let [mut losses, mut head_grad, mut norm_grad] = [ROWS, VOCABULARY * HIDDEN, HIDDEN].map(|len| device.new_exact(len).unwrap());
        let shape = linear(ROWS, HIDDEN, VOCABULARY);
        let (input, targets, scale) = (&self.rows[3], &shared.targets, 1.0 / (ROWS - 1) as f64);
        device.head_loss_forward_backward(shape, input, &head, targets, scale, &mut losses, &mut last_normed_grad, &mut head_grad).unwrap();
        let (last, weight) = (&self.rows[2], &self.norms[1]);
        device.rmsnorm_backward(last, weight, &self.scales[1], &last_normed_grad, &mut sum_grad, &mut norm_grad).unwrap();
        let results = vec![
            read_exact(device, &losses, ROWS),
            read_exact(device, &head_grad, VOCABULARY * HIDDEN),
            read_exact(device, &norm_grad, HIDDEN),
        ];
        (sum_grad, results)
    }

    /// Adds to the gradient of the sum; gives those of the weights.
    fn backward(&self, device: &O, sum_grad: &mut O::Stored) -> Vec<Vec<f32>> {
        let stored = |len| device.new_stored(len).unwrap();
        let exact = |len| device.new_exact(len).unwrap();
        let ([sum, normed, ..], [chosen, slots, sources, segments]) = (&self.rows, &self.moves);
        let [mut returned_grad, mut sent_grad] = [(); 2].map(|()| stored(CHOICES * HIDDEN));
        let [mut product_grad, mut gate_grad, mut up_grad] = [(); 3].map(|()| stored(CHOICES * INNER));
        let (mut shares_grad, mut logits_grad, mut normed_grad) = (exact(CHOICES), stored(ROWS * EXPERTS), stored(ROWS * HIDDEN));
        let (mut router_grad, mut norm_grad) = (exact(EXPERTS * HIDDEN), exact(HIDDEN));
        let mut weight_grads = [(); 3].map(|()| exact(EXPERTS * INNER * HIDDEN));
        let returned = &self.sent[1];
        device.combine_backward(MOVES, slots, sources, &self.shares, returned, sum_grad, &mut returned_grad, &mut shares_grad).unwrap();
        let [gate, up, product] = &self.middle;
        device.grouped_linear_backward_weight(NARROW, segments, &returned_grad, product, &mut weight_grads[2]).unwrap();
        device.grouped_linear_backward_input(NARROW, segments, &returned_grad, &self.weights[2], false, &mut product_grad).unwrap();
        device.swiglu_backward(gate, up, &product_grad, &mut gate_grad, &mut up_grad).unwrap();
        for (at, grad) in [&gate_grad, &up_grad].into_iter().enumerate() {
            device.grouped_linear_backward_weight(WIDE, segments, grad, &self.sent[0], &mut weight_grads[at]).unwrap();
            device.grouped_linear_backward_input(WIDE, segments, grad, &self.weights[at], at > 0, &mut sent_grad).unwrap();
        }
        device.permute_backward(MOVES, slots, &sent_grad, &mut normed_grad).unwrap();
        let balance_grad = &self.balance[1];
        device.route_backward(ROUTE, &self.probabilities, chosen, &shares_grad, balance_grad, &mut logits_grad).unwrap();
        device.linear_backward_weight(ROUTER, &logits_grad, normed, &mut router_grad, None).unwrap();
        device.linear_backward_input(ROUTER, &logits_grad, &self.router, true, &mut normed_grad).unwrap();
        device.rmsnorm_backward(sum, &self.norms[0], &self.scales[0], &normed_grad, sum_grad, &mut norm_grad).unwrap();
        let mut grads = vec![read_exact(device, &router_grad, EXPERTS * HIDDEN), read_exact(device, &norm_grad, HIDDEN)];
        grads.extend(weight_grads.iter().map(|grad| read_exact(device, grad, EXPERTS * INNER * HIDDEN)));
        grads
    }
}

struct Step;

impl Work for Step {
    fn run<O: Operations>(&self, device: &O) -> Vec<Vec<f32>> {
        let shared = Shared::new(device);
        let mut attention = Attention::forward(device, &shared);
        let experts = Experts::forward(device, &attention);
        let mut results = vec![read_index(device, &experts.moves[0]), read_exact(device, &experts.balance[0], 1)];
        let (mut sum_grad, losses) = experts.loss(device, &shared);
        results.extend(losses);
        results.extend(experts.backward(device, &mut sum_grad));
        results.extend(attention.backward(device, &shared, sum_grad));
        // A step of the optimiser on the embedding, with the gradient's norm cut to one.
        let len = VOCABULARY * HIDDEN;
        let grad = exact(device, results.last().unwrap());
        let norm = device.sum_of_squares(&grad).unwrap().sqrt();
        let settings = AdamW {
            learning_rate: 0.01,
            beta1: 0.9,
            beta2: 0.95,
            // As large as gradients are, so that noise in a small one does not become a whole step.
            epsilon: 1e-3,
            weight_decay: 0.1,
            step: 1,
            gradient_scale: (1.0 / norm).min(1.0),
        };
        let master = exact(device, &read_stored(device, &attention.embedding, len));
        let [first, second] = [(); 2].map(|()| device.new_exact(len).unwrap());
        let mut state = AdamState { first, second, master: Some(master) };
        device.adamw(&settings, &grad, &mut state, &mut attention.embedding).unwrap();
        results.push(read_stored(device, &attention.embedding, len));
        results
    }

    fn name(&self) -> String {
        "a step of a model".to_string()
    }

    fn judge(&self, got: &[Vec<f32>], wanted: &[Vec<f32>]) -> Result<(), String> {
        let names = "chosen balance losses head last_norm router second_norm gate up down query key value output first_norm query_norm \
                     key_norm query_bias embedding stepped_embedding";
        let names: Vec<&str> = names.split_whitespace().collect();
        if (got.len(), wanted.len()) != (names.len(), names.len()) {
            return Err(format!("{} and {} results, wanted {}", got.len(), wanted.len(), names.len()));
        }
        equal("chosen", &got[0], &wanted[0])?;
        for ((name, got), wanted) in names.into_iter().zip(got).zip(wanted) {
            let length = |values: &mut dyn Iterator<Item = f32>| values.map(|x| f64::from(x).powi(2)).sum::<f64>().sqrt();
            let apart = length(&mut got.iter().zip(wanted).map(|(got, wanted)| got - wanted));
            let whole = length(&mut wanted.iter().copied());
            // Some twenty stores one after the other, each up to half a unit (1/512) off, and at random.
            if whole == 0.0 || apart.is_nan() || apart > 20f64.sqrt() / 512.0 * whole {
                return Err(format!("{name}: {apart} of {whole} apart"));
            }
        }
        Ok(())
    }
}
