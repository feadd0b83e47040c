"""Times image-quality metrics on pictures of 512 x 512 with random networks of full size: PyTorch and coz in turns.

    python3 -m pip install torch==2.11.0 timm==1.0.31 open_clip_torch==3.3.0 numpy scipy pillow safetensors
    python3 benches/metrics.py target/release/coz [--runs 5] [--threads 2] [--metrics musiq maniqa]
    python3 benches/metrics.py --reference-only

PyTorch runs the metrics of tests/parity/metrics/reference.py; its time is that of reading the PNG and of the forward
pass. The program's is the difference between a run on eight pictures and one on two, by the six that it has more (`--many`). Also tells how far the
scores are apart. The machine should have nothing else to do: PyTorch's threads wait for one another. The random weights
take up to 520 MB in the folder for temporary files.
"""

import argparse
import json
import os
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

METRICS = ("musiq", "maniqa", "clipiqa", "lpips_alex", "lpips_vgg", "dists")
FULL_REFERENCE = ("lpips_alex", "lpips_vgg", "dists")
SIDE, FEW = 512, 2

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("coz", type=Path, nargs="?")
parser.add_argument("--runs", type=int, default=5)
parser.add_argument("--many", type=int, default=8, help="pictures of the program's longer run")
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--metrics", nargs="+", choices=METRICS, default=METRICS)
parser.add_argument("--options", default="", help="more options for coz, such as '--device cpu'")
parser.add_argument("--reference-only", action="store_true")
arguments = parser.parse_args()
if not arguments.coz and not arguments.reference_only:
    parser.error("either the path of coz or --reference-only is needed")
# Not all processors, for this process and those it starts.
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: arguments.threads])
os.environ["OMP_NUM_THREADS"] = str(arguments.threads)

import numpy as np  # noqa: E402
import torch  # noqa: E402 (reads the number of threads)
from PIL import Image  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "parity" / "metrics"))
import reference  # noqa: E402

torch.set_num_threads(arguments.threads)


def make_pictures(folder):
    random = np.random.default_rng(0)
    for name in ("few", "few-reference", "many", "many-reference"):
        (folder / name).mkdir()
    for i in range(arguments.many):
        look = (0.9 + 0.1 * i, random.uniform(80, 170, 3), random.uniform(30, 65))
        original = reference.clouds(random, SIDE, SIDE, *look)
        picture = reference.distorted(random, original, random.uniform(0.3, 2), random.uniform(1, 10))
        for name in ("few", "many") if i < FEW else ("many",):
            Image.fromarray(picture).save(folder / name / f"{i}.png")
            Image.fromarray(original).save(folder / f"{name}-reference" / f"{i}.png")


def make_metric(name, weights):
    """Writes the metric's weights, and returns the reference implementation with them."""

    def save(tensors, stem):
        if stem == "clip_rn50":
            save_file(tensors, weights / f"{stem}.safetensors")
        else:
            torch.save(tensors, weights / f"{stem}.pth")
        return tensors

    if name == "musiq":
        return reference.Musiq(save(reference.random_musiq(1), "musiq"))
    if name == "maniqa":
        return reference.Maniqa(save(reference.random_maniqa(2), "maniqa"))
    if name == "clipiqa":
        return reference.ClipIqa(save(reference.random_clip(3), "clip_rn50"))
    if name == "lpips_alex":
        trunk = save(reference.random_alexnet(4), "alexnet")
        return reference.Lpips("alex", trunk, save(reference.random_lpips(5, (64, 192, 384, 256, 256)), name))
    trunk = save(reference.random_vgg16(6), "vgg16")
    if name == "lpips_vgg":
        return reference.Lpips("vgg", trunk, save(reference.random_lpips(7, (64, 128, 256, 512, 512)), name))
    return reference.Dists(trunk, save(reference.random_dists(8), name))


def with_torch(name, metric, folder):
    """Seconds for a picture, and scores by stem."""

    def read(path):
        return np.asarray(Image.open(path).convert("RGB"))

    scores = {}
    start = time.perf_counter()
    for path in sorted((folder / "few").iterdir()):
        given = [read(path)]
        if name in FULL_REFERENCE:
            given.append(read(folder / "few-reference" / path.name))
        scores[path.stem] = metric(*given)
    return (time.perf_counter() - start) / FEW, scores


def with_coz(name, folder, weights):
    seconds = {}
    for pictures in ("few", "many"):
        # A folder of its own each time: nothing is to be found there and gone on with.
        out = Path(tempfile.mkdtemp(dir=folder))
        command = [arguments.coz.resolve(), "evaluate", folder / pictures, "--metrics", name]
        command += ["--reference", folder / f"{pictures}-reference", "--metrics-weights", weights]
        command += ["--scores-json", out / "scores.json", *shlex.split(arguments.options)]
        start = time.perf_counter()
        result = subprocess.run(command, cwd=out, capture_output=True, text=True)
        seconds[pictures] = time.perf_counter() - start
        if result.returncode:
            sys.exit(f"coz failed at {name}:\n{result.stderr}")
        scores = json.loads((out / "scores.json").read_text())[name]
        shutil.rmtree(out)
    return (seconds["many"] - seconds["few"]) / (arguments.many - FEW), scores


def spread(seconds):
    return f"{statistics.median(seconds):8.3f} ({min(seconds):.3f} to {max(seconds):.3f})"


def main():
    folder = Path(tempfile.mkdtemp())
    try:
        make_pictures(folder)
        columns = f"{'metric':<11} {'PyTorch, s per picture':<28}"
        if not arguments.reference_only:
            columns += f" {'coz, s per picture':<28} {'ratio':>6}  scores apart, absolute and relative"
        print(columns)
        for name in arguments.metrics:
            weights = folder / "weights"
            weights.mkdir()
            metric = make_metric(name, weights)
            # The first time also sets up.
            _, expected = with_torch(name, metric, folder)
            times, found = {"PyTorch": [], "coz": []}, None
            for _ in range(arguments.runs):
                times["PyTorch"].append(with_torch(name, metric, folder)[0])
                if not arguments.reference_only:
                    seconds, found = with_coz(name, folder, weights)
                    times["coz"].append(seconds)
            row = f"{name:<11} {spread(times['PyTorch']):<28}"
            if found is None:
                print(f"{row} scores {', '.join(f'{score:.6f}' for score in expected.values())}", flush=True)
            else:
                ratio = statistics.median(times["coz"]) / statistics.median(times["PyTorch"])
                absolute = max(abs(found[stem] - score) for stem, score in expected.items())
                relative = max(abs(found[stem] / score - 1) for stem, score in expected.items())
                print(f"{row} {spread(times['coz']):<28} {ratio:>6.2f}  {absolute:.1e}, {relative:.1e}", flush=True)
            shutil.rmtree(weights)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
