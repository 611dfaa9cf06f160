"""XML to text beside lxml, and the whole run with its stages. One core is pinned for the side-by-side figures."""
import glob, json, os, pathlib, re, resource, subprocess, sys, tempfile, time

import lxml.etree

data, target = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
core = min(os.sched_getaffinity(0))


def pinned():
    os.sched_setaffinity(0, {core})


def lxml_walk(paths):
    """The plain paragraph walk: parse, join the text of every paragraph."""
    parser = lxml.etree.XMLParser(load_dtd=False, no_network=True, resolve_entities=False, recover=True, huge_tree=True)
    files = [pathlib.Path(path).read_bytes() for path in paths]
    start = time.perf_counter()
    size = total = 0
    for raw in files:
        total += len(raw)
        tree = lxml.etree.fromstring(raw, parser)
        for paragraph in tree.iter("{*}p", "{*}title"):
            size += len(" ".join("".join(paragraph.itertext()).split()))
    return total / (time.perf_counter() - start) / 1e6, size


rows = []
for folder, format in [("jats_epmc", "jats"), ("jats_plos", "jats"), ("jats_craft", "jats"), ("bmc_trials_xml", "bmc")]:
    paths = sorted(glob.glob(str(data / folder / "*.xml")))
    ours = []
    theirs = []
    for _ in range(3):
        out = subprocess.run([target / "examples/parse_speed", format, data / folder], capture_output=True, text=True, preexec_fn=pinned, check=True)
        ours.append(max(float(x) for x in re.findall(r"([0-9.]+) MB/s", out.stdout + out.stderr)))
        old = os.sched_getaffinity(0)
        pinned()
        theirs.append(lxml_walk(paths)[0])
        os.sched_setaffinity(0, old)
    a, b = sorted(ours)[1], sorted(theirs)[1]
    rows.append((f"XML to text, {folder}", f"lxml walk {b:.1f} MB/s", f"{a:.1f} MB/s", a / b))
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
