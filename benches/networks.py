"""Times one step, 128 x 128 to 512 x 512 on the processor, of every single-image network at a published size, with random
weights: this program and PyTorch (spandrel), in turns.

    python3 -m pip install torch==2.11.0 torchvision==0.26.0 spandrel==0.4.2 einops numpy pillow safetensors
    python3 benches/networks.py target/release/coz [--runs 3] [--only SPAN,HAT]

Each run is a process of its own that works through four pictures; the first is left out. Times are those of the step alone,
memory is the peak of the process. Also tells which share of all levels is equal, and how far the others are apart.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PICTURES = 4


def networks():
    from spandrel.architectures.DAT import DAT
    from spandrel.architectures.DRCT import DRCT
    from spandrel.architectures.HAT import HAT
    from spandrel.architectures.OmniSR import OmniSR
    from spandrel.architectures.PLKSR import PLKSR, RealPLKSR
    from spandrel.architectures.SPAN import SPAN
    from spandrel.architectures.SwinIR import SwinIR

    six = dict(depths=[6] * 6, num_heads=[6] * 6)
    return {
        "SPAN": lambda: SPAN(num_in_ch=3, num_out_ch=3, feature_channels=48, upscale=4),
        "PLKSR": lambda: PLKSR(dim=64, n_blocks=28, upscaling_factor=4, ccm_type="DCCM"),
        "RealPLKSR": lambda: RealPLKSR(dim=64, n_blocks=28, upscaling_factor=4),
        "RealPLKSR, DySample": lambda: RealPLKSR(dim=64, n_blocks=28, upscaling_factor=4, dysample=True, layer_norm=True),
        "OmniSR": lambda: OmniSR(num_feat=64, block_num=1, res_num=5, window_size=8, up_scale=4),
        "SwinIR-M": lambda: SwinIR(**six, img_size=64, embed_dim=180, window_size=8, mlp_ratio=2, upscale=4, upsampler="nearest+conv"),
        "DAT": lambda: DAT(img_size=64, embed_dim=180, split_size=[8, 32], depth=[6] * 6, num_heads=[6] * 6,
                           expansion_factor=4.0, upscale=4),
        "HAT": lambda: HAT(**six, img_size=64, embed_dim=180, window_size=16, compress_ratio=3, squeeze_factor=30,
                           overlap_ratio=0.5, mlp_ratio=2, upscale=4, upsampler="pixelshuffle"),
        "DRCT": lambda: DRCT(**six, img_size=64, embed_dim=180, window_size=16, mlp_ratio=2, upscale=4, gc=32,
                             upsampler="pixelshuffle"),
    }


def reference(file, folder):
    """In a process of its own: seconds of each picture, and the last one's levels."""
    import numpy as np
    import torch
    from PIL import Image
    from spandrel import ModelLoader

    torch.set_num_threads(os.cpu_count())
    torch.set_grad_enabled(False)
    network = ModelLoader().load_from_file(file).model.eval()
    seconds = []
    for photo in sorted(Path(folder).glob("*.png")):
        pixels = torch.from_numpy(np.asarray(Image.open(photo)).transpose(2, 0, 1) / np.float32(255))[None]
        start = time.perf_counter()
        result = network(pixels)
        seconds.append(time.perf_counter() - start)
    levels = (result[0].clamp(0, 1) * 255).round().byte().numpy().transpose(1, 2, 0)
    Image.fromarray(levels).save(Path(folder) / "reference.tif")
    print(json.dumps(seconds))


def run(command):
    """What it prints, and its peak memory in GB."""
    process = subprocess.Popen([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    printed = process.stdout.read()
    _, status, used = os.wait4(process.pid, 0)
    assert status == 0, command
    return json.loads(printed), used.ru_maxrss / 1e6


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("coz", type=Path)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--only", default="")
    arguments = parser.parse_args()

    import numpy as np
    import torch
    from PIL import Image

    work = Path(tempfile.mkdtemp())
    for i in range(PICTURES):
        levels = np.random.default_rng(i).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(levels).resize((128, 128), Image.BICUBIC).save(work / f"{i}.png")
    print("| network | numbers | coz / PyTorch | coz | PyTorch | memory: coz | PyTorch | levels equal |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    only = [name for name in arguments.only.split(",") if name]
    for name, make in networks().items():
        if only and name not in only:
            continue
        torch.manual_seed(0)
        model, file = make().eval(), work / "model.pth"
        torch.save({"params": model.state_dict()}, file)
        count = sum(parameter.numel() for parameter in model.parameters())
        del model
        coz = [arguments.coz, "full", "-i", work, "-o", work / "out", "--json", "--device", "cpu", "--outscale", "native",
               "--backbone", file]
        ours, theirs, memory = [], [], [0, 0]
        for _ in range(arguments.runs):
            seconds, peak = run([sys.executable, __file__, "--reference", file, work])
            theirs += seconds[1:]
            memory[1] = max(memory[1], peak)
            (work / "reference.tif").rename(work.parent / f"{work.name}.tif")
            summary, peak = run(coz)
            ours += [image["states"][1]["seconds"] for image in summary["images"]][1:]
            memory[0] = max(memory[0], peak)
        apart = np.abs(np.asarray(Image.open(work / f"out/per-sample/{PICTURES - 1}/1.png")).astype(int)
                       - np.asarray(Image.open(work.parent / f"{work.name}.tif")))
        a, b = statistics.median(ours), statistics.median(theirs)
        print(f"| {name} | {count / 1e6:.2f} M | **{a / b:.2f}** | {a:.2f} s | {b:.2f} s | {memory[0]:.2f} GB | "
              f"{memory[1]:.2f} GB | {(apart == 0).mean():.4%}, others {apart.max()} apart |", flush=True)


if sys.argv[1:2] == ["--reference"]:
    reference(*sys.argv[2:])
else:
    main()
