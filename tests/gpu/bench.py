"""Puts PyTorch's times beside those of `osler-gpu bench --json`, which come by standard input; alone where PyTorch sees no GPU."""

import json
import sys
import time

try:
    import torch
    import torch.nn.functional as F

    on_gpu = torch.cuda.is_available()
except (ImportError, OSError):
    on_gpu = False


def seconds(run, rounds=4, round_seconds=0.2):
    """Of one run, the fastest of some rounds, as the other program measures."""
    for _ in range(3):
        run()
    torch.cuda.synchronize()
    best, count = float("inf"), 1
    for _ in range(rounds):
        while True:
            begun = time.perf_counter()
            for _ in range(count):
                run()
            torch.cuda.synchronize()
            taken = time.perf_counter() - begun
            best = min(best, taken / count)
            if taken >= round_seconds:
                break
            count *= 2
    return best


def random(*shape):
    return torch.rand(*shape, device="cuda", dtype=torch.bfloat16) * 3 - 1.5


def attention(peer):
    """The faster of the fused backends that take the shape."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    shape = lambda heads: (peer["sequences"], heads, peer["length"], peer["head_dim"])
    query = random(*shape(peer["query_heads"])).requires_grad_(peer["backward"])
    key, value = (random(*shape(peer["key_heads"])).requires_grad_(peer["backward"]) for _ in range(2))
    best = None
    for backend in (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION):
        forward = lambda: F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
        try:
            with sdpa_kernel(backend):
                if peer["backward"]:
                    output = forward()
                    grad = torch.rand_like(output)
                    taken = seconds(lambda: torch.autograd.grad(output, (query, key, value), grad, retain_graph=True))
                else:
                    taken = seconds(forward)
        except RuntimeError:
            continue
        if best is None or taken < best[0]:
            best = taken, backend.name.split("_")[0].lower()
    return best


def product(peer):
    """The product to the weight is added in f32 on the other side, and stored as bf16 here."""
    rows, inputs, outputs = peer["rows"], peer["inputs"], peer["outputs"]
    input, weight, grad = random(rows, inputs), random(outputs, inputs), random(rows, outputs)
    run = {
        "product forward": lambda: input @ weight.T,
        "product to input": lambda: grad @ weight,
        "product to weight": lambda: grad.T @ input,
    }[peer["what"]]
    return seconds(run), "matmul"


def copy(peer):
    source = random(peer["bytes"] // 4)
    target = torch.empty_like(source)
    return seconds(lambda: target.copy_(source)), "copy_"


def rmsnorm(peer):
    source, weight = random(peer["bytes"] // 4 // 4096, 4096), random(4096)
    return seconds(lambda: F.rms_norm(source, (4096,), weight)), "rms_norm"


def swiglu(peer):
    gate, up = random(peer["bytes"] // 6), random(peer["bytes"] // 6)
    return seconds(lambda: F.silu(gate) * up), "silu * up"


def head_loss(peer):
    hidden = random(peer["rows"], peer["hidden"]).requires_grad_()
    weight = (random(peer["vocabulary"], peer["hidden"]) * 0.02).requires_grad_()
    targets = torch.randint(0, peer["vocabulary"], (peer["rows"],), device="cuda")
    return seconds(lambda: torch.autograd.grad(F.cross_entropy((hidden @ weight.T).float(), targets), (hidden, weight))), "cross_entropy"


def step(peer):
    import transformers

    config = transformers.MistralConfig(**peer["config"], sliding_window=None, tie_word_embeddings=False)
    config._attn_implementation = "sdpa"
    with torch.device("cuda"):
        model = transformers.MistralForCausalLM(config).to(torch.bfloat16)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    tokens = torch.randint(0, config.vocab_size, (1, peer["tokens"]), device="cuda")

    def run():
        optimiser.zero_grad()
        model(tokens, labels=tokens, use_cache=False).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()

    return seconds(run), "transformers, all in bf16"


PEERS = {
    "attention": attention, "product": product, "copy": copy, "rmsnorm": rmsnorm, "swiglu": swiglu, "head_loss": head_loss, "step": step,
}  # fmt: skip


def speed(row, taken):
    if row["tokens"]:
        return f"{row['tokens'] / taken:,.0f} tokens/s, {row['operations'] / taken * 1e-12:.0f} TFLOP/s"
    if row["operations"]:
        return f"{row['operations'] / taken * 1e-12:.0f} TFLOP/s"
    return f"{row['bytes'] / taken * 1e-9:.0f} GB/s"


def beside(row):
    """PyTorch's cell and the ratio."""
    peer = PEERS.get((row["peer"] or {}).get("kind")) if on_gpu else None
    if peer is None:
        return "", ""
    try:
        found = peer(row["peer"])
    except Exception as error:  # noqa: BLE001: whatever a peer cannot do, the other rows are wanted
        print(f"{row['what']}, {row['case']}: {error}", file=sys.stderr)
        return type(error).__name__, ""
    finally:
        torch.cuda.empty_cache()
    if found is None:
        return "no fused kernel", ""
    taken, how = found
    return f"{speed(row, taken)} ({how})", f"{taken / row['seconds']:.2f}"


if on_gpu:
    print(f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}, {time.strftime('%Y-%m-%d')}\n")
else:
    print("PyTorch with a GPU is not here: its columns stay empty\n")
print("| what | case | ms | Osler | of peak | PyTorch | ratio |\n|---|---|---|---|---|---|---|")
# All lines before the first of PyTorch's measurements: the two would else share the GPU.
for line in sys.stdin.readlines():
    row = json.loads(line)
    other, ratio = beside(row)
    share = f"{row['share']:.1%}" if row["share"] else ""
    print(f"| {row['what']} | {row['case']} | {row['seconds'] * 1e3:.3f} | {speed(row, row['seconds'])} | {share} | {other} | {ratio} |", flush=True)
