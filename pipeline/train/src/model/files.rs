//! Weights in safetensors files, named and laid out as Hugging Face has them: one file, or several with an index.
//!
//! Files are mapped and read tensor by tensor in blocks, and written tensor by tensor, so there is never a second copy of the model.

use super::{Config, Model, ModelError, Parameters};
use crate::optimiser::{MomentKind, Optimiser};
use memmap2::Mmap;
use osler_kernels::blockwise::BLOCK;
use osler_kernels::cpu::Number;
use osler_kernels::operations::{AdamState, Moments};
use osler_kernels::{Memory, Operations};
use safetensors::tensor::{Dtype, SafeTensors, TensorView, View};
use serde_json::{Map, Value, json};
use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Bytes of tensors in one file, after which the next begins: as `transformers` has it.
pub const FILE_BYTES: usize = 5_000_000_000;

/// Reads the model in `directory`: `config.json` and its weights, f32 or bf16.
///
/// # Errors
/// [`ModelError`] when the config asks for what is not supported, or a tensor is missing, has another shape or type, or is not of the
/// model.
pub fn read_weights<O: Operations>(ops: &O, directory: &Path) -> Result<Model<O>, ModelError> {
    let mut model = Model::zeros(ops, Config::read(&directory.join("config.json"))?)?;
    let maps = open(directory)?;
    let mut files = Vec::new();
    for (path, map) in &maps {
        let tensors = SafeTensors::deserialize(map);
        files.push((path, tensors.map_err(|error| ModelError::Tensors { path: path.clone(), problem: error.to_string() })?));
    }
    let mut found: HashMap<&str, (&Path, TensorView<'_>)> = HashMap::new();
    for (path, tensors) in &files {
        for name in tensors.names() {
            let view =
                tensors.tensor(name).map_err(|error| ModelError::Tensors { path: path.to_path_buf(), problem: error.to_string() })?;
            found.insert(name, (path.as_path(), view));
        }
    }
    let mut used = BTreeSet::new();
    for (parameter, weight) in model.parameters.list.iter().zip(&mut model.weights) {
        for (at, name) in parameter.names.iter().enumerate() {
            let piece = Piece::find(name, &parameter.shape, &found, directory)?;
            used.insert(piece.name.clone());
            piece.copy(ops, weight, at * parameter.piece_len())?;
        }
    }
    let known =
        |name: &str| used.contains(name) || name.ends_with(".rotary_emb.inv_freq") || (model.config.tied && name == "lm_head.weight");
    match found.iter().filter(|(name, _)| !known(name)).min_by_key(|(name, _)| **name) {
        Some((name, (path, _))) => Err(tensor_error(path, name, "the model has no such tensor".to_string())),
        None => Ok(model),
    }
}

/// Writes `config.json` and the weights as `dtype`, which must be f32 or bf16, into `directory`. More than `file_bytes` become several
/// files.
///
/// # Errors
/// [`ModelError::Io`] or [`ModelError::Tensors`] when the files cannot be written.
pub fn write<O: Operations>(ops: &O, model: &Model<O>, dtype: Dtype, file_bytes: usize, directory: &Path) -> Result<(), ModelError> {
    let failure = RefCell::new(None);
    let mut files: Vec<Vec<(String, Lazy<'_>)>> = vec![Vec::new()];
    let (mut bytes, mut total) = (0, 0);
    for (parameter, buffer) in model.parameters.list.iter().zip(&model.weights) {
        for (at, name) in parameter.names.iter().enumerate() {
            let read = move |values: &mut [f32]| Ok(ops.read_stored(buffer, at * parameter.piece_len(), values)?);
            let tensor = Lazy { shape: parameter.shape.clone(), dtype, read: Box::new(read), failure: &failure };
            let len = tensor.data_len();
            if bytes > 0 && bytes + len > file_bytes {
                files.push(Vec::new());
                bytes = 0;
            }
            (bytes, total) = (bytes + len, total + len);
            if let Some(file) = files.last_mut() {
                file.push((name.clone(), tensor));
            }
        }
    }
    let count = files.len();
    let mut weight_map = BTreeMap::new();
    for (at, tensors) in files.into_iter().enumerate() {
        let file = if count == 1 { SINGLE.to_string() } else { format!("model-{:05}-of-{count:05}.safetensors", at + 1) };
        weight_map.extend(tensors.iter().map(|(name, _)| (name.clone(), file.clone())));
        write_tensors(&directory.join(file), tensors, &failure)?;
    }
    if count > 1 {
        write_json(&directory.join(INDEX), &json!({ "metadata": { "total_size": total }, "weight_map": weight_map }))?;
    }
    let mut config = model.config.source.clone();
    let key = if config.contains_key("torch_dtype") { "torch_dtype" } else { "dtype" };
    config.insert(key.to_string(), Value::from(if dtype == Dtype::BF16 { "bfloat16" } else { "float32" }));
    write_json(&directory.join("config.json"), &Value::Object(config))
}

/// The state of each parameter that is held here.
pub type State<O> = [Option<AdamState<O>>];

/// One tensor of the optimiser's state: its name, the parameter that it is of, and which of its parts it is.
#[derive(Debug, Clone, PartialEq)]
pub struct StateTensor {
    name: String,
    pub parameter: usize,
    part: Part,
    dtype: Dtype,
    pub len: usize,
}

/// Codes pass as numbers from 0 to 255.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Part {
    First,
    Second,
    FirstScales,
    SecondScales,
    Master,
}

impl StateTensor {
    /// Whether the state is held here.
    pub fn is_held<O: Memory>(&self, states: &State<O>) -> bool {
        states.get(self.parameter).is_some_and(Option::is_some)
    }

    /// Reads its numbers from `at` on, where the state is held here. `weights` are the model's.
    ///
    /// # Errors
    /// Those of the device.
    pub fn read<O: Operations>(
        &self,
        ops: &O,
        weights: &[O::Stored],
        states: &State<O>,
        at: usize,
        values: &mut [f32],
    ) -> Result<(), ModelError> {
        let Some(Some(state)) = states.get(self.parameter) else { return Ok(()) };
        let codes = |codes: &O::Bytes, values: &mut [f32]| {
            let mut bytes = vec![0; values.len()];
            ops.read_bytes(codes, at, &mut bytes)?;
            values.iter_mut().zip(bytes).for_each(|(value, code)| *value = f32::from(code));
            Ok(())
        };
        let done = match (self.part, &state.moments) {
            (Part::First, Moments::Exact { first, .. }) => ops.read_exact(first, at, values),
            (Part::Second, Moments::Exact { second, .. }) => ops.read_exact(second, at, values),
            (Part::First, Moments::Blockwise { first, .. }) => codes(&first.codes, values),
            (Part::Second, Moments::Blockwise { second, .. }) => codes(&second.codes, values),
            (Part::FirstScales, Moments::Blockwise { first, .. }) => ops.read_exact(&first.scales, at, values),
            (Part::SecondScales, Moments::Blockwise { second, .. }) => ops.read_exact(&second.scales, at, values),
            (Part::FirstScales | Part::SecondScales, Moments::Exact { .. }) => Ok(()),
            (Part::Master, _) => match &state.rest {
                Some(rest) => ops.read_master(&weights[self.parameter], rest, at, values),
                None => ops.read_stored(&weights[self.parameter], at, values),
            },
        };
        Ok(done?)
    }

    fn write<O: Operations>(
        &self,
        ops: &O,
        weights: &mut [O::Stored],
        states: &mut State<O>,
        at: usize,
        values: &[f32],
    ) -> Result<(), ModelError> {
        let Some(Some(state)) = states.get_mut(self.parameter) else { return Ok(()) };
        let codes = |codes: &mut O::Bytes| ops.write_bytes(codes, at, &values.iter().map(|&value| value as u8).collect::<Vec<_>>());
        let done = match (self.part, &mut state.moments) {
            (Part::First, Moments::Exact { first, .. }) => ops.write_exact(first, at, values),
            (Part::Second, Moments::Exact { second, .. }) => ops.write_exact(second, at, values),
            (Part::First, Moments::Blockwise { first, .. }) => codes(&mut first.codes),
            (Part::Second, Moments::Blockwise { second, .. }) => codes(&mut second.codes),
            (Part::FirstScales, Moments::Blockwise { first, .. }) => ops.write_exact(&mut first.scales, at, values),
            (Part::SecondScales, Moments::Blockwise { second, .. }) => ops.write_exact(&mut second.scales, at, values),
            (Part::FirstScales | Part::SecondScales, Moments::Exact { .. }) => Ok(()),
            (Part::Master, _) => match &mut state.rest {
                Some(rest) => ops.write_master(&mut weights[self.parameter], rest, at, values),
                None => ops.write_stored(&mut weights[self.parameter], at, values),
            },
        };
        Ok(done?)
    }
}

/// The tensors of the optimiser's state, in the order in which a file of them is written: the moments, with their scales where they are of 8
/// bits, and the master weights where there are any, each parameter as one tensor.
pub fn state_tensors(parameters: &Parameters, with_master: bool, moments: MomentKind) -> Vec<StateTensor> {
    let mut tensors = Vec::new();
    for (at, parameter) in parameters.list.iter().enumerate() {
        let len = parameter.len();
        let is_blockwise = moments.is_blockwise(len);
        let mut add = |what: &str, part, dtype, len| {
            tensors.push(StateTensor { name: format!("{what}.{}", parameter.names[0]), parameter: at, part, dtype, len });
        };
        let dtype = if is_blockwise { Dtype::U8 } else { Dtype::F32 };
        add("first", Part::First, dtype, len);
        add("second", Part::Second, dtype, len);
        if is_blockwise {
            add("first_scales", Part::FirstScales, Dtype::F32, len.div_ceil(BLOCK));
            add("second_scales", Part::SecondScales, Dtype::F32, len.div_ceil(BLOCK));
        }
        if with_master {
            add("master", Part::Master, Dtype::F32, len);
        }
    }
    // As safetensors files have them: wide types first, and those of one type by name.
    tensors.sort_by(|one, other| other.dtype.cmp(&one.dtype).then_with(|| one.name.cmp(&other.name)));
    tensors
}

/// Writes the state of the optimiser. What is not held here `fetch` gives: told the tensor's place in [`state_tensors`]
/// and its parameter, in order.
///
/// # Errors
/// [`ModelError::Tensors`] when the file cannot be written, and those of `fetch`.
pub fn write_state<O: Operations>(
    ops: &O,
    model: &Model<O>,
    optimiser: &Optimiser<O>,
    fetch: impl FnMut(usize, usize, &mut [f32]) -> Result<(), ModelError>,
    path: &Path,
) -> Result<(), ModelError> {
    let (failure, fetch, states) = (RefCell::new(None), RefCell::new(fetch), &optimiser.states);
    let tensors = state_tensors(&model.parameters, ops.needs_master(), optimiser.settings.moments);
    let mut lazy: Vec<(String, Lazy<'_>)> = Vec::new();
    for (at, tensor) in tensors.iter().enumerate() {
        let fetch = &fetch;
        let read = move |values: &mut [f32]| match tensor.is_held(states) {
            true => tensor.read(ops, &model.weights, states, 0, values),
            false => (fetch.borrow_mut())(at, tensor.parameter, values),
        };
        lazy.push((tensor.name.clone(), Lazy { shape: vec![tensor.len], dtype: tensor.dtype, read: Box::new(read), failure: &failure }));
    }
    write_tensors(path, lazy, &failure)
}

/// Reads what [`write_state`] wrote, of the parameters that are held here.
///
/// # Errors
/// [`ModelError::Tensor`] when it is the state of another model, of another precision or of other moments.
pub fn read_state<O: Operations>(ops: &O, model: &mut Model<O>, optimiser: &mut Optimiser<O>, path: &Path) -> Result<(), ModelError> {
    let map = map_file(path)?;
    let tensors = SafeTensors::deserialize(&map);
    let tensors = tensors.map_err(|error| ModelError::Tensors { path: path.to_path_buf(), problem: error.to_string() })?;
    let wanted = state_tensors(&model.parameters, ops.needs_master(), optimiser.settings.moments);
    let states = &mut optimiser.states;
    for tensor in &wanted {
        let StateTensor { name, len, dtype, .. } = tensor;
        let view = tensors.tensor(name).ok().filter(|view| view.dtype() == *dtype && view.shape() == [*len]);
        let problem = "it is missing or of another shape: the state is of another model, or of other `optimiser.moments`; go on with the recipe \
                       that the run began with";
        let view = view.ok_or_else(|| tensor_error(path, name, problem.to_string()))?;
        if tensor.is_held(states) {
            for_each_block(view.data(), *dtype, |at, values| tensor.write(ops, &mut model.weights, states, at, values))?;
        }
    }
    match tensors.len() == wanted.len() {
        true => Ok(()),
        false => Err(ModelError::Tensors { path: path.to_path_buf(), problem: "written in another precision or for another model".into() }),
    }
}

fn write_json(path: &Path, value: &Value) -> Result<(), ModelError> {
    fs::write(path, format!("{value:#}\n")).map_err(|source| ModelError::Io { path: path.to_path_buf(), source })
}

/// Writes a file of tensors that are read from the device one at a time.
fn write_tensors(path: &Path, tensors: Vec<(String, Lazy<'_>)>, failure: &RefCell<Option<ModelError>>) -> Result<(), ModelError> {
    let metadata = HashMap::from([("format".to_string(), "pt".to_string())]);
    safetensors::serialize_to_file(tensors, Some(metadata), path)
        .map_err(|error| ModelError::Tensors { path: path.to_path_buf(), problem: error.to_string() })?;
    failure.take().map_or(Ok(()), Err)
}

/// A tensor that is read from the device when it is written. The writer takes no errors, so they go to `failure`.
struct Lazy<'a> {
    shape: Vec<usize>,
    dtype: Dtype,
    read: Read<'a>,
    failure: &'a RefCell<Option<ModelError>>,
}

/// Fills in the numbers of a tensor.
type Read<'a> = Box<dyn Fn(&mut [f32]) -> Result<(), ModelError> + 'a>;

impl View for Lazy<'_> {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let mut values = vec![0.0f32; self.shape.iter().product()];
        // After a failure nothing is worth reading.
        let failed = self.failure.borrow().is_some();
        if let Some(error) = (!failed).then(|| (self.read)(&mut values)).and_then(Result::err) {
            self.failure.replace(Some(error));
        }
        Cow::Owned(match self.dtype {
            Dtype::BF16 => values.iter().flat_map(|value| ((value.to_bf16().to_bits() >> 16) as u16).to_le_bytes()).collect(),
            Dtype::U8 => values.iter().map(|&value| value as u8).collect(),
            _ => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        })
    }

    fn data_len(&self) -> usize {
        self.shape.iter().product::<usize>() * num_bytes(self.dtype)
    }
}

