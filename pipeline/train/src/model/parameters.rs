//! Which tensors a model has: one list, in the order of the network, that weights, gradients and optimiser state share.

use super::Config;
use crate::random::Random;
use std::ops::Range;

/// Positions in the list of parameters of what one layer uses.
#[derive(Debug, Clone, PartialEq)]
pub struct Layer {
    pub attention_norm: usize,
    pub query: Linear,
    pub key: Linear,
    pub value: Linear,
    pub query_norm: Option<usize>,
    pub key_norm: Option<usize>,
    pub output: usize,
    pub feed_forward_norm: usize,
    /// Of a Mixtral: the router. Its gate, up and down have one matrix per expert.
    pub router: Option<usize>,
    pub gate: usize,
    pub up: usize,
    pub down: usize,
}

impl Layer {
    /// All its parameters: they lie one behind the other.
    pub fn parameters(&self) -> Range<usize> {
        self.attention_norm..self.down + 1
    }
}

/// A matrix and its bias.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Linear {
    pub weight: usize,
    pub bias: Option<usize>,
}

/// One parameter: a tensor of the network, made of one or more tensors of the file that lie one behind the other.
#[derive(Debug, Clone, PartialEq)]
pub struct Parameter {
    /// Names in the file; more than one only for experts, in order.
    pub names: Vec<String>,
    /// Shape of each of them.
    pub shape: Vec<usize>,
    /// What it is before training, where it is not read.
    pub start: Start,
}

/// How a parameter begins.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Start {
    Ones,
    Zeros,
    /// Normal, with the config's standard deviation.
    Normal,
}

impl Parameter {
    /// Numbers in all of it.
    pub fn len(&self) -> usize {
        self.names.len() * self.piece_len()
    }

    /// Whether it has no numbers.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Numbers in each of its tensors.
    pub fn piece_len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether weight decay applies: to matrices, embeddings included; not to norms and biases.
    pub fn decays(&self) -> bool {
        self.shape.len() > 1
    }

    /// Numbers to start from, in order; the same for the same seed, whatever other parameters there are.
    pub fn start_values(&self, config: &Config, seed: u64) -> impl Iterator<Item = f32> + use<> {
        let (start, deviation) = (self.start, config.initializer_range);
        let mut random = Random::new(seed, self.names.first().map_or("", String::as_str));
        (0..self.len()).map(move |_| match start {
            Start::Ones => 1.0,
            Start::Zeros => 0.0,
            Start::Normal => (random.normal() * deviation) as f32,
        })
    }
}

/// All parameters of a model, and where each is used.
#[derive(Debug, Clone, PartialEq)]
pub struct Parameters {
    pub list: Vec<Parameter>,
    pub embedding: usize,
    pub layers: Vec<Layer>,
    pub norm: usize,
    /// The embedding, where they are tied.
    pub head: usize,
}

impl Parameters {
    /// The parameters of a model of this shape.
    pub fn new(config: &Config) -> Self {
        let mut list = List(Vec::new());
        let embedding = list.add("model.embed_tokens.weight", &[config.vocab_size, config.hidden_size], Start::Normal);
        let layers = (0..config.num_layers).map(|layer| list.layer(config, &format!("model.layers.{layer}"))).collect();
        let norm = list.add("model.norm.weight", &[config.hidden_size], Start::Ones);
        let head =
            if config.tied { embedding } else { list.add("lm_head.weight", &[config.vocab_size, config.hidden_size], Start::Normal) };
        Self { list: list.0, embedding, layers, norm, head }
    }

    /// All parameters, in the order in which a backward pass is done with their gradients: the list from its end.
    pub fn backward(&self) -> impl Iterator<Item = Range<usize>> {
        let layers = self.layers.iter().rev().map(Layer::parameters);
        std::iter::once(self.after_layers()).chain(layers).chain(std::iter::once(self.before_layers()))
    }

    /// The embedding.
    pub fn before_layers(&self) -> Range<usize> {
        self.embedding..self.embedding + 1
    }

    /// The last norm, and the head where it is not the embedding.
    pub fn after_layers(&self) -> Range<usize> {
        self.norm..self.list.len()
    }

    /// Numbers in all parameters.
    pub fn num_weights(&self) -> usize {
        self.list.iter().map(Parameter::len).sum()
    }
}

struct List(Vec<Parameter>);

impl List {
    fn add(&mut self, name: &str, shape: &[usize], start: Start) -> usize {
        self.add_all(vec![name.to_string()], shape, start)
    }

    fn add_all(&mut self, names: Vec<String>, shape: &[usize], start: Start) -> usize {
        self.0.push(Parameter { names, shape: shape.to_vec(), start });
        self.0.len() - 1
    }

    fn linear(&mut self, name: &str, shape: &[usize; 2], bias: bool) -> Linear {
        let weight = self.add(&format!("{name}.weight"), shape, Start::Normal);
        Linear { weight, bias: bias.then(|| self.add(&format!("{name}.bias"), &shape[..1], Start::Zeros)) }
    }

    fn layer(&mut self, config: &Config, name: &str) -> Layer {
        let (hidden, dim) = (config.hidden_size, config.head_dim);
        let (queries, keys) = (config.num_heads * dim, config.num_key_heads * dim);
        let attention = format!("{name}.self_attn");
        let attention_norm = self.add(&format!("{name}.input_layernorm.weight"), &[hidden], Start::Ones);
        let query = self.linear(&format!("{attention}.q_proj"), &[queries, hidden], config.has_bias());
        let key = self.linear(&format!("{attention}.k_proj"), &[keys, hidden], config.has_bias());
        let value = self.linear(&format!("{attention}.v_proj"), &[keys, hidden], config.has_bias());
        let mut head_norm =
            |which: &str| config.has_head_norm().then(|| self.add(&format!("{attention}.{which}_norm.weight"), &[dim], Start::Ones));
        let (query_norm, key_norm) = (head_norm("q"), head_norm("k"));
        let output = self.add(&format!("{attention}.o_proj.weight"), &[hidden, queries], Start::Normal);
        let feed_forward_norm = self.add(&format!("{name}.post_attention_layernorm.weight"), &[hidden], Start::Ones);
        let router = config
            .experts
            .map(|experts| self.add(&format!("{name}.block_sparse_moe.gate.weight"), &[experts.count, hidden], Start::Normal));
        let mut matrices = |dense: &str, expert: &str, shape: &[usize]| {
            let names = match config.experts {
                Some(experts) => (0..experts.count).map(|at| format!("{name}.block_sparse_moe.experts.{at}.{expert}.weight")).collect(),
                None => vec![format!("{name}.mlp.{dense}_proj.weight")],
            };
            self.add_all(names, shape, Start::Normal)
        };
        let gate = matrices("gate", "w1", &[config.intermediate_size, hidden]);
        let up = matrices("up", "w3", &[config.intermediate_size, hidden]);
        let down = matrices("down", "w2", &[hidden, config.intermediate_size]);
        Layer { attention_norm, query, key, value, query_norm, key_norm, output, feed_forward_norm, router, gate, up, down }
    }
}
