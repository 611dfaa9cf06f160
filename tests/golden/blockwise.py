"""Makes tests/golden/blockwise: the codes of 8 bits of bitsandbytes, and three steps of its AdamW on them. Run once, with requirements.txt.

    python3 tests/golden/blockwise.py

Numbers lie as the machine has them, little-endian, one list to a file; kernels/tests/blockwise.rs makes the same gradients.
"""

from pathlib import Path

import bitsandbytes
import torch
from bitsandbytes import functional
from bitsandbytes.backends.cpu import ops

COUNT, STEPS = 4096, 3


def numbers(salt):
    """Between -1 and 1, of many sizes, and zeros: in f32 the same everywhere."""
    at = torch.arange(COUNT, dtype=torch.int64)
    whole = (at * 7919 + salt * 104729) % 2003 - 1001
    return whole.to(torch.float32) / 1024 / (2.0 ** (at % 13).to(torch.float32))


def quantise(values, code):
    """On a CPU, bitsandbytes looks codes of f32 up in a coarse table; of f64 it takes the nearest, as it does on a GPU."""
    return torch.ops.bitsandbytes.quantize_blockwise(values.double(), code, 256)


def quantise_state(values, code, scales, codes, blocksize):
    assert blocksize == 256
    for to, given in zip((codes, scales), quantise(values, code)):
        to.copy_(given)


def main():
    ops._quant_blockwise_fp32_direct = quantise_state
    folder = Path(__file__).parent / "blockwise"
    folder.mkdir(exist_ok=True)

    def write(name, tensor):
        (folder / name).write_bytes(tensor.contiguous().numpy().tobytes())

    signed, unsigned = (functional.create_dynamic_map(signed=signed) for signed in (True, False))
    write("signed.f32", signed)
    write("unsigned.f32", unsigned)
    for name, code, values in [("signed", signed, numbers(9)), ("unsigned", unsigned, numbers(9).abs())]:
        codes, scales = quantise(values, code)
        write(f"{name}_codes.u8", codes)
        write(f"{name}_scales.f32", scales)
    weight = torch.nn.Parameter(numbers(0))
    optimiser = bitsandbytes.optim.AdamW8bit([weight], lr=0.01, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
    for step in range(1, STEPS + 1):
        # Far enough from zero that no second moment becomes it, which ours never do.
        weight.grad = numbers(step) + torch.where(numbers(step) < 0, -0.25, 0.25)
        optimiser.step()
    state = optimiser.state[weight]
    write("stepped.f32", weight.detach())
    for ours, theirs in [("first", "1"), ("second", "2")]:
        write(f"{ours}_codes.u8", state["state" + theirs])
        write(f"{ours}_scales.f32", state["absmax" + theirs])


main()
