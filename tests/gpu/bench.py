"""Puts PyTorch's times beside those of `osler-gpu bench --json`, which come by standard input; alone where PyTorch sees no GPU."""

import gc
import json
import os
import sys
import time

try:
    import torch
    import torch.nn.functional as F

    on_gpu = torch.cuda.is_available()
except (ImportError, OSError):
    on_gpu = False

# OSLER_BENCH_DEVICE=cpu tries that all of this runs, on sizes for a CPU.
device = os.environ.get("OSLER_BENCH_DEVICE", "cuda" if on_gpu else "")


def wait():
    if device == "cuda":
        torch.cuda.synchronize()


def forget():
    """Gives back memory that nobody holds."""
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()


def seconds(run, rounds=4, round_seconds=0.2):
    """Of one run, the fastest of some rounds, as the other program measures."""
    for _ in range(3):
        run()
    wait()
    best, count = float("inf"), 1
    for _ in range(rounds):
        while True:
            begun = time.perf_counter()
            for _ in range(count):
                run()
            wait()
            taken = time.perf_counter() - begun
            best = min(best, taken / count)
            if taken >= round_seconds:
                break
            count *= 2
    return best


def random(*shape):
    return torch.rand(*shape, device=device, dtype=torch.bfloat16) * 3 - 1.5


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
    """The product to the weight is f32 on the other side, and bf16 here."""
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


def slopes(output, inputs):
    """Seconds of the backward pass alone, for a gradient that is random."""
    grad = torch.rand_like(output)
    return seconds(lambda: torch.autograd.grad(output, inputs, grad, retain_graph=True))


