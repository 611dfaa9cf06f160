//! `config.json` as Hugging Face has it, for the four architectures that the trainer knows. What it asks for and the trainer has not is
//! refused by name: a model that is run in another way than it was made gives a loss that looks right.

use super::ModelError;
use osler_schemas::recipe::nearest;
use serde_json::{Map, Value};
use std::path::Path;

/// The architectures, by their `model_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Mistral,
    Mixtral,
    Qwen2,
    Qwen3,
}

/// Experts of every layer (Mixtral).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Experts {
    pub count: usize,
    pub top_k: usize,
    /// Factor on the auxiliary loss that balances the experts.
    pub balance_coefficient: f64,
}

/// The shape of a decoder. Sizes are in numbers of what they name.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    pub kind: Kind,
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_layers: usize,
    pub num_heads: usize,
    pub num_key_heads: usize,
    pub head_dim: usize,
    /// Keys that a token sees, itself included; all before it if none.
    pub window: Option<usize>,
    pub max_positions: usize,
    pub rope_theta: f64,
    pub epsilon: f64,
    /// Whether the language-model head is the embedding.
    pub tied: bool,
    pub experts: Option<Experts>,
    /// Standard deviation of random weights.
    pub initializer_range: f64,
    /// All of `config.json`, so that what the trainer does not use is written back.
    pub source: Map<String, Value>,
}

impl Config {
    /// Reads `config.json`.
    ///
    /// # Errors
    /// [`ModelError`] when it cannot be read, lacks a key, or asks for what the trainer has not.
    pub fn read(path: &Path) -> Result<Self, ModelError> {
        let text = std::fs::read(path).map_err(|source| ModelError::Io { path: path.to_path_buf(), source })?;
        let value = serde_json::from_slice(&text).map_err(|error| ModelError::Json { path: path.to_path_buf(), line: error.line() })?;
        Self::from_json(value)
    }

    /// Takes a parsed `config.json`.
    ///
    /// # Errors
    /// [`ModelError::Missing`], [`ModelError::Unsupported`] or [`ModelError::Invalid`] with the key's name.
    pub fn from_json(source: Map<String, Value>) -> Result<Self, ModelError> {
        let keys = Keys(&source);
        let kind = match keys.text("model_type")? {
            "mistral" => Kind::Mistral,
            "mixtral" => Kind::Mixtral,
            "qwen2" => Kind::Qwen2,
            "qwen3" => Kind::Qwen3,
            _ => return Err(keys.unsupported("model_type", "mistral, mixtral, qwen2 or qwen3")),
        };
        keys.refuse_what_is_not_there()?;
        let (hidden_size, num_heads) = (keys.size("hidden_size")?, keys.size("num_attention_heads")?);
        let config = Self {
            kind,
            vocab_size: keys.size("vocab_size")?,
            hidden_size,
            intermediate_size: keys.size("intermediate_size")?,
            num_layers: keys.size("num_hidden_layers")?,
            num_heads,
            num_key_heads: if keys.get("num_key_value_heads").is_some() { keys.size("num_key_value_heads")? } else { num_heads },
            head_dim: if keys.get("head_dim").is_some() { keys.size("head_dim")? } else { hidden_size / num_heads },
            window: keys.window(kind)?,
            max_positions: keys.size("max_position_embeddings")?,
            rope_theta: keys.rope_theta(kind).and_then(above_zero)?,
            epsilon: keys.number("rms_norm_eps", 1e-6)?,
            tied: keys.get("tie_word_embeddings") == Some(&Value::Bool(true)),
            experts: if kind == Kind::Mixtral { Some(keys.experts()?) } else { None },
            initializer_range: keys.number("initializer_range", 0.02)?,
            source: source.clone(),
        };
        config.check()?;
        Ok(config)
    }

    /// Whether queries, keys and values have a bias (Qwen2.5).
    pub fn has_bias(&self) -> bool {
        self.kind == Kind::Qwen2
    }

    /// Whether each head of queries and keys is normalised (Qwen3).
    pub fn has_head_norm(&self) -> bool {
        self.kind == Kind::Qwen3
    }

    fn check(&self) -> Result<(), ModelError> {
        let invalid = |key, wanted| Err(ModelError::Invalid { key, wanted });
        if !self.num_heads.is_multiple_of(self.num_key_heads) {
            return invalid("num_key_value_heads", "a divisor of num_attention_heads");
        }
        if self.head_dim == 0 || !self.head_dim.is_multiple_of(2) {
            return invalid("head_dim", "even and not zero");
        }
        if !self.source.contains_key("head_dim") && !self.hidden_size.is_multiple_of(self.num_heads) {
            return invalid("hidden_size", "a multiple of num_attention_heads where head_dim is not given");
        }
        if self.experts.is_some_and(|experts| experts.top_k > experts.count) {
            return invalid("num_experts_per_tok", "at most num_local_experts");
        }
        if u32::try_from(self.vocab_size.max(self.max_positions)).is_err() {
            return invalid("vocab_size", "below 2³², as max_position_embeddings");
        }
        Ok(())
    }
}

