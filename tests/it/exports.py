"""Loads exports of a run with the packages they are for, and compares every token with the shards.

The readers of mosaicml-streaming, litdata and datatrove are the real ones, and read files with NumPy; but importing them also imports
torch and cloud clients, which take gigabytes. What is not installed is replaced by an empty module, torch by the few functions that
datatrove's reader calls, on NumPy. Where torch is installed, it is used.
"""
import importlib.abc, importlib.machinery, importlib.util, json, pathlib, struct, sys, types
from unittest.mock import MagicMock

import numpy as np
import pyarrow as pa


class Absent(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds, after all others, an empty module for every name."""

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in sys.stdlib_module_names or name.split(".")[0] in ("streaming", "litdata", "datatrove", "numpy"):
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec):
        module = numpy_torch() if spec.name == "torch" else MagicMock(name=spec.name)
        module.__path__, module.__name__, module.__spec__ = [], spec.name, spec
        if spec.name == "torch.utils.data":
            module.Dataset = module.IterableDataset = module.DataLoader = object
        return module

    def exec_module(self, module):
        pass


def numpy_torch():
    torch = MagicMock(name="torch")
    torch.int, torch.long, torch.int64 = np.int32, np.int64, np.int64
    torch.tensor = torch.as_tensor = lambda values, dtype=None: np.array(values, dtype)
    torch.ones = lambda size, dtype=None: np.ones(size, dtype)
    torch.cat = np.concatenate
    torch.cumsum = lambda values, dim: np.cumsum(values, axis=dim)
    torch.Tensor, torch.nn.Module, torch.dtype = type("Tensor", (), {}), type("Module", (), {}), type("dtype", (), {})
    return torch


def without_init(*names):
    """Packages whose `__init__` is not run: it would import far more than the reader."""
    for name in names:
        parent = sys.modules[name.rsplit(".", 1)[0]].__path__ if "." in name else None
        spec = importlib.machinery.PathFinder.find_spec(name, parent)
        module = types.ModuleType(name)
        module.__path__ = list(spec.submodule_search_locations)
        sys.modules[name] = module


sys.meta_path.append(Absent())
run, exports = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])

# The shards, by the documented format alone.
stream, ends, chunks, headers = [], [], [], []
for sidecar in sorted((run / "tokens").glob("*.meta.arrow")):
    file = pa.ipc.open_file(pa.memory_map(str(sidecar)))
    header = {key.decode(): value.decode() for key, value in file.schema.metadata.items()}
    ids = np.memmap(str(sidecar).replace(".meta.arrow", ".bin"), dtype={"u16": "<u2", "u32": "<u4"}[header["osler.dtype"]], mode="r")
    row = file.get_batch(0)
    stream.append(ids)
    documents = row["documents"].flatten()
    ends.append(np.asarray(documents.field("start")) + np.asarray(documents.field("len")))
    for chunk in row["chunks"].flatten().to_pylist():
        pieces = [ids[piece["start"]:piece["start"] + piece["len"]] for piece in chunk["pieces"]]
        chunks.append(np.pad(np.concatenate(pieces), (0, chunk["num_padding"]), constant_values=int(header["osler.tokenizer.pad_id"])))
    headers.append(header)
length = int(headers[0]["osler.context_length"])
chunks = np.stack(chunks)
assert len(chunks) > 1 and chunks.shape[1] == length

# numpy
rows = np.concatenate([np.load(path, mmap_mode="r") for path in sorted((exports / "npy").glob("*.npy"))])
assert rows.dtype == chunks.dtype and (rows == chunks).all(), "npy"

# Megatron, by its published layout: magic, version, type, counts, lengths from byte 34, offsets, documents.
for number, (ids, end) in enumerate(zip(stream, ends)):
    index = (exports / f"megatron/part-{number:05}.idx").read_bytes()
    assert index[:9] == b"MMIDIDX\x00\x00" and struct.unpack("<Q", index[9:17]) == (1,)
    dtype = {8: np.uint16, 4: np.int32}[index[17]]
    sequences, entries = struct.unpack("<QQ", index[18:34])
    lengths = np.frombuffer(index, np.int32, sequences, 34)
    offsets = np.frombuffer(index, np.int64, sequences, 34 + 4 * sequences)
    documents = np.frombuffer(index, np.int64, entries, 34 + 12 * sequences)
    assert len(index) == 34 + 12 * sequences + 8 * entries and entries == sequences + 1
    assert (documents == np.arange(entries)).all() and (np.cumsum(lengths) == end).all()
    theirs = np.memmap(exports / f"megatron/part-{number:05}.bin", dtype=dtype, mode="r")
    read = np.concatenate([theirs[o // dtype().itemsize:][:n] for o, n in zip(offsets, lengths)])
    assert (read == ids).all(), "megatron"

# OLMo: a raw memmap and the boundaries.
import csv, gzip

for number, (ids, end) in enumerate(zip(stream, ends)):
    theirs = np.memmap(exports / f"olmo/part-{number:05}.npy", dtype=ids.dtype, mode="r")
    with gzip.open(exports / f"olmo/part-{number:05}.csv.gz", "rt") as file:
        lines = list(csv.reader(file))
    assert (theirs == ids).all() and [int(line[1]) for line in lines] == end.tolist(), "olmo"
    assert [int(line[0]) for line in lines] == [0] + end.tolist()[:-1] and all(len(line) == 5 for line in lines)

# MosaicML Streaming's reader.
without_init("streaming", "streaming.base", "streaming.base.format", "streaming.base.format.mds")
from streaming.base.format.mds.reader import MDSReader

index = json.loads((exports / "mds/index.json").read_text())
assert index["version"] == 2
read = []
for shard in index["shards"]:
    reader = MDSReader.from_json(str(exports / "mds"), "", shard)
    reader.validate(allow_unsafe_types=False)
    assert reader.raw_data.bytes == (exports / "mds" / reader.raw_data.basename).stat().st_size
    read += [reader.decode_sample(reader.get_sample_data(number))["tokens"] for number in range(reader.samples)]
assert (np.stack(read) == chunks).all(), "mds"

# litData's loader of tokens.
without_init("litdata", "litdata.streaming")
from litdata.streaming.item_loader import TokensLoader
from litdata.streaming.serializers import _get_serializers

index = json.loads((exports / "litdata/index.json").read_text())
loader = TokensLoader(block_size=length)
loader.setup(index["config"], index["chunks"], _get_serializers(None))
read = []
for number, (chunk, interval) in enumerate(zip(index["chunks"], loader.generate_intervals())):
    path = exports / "litdata" / chunk["filename"]
    assert path.stat().st_size == chunk["chunk_bytes"]
    begin, _, _, end = interval
    read += [loader.load_item_from_chunk(item, number, str(path), begin, chunk["chunk_bytes"]) for item in range(begin, end)]
assert (np.stack(read) == chunks).all(), "litdata"

# datatrove's reader: windows of one token more, and positions within documents.
from datatrove.utils.dataset import DatatroveFileDataset

for number, (ids, end) in enumerate(zip(stream, ends)):
    path = exports / f"datatrove/part-{number:05}.ds"

    class Files:
        def open(self, name, mode):
            return open(name, mode)

    import datatrove.utils.dataset as module

    module.get_fs_with_filepath = lambda name: (Files(), str(name))
    data = DatatroveFileDataset(path, length, ids.dtype.itemsize, return_positions=True, fsize=path.stat().st_size)
    windows = [data[item] for item in range(len(data))]
    read = np.concatenate([np.asarray(window["input_ids"]) for window in windows])
    assert len(read) == len(ids) // (length + 1) * (length + 1) and (read == ids[:len(read)]).all(), "datatrove"
    starts = np.concatenate([[0], end])
    wanted = np.arange(len(read)) - starts[np.searchsorted(starts, np.arange(len(read)), side="right") - 1]
    got = np.concatenate([np.asarray(window["positions"]) for window in windows])
    first = np.arange(len(read)) // (length + 1) * (length + 1)
    assert (got == np.minimum(wanted, np.arange(len(read)) - first)).all(), "datatrove positions"
    name, count, _ = (path.parent / (path.name + ".metadata")).read_text().split("\n")
    assert name.endswith(f"|{ids.dtype.itemsize}") and int(count) == len(ids)
print("every token agrees")
