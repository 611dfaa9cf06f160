"""Times what `pipeline/train/examples/step_speed.rs` times, in PyTorch eager: train_step.py [THREADS] [STEPS]"""

import resource
import sys
import time

import torch
import transformers

threads, steps = (int(sys.argv[at]) if len(sys.argv) > at else default for at, default in ((1, 1), (2, 5)))
torch.set_num_threads(threads)
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
best = float("inf")
for _ in range(steps + 1):
    begun = time.perf_counter()
    optimiser.zero_grad()
    loss = model(tokens, labels=tokens, use_cache=False).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimiser.step()
    best = min(best, time.perf_counter() - begun)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1000
weights = sum(p.numel() for p in model.parameters())
print(f"{weights} weights, {threads} threads: {best * 1e3:.1f} ms a step, {512 / best:.0f} tokens/s, at most {peak} MB resident, loss {loss.item():.3f}")