/// Keys of `config.json` that the trainer reads, or refuses with another value than the one that it has.
const READ: [&str; 29] = [
    "attention_bias",
    "attention_dropout",
    "head_dim",
    "hidden_act",
    "hidden_dropout",
    "hidden_size",
    "initializer_range",
    "intermediate_size",
    "layer_types",
    "max_position_embeddings",
    "mlp_bias",
    "model_type",
    "num_attention_heads",
    "num_experts_per_tok",
    "num_hidden_layers",
    "num_key_value_heads",
    "num_local_experts",
    "partial_rotary_factor",
    "quantization_config",
    "rms_norm_eps",
    "rope_parameters",
    "rope_scaling",
    "rope_theta",
    "router_aux_loss_coef",
    "router_jitter_noise",
    "sliding_window",
    "tie_word_embeddings",
    "use_sliding_window",
    "vocab_size",
];

/// A key of `rope_parameters`.
const ROPE_TYPE: &str = "rope_type";

/// Keys that `transformers` writes for these models, and that mean nothing here: they are written back.
const PASSED_ON: [&str; 11] = [
    "architectures",
    "bos_token_id",
    "dtype",
    "eos_token_id",
    "max_window_layers",
    "output_router_logits",
    "pad_token_id",
    "pretraining_tp",
    "torch_dtype",
    "transformers_version",
    "use_cache",
];

/// The first of these keys that no model here has, and the one that is most like it.
pub(crate) fn unknown_key(source: &Map<String, Value>) -> Option<(&str, &'static str)> {
    let known = || READ.into_iter().chain(PASSED_ON);
    let key = source.keys().find(|key| known().all(|known| known != key.as_str()))?;
    Some((key, nearest(key, known())?))
}

/// Reads keys; `null` is as good as absent.
struct Keys<'a>(&'a Map<String, Value>);

impl<'a> Keys<'a> {
    fn get(&self, key: &str) -> Option<&'a Value> {
        debug_assert!(READ.contains(&key) || key == ROPE_TYPE, "{key} is read, and refused in a recipe");
        self.0.get(key).filter(|value| !value.is_null())
    }

    fn text(&self, key: &'static str) -> Result<&'a str, ModelError> {
        self.get(key).ok_or(ModelError::Missing { key })?.as_str().ok_or(ModelError::Invalid { key, wanted: "text" })
    }

    fn size(&self, key: &'static str) -> Result<usize, ModelError> {
        let value = self.get(key).ok_or(ModelError::Missing { key })?;
        let size = value.as_u64().and_then(|size| usize::try_from(size).ok()).filter(|&size| size > 0);
        size.ok_or(ModelError::Invalid { key, wanted: "a whole number above zero" })
    }

    fn number(&self, key: &'static str, default: f64) -> Result<f64, ModelError> {
        let Some(value) = self.get(key) else { return Ok(default) };
        let number = value.as_f64().filter(|number| number.is_finite() && *number >= 0.0);
        number.ok_or(ModelError::Invalid { key, wanted: "a number, zero or more" })
    }

    fn unsupported(&self, key: &str, wanted: &'static str) -> ModelError {
        let value = self.get(key).map_or_else(|| "null".to_string(), ToString::to_string);
        ModelError::Unsupported { key: key.to_string(), value, wanted }
    }

    fn refuse_what_is_not_there(&self) -> Result<(), ModelError> {
        if self.text("hidden_act")? != "silu" {
            return Err(self.unsupported("hidden_act", "\"silu\""));
        }
        for key in ["attention_bias", "mlp_bias", "use_sliding_window"] {
            if self.get(key).is_some_and(|value| value != &Value::Bool(false)) {
                return Err(self.unsupported(key, "false"));
            }
        }
        for key in ["attention_dropout", "router_jitter_noise", "hidden_dropout"] {
            if self.get(key).is_some_and(|value| value.as_f64() != Some(0.0)) {
                return Err(self.unsupported(key, "0"));
            }
        }
        for key in ["quantization_config", "rope_scaling"] {
            if self.get(key).is_some() {
                return Err(self.unsupported(key, "null"));
            }
        }
        if self.get("partial_rotary_factor").is_some_and(|value| value.as_f64() != Some(1.0)) {
            return Err(self.unsupported("partial_rotary_factor", "1"));
        }
        let full = |value: &Value| value.as_array().is_some_and(|types| types.iter().all(|one| one == "full_attention"));
        if self.get("layer_types").is_some_and(|value| !full(value)) {
            return Err(self.unsupported("layer_types", "\"full_attention\" in every layer"));
        }
        Ok(())
    }

    fn window(&self, kind: Kind) -> Result<Option<usize>, ModelError> {
        // Qwen's configs carry a window that `use_sliding_window` turns off.
        match kind {
            Kind::Mistral | Kind::Mixtral if self.get("sliding_window").is_some() => self.size("sliding_window").map(Some),
            _ => Ok(None),
        }
    }

    /// From `rope_parameters` (transformers 5) or beside it (transformers 4).
    fn rope_theta(&self, kind: Kind) -> Result<f64, ModelError> {
        let default = if kind == Kind::Mixtral { 1e6 } else { 1e4 };
        let Some(value) = self.get("rope_parameters") else { return self.number("rope_theta", default) };
        let object = value.as_object().ok_or(ModelError::Invalid { key: "rope_parameters", wanted: "an object" })?;
        let inner = Keys(object);
        if inner.get(ROPE_TYPE).is_some_and(|kind| kind != "default") {
            return Err(inner.unsupported(ROPE_TYPE, "\"default\""));
        }
        if let Some(key) = object.keys().find(|key| ![ROPE_TYPE, "rope_theta"].contains(&key.as_str())) {
            return Err(ModelError::Unsupported { key: key.clone(), value: "given".to_string(), wanted: "nothing" });
        }
        inner.number("rope_theta", default)
    }

    fn experts(&self) -> Result<Experts, ModelError> {
        Ok(Experts {
            count: self.size("num_local_experts")?,
            top_k: self.size("num_experts_per_tok")?,
            balance_coefficient: self.number("router_aux_loss_coef", 0.001)?,
        })
    }
}

