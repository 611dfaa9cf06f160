use super::*;
use crate::optimiser::{Optimiser, Settings};
use osler_kernels::Cpu;
use osler_kernels::operations::{Gradient, IGNORED};
use safetensors::SafeTensors;
use safetensors::tensor::Dtype;
use std::path::{Path, PathBuf};

const KINDS: [&str; 4] = ["mistral", "mixtral", "qwen2", "qwen3"];

/// What PyTorch made; `tests/golden/make.py` says how.
pub fn golden_folder(kind: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(kind)
}

struct Golden {
    bytes: Vec<u8>,
}

impl Golden {
    fn open(kind: &str) -> Self {
        Self { bytes: std::fs::read(golden_folder(kind).join("expected.safetensors")).unwrap() }
    }

    fn get(&self, name: &str) -> Option<Vec<f32>> {
        let tensors = SafeTensors::deserialize(&self.bytes).unwrap();
        let view = tensors.tensor(name).ok()?;
        assert_eq!(view.dtype(), Dtype::F32, "{name}");
        Some(view.data().chunks(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect())
    }

    fn ids(&self, name: &str) -> Vec<i32> {
        let tensors = SafeTensors::deserialize(&self.bytes).unwrap();
        tensors.tensor(name).unwrap().data().chunks(4).map(|bytes| i32::from_le_bytes(bytes.try_into().unwrap())).collect()
    }

    /// The text with its labels, moved on by one as transformers does.
    fn batch(&self) -> Batch {
        let tokens: Vec<u32> = self.ids("tokens").iter().map(|&id| id as u32).collect();
        let mut batch = Batch::default();
        batch.push(&tokens);
        let labels = self.ids("labels");
        for (target, &label) in batch.targets.iter_mut().zip(&labels[1..]) {
            *target = if label < 0 { IGNORED } else { label as u32 };
        }
        batch
    }

    /// Values of a parameter, `prefix` being `grad` or `after`, in our layout: transformers 5 has all experts in one tensor, gate above up.
    fn parameter(&self, prefix: &str, parameter: &Parameter) -> Vec<f32> {
        let piece = |name: &String| {
            if let Some(values) = self.get(&format!("{prefix}.{name}")) {
                return values;
            }
            let Some((layer, rest)) = name.split_once(".block_sparse_moe.experts.") else {
                return self.get(&format!("{prefix}.{}", name.replace("block_sparse_moe", "mlp"))).unwrap();
            };
            let (expert, matrix) = rest.split_once('.').unwrap();
            let (expert, len) = (expert.parse::<usize>().unwrap(), parameter.piece_len());
            let (fused, at) = match matrix {
                "w2.weight" => ("down_proj", expert),
                "w1.weight" => ("gate_up_proj", 2 * expert),
                _ => ("gate_up_proj", 2 * expert + 1),
            };
            self.get(&format!("{prefix}.{layer}.mlp.experts.{fused}")).unwrap()[at * len..(at + 1) * len].to_vec()
        };
        parameter.names.iter().flat_map(piece).collect()
    }
}

/// Whether `got` is `wanted` within `tolerance` of its largest number.
#[track_caller]
fn close(name: &str, got: &[f32], wanted: &[f32], tolerance: f32) {
    assert_eq!(got.len(), wanted.len(), "{name}");
    let largest = wanted.iter().fold(0f32, |largest, x| largest.max(x.abs()));
    for (at, (got, wanted)) in got.iter().zip(wanted).enumerate() {
        assert!((got - wanted).abs() <= tolerance * largest, "{name}[{at}]: got {got}, wanted {wanted}, largest {largest}");
    }
}

#[test]
fn everything_is_as_in_pytorch() {
    let ops = Cpu::<f32>::new(2).unwrap();
    for kind in KINDS {
        let golden = Golden::open(kind);
        let mut model = read_weights(&ops, &golden_folder(kind)).unwrap();
        let batch = golden.batch();
        let mut work = Workspace::new(&ops, &model.config, batch.len()).unwrap();
        close(&format!("{kind} logits"), &model.logits(&ops, &batch, &mut work).unwrap(), &golden.get("logits").unwrap(), 1e-5);
        let settings = Settings { epsilon: 1e-6, clip: Some(0.5), ..Settings::default() };
        let mut optimiser = Optimiser::new(&ops, &model, settings).unwrap();
        let mut grads = Gradients::new(&ops, &model.parameters).unwrap();
        let (mut losses, mut norms) = (Vec::new(), Vec::new());
        for step in 0..3 {
            grads.clear();
            let loss_scale = 1.0 / batch.num_targets() as f64;
            let loss = model.forward_backward(&ops, &batch, loss_scale, &mut work, &mut grads).unwrap();
            losses.push((loss.sum() * loss_scale + loss.balance) as f32);
            for (parameter, grad) in model.parameters.list.iter().zip(&grads.buffers).filter(|_| step == 0) {
                let Gradient::Exact(grad) = grad else { panic!("asked for f32") };
                close(&format!("{kind} gradient of {}", parameter.names[0]), grad, &golden.parameter("grad", parameter), 1e-5);
            }
            norms.push(optimiser.step(&ops, 1e-3, &mut grads, &mut model).unwrap() as f32);
        }
        close(&format!("{kind} losses"), &losses, &golden.get("losses").unwrap(), 1e-5);
        close(&format!("{kind} norms"), &norms, &golden.get("norms").unwrap(), 1e-5);
        for (parameter, weight) in model.parameters.list.iter().zip(&model.weights) {
            close(&format!("{kind} {} after three steps", parameter.names[0]), weight, &golden.parameter("after", parameter), 1e-5);
        }
    }
}

#[test]
fn files_come_back_as_they_were() {
    let ops = Cpu::<f32>::new(1).unwrap();
    for kind in KINDS {
        let model = read_weights(&ops, &golden_folder(kind)).unwrap();
        for file_bytes in [usize::MAX, 4000] {
            let folder = tempfile::tempdir().unwrap();
            write(&ops, &model, Dtype::F32, file_bytes, folder.path()).unwrap();
            let again = read_weights(&ops, folder.path()).unwrap();
            assert_eq!((&again.weights, &again.config), (&model.weights, &model.config), "{kind}");
            assert_eq!(folder.path().join("model.safetensors.index.json").exists(), file_bytes == 4000);
        }
        let saved = std::fs::read(golden_folder(kind).join("model.safetensors")).unwrap();
        let folder = tempfile::tempdir().unwrap();
        write(&ops, &model, Dtype::F32, usize::MAX, folder.path()).unwrap();
        let ours = std::fs::read(folder.path().join("model.safetensors")).unwrap();
        let names = |bytes: &[u8]| {
            SafeTensors::deserialize(bytes).unwrap().names().iter().map(|name| name.to_string()).collect::<std::collections::BTreeSet<_>>()
        };
        assert_eq!(names(&ours), names(&saved), "{kind}: the names that transformers saves");
    }
}

#[test]
fn bf16_files_are_rounded_weights() {
    let (ops, folder) = (Cpu::<f32>::new(1).unwrap(), tempfile::tempdir().unwrap());
    let model = read_weights(&ops, &golden_folder("qwen2")).unwrap();
    write(&ops, &model, Dtype::BF16, usize::MAX, folder.path()).unwrap();
    let rounded = read_weights(&Cpu::<f32>::bf16(1).unwrap(), &golden_folder("qwen2")).unwrap();
    let again = read_weights(&ops, folder.path()).unwrap();
    assert_eq!(again.weights, rounded.weights);
    assert_eq!(again.config.source["dtype"], "bfloat16");
}

/// The layout that transformers 5 holds in memory.
#[test]
fn fused_experts_are_read() {
    let ops = Cpu::<f32>::new(1).unwrap();
    let (golden, folder) = (Golden::open("mixtral"), tempfile::tempdir().unwrap());
    let expected = SafeTensors::deserialize(&golden.bytes).unwrap();
    let after = expected.tensors().into_iter().filter_map(|(name, view)| Some((name.strip_prefix("after.")?.to_string(), view)));
    let after: Vec<_> = after.collect();
    safetensors::serialize_to_file(after.iter().map(|(name, view)| (name, view)), None, &folder.path().join("model.safetensors")).unwrap();
    std::fs::copy(golden_folder("mixtral").join("config.json"), folder.path().join("config.json")).unwrap();
    let model = read_weights(&ops, folder.path()).unwrap();
    for (parameter, weight) in model.parameters.list.iter().zip(&model.weights) {
        assert_eq!(weight, &golden.parameter("after", parameter), "{}", parameter.names[0]);
    }
}

#[test]
fn wrong_files_are_named() {
    let ops = Cpu::<f32>::new(1).unwrap();
    let mix = |config: &str, weights: &str| {
        let folder = tempfile::tempdir().unwrap();
        std::fs::copy(golden_folder(config).join("config.json"), folder.path().join("config.json")).unwrap();
        std::fs::copy(golden_folder(weights).join("model.safetensors"), folder.path().join("model.safetensors")).unwrap();
        read_weights(&ops, folder.path()).unwrap_err().to_string()
    };
    assert!(mix("qwen3", "qwen2").contains("shape [16, 16] is not that of the model, [32, 16]"), "{}", mix("qwen3", "qwen2"));
    // Heads of 4 numbers in one and of 6 in the other.
    assert!(mix("mixtral", "mistral").contains("shape [24, 16] is not that of the model, [16, 16]"), "{}", mix("mixtral", "mistral"));
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(golden_folder("qwen2").join("config.json"), folder.path().join("config.json")).unwrap();
    assert!(read_weights(&ops, folder.path()).unwrap_err().to_string().contains("model.safetensors: "));
    std::fs::write(folder.path().join("model.safetensors"), b"\x10\0\0\0\0\0\0\0{\"a\":").unwrap();
    assert!(read_weights(&ops, folder.path()).unwrap_err().to_string().contains("not a safetensors file"));
}
