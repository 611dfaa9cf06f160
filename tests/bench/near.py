"""Near-duplicates beside rensa and datatrove: 9,000-slot signatures of the same texts, on one core, in one run."""
import json, os, pathlib, re, subprocess, sys, tempfile, time

data, target = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
core = min(os.sched_getaffinity(0))
os.sched_setaffinity(0, {core})
# Texts that a peer is measured on: the slow ones get the first few, which are as long as the others.
SECONDS = 10


def rate(texts, sign):
    """MB/s of text, over as many texts as fit into the time."""
    start, size = time.perf_counter(), 0
    for text in texts:
        size += len(text.encode())
        sign(text)
        if time.perf_counter() - start > SECONDS:
            break
    return size / (time.perf_counter() - start) / 1e6


def rensa_rates(texts):
    """With the shingles made in Python, and with the shingles made before."""
    from rensa import RMinHash

    def shingles(text):
        words = text.lower().split()
        return [" ".join(words[at : at + 5]) for at in range(max(1, len(words) - 4))]

    def sign(shingles):
        signature = RMinHash(num_perm=9000, seed=42)
        signature.update(shingles)
        signature.digest()

    spent = size = 0
    for text in texts:
        made = shingles(text)
        start = time.perf_counter()
        sign(made)
        spent, size = spent + time.perf_counter() - start, size + len(text.encode())
        if spent > SECONDS:
            break
    return rate(texts, lambda text: sign(shingles(text))), size / spent / 1e6


def datatrove_rate(texts):
    from datatrove.pipeline.dedup import MinhashDedupSignature
    from datatrove.pipeline.dedup.minhash import MinhashConfig
    from datatrove.utils.hashing import HashConfig

    config = MinhashConfig(n_grams=5, num_buckets=450, hashes_per_bucket=20, hash_config=HashConfig(precision=64))
    config.norm_config.norm_numbers = False
    step = MinhashDedupSignature("unused", config=config, language="eng")
    step.get_signature(step.get_shingles("the first call loads what it needs to cut words"))
    return rate(texts, lambda text: step.get_signature(step.get_shingles(text)))


with tempfile.TemporaryDirectory() as folder:
    said = subprocess.run([target / "examples/near_speed", data, folder], check=True, capture_output=True, text=True).stdout
    print(said)
    print(f"{'near-duplicates, one core':<34} {'baseline':<46} {'now':<12} ratio")
    for path in sorted(pathlib.Path(folder).glob("*.jsonl")):
        texts = [json.loads(line)["text"] for line in path.read_text().split("\n") if line]
        ours = float(re.search(rf"{re.escape(path.stem)}: shingles and 9,000 slots, FastSimilaritySketch: ([0-9.]+) MB/s", said)[1])
        whole, alone = rensa_rates(texts)
        rows = [("rensa 0.5 RMinHash, shingles in Python", whole), ("rensa 0.5 RMinHash, shingles made before", alone)]
        rows.append(("datatrove 0.10 450 x 20", datatrove_rate(texts)))
        for name, theirs in rows:
            print(f"{'9,000 slots, ' + path.stem:<34} {f'{name} {theirs:.3f} MB/s':<46} {ours:>6.1f} MB/s  {ours / theirs:.1f}x")