/// Bytes of one number of the types that are read.
fn num_bytes(dtype: Dtype) -> usize {
    match dtype {
        Dtype::U8 => 1,
        Dtype::BF16 => 2,
        _ => 4,
    }
}

/// Gives the numbers in `bytes` as f32, block by block, with the place of each block's first.
fn for_each_block(bytes: &[u8], dtype: Dtype, mut take: impl FnMut(usize, &[f32]) -> Result<(), ModelError>) -> Result<(), ModelError> {
    const BLOCK: usize = 1 << 16;
    let mut values = Vec::with_capacity(BLOCK);
    for (block, bytes) in bytes.chunks(BLOCK * num_bytes(dtype)).enumerate() {
        values.clear();
        match dtype {
            Dtype::BF16 => {
                let wide = |two: &[u8; 2]| f32::from_bits(u32::from(u16::from_le_bytes(*two)) << 16);
                values.extend(bytes.as_chunks::<2>().0.iter().map(wide));
            }
            Dtype::U8 => values.extend(bytes.iter().map(|&byte| f32::from(byte))),
            _ => values.extend(bytes.as_chunks::<4>().0.iter().map(|four| f32::from_le_bytes(*four))),
        }
        take(block * BLOCK, &values)?;
    }
    Ok(())
}

/// The files of a model, mapped.
fn open(directory: &Path) -> Result<Vec<(PathBuf, Mmap)>, ModelError> {
    let index = directory.join(INDEX);
    let mut names = BTreeSet::new();
    if index.exists() {
        let text = fs::read(&index).map_err(|source| ModelError::Io { path: index.clone(), source })?;
        let value: Map<String, Value> =
            serde_json::from_slice(&text).map_err(|error| ModelError::Json { path: index.clone(), line: error.line() })?;
        let map = value.get("weight_map").and_then(Value::as_object);
        let map = map.ok_or_else(|| ModelError::Tensors { path: index.clone(), problem: "the index has no `weight_map`".to_string() })?;
        for file in map.values().filter_map(Value::as_str) {
            // A name of a file in this folder, and nothing else.
            if Path::new(file).file_name().and_then(|name| name.to_str()) != Some(file) {
                return Err(ModelError::Tensors { path: index, problem: "the index names a file elsewhere".to_string() });
            }
            names.insert(file.to_string());
        }
    } else {
        names.insert(SINGLE.to_string());
    }
    let map = |name: String| {
        let path = directory.join(name);
        let map = map_file(&path)?;
        Ok((path, map))
    };
    names.into_iter().map(map).collect()
}

