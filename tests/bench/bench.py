"""XML to text beside lxml, and the whole run with its stages. One core is pinned for the side-by-side figures."""
import array, glob, json, os, pathlib, re, resource, subprocess, sys, tempfile, time

import lxml.etree

data, target = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
core = min(os.sched_getaffinity(0))


def pinned():
    os.sched_setaffinity(0, {core})


def lxml_walk(paths):
    """The plain paragraph walk: parse, join the text of every paragraph."""
    parser = lxml.etree.XMLParser(load_dtd=False, no_network=True, resolve_entities=False, recover=True, huge_tree=True)
    files = [pathlib.Path(path).read_bytes() for path in paths]
    best = float("inf")
    # The best of some rounds, as the other side has it.
    for _ in range(5):
        start = time.perf_counter()
        for raw in files:
            tree = lxml.etree.fromstring(raw, parser)
            for paragraph in tree.iter("{*}p", "{*}title"):
                " ".join("".join(paragraph.itertext()).split())
        best = min(best, time.perf_counter() - start)
    return sum(map(len, files)) / best / 1e6


rows = []
whole = [0, 0, 0]
for folder, format in [("jats_epmc", "jats"), ("jats_plos", "jats"), ("jats_craft", "jats"), ("bmc_trials_xml", "bmc")]:
    paths = sorted(glob.glob(str(data / folder / "*.xml")))
    ours = []
    theirs = []
    for _ in range(3):
        out = subprocess.run([target / "examples/parse_speed", format, data / folder], capture_output=True, text=True, preexec_fn=pinned, check=True)
        ours.append(max(float(x) for x in re.findall(r"([0-9.]+) MB/s", out.stdout + out.stderr)))
        old = os.sched_getaffinity(0)
        pinned()
        theirs.append(lxml_walk(paths))
        os.sched_setaffinity(0, old)
    a, b = sorted(ours)[1], sorted(theirs)[1]
    size = sum(os.path.getsize(path) for path in paths) / 1e6
    whole = [whole[0] + size, whole[1] + size / a, whole[2] + size / b]
    rows.append((f"XML to text, {folder}", f"lxml walk {b:.1f} MB/s", f"{a:.1f} MB/s", a / b))
a, b = whole[0] / whole[1], whole[0] / whole[2]
rows.append((f"XML to text, all {whole[0]:.0f} MB", f"lxml walk {b:.1f} MB/s", f"{a:.1f} MB/s", a / b))
print(f"{'what':<32} {'baseline':<24} {'now':<14} ratio")
for name, baseline, now, ratio in rows:
    print(f"{name:<32} {baseline:<24} {now:<14} {ratio:.1f}x")

# Exact duplicates beside a full suffix array (libsais) and its longest common prefixes per pass, in one process on one core.
with tempfile.TemporaryDirectory() as folder:
    parser = lxml.etree.XMLParser(load_dtd=False, no_network=True, resolve_entities=False, recover=True, huge_tree=True)
    paths = sorted(path for path in data.rglob("*") if path.suffix in {".xml", ".nxml", ".cnxml"})
    for number, path in enumerate(paths):
        tree = lxml.etree.fromstring(path.read_bytes(), parser)
        if tree is not None:
            lines = [" ".join("".join(node.itertext()).split()) for node in tree.iter("{*}p", "{*}title", "{*}AbstractText", "{*}Answer", "{*}para")]
            pathlib.Path(folder, f"{number:06}.txt").write_text("\n".join(lines))
    out = subprocess.run([target / "examples/exact_speed", folder], capture_output=True, text=True, preexec_fn=pinned, check=True)
    print(f"\nexact duplicates, one core\n{out.stdout.rstrip()}")
    out = subprocess.run([target / "examples/exact_speed", folder], capture_output=True, text=True, check=True)
    print("on every core\n" + "\n".join(line for line in out.stdout.splitlines() if line.startswith("SparseSuffixArray")))


