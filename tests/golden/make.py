"""Makes the golden models: tiny networks of every kind that the trainer knows, and what PyTorch and transformers compute with them.

    python3 -m venv venv && venv/bin/pip install -r requirements.txt
    venv/bin/python make.py

One folder per kind: `config.json` and `model.safetensors` as transformers saves them, and `expected.safetensors` with tokens, labels,
logits,
losses, the gradient of every parameter, the norm of all, and every parameter after three clipped AdamW steps on the same tokens.
"""

import json
import shutil
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file

ROWS, STEPS, RATE, EPSILON, CLIP = 24, 3, 1e-3, 1e-6, 0.5
SMALL = dict(
    vocab_size=40,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=64,
    rms_norm_eps=1e-5,
    bos_token_id=1,
    eos_token_id=2,
    initializer_range=0.2,
    attention_dropout=0.0,
)
EXPERTS = dict(intermediate_size=8, num_local_experts=8, num_experts_per_tok=2, router_aux_loss_coef=0.02, output_router_logits=True)


def rope(theta):
    return dict(rope_type="default", rope_theta=theta)


KINDS = {
    # Heads times head_dim is not the hidden size, and the window is shorter than the text.
    "mistral": transformers.MistralConfig(
        **SMALL, head_dim=6, sliding_window=7, rope_parameters=rope(1e4), tie_word_embeddings=False
    ),
    "mixtral": transformers.MixtralConfig(
        **{**SMALL, **EXPERTS}, sliding_window=None, rope_parameters=rope(1e6), tie_word_embeddings=False
    ),
    "qwen2": transformers.Qwen2Config(
        **SMALL, rope_parameters=rope(1e6), tie_word_embeddings=True, use_sliding_window=False
    ),
    "qwen3": transformers.Qwen3Config(
        **SMALL, head_dim=8, rope_parameters=rope(1e6), tie_word_embeddings=True, use_sliding_window=False
    ),
}
MODELS = dict(
    mistral=transformers.MistralForCausalLM,
    mixtral=transformers.MixtralForCausalLM,
    qwen2=transformers.Qwen2ForCausalLM,
    qwen3=transformers.Qwen3ForCausalLM,
)


def make(kind, config, folder):
    torch.manual_seed(7)
    config._attn_implementation = "eager"
    model = MODELS[kind](config).to(torch.float32)
    with torch.no_grad():  # Norms and biases start at one and zero, which would hide errors.
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter += 0.2 * torch.randn_like(parameter)
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    tokens = torch.randint(0, SMALL["vocab_size"], (1, ROWS))
    labels = tokens.clone()
    labels[0, 9] = -100
    groups = [
        dict(params=[p for p in model.parameters() if p.ndim >= 2], weight_decay=0.1),
        dict(params=[p for p in model.parameters() if p.ndim < 2], weight_decay=0.0),
    ]
    optimiser = torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.95), eps=EPSILON, foreach=False)
    expected, losses, norms = {"tokens": tokens[0].int(), "labels": labels[0].int()}, [], []
    for step in range(STEPS):
        output = model(tokens, labels=labels)
        optimiser.zero_grad()
        output.loss.backward()
        if step == 0:
            expected["logits"] = output.logits[0].detach().clone()
            expected |= {"grad." + name: parameter.grad.clone() for name, parameter in model.named_parameters()}
        losses.append(output.loss.item())
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP).item())
        optimiser.step()
    expected |= {"losses": torch.tensor(losses), "norms": torch.tensor(norms)}
    expected |= {"after." + name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    settings = dict(steps=STEPS, learning_rate=RATE, epsilon=EPSILON, clip=CLIP)
    settings |= dict(torch=torch.__version__.split("+")[0], transformers=transformers.__version__)
    # One key, since safetensors writes several in any order.
    save_file(expected, folder / "expected.safetensors", metadata={"made_with": json.dumps(settings)})
    print(kind, sum(p.numel() for p in model.parameters()), "parameters; losses", losses, "norms", norms)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for kind, config in KINDS.items():
        make(kind, config, Path(__file__).parent / kind)
