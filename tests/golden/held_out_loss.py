"""Loads a model that `osler train` left into transformers and computes the loss of its held-out chunks, each document by itself.

    held_out_loss.py CORPUS MODEL_RUN

CORPUS is the folder of a corpus run with concatenated packing, MODEL_RUN that of a training run with held-out chunks. Prints the loss and
the one in the last line of `metrics.jsonl`, and fails where they differ by more than 1e-5 of it. Versions: requirements.txt.
"""
import json, pathlib, sys

import numpy as np, torch
from transformers import AutoModelForCausalLM

corpus, run = map(pathlib.Path, sys.argv[1:3])
model = AutoModelForCausalLM.from_pretrained(run / "model", dtype=torch.float32).eval()
plan = json.loads((run / "train.json").read_text())
context, held_out = plan["context_length"], plan["recipe"]["held_out"]
parts = sorted((corpus / "tokens").glob("part-*.bin"))
dtype = "<u2" if model.config.vocab_size < 65_536 else "<u4"
ids = np.concatenate([np.fromfile(part, dtype) for part in parts]).astype(np.int64)
every = held_out["every_chunks"]
available = len(ids) // context // every
count = min(available, held_out["max_chunks"])
loss = targets = 0
with torch.no_grad():
    for at in range(count):
        chunk = (at * available // count + 1) * every - 1
        tokens = ids[chunk * context:(chunk + 1) * context]
        for document in np.split(tokens, np.flatnonzero(tokens == model.config.eos_token_id) + 1):
            if len(document) > 1:
                tokens_of = torch.tensor(document)[None]
                logits = model(tokens_of).logits[0, :-1]
                loss += torch.nn.functional.cross_entropy(logits, tokens_of[0, 1:], reduction="sum").item()
                targets += len(document) - 1
last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["held_out"]
print(f"{count} chunks, {targets} targets: {loss / targets:.7f} in transformers, {last['loss']:.7f} in the run")
assert targets == last["targets"] and abs(loss / targets - last["loss"]) < 1e-5 * last["loss"]