fn map_file(path: &Path) -> Result<Mmap, ModelError> {
    let io = |source| ModelError::Io { path: path.to_path_buf(), source };
    let file = fs::File::open(path).map_err(io)?;
    // SAFETY: a mapping is sound while nobody truncates or writes the file. Checkpoints get their name when they are whole and are not
    // written again; a model that is read must not be changed meanwhile.
    unsafe { Mmap::map(&file) }.map_err(io)
}

/// Where the numbers of one tensor of the model lie in a file.
struct Piece<'a> {
    path: &'a Path,
    /// Name in the file.
    name: String,
    view: TensorView<'a>,
    /// First number, and how many.
    start: usize,
    len: usize,
}

impl<'a> Piece<'a> {
    fn find(name: &str, shape: &[usize], found: &HashMap<&str, (&'a Path, TensorView<'a>)>, directory: &Path) -> Result<Self, ModelError> {
        let len = shape.iter().product();
        let (key, start, whole) = match found.contains_key(name) {
            true => (name.to_string(), 0, vec![shape.to_vec()]),
            false => fused(name, shape),
        };
        let missing = || tensor_error(directory, name, "no file has the tensor".to_string());
        let (path, view) = found.get(key.as_str()).ok_or_else(missing)?;
        let fits = whole.iter().any(|shape| match shape.as_slice() {
            // Any number of experts: the last one asked for has to be there.
            [0, rest @ ..] => view.shape().get(1..) == Some(rest) && start + len <= view.shape().iter().product(),
            shape => view.shape() == shape,
        });
        if !fits {
            return Err(tensor_error(path, &key, format!("shape {:?} is not that of the model, {shape:?}", view.shape())));
        }
        if ![Dtype::F32, Dtype::BF16].contains(&view.dtype()) {
            return Err(tensor_error(path, &key, format!("type {:?} is not supported, wanted F32 or BF16", view.dtype())));
        }
        Ok(Self { path, name: key, view: view.clone(), start, len })
    }

