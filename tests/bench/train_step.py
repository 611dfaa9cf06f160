"""Does what `pipeline/train/examples/step_speed.rs` does, in PyTorch eager: a step per line of its input; train_step.py [THREADS]"""

import json
import resource
import sys
import time

import torch
import transformers

torch.set_num_threads(int(sys.argv[1]) if len(sys.argv) > 1 else 1)
torch.manual_seed(1)
config = transformers.MistralConfig(
    vocab_size=12000,
    hidden_size=384,
    intermediate_size=1024,
    num_hidden_layers=8,
    num_attention_heads=6,
    num_key_value_heads=2,
    max_position_embeddings=512,
    sliding_window=None,
    tie_word_embeddings=False,
)
config._attn_implementation = "sdpa"
model = transformers.MistralForCausalLM(config).float()
optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1)
tokens = torch.randint(0, 12000, (1, 512))
for _ in sys.stdin:
    begun = time.perf_counter()
    optimiser.zero_grad()
    loss = model(tokens, labels=tokens, use_cache=False).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimiser.step()
    milliseconds = (time.perf_counter() - begun) * 1e3
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1000
    print(json.dumps({"milliseconds": milliseconds, "peak_megabytes": peak, "loss": loss.item()}), flush=True)
