"""Times the training's degradation on one core, and micro-batches of the tiny trainer, beside PyTorch, in turns.

    python3 -m pip install torch==2.11.0 diffusers transformers peft numpy scipy safetensors
    python3 benches/training.py target/release/coz [--runs 3]

PyTorch runs the functions of tests/parity/train. The program's times are differences between a longer and a shorter run,
so that starting and reading files do not count.
"""

import argparse
import copy
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("coz", type=Path)
parser.add_argument("--runs", type=int, default=3)
arguments = parser.parse_args()

import numpy as np  # noqa: E402
import torch  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

PARITY = Path(__file__).resolve().parents[1] / "tests" / "parity"
sys.path[:0] = [str(PARITY / "train"), str(PARITY / "metrics")]
import degradation  # noqa: E402
import replay  # noqa: E402

SIDE = 512
SHORT, LONG = 6, 36


def coz(folder, *options, threads):
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "RAYON_NUM_THREADS": str(threads)}
    command = [arguments.coz.resolve(), "train", "sr", *options, "-o", tempfile.mkdtemp(dir=folder)]
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, env=environment)
    return time.perf_counter() - start


def report(what, ours, theirs):
    ours, theirs = statistics.median(ours), statistics.median(theirs)
    print(f"{what}: PyTorch {theirs:.4f} s, coz {ours:.4f} s, ratio {ours / theirs:.2f}", flush=True)


def degradations(folder):
    """Every trace of the parity test on 512 x 512, once and twice."""
    traces, tensors = [], {}
    for i, (_, *rest) in enumerate(degradation.TRACES):
        rng = np.random.default_rng(i)
        torch.manual_seed(i)
        tensors[f"t{i}.gt_u8"] = degradation.picture(rng, SIDE, SIDE)
        ops = degradation.operations(rng, SIDE, SIDE, *rest)
        degradation.degraded(f"t{i}", ops, tensors)
        traces.append({"name": f"t{i}", "ops": ops})
    once, thrice = folder / "once.json", folder / "thrice.json"
    again = [{**trace, "name": f"{trace['name']}"} for trace in traces]
    once.write_text(json.dumps({"traces": traces}))
    thrice.write_text(json.dumps({"traces": traces + again + again}))
    for file in (once, thrice):
        save_file({key: value.contiguous() for key, value in tensors.items()}, file.with_suffix(".safetensors"))
    ours, theirs = [], []
    torch.set_num_threads(1)
    for _ in range(arguments.runs):
        start = time.perf_counter()
        for trace in traces:
            degradation.degraded(trace["name"], trace["ops"], tensors)
        theirs.append((time.perf_counter() - start) / len(traces))
        seconds = [coz(folder, "--replay_degradation", file, threads=1) for file in (once, thrice)]
        ours.append((seconds[1] - seconds[0]) / (2 * len(traces)))
    report("degradation of 512 x 512 on one core", ours, theirs)


@torch.no_grad()
def encoded(encoders, captions):
    return replay.encoded(encoders, captions)


def training(folder):
    """Micro-batches of the parity test's case, over and over; prompts are encoded for each."""
    case = json.loads((PARITY / "train" / "case.json").read_text())
    count = len(case["captions"])
    given = load_file(PARITY / "train" / case["replay"])

    def of_length(micro_batches):
        longer = copy.deepcopy(case)
        for key in ("sd3", "lpips_vgg", "lpips_lin", "init"):
            longer[key] = str((PARITY / "train" / case[key]).resolve())
        longer["captions"] = [case["captions"][i % count] for i in range(micro_batches)]
        longer["micro_batches"] = micro_batches
        longer["args"]["gradient_accumulation_steps"] = micro_batches
        tensors = {}
        for i in range(micro_batches):
            for part in replay.PARTS:
                tensors[f"mb{i}.{part}"] = given[f"mb{i % count}.{part}"].clone()
        longer["replay"] = f"replay{micro_batches}.safetensors"
        save_file(tensors, folder / longer["replay"])
        (folder / f"case{micro_batches}.json").write_text(json.dumps(longer))
        return folder / f"case{micro_batches}.json"

    files = [of_length(length) for length in (SHORT, LONG)]
    torch.set_num_threads(2)
    encoders = replay.encoders(PARITY / "sd3")
    reference = replay.Training(case, encoded(encoders, case["captions"]), torch.float32)
    ours, theirs = [], []
    for _ in range(arguments.runs):
        start = time.perf_counter()
        reference.embeds = encoded(encoders, case["captions"])
        for number in range(count):
            reference.micro_batch(number)
        theirs.append((time.perf_counter() - start) / count)
        seconds = [coz(folder, "--replay", file, threads=2) for file in files]
        ours.append((seconds[1] - seconds[0]) / (LONG - SHORT))
    report("a micro-batch of two, 64 x 48, tiny model", ours, theirs)


with tempfile.TemporaryDirectory() as folder:
    degradations(Path(folder))
    training(Path(folder))
