"""Makes the fixtures of the parity tests with Pillow and PyTorch.

    python3 -m pip install pillow==13.0.0 numpy safetensors torch==2.11.0
    python3 tests/parity/export.py

Deterministic: run again, it writes the same files (up to the versions of the libraries).
"""

import random
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.numpy import save_file

HERE = Path(__file__).parent


def picture(seed, w, h):
    """Edges, gradients and noise: everything a filter can get wrong."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:h, 0:w]
    out = np.stack([x * 255 // max(w - 1, 1), y * 255 // max(h - 1, 1), (x * 7 + y * 13) % 256], -1)
    out = np.where(((x // 5 + y // 3) % 4 == 0)[..., None], rng.integers(0, 256, (h, w, 3)), out)
    out[h // 3 : h // 2, w // 4 : w // 2] = [255, 0, 255]
    return out.astype(np.uint8)


def jpeg():
    """JPEG files as cameras and programs write them, and what Pillow (libjpeg-turbo) reads from them."""
    folder = HERE / "jpeg"
    folder.mkdir(exist_ok=True)
    tensors = {}
    for i, (w, h, subsampling, progressive, quality, mode) in enumerate([
        (61, 43, 0, False, 90, "RGB"), (61, 43, 1, True, 75, "RGB"), (75, 50, 2, False, 60, "RGB"),
        (33, 70, 2, True, 85, "RGB"), (40, 31, 0, False, 80, "L"),
    ]):
        file = folder / f"{i}.jpg"
        image = Image.fromarray(picture(100 + i, w, h)).convert(mode)
        image.save(file, quality=quality, subsampling=subsampling, progressive=progressive)
        tensors[f"{i}.pixels"] = np.ascontiguousarray(np.asarray(Image.open(file).convert("RGB")))
    save_file(tensors, folder / "cases.safetensors")


def resample():
    filters = {
        "nearest": Image.NEAREST,
        "bilinear": Image.BILINEAR,
        "bicubic": Image.BICUBIC,
        "lanczos": Image.LANCZOS,
    }
    sizes = [
        ((37, 23), (64, 64)), ((37, 23), (11, 40)), ((64, 48), (256, 192)), ((101, 67), (25, 16)),
        ((1, 1), (5, 3)), ((1, 90), (7, 31)), ((64, 64), (64, 20)), ((33, 50), (50, 33)), ((3, 2), (300, 2)),
        ((61, 47), (60, 46)), ((70, 40), (20, 21)),
        # Both sides shrink: which pass comes first depends on how many rows and columns go.
        ((61, 77), (60, 72)), ((58, 34), (54, 20)), ((80, 37), (64, 20)), ((36, 52), (22, 25)), ((35, 80), (20, 40)),
        ((77, 25), (74, 20)), ((60, 61), (50, 41)), ((60, 61), (50, 40)),
    ]
    tensors = {}
    for i, ((w, h), (nw, nh)) in enumerate(sizes):
        source = picture(i, w, h)
        tensors[f"{i}.source"] = source
        for name, which in filters.items():
            tensors[f"{i}.{name}"] = np.asarray(Image.fromarray(source).resize((nw, nh), which))
    save_file(tensors, HERE / "resample/cases.safetensors")


def moments(x):
    b, c = x.shape[:2]
    flat = x.reshape(b, c, -1)
    deviation = (flat.var(dim=2) + 1e-5).sqrt()
    return flat.mean(dim=2).view(b, c, 1, 1), deviation.view(b, c, 1, 1)


def adain(result, source):
    (mean, dev), (smean, sdev) = moments(result), moments(source)
    return (result - mean) / dev * sdev + smean


def wavelet(result, source):
    kernel = torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]]) / 16

    def decompose(x):
        high = torch.zeros_like(x)
        for level in range(5):
            radius = 2**level
            padded = F.pad(x, (radius,) * 4, mode="replicate")
            low = F.conv2d(padded, kernel[None, None].repeat(3, 1, 1, 1), groups=3, dilation=radius)
            high, x = high + (x - low), low
        return high, x

    return decompose(result)[0] + decompose(source)[1]


def colour():
    tensors = {}
    for i, (w, h) in enumerate([(48, 48), (70, 41), (5, 9)]):
        result, source = picture(10 + i, w, h), picture(20 + i, w, h) // 2 + 40
        tensors[f"{i}.result"], tensors[f"{i}.source"] = result, source
        a, b = (torch.from_numpy(x).permute(2, 0, 1)[None].float() / 255 for x in (result, source))
        for name, method in [("adain", adain), ("wavelet", wavelet)]:
            out = method(a, b)[0].clamp(0, 1).mul(255).byte()
            tensors[f"{i}.{name}"] = out.permute(1, 2, 0).contiguous().numpy()
    save_file(tensors, HERE / "colour/cases.safetensors")


def chain():
    """x_0 and the model-free recursions as the reference makes them."""
    tensors = {}
    # The last two are sizes where truncation leaves the short side a pixel short.
    sizes = [(97, 61, 64), (40, 130, 64), (64, 64, 64), (150, 149, 96), (211, 149, 48), (47, 80, 48), (131, 98, 64)]
    for i, (w, h, size) in enumerate(sizes):
        source = picture(30 + i, w, h)
        image = Image.fromarray(source)
        scale = size / min(w, h)
        image = image.resize((int(w * scale), int(h * scale)), Image.LANCZOS)
        left, top = (image.width - size) // 2, (image.height - size) // 2
        first = image.crop((left, top, left + size, top + size))
        tensors[f"{i}.source"], tensors[f"{i}.0"] = source, np.asarray(first)
        for name, which in [("nearest", Image.NEAREST), ("bicubic", Image.BICUBIC)]:
            for step in (1, 2):
                side = size // 4**step
                box = ((size - side) // 2, (size - side) // 2, (size + side) // 2, (size + side) // 2)
                tensors[f"{i}.{name}.{step}"] = np.asarray(first.crop(box).resize((size, size), which))
    save_file(tensors, HERE / "chain/cases.safetensors")


def compact(features, depth, scale, prelu):
    layers = {"body.0": torch.nn.Conv2d(3, features, 3, padding=1)}
    for i in range(depth + 1):
        if prelu:
            layers[f"body.{2 * i + 1}"] = torch.nn.PReLU(features, init=0.1 + 0.05 * i)
        width = 3 * scale**2 if i == depth else features
        layers[f"body.{2 * i + 2}"] = torch.nn.Conv2d(features, width, 3, padding=1)

    def forward(x):
        h = layers["body.0"](x)
        for i in range(depth + 1):
            h = layers[f"body.{2 * i + 1}"](h) if prelu else F.relu(h)
            h = layers[f"body.{2 * i + 2}"](h)
        return F.pixel_shuffle(h, scale) + F.interpolate(x, scale_factor=scale, mode="nearest")

    return state(layers), forward


def state(layers):
    return {f"{name}.{key}": value.detach() for name, layer in layers.items() for key, value in layer.state_dict().items()}


def rrdb(features, growth, blocks, scale):
    fold = {4: 1, 2: 2, 1: 4}[scale]
    conv = lambda a, b: torch.nn.Conv2d(a, b, 3, padding=1)
    layers = {"conv_first": conv(3 * fold**2, features)}
    for i in range(blocks):
        for d in (1, 2, 3):
            for c in range(1, 6):
                layers[f"body.{i}.rdb{d}.conv{c}"] = conv(features + growth * (c - 1), features if c == 5 else growth)
    for name in ("conv_body", "conv_up1", "conv_up2", "conv_hr"):
        layers[name] = conv(features, features)
    layers["conv_last"] = conv(features, 3)
    act = lambda x: F.leaky_relu(x, 0.2)

    def forward(x):
        h, w = x.shape[2:]
        if fold > 1:
            x = F.pixel_unshuffle(F.pad(x, (0, -w % fold, 0, -h % fold), mode="replicate"), fold)
        shallow = layers["conv_first"](x)
        deep = shallow
        for i in range(blocks):
            inner = deep
            for d in (1, 2, 3):
                seen = [inner]
                for c in range(1, 6):
                    out = layers[f"body.{i}.rdb{d}.conv{c}"](torch.cat(seen, 1))
                    seen.append(act(out))
                inner = out * 0.2 + inner
            deep = inner * 0.2 + deep
        out = shallow + layers["conv_body"](deep)
        for name in ("conv_up1", "conv_up2"):
            out = act(layers[name](F.interpolate(out, scale_factor=2, mode="nearest")))
        return layers["conv_last"](act(layers["conv_hr"](out)))[:, :, : h * scale, : w * scale]

    return state(layers), forward


def renamed(weights, naming, blocks):
    """The same layers as ESRGAN's release ("esrgan") and its first code ("sequential") called them."""
    out = {}
    for key, value in weights.items():
        name, kind = key.rsplit(".", 1)
        parts = name.split(".")
        if parts[0] == "body":
            _, i, d, c = parts
            d = d.upper()
            name = f"RRDB_trunk.{i}.{d}.{c}" if naming == "esrgan" else f"model.1.sub.{i}.{d}.{c}.0"
        elif naming == "esrgan":
            name = {"conv_body": "trunk_conv", "conv_up1": "upconv1", "conv_up2": "upconv2", "conv_hr": "HRconv"}.get(name, name)
        else:
            name = {
                "conv_first": "model.0", "conv_body": f"model.1.sub.{blocks}", "conv_up1": "model.3",
                "conv_up2": "model.6", "conv_hr": "model.8", "conv_last": "model.10",
            }[name]
        out[f"{name}.{kind}"] = value
    return out


