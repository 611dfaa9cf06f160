"""Trains a small model of each kind for a few steps, loads what is left into transformers, and compares logits.

    reload.py OSLER LOGITS CORPUS

OSLER is the program, LOGITS the example `logits` of osler-train, CORPUS the folder of a corpus run. Fails where the logits of a text of the
corpus differ by more than 1e-5 of the largest. Versions: requirements.txt.
"""
import json, pathlib, subprocess, sys, tempfile

import numpy as np, torch
from transformers import AutoModelForCausalLM

osler, logits_program, corpus = (str(pathlib.Path(path).resolve()) for path in sys.argv[1:4])
SMALL = dict(
    hidden_act="silu", hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
    max_position_embeddings=4096, rms_norm_eps=1e-5,
)
KINDS = {
    "mistral": dict(architectures=["MistralForCausalLM"], head_dim=24, sliding_window=19, rope_theta=1e4, tie_word_embeddings=False),
    "mixtral": dict(
        architectures=["MixtralForCausalLM"], num_local_experts=8, num_experts_per_tok=2, router_aux_loss_coef=0.02, rope_theta=1e6,
        tie_word_embeddings=False,
    ),
    "qwen2": dict(architectures=["Qwen2ForCausalLM"], rope_theta=1e6, tie_word_embeddings=True),
    "qwen3": dict(architectures=["Qwen3ForCausalLM"], head_dim=32, rope_theta=1e6, tie_word_embeddings=True),
}


def toml(value):
    return "true" if value is True else "false" if value is False else json.dumps(value)


ids = np.fromfile(pathlib.Path(corpus) / "tokens/part-00000.bin", "<u2")[1000:1100].astype(np.int64)
with tempfile.TemporaryDirectory() as folder:
    for kind, config in KINDS.items():
        recipe, out = pathlib.Path(folder) / f"{kind}.toml", pathlib.Path(folder) / kind
        keys = "\n".join(f"{key} = {toml(value)}" for key, value in {"model_type": kind, **SMALL, **config}.items())
        recipe.write_text(
            f'name = "{kind}"\ncorpus = {json.dumps(corpus)}\n[model.config]\n{keys}\n'
            "[schedule]\nsteps = 3\nsequences_per_step = 2\n[optimiser]\nlearning_rate = 1e-2\n"
        )
        subprocess.run([osler, "train", "--recipe", recipe, "--out", out, "--progress", "none"], check=True, stdout=subprocess.DEVNULL)
        raw = subprocess.run([logits_program, out / "model", ",".join(map(str, ids))], check=True, stdout=subprocess.PIPE).stdout
        model, report = AutoModelForCausalLM.from_pretrained(out / "model", dtype=torch.float32, output_loading_info=True)
        assert not report["missing_keys"] and not report["unexpected_keys"], report
        ours = np.frombuffer(raw, "<f4").reshape(len(ids), -1)
        with torch.no_grad():
            theirs = model.eval()(torch.tensor(ids)[None]).logits[0].numpy()
        difference = np.abs(ours - theirs).max() / np.abs(theirs).max()
        weights = sum(parameter.numel() for parameter in model.parameters())
        print(f"{kind}: {type(model).__name__}, {weights:,} weights: logits differ by at most {difference:.1e} of the largest")
        assert difference < 1e-5