fn above_zero(rope_theta: f64) -> Result<f64, ModelError> {
    if rope_theta > 0.0 { Ok(rope_theta) } else { Err(ModelError::Invalid { key: "rope_theta", wanted: "a number above 0" }) }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use serde_json::json;

    /// The config of a golden model.
    pub fn golden(kind: &str) -> Config {
        Config::read(&super::super::tests::golden_folder(kind).join("config.json")).unwrap()
    }

    #[test]
    fn golden_configs_are_read() {
        let mistral = golden("mistral");
        assert_eq!((mistral.kind, mistral.head_dim, mistral.window, mistral.tied), (Kind::Mistral, 6, Some(7), false));
        let mixtral = golden("mixtral");
        assert_eq!(mixtral.experts, Some(Experts { count: 8, top_k: 2, balance_coefficient: 0.02 }));
        assert_eq!((mixtral.rope_theta, mixtral.head_dim, mixtral.window), (1e6, 4, None));
        let qwen2 = golden("qwen2");
        assert!(qwen2.has_bias() && qwen2.tied && !qwen2.has_head_norm());
        let qwen3 = golden("qwen3");
        assert!(qwen3.has_head_norm() && !qwen3.has_bias());
        for config in [mistral, mixtral, qwen2, qwen3] {
            assert_eq!(unknown_key(&config.source), None);
        }
    }

    #[test]
    fn what_is_not_supported_is_named() {
        for (key, value, message) in [
            ("model_type", json!("llama"), "config.json: `model_type` is \"llama\", which is not supported: it must be mistral, mixtral"),
            ("hidden_act", json!("gelu"), "config.json: `hidden_act` is \"gelu\""),
            ("rope_scaling", json!({"rope_type": "yarn"}), "config.json: `rope_scaling` is {"),
            ("rope_parameters", json!({"rope_type": "llama3", "rope_theta": 1.0}), "config.json: `rope_type` is \"llama3\""),
            ("rope_parameters", json!({"rope_type": "default", "factor": 2}), "config.json: `factor` is given"),
            ("layer_types", json!(["full_attention", "sliding_attention"]), "config.json: `layer_types` is"),
            ("use_sliding_window", json!(true), "config.json: `use_sliding_window` is true"),
            ("quantization_config", json!({"bits": 4}), "config.json: `quantization_config` is"),
            ("attention_dropout", json!(0.1), "config.json: `attention_dropout` is 0.1"),
            ("head_dim", json!(5), "config.json: `head_dim` must be even"),
            ("num_key_value_heads", json!(3), "config.json: `num_key_value_heads` must be a divisor"),
            ("vocab_size", json!(-1), "config.json: `vocab_size` must be a whole number"),
            ("hidden_size", json!(null), "config.json: `hidden_size` is missing"),
        ] {
            let mut source = golden("qwen3").source;
            source.insert(key.to_string(), value);
            let error = Config::from_json(source).unwrap_err().to_string();
            assert!(error.starts_with(message), "{error}");
        }
    }

    #[test]
    fn older_configs_are_read() {
        let mut source = golden("mistral").source;
        source.remove("rope_parameters");
        source.insert("rope_theta".to_string(), json!(12345.0));
        source.insert("sliding_window".to_string(), json!(null));
        source.insert("head_dim".to_string(), json!(null));
        let config = Config::from_json(source).unwrap();
        assert_eq!((config.rope_theta, config.window, config.head_dim), (12345.0, None, 4));
    }
}