    /// Copies it to `buffer[at..]`.
    fn copy<O: Operations>(&self, ops: &O, buffer: &mut O::Stored, at: usize) -> Result<(), ModelError> {
        let size = num_bytes(self.view.dtype());
        let bytes = self.view.data().get(self.start * size..(self.start + self.len) * size);
        let bytes = bytes.ok_or_else(|| tensor_error(self.path, &self.name, "the file is too short for the tensor".to_string()))?;
        for_each_block(bytes, self.view.dtype(), |block, values| Ok(ops.write_stored(buffer, at + block, values)?))
    }
}

/// Where transformers 5 keeps a tensor of Mixtral in memory, and in files written from there: all experts in one tensor, gate above up.
/// Gives its name, the first number, and the shapes that it may have, with 0 for the number of experts.
fn fused(name: &str, shape: &[usize]) -> (String, usize, Vec<Vec<usize>>) {
    let fused_expert = || {
        let (layer, rest) = name.split_once(".block_sparse_moe.experts.")?;
        let (expert, matrix) = rest.split_once('.')?;
        let expert: usize = expert.parse().ok()?;
        let &[rows, columns] = shape else { return None };
        Some(match matrix {
            "w2.weight" => (format!("{layer}.mlp.experts.down_proj"), expert * rows * columns, vec![vec![0, rows, columns]]),
            _ => {
                let half = usize::from(matrix == "w3.weight");
                let start = (2 * expert + half) * rows * columns;
                (format!("{layer}.mlp.experts.gate_up_proj"), start, vec![vec![0, 2 * rows, columns]])
            }
        })
    };
    fused_expert().unwrap_or_else(|| (name.replace(".block_sparse_moe.gate.", ".mlp.gate."), 0, vec![shape.to_vec()]))
}

fn tensor_error(path: &Path, name: &str, problem: String) -> ModelError {
    ModelError::Tensor { path: path.to_path_buf(), name: name.to_string(), problem }
}
