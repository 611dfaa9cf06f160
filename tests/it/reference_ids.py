"""Compares the ids in a run's shards with those of Python tokenizers, document by document."""
import pathlib, sys

import numpy as np, pyarrow as pa, pyarrow.parquet, tokenizers

out = pathlib.Path(sys.argv[1])
reference = tokenizers.Tokenizer.from_file(str(out / "tokens/tokenizer.json"))
reference.encode_special_tokens = True
texts = dict(zip(*(pa.parquet.read_table(out / "corpus", columns=["doc_id", "text"])[name].to_pylist() for name in ["doc_id", "text"])))
# A text that spells a special token out stays text in Osler, however its characters have to be taken apart for that.
special = [token for token in reference.get_vocab(True) if token in ("<s>", "</s>", "<|endoftext|>", "<|im_end|>")]
documents = tokens = different = 0
for sidecar in sorted((out / "tokens").glob("*.meta.arrow")):
    file = pa.ipc.open_file(pa.memory_map(str(sidecar)))
    header = {key.decode(): value.decode() for key, value in file.schema.metadata.items()}
    ids = np.fromfile(str(sidecar).replace(".meta.arrow", ".bin"), {"u16": "<u2", "u32": "<u4"}[header["osler.dtype"]])
    rows = file.get_batch(0)["documents"].flatten().to_pylist()
    for first in range(0, len(rows), 200):
        some = rows[first:first + 200]
        for row, encoded in zip(some, reference.encode_batch_fast([texts[row["doc_id"]] for row in some], add_special_tokens=False)):
            ours = ids[row["start"]:row["start"] + row["len"] - 1]
            assert ids[row["start"] + row["len"] - 1] == int(header["osler.tokenizer.eos_id"]) and row["offset"] == 0
            if not np.array_equal(ours, np.array(encoded.ids, ids.dtype)):
                assert any(token in texts[row["doc_id"]] for token in special), row["doc_id"]
                different += 1
            documents, tokens = documents + 1, tokens + len(ours)
print(f"{documents} documents, {tokens} tokens agree with tokenizers {tokenizers.__version__}; {different} spell a special token out")
assert documents == len(texts) and different <= documents // 100
