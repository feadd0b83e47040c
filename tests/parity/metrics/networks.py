"""Scores of small pictures by reference.py's metrics with tiny random networks, and a TorchScript archive.

    python3 -m pip install torch==2.11.0 timm==1.0.31 open_clip_torch==3.3.0 numpy scipy safetensors
    python3 tests/parity/metrics/networks.py

Writes `networks.safetensors`: tensors as `NETWORK/KEY`, large ones in half precision; `tokens/ids` and `tokens/rows`,
which are all of CLIP's `token_embedding.weight` that counts: the other rows of 49408 are zero; bytes `[H, W, 3]` as
`picture/NAME` and `reference/NAME`; and `score/METRIC/NAME`, computed in double precision; how far single precision is
from that is printed. And `torchscript.pt` with its tensors as `torchscript/KEY`.
"""

import io
import math
from pathlib import Path

import numpy as np
import torch
from reference import (
    ClipIqa,
    Dists,
    Lpips,
    Maniqa,
    Musiq,
    clouds,
    distorted,
    luma_ycbcr,
    prompt_ids,
    psnr_rgb,
    psnr_y_ycbcr,
    random_alexnet,
    random_clip,
    random_dists,
    random_lpips,
    random_maniqa,
    random_musiq,
    random_vgg16,
    ssim_rgb,
    ssim_y_ycbcr,
)
from safetensors.torch import save_file
from torch import nn

HERE = Path(__file__).parent
VOCABULARY = 49408
ALEXNET_WIDTHS, VGG16_WIDTHS = (8, 12, 14, 10, 9), (5, 7, 8, 12, 10)


def networks():
    networks = {
        "musiq": random_musiq(1, width=24, blocks=2, hidden=40, root=32, planes=32, out=64),
        "maniqa": random_maniqa(2, 48, blocks=10, hidden=64, patch=8, side=64, stages=(32, 16), mlp=32, classes=5),
        "clip_rn50": random_clip(3, width=4, out=48, text=64, blocks=2, vocabulary=VOCABULARY, scale=20),
        "alexnet": random_alexnet(4, ALEXNET_WIDTHS),
        "vgg16": random_vgg16(5, VGG16_WIDTHS),
        "lpips_alex": random_lpips(6, ALEXNET_WIDTHS),
        "lpips_vgg": random_lpips(7, VGG16_WIDTHS),
        "dists": random_dists(8, VGG16_WIDTHS),
    }
    for tensors in networks.values():
        for key, value in tensors.items():
            if value.numel() >= 1024:
                tensors[key] = value.half()
    rows = networks["clip_rn50"]["token_embedding.weight"]
    unused = torch.ones(VOCABULARY, dtype=torch.bool)
    unused[prompt_ids()] = False
    rows[unused] = 0
    return networks


def pictures():
    """Names, pictures and what they are compared with."""
    random = np.random.default_rng(9)
    sizes = {
        "tall": (70, 50, 1.2, 128, 50),
        "wide": (64, 96, 0.9, (90, 120, 60), 40),
        "large": (131, 67, 1.5, (170, 150, 120), 60),
        "square": (64, 64, 0.6, (100, 80, 130), 65),
        # 108 x (65 / 60) is 117, but a hair less in double precision.
        "below_whole": (108, 60, 1.1, 70, 30),
    }
    for i, (name, look) in enumerate(sizes.items()):
        picture = clouds(random, *look)
        yield name, picture, distorted(random, picture, 0.4 + 0.2 * i, 12 - 2 * i)
    flat = np.full((48, 48, 3), (90, 140, 200), np.uint8)
    yield "flat", flat, distorted(random, flat, 0.5, 4)
    same = clouds(random, 53, 49, 1.3, 110, 45)
    yield "same", same, same


class Layer(nn.Module):
    def __init__(self, *shape: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(shape).half())
        self.bias = nn.Parameter(torch.randn(shape[0]).half())

    def forward(self, x):
        return x * self.weight.mean() + self.bias.mean()


class BatchNorm(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width))
        self.bias = nn.Parameter(torch.randn(width))
        self.register_buffer("running_mean", torch.randn(width))
        self.register_buffer("running_var", torch.rand(width))
        self.register_buffer("num_batches_tracked", torch.tensor(7))

    def forward(self, x):
        return (x - self.running_mean) / self.running_var.sqrt() * self.weight + self.bias


