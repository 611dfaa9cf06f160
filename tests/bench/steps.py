"""A training step in PyTorch eager and here, by turns in one run: steps.py TORCH_PYTHON TARGET_FOLDER [ROUNDS]

Every program does one step per round, so that what else the machine does meets all alike. Given are medians, and of each round the time of
PyTorch's step over that of the other's."""
import json, os, statistics, subprocess, sys

python, target = sys.argv[1:3]
rounds = int(sys.argv[3]) if len(sys.argv) > 3 else 15
POLICIES = ["none", "elementwise", "feed-forward", "layer"]


def start(command, threads):
    pin = (lambda: os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads]))
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, preexec_fn=pin)


def step(program):
    """Lets a program do one step; gives what it says of it."""
    program.stdin.write("\n")
    program.stdin.flush()
    return json.loads(program.stdout.readline())


print("| threads | what | ms a step | tokens/s | at most resident | PyTorch's step over it: median (lowest to highest) |\n|---|---|---|---|---|---|")
for threads in sorted({1, len(os.sched_getaffinity(0))}):
    programs = {"PyTorch": start([python, "tests/bench/train_step.py", str(threads)], threads)}
    for policy in POLICIES:
        programs[f"Osler, recompute {policy}"] = start([f"{target}/examples/step_speed", str(threads), policy], threads)
    # The first two rounds touch memory and fill caches.
    said = [{name: step(program) for name, program in programs.items()} for _ in range(rounds + 2)][2:]
    for name, program in programs.items():
        times = [told[name]["milliseconds"] for told in said]
        ratios = [told["PyTorch"]["milliseconds"] / told[name]["milliseconds"] for told in said]
        middle = statistics.median(times)
        beside = "" if name == "PyTorch" else f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        print(f"| {threads} | {name} | {middle:.0f} | {512e3 / middle:.0f} | {said[-1][name]['peak_megabytes']} MB | {beside} |", flush=True)
        program.stdin.close()
        program.wait()