def networks():
    torch.manual_seed(1)
    tensors = {}
    folder = HERE / "networks"

    def case(name, weights, forward, size, **how):
        x = torch.rand(1, 3, *size)
        with torch.no_grad():
            tensors[f"{name}.input"], tensors[f"{name}.output"] = x.numpy(), forward(x).contiguous().numpy()
        if how.get("format") == "safetensors":
            save_file({k: v.numpy() for k, v in weights.items()}, folder / f"{name}.safetensors")
        else:
            wrapped = {how["wrap"]: weights} if "wrap" in how else weights
            torch.save(wrapped, folder / f"{name}.pth", _use_new_zipfile_serialization=not how.get("legacy", False))

    w, f = compact(10, 3, 4, True)
    case("compact_x4", w, f, (13, 17), wrap="params")
    case("compact_x4_legacy", w, f, (13, 17), wrap="params_ema", legacy=True)
    w, f = compact(7, 2, 2, False)
    case("compact_x2_relu", w, f, (9, 21), format="safetensors")
    w, f = rrdb(6, 4, 2, 4)
    case("rrdb_x4", w, f, (11, 14), wrap="params_ema")
    case("rrdb_x4_esrgan", renamed(w, "esrgan", 2), f, (11, 14))
    case("rrdb_x4_sequential", renamed(w, "sequential", 2), f, (11, 14), legacy=True)
    w, f = rrdb(5, 3, 1, 2)
    case("rrdb_x2", w, f, (11, 15), format="safetensors")
    # A half-precision list of views into one storage, as training scripts save LoRA.
    base = torch.arange(24, dtype=torch.float16).reshape(4, 6)
    torch.save([base[:, 1:3], base.t(), {"deep": base[2]}], folder / "views.pkl")
    save_file(tensors, folder / "cases.safetensors")


if __name__ == "__main__":
    random.seed(0)
    jpeg()
    resample()
    colour()
    chain()
    networks()
    for file in sorted(HERE.rglob("*")):
        if file.suffix in {".safetensors", ".pth", ".pkl"}:
            print(f"{file.relative_to(HERE)}: {file.stat().st_size / 1024:.0f} KiB")