class Branch(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = Layer(4, 3, 3, 3)
        self.bn = BatchNorm(4)

    def forward(self, x):
        return self.bn(self.conv(x))


class Trunk(nn.Module):
    """Submodules, tensors and other attributes, as OpenAI's archives of CLIP have them."""

    def __init__(self):
        super().__init__()
        self.visual = Branch()
        self.blocks = nn.ModuleList([Layer(6, 4), Layer(6, 6)])
        self.tied = Layer(6, 6)
        self.tied.weight = self.blocks[1].weight
        self.logit_scale = nn.Parameter(torch.tensor(2.5))
        self.register_buffer("input_resolution", torch.tensor(224))
        self.width = 4
        self.counts = [3, 4, 6, 3]

    def forward(self, x):
        return self.tied(self.visual(x)) * self.logit_scale.exp() + self.width + self.counts[0]


def torchscript():
    torch.manual_seed(10)
    buffer, path = io.BytesIO(), HERE / "torchscript.pt"
    torch.jit.save(torch.jit.script(Trunk().eval()), buffer)
    # Without the records for debugging, which tell where this file lies.
    reader = torch._C.PyTorchFileReader(io.BytesIO(buffer.getvalue()))
    writer = torch._C.PyTorchFileWriter(str(path))
    for name in reader.get_all_records():
        if not name.endswith(".debug_pkl") and name not in ("version", "byteorder", ".data/serialization_id"):
            record = reader.get_record(name)
            writer.write_record(name, record, len(record))
    writer.write_end_of_file()
    print(path.name, path.stat().st_size, "bytes")
    return torch.jit.load(path).state_dict()


def main():
    torch.set_num_threads(2)
    states = networks()
    metrics = {}
    for dtype in (torch.float32, torch.float64):
        alexnet, vgg16 = states["alexnet"], states["vgg16"]
        metrics[dtype] = {
            "musiq": Musiq(states["musiq"], dtype),
            "maniqa": Maniqa(states["maniqa"], dtype),
            "clipiqa": ClipIqa(states["clip_rn50"], dtype),
            "lpips_alex": Lpips("alex", alexnet, states["lpips_alex"], dtype),
            "lpips_vgg": Lpips("vgg", vgg16, states["lpips_vgg"], dtype),
            "dists": Dists(vgg16, states["dists"], dtype),
            "psnr_rgb": psnr_rgb,
            "psnr_y_ycbcr": psnr_y_ycbcr,
            "ssim_rgb": ssim_rgb,
            "ssim_y_ycbcr": ssim_y_ycbcr,
        }
    tensors = {}
    for name, picture, reference in pictures():
        # No rounding of luma hangs on the precision.
        halves = np.abs(luma_ycbcr(np.stack([picture, reference])) % 1 - 0.5)
        assert halves.min() > 1e-5, name
        tensors[f"picture/{name}"] = torch.from_numpy(picture.copy())
        tensors[f"reference/{name}"] = torch.from_numpy(reference.copy())
        for metric, score in metrics[torch.float64].items():
            given = (picture,) if metric in ("musiq", "maniqa", "clipiqa") else (picture, reference)
            exact, single = score(*given), metrics[torch.float32][metric](*given)
            assert math.isfinite(exact)
            tensors[f"score/{metric}/{name}"] = torch.tensor(exact, dtype=torch.float64)
            print(f"{name:<12} {metric:<13} {exact:.8f}, single precision {single - exact:+.1e}")
    rows = states["clip_rn50"].pop("token_embedding.weight")
    ids = prompt_ids().unique()
    tensors |= {"tokens/ids": ids, "tokens/rows": rows[ids]}
    states["torchscript"] = torchscript()
    for network, state in states.items():
        tensors |= {f"{network}/{key}": value.clone().contiguous() for key, value in state.items()}
        print(network, sum(value.numel() * value.element_size() for value in state.values()), "bytes")
    save_file(tensors, HERE / "networks.safetensors")
    print((HERE / "networks.safetensors").stat().st_size, "bytes in all")


if __name__ == "__main__":
    main()