def rmsnorm(peer):
    source, weight = random(peer["bytes"] // 4 // 4096, 4096), random(4096)
    return seconds(lambda: F.rms_norm(source, (4096,), weight)), "rms_norm"


def sum_and_rmsnorm(peer):
    source, weight = random(peer["bytes"] // 8 // 4096, 4096), random(4096)
    addend = torch.rand_like(source)

    def run():
        total = source + addend
        return total, F.rms_norm(total, (4096,), weight)

    return seconds(run), "+, rms_norm"


def rmsnorm_backward(peer):
    """Added to the gradient that goes past the norm."""
    source, weight = random(peer["bytes"] // 8 // 4096, 4096).requires_grad_(), random(4096).requires_grad_()
    output = F.rms_norm(source, (4096,), weight)
    grad, past = torch.rand_like(output), torch.rand_like(output)
    return seconds(lambda: past.add_(torch.autograd.grad(output, (source, weight), grad, retain_graph=True)[0])), "rms_norm, add_"


def rotary(peer):
    """As transformers has it, for heads of 128."""
    source = random(peer["bytes"] // 4 // 4096, 32, 128)
    cosine, sine = (random(source.shape[0], 1, 128) for _ in range(2))

    def run():
        low, high = source.chunk(2, dim=-1)
        return source * cosine + torch.cat((-high, low), dim=-1) * sine

    return seconds(run), "* cos + rotated * sin"


def swiglu(peer):
    gate, up = random(peer["bytes"] // 6), random(peer["bytes"] // 6)
    return seconds(lambda: F.silu(gate) * up), "silu * up"


def swiglu_backward(peer):
    gate, up = (random(peer["bytes"] // 10).requires_grad_() for _ in range(2))
    return slopes(F.silu(gate) * up, (gate, up)), "silu * up"


def adamw(peer):
    """Of f32 weights, which are as many bytes as bf16 ones and what they lack of f32."""
    weight = torch.nn.Parameter(torch.rand(peer["bytes"] // 28, device=device))
    weight.grad = torch.rand_like(weight)
    optimiser = torch.optim.AdamW([weight], lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    return seconds(optimiser.step), "AdamW, fused"


def squares(peer):
    grad = torch.rand(peer["bytes"] // 4, device=device)
    return seconds(lambda: torch.linalg.vector_norm(grad)), "vector_norm"


def head_loss(peer):
    hidden = random(peer["rows"], peer["hidden"]).requires_grad_()
    weight = (random(peer["vocabulary"], peer["hidden"]) * 0.02).requires_grad_()
    targets = torch.randint(0, peer["vocabulary"], (peer["rows"],), device=device)
    return seconds(lambda: torch.autograd.grad(F.cross_entropy((hidden @ weight.T).float(), targets), (hidden, weight))), "cross_entropy"


def route(rows, router, top_k):
    """Each row's choices and their shares, which choice each slot of the experts is, where each expert's slots end, and the balance loss."""
    experts = router.shape[0]
    probabilities = (rows @ router.T).float().softmax(-1)
    shares, chosen = probabilities.topk(top_k)
    shares = shares / shares.sum(-1, keepdim=True)
    counts = chosen.flatten().bincount(minlength=experts)
    balance = 0.02 * experts * (counts / len(rows) * probabilities.mean(0)).sum()
    return shares, chosen.flatten().argsort(stable=True), counts.cumsum(0).int(), balance


def gather(slots, rows, shares, order):
    shares = shares.flatten()[order, None].to(slots.dtype)
    return torch.zeros_like(rows).index_add(0, order // (len(slots) // len(rows)), slots * shares)


def routing(peer):
    """All that a layer with experts does besides their products, both ways."""
    top_k, hidden = peer["top_k"], peer["hidden"]
    rows, router = random(peer["rows"], hidden).requires_grad_(), (random(peer["experts"], hidden) * 0.02).requires_grad_()
    grad = torch.rand_like(rows)

    def run():
        shares, order, _, balance = route(rows, router, top_k)
        output = gather(rows[order // top_k], rows, shares, order)
        return torch.autograd.grad((output, balance), (rows, router), (grad, torch.ones_like(balance)))

    return seconds(run), "topk, sort, index_add"


def grouped_product():
    """The products of all experts, each of the slots up to its end: PyTorch's grouped ones where it has them; and their name."""
    if hasattr(torch, "_grouped_mm"):
        return (lambda left, right, ends: torch._grouped_mm(left, right, offs=ends)), "_grouped_mm"

    def one_by_one(left, right, ends):
        sizes = ends.diff(prepend=ends.new_zeros(1)).tolist()
        return torch.cat([part @ one for part, one in zip(left.split(sizes), right)])

    return one_by_one, "a product an expert"


def experts(peer):
    """The products of all experts, each with the rows that the other program's router gave it; the whole layer with a router of its own, timed as one."""
    choices, experts, hidden, inner = peer["rows"] * peer["top_k"], peer["experts"], peer["hidden"], peer["inner"]
    forward, backward = peer["what"] != "experts backward", peer["what"] != "experts forward"
    whole = forward and backward
    rows = random(peer["rows"] if whole else choices, hidden).requires_grad_(backward)
    gate, up = ((random(experts, hidden, inner) * 0.02).requires_grad_(backward) for _ in range(2))
    down = (random(experts, inner, hidden) * 0.02).requires_grad_(backward)
    product, how = grouped_product()
    products = lambda rows, ends: product(F.silu(product(rows, gate, ends)) * product(rows, up, ends), down, ends)
    if whole:
        router = (random(experts, hidden) * 0.02).requires_grad_()
        grad = torch.rand_like(rows)

        def run():
            shares, order, ends, balance = route(rows, router, peer["top_k"])
            output = gather(products(rows[order // peer["top_k"]], ends), rows, shares, order)
            return torch.autograd.grad((output, balance), (rows, router, gate, up, down), (grad, torch.ones_like(balance)))

        return seconds(run), f"{how}, index_add"
    ends = torch.tensor(peer["ends"], dtype=torch.int32, device=device)
    if forward:
        return seconds(lambda: products(rows, ends)), how
    return slopes(products(rows, ends), (rows, gate, up, down)), how


def step(peer):
    import transformers

    fields = dict(peer["config"])
    config = transformers.AutoConfig.for_model(fields.pop("model_type"), sliding_window=None, **fields)
    with torch.device(device):
        model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").to(torch.bfloat16)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    tokens = torch.randint(0, config.vocab_size, (1, peer["tokens"]), device=device)

    def run():
        optimiser.zero_grad()
        for _ in range(peer["passes"]):
            (model(tokens, labels=tokens, use_cache=False).loss / peer["passes"]).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()

    try:
        return seconds(run), "transformers, all in bf16"
    except torch.OutOfMemoryError:
        # What it was at is held until the exception is gone.
        pass
    optimiser.zero_grad()
    forget()
    model.gradient_checkpointing_enable()
    return seconds(run), "transformers, all in bf16, layers computed twice"


PEERS = {
    "attention": attention, "product": product, "copy": copy, "rmsnorm": rmsnorm, "sum and rmsnorm": sum_and_rmsnorm,
    "rmsnorm backward": rmsnorm_backward, "rotary": rotary, "swiglu": swiglu, "swiglu backward": swiglu_backward, "adamw": adamw,
    "squares": squares, "head_loss": head_loss, "experts": experts, "routing": routing, "step": step,
}  # fmt: skip


def speed(row, taken):
    if row["tokens"]:
        return f"{row['tokens'] / taken:,.0f} tokens/s, {row['operations'] / taken * 1e-12:.0f} TFLOP/s"
    if row["operations"]:
        return f"{row['operations'] / taken * 1e-12:.0f} TFLOP/s"
    return f"{row['bytes'] / taken * 1e-9:.0f} GB/s"


def beside(row):
    """PyTorch's cell and the ratio."""
    peer = PEERS.get((row["peer"] or {}).get("kind")) if device else None
    if peer is None:
        return "", ""
    try:
        forget()
        found = peer(row["peer"])
    except Exception as error:  # noqa: BLE001: whatever a peer cannot do, the other rows are wanted
        print(f"{row['what']}, {row['case']}: {error}", file=sys.stderr)
        return type(error).__name__, ""
    if found is None:
        return "no fused kernel", ""
    taken, how = found
    return f"{speed(row, taken)} ({how})", f"{taken / row['seconds']:.2f}"


# All lines before the first of PyTorch's measurements: the two would else share the GPU.
rows = [json.loads(line) for line in sys.stdin.readlines()]
if not rows:
    # Why, the other program has said.
    sys.exit()
if on_gpu:
    print(f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}, {time.strftime('%Y-%m-%d')}\n")
else:
    print("PyTorch with a GPU is not here: its columns stay empty\n" if not device else f"PyTorch runs on a {device}\n")
print(rows[0]["formula"], "\n")
print(f"| what | case | ms | Osler | of {rows[0]['peak'] * 1e-12:.0f} TFLOP/s | PyTorch | ratio |\n|---|---|---|---|---|---|---|")
for row in rows:
    other, ratio = beside(row)
    share = f"{row['share']:.1%}" if row["share"] else ""
    print(f"| {row['what']} | {row['case']} | {row['seconds'] * 1e3:.3f} | {speed(row, row['seconds'])} | {share} | {other} | {ratio} |", flush=True)