def tokenizers_alone(tokenizer, texts):
    """MB/s of encode_batch_fast on one core, and the XXH3-64 of all ids."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    import tokenizers, xxhash
    theirs = tokenizers.Tokenizer.from_file(str(tokenizer))
    theirs.encode_special_tokens = True
    start = time.perf_counter()
    encoded = theirs.encode_batch_fast(texts, add_special_tokens=False)
    seconds = time.perf_counter() - start
    digest = xxhash.xxh3_64()
    for text in encoded:
        digest.update(array.array("I", text.ids).tobytes())
    return sum(len(text.encode()) for text in texts) / seconds / 1e6, digest.hexdigest()


def tokens(corpus):
    """Tokenisation beside Python tokenizers, on the texts of a finished run."""
    import pyarrow.parquet
    texts = [text.replace("\0", "") for text in pyarrow.parquet.read_table(corpus)["text"].to_pylist()]
    with tempfile.NamedTemporaryFile("w") as file:
        file.write("".join(text + "\0" for text in texts))
        file.flush()
        print(f"\ntokenize, {len(texts)} texts, one core")
        for name in ["qwen2", "mistral_7b_v1"]:
            tokenizer = data / f"tokenizers/{name}.tokenizer.json"
            out = subprocess.run([target / "examples/tokenize_speed", tokenizer, file.name], capture_output=True, text=True, preexec_fn=pinned, check=True)
            ours, digest = float(out.stdout.split()[0]), re.search(r"[0-9a-f]{16}", out.stdout).group()
            old = os.sched_getaffinity(0)
            pinned()
            theirs, expected = tokenizers_alone(tokenizer, texts)
            os.sched_setaffinity(0, old)
            same = "same ids" if digest == expected else "OTHER IDS"
            print(f"{name:<32} {f'tokenizers {theirs:.2f} MB/s':<24} {f'{ours:.1f} MB/s':<14} {ours / theirs:.1f}x, {same}")


print()
scratch = "/dev/shm" if os.access("/dev/shm", os.W_OK) else tempfile.gettempdir()
with tempfile.TemporaryDirectory(dir=scratch) as folder:
    subprocess.run([target / "examples/shard_speed", folder], preexec_fn=pinned, check=True)

recipe = pathlib.Path("datasets/recipes/shared-data.toml")
if (recipe.parent / "../../../shared/data").is_dir():
    with tempfile.TemporaryDirectory() as out:
        start = time.perf_counter()
        subprocess.run([target / "osler", "corpus", "--recipe", recipe, "--out", f"{out}/run", "--progress", "none"], check=True, capture_output=True)
        seconds = time.perf_counter() - start
        run = json.loads(pathlib.Path(f"{out}/run/run.json").read_text())
        size = sum(entry["num_bytes"] for entry in run["inputs"])
        print(f"\nwhole run, {len(run['inputs'])} files, {size / 1e6:.1f} MB, all cores: {seconds:.1f} s, {size / seconds / 1e6:.1f} MB/s of input")
        for stage in run["stages"]:
            counts = stage["counts"]
            if stage["seconds"] > 0:
                rate = counts["bytes_in"] / stage["seconds"] / 1e6
                print(f"  {stage['name']:<18} {stage['seconds']:6.2f} s  {rate:8.1f} MB/s of text  peak {stage['peak_memory_bytes'] / 1e6:7.0f} MB")
        tokens(f"{out}/run/corpus")
        for method in ["concat", "best-fit"]:
            command = [target / "osler", "tokens", "repack", f"{out}/run", "--context-length", "8192", "--method", method]
            start = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            seconds = time.perf_counter() - start
            pack = next(stage for stage in json.loads(pathlib.Path(f"{out}/run/run.json").read_text())["stages"] if stage["name"] == "pack")["facts"]
            fill = 1 - pack["padding"] / (pack["chunks"] * pack["context_length"])
            print(f"{method:<10} at 8,192: {pack['chunks']} chunks, fill {100 * fill:.2f} %, {pack['tail_tokens']} tokens in no chunk, {seconds:.2f} s")
