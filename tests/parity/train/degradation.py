"""Makes traces of the training's degradation, as `--replay_degradation` reads them, and PyTorch's results.

    python3 -m pip install torch==2.11.0 numpy scipy safetensors
    python3 tests/parity/train/degradation.py

Writes `traces.json`, `traces.safetensors` (`NAME.gt_u8` and the drawn noise) and `traces_expected.safetensors`
(`expected.NAME.lq_u8`, computed in float32). A trace is the two-round pipeline on one small picture, with parameters
that together cover every kernel, resize, noise and JPEG branch; the same is computed in float64, and the seeds are
such that no level differs by more than one.
"""

import json
import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from scipy.special import j1

HERE = Path(__file__).parent
PAD = 10
# Annex K of the JPEG standard, by vertical and horizontal frequency.
LUMA = """
16 11 10 16 24 40 51 61   12 12 14 19 26 58 60 55   14 13 16 24 40 57 69 56   14 17 22 29 51 87 80 62
18 22 37 56 68 109 103 77   24 35 55 64 81 104 113 92   49 64 78 87 103 121 120 101   72 92 95 98 112 100 103 99
"""
CHROMA = """
17 18 24 47 99 99 99 99   18 21 26 66 99 99 99 99   24 26 56 99 99 99 99 99   47 66 99 99 99 99 99 99
99 99 99 99 99 99 99 99   99 99 99 99 99 99 99 99   99 99 99 99 99 99 99 99   99 99 99 99 99 99 99 99
"""


# What the operators compute


def kernel_of(spec):
    """The kernel of a `filter2d`, float64, with zeros around to 21 x 21."""
    whole = 2 * PAD + 1
    if spec["kind"] == "pulse":
        out = np.zeros((whole, whole))
        out[PAD, PAD] = 1
        return out
    size = spec["size"]
    at = np.arange(size) - size // 2
    y, x = np.meshgrid(at, at, indexing="ij")
    if spec["kind"] == "sinc":
        omega, r = spec["omega_c"], np.hypot(x, y)
        r[size // 2, size // 2] = 1
        out = omega * j1(omega * r) / (2 * np.pi * r)
        out[size // 2, size // 2] = omega**2 / (4 * np.pi)
    else:
        if spec["kind"].endswith("aniso"):
            c, s = np.cos(spec["theta"]), np.sin(spec["theta"])
            rotation = np.array([[c, -s], [s, c]])
            sigma = rotation @ np.diag([spec["sigma_x"] ** 2, spec["sigma_y"] ** 2]) @ rotation.T
        else:
            sigma = np.eye(2) * spec["sigma_x"] ** 2
        d = np.stack([x, y], -1)
        q = np.einsum("yxi,ij,yxj->yx", d, np.linalg.inv(sigma), d)
        if spec["kind"].startswith("generalized"):
            out = np.exp(-(q ** spec["beta"]) / 2)
        elif spec["kind"].startswith("plateau"):
            out = 1 / (1 + q ** spec["beta"])
        else:
            out = np.exp(-q / 2)
    return np.pad(out / out.sum(), (whole - size) // 2)


def filter2d(x, op):
    kernel = torch.from_numpy(kernel_of(op["kernel"])).to(x.dtype).expand(3, 1, -1, -1)
    return F.conv2d(F.pad(x, (PAD,) * 4, mode="reflect"), kernel, groups=3)


def resize(x, op):
    how = {} if op["mode"] == "area" else dict(align_corners=False)
    if "scale_factor" in op:
        # Without `recompute_scale_factor` the factor itself gives the places of the samples.
        out = F.interpolate(x, scale_factor=op["scale_factor"], mode=op["mode"], **how)
    else:
        out = F.interpolate(x, op["out_hw"], mode=op["mode"], **how)
    assert list(out.shape[2:]) == op["out_hw"], (out.shape, op)
    return out


def levels(x):
    return (x * 255).round().clamp(0, 255) / 255


def grey(x):
    return 0.2989 * x[:, :1] + 0.587 * x[:, 1:2] + 0.114 * x[:, 2:]


def gaussian(x, op, drawn):
    noise = drawn("gray" if op["gray"] else "color", lambda which: torch.randn(plane(x, which)).half())
    return (x + noise.to(x.dtype) * (op["sigma"] / 255)).clamp(0, 1)


def poisson(x, op, drawn):
    def quantised(which):
        c = levels(grey(x) if which == "gray" else x)
        return c, 2.0 ** math.ceil(math.log2(len(c.unique())))

    def draw(which):
        c, values = quantised(which)
        return torch.poisson(c * values).to(torch.int16).reshape(plane(x, which))

    which = "gray" if op["gray"] else "color"
    c, values = quantised(which)
    return (x + (drawn(which, draw).to(x.dtype) / values - c) * op["scale"]).clamp(0, 1)


def plane(x, which):
    return x.shape[2:] if which == "gray" else x.shape


def dct_matrix(dtype):
    u, at = torch.arange(8.0, dtype=torch.float64)[:, None], torch.arange(8.0, dtype=torch.float64)
    matrix = 0.5 * torch.cos((2 * at + 1) * u * math.pi / 16)
    matrix[0] /= math.sqrt(2)
    return matrix.to(dtype)


def coded(plane, table):
    """A plane, its 8 x 8 blocks quantised."""
    dct = dct_matrix(plane.dtype)
    blocks = (plane - 128).unfold(0, 8, 8).unfold(1, 8, 8)
    quantised = (dct @ blocks @ dct.T / table).round() * table
    return (dct.T @ quantised @ dct).transpose(1, 2).reshape(plane.shape) + 128


def jpeg(x, op):
    quality = op["quality"]
    factor = 50 / quality if quality < 50 else 2 - quality / 50
    table = lambda text: torch.tensor([float(n) for n in text.split()], dtype=x.dtype).reshape(8, 8) * factor
    h, w = x.shape[2:]
    r, g, b = F.pad(x[0] * 255, (0, -w % 16, 0, -h % 16))
    y = 0.299 * r + 0.587 * g + 0.114 * b
    cb = -0.168736 * r - 0.331264 * g + 0.5 * b + 128
    cr = 0.5 * r - 0.418688 * g - 0.081312 * b + 128
    y = coded(y, table(LUMA).T)
    cb, cr = (
        coded(F.avg_pool2d(c[None, None], 2)[0, 0], table(CHROMA)).repeat_interleave(2, 0).repeat_interleave(2, 1) - 128
        for c in (cb, cr)
    )
    rgb = torch.stack([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb])
    return rgb.clamp(0, 255)[None, :, :h, :w] / 255


def degraded(name, ops, tensors, dtype=torch.float32):
    """The result of a trace, bytes; noise that the tensors lack is drawn and put there."""
    x = tensors[f"{name}.gt_u8"].to(dtype).reshape(1, 3, *tensors[f"{name}.gt_u8"].shape[-2:]) / 255
    for op in ops:

        def drawn(used, draw):
            for which, key in op["drawn"].items():
                if f"{name}.{key}" not in tensors:
                    tensors[f"{name}.{key}"] = draw(which)
            noise = tensors[f"{name}.{op['drawn'][used]}"]
            return noise if used == "gray" else noise.reshape(x.shape)

        kind = op["op"]
        if kind in ("gaussian", "poisson"):
            x = globals()[kind](x, op, drawn)
        elif kind == "jpeg":
            x = jpeg(x.clamp(0, 1), op)
        else:
            x = {"filter2d": filter2d, "resize": resize}[kind](x, op)
    return (x * 255).round().clamp(0, 255).to(torch.uint8)


# The traces


def picture(rng, h, w):
    """Soft shapes, edges and a fine texture, as bytes `[1, 3, h, w]`."""
    y, x = np.mgrid[0:h, 0:w] / 16
    planes = []
    for _ in range(3):
        a, b, c, d = rng.uniform(0.3, 2, 4)
        wave = np.sin(a * x + b * y) + np.sin(c * x - d * y) + rng.normal(0, 0.08, (h, w))
        planes.append(wave * rng.uniform(25, 50) + rng.uniform(90, 160))
    out = np.stack(planes)
    top, left = rng.integers(4, h // 2), rng.integers(4, w // 2)
    out[:, top : top + h // 3, left : left + w // 3] += rng.uniform(-90, 90, (3, 1, 1))
    return torch.from_numpy(out.round().clip(0, 255).astype(np.uint8))[None]


def blur(rng, kind, size=None, beta=None, second=False):
    """The `filter2d` of a kernel of this kind."""
    if kind == "pulse":
        return {"op": "filter2d", "kernel": {"kind": "pulse"}}
    kernel = {"kind": kind, "size": size}
    if kind == "sinc":
        kernel["omega_c"] = rng.uniform(math.pi / (3 if size < 13 else 5), math.pi)
    else:
        low, high = 0.2, 1.5 if second else 3
        kernel["sigma_x"] = rng.uniform(low, high)
        kernel["sigma_y"] = rng.uniform(low, high) if kind.endswith("aniso") else kernel["sigma_x"]
        kernel["theta"] = rng.uniform(-math.pi, math.pi) if kind.endswith("aniso") else 0.0
        if kind.startswith("generalized"):
            kernel["beta"] = beta or rng.uniform(1, 4)
        elif kind.startswith("plateau"):
            kernel["beta"] = beta or rng.uniform(1, 2)
    return {"op": "filter2d", "kernel": kernel}


def noise(rng, what, at, second=False):
    """`gaussian color`, `poisson gray`, …; with `both` grey noise is used and that for colour listed too."""
    kind, which = what.split()
    amount = rng.uniform(1, 25 if second else 30) if kind == "gaussian" else rng.uniform(0.05, 2.5 if second else 3)
    planes = ["color", "gray"] if which == "both" else [which]
    return {
        "op": kind,
        "sigma" if kind == "gaussian" else "scale": amount,
        "gray": int(which != "color"),
        "drawn": {plane: f"{plane[0]}_{at}" for plane in planes},
    }


# Size, first kernel, resize and noise, its JPEG; second kernel (or none), resize and noise, whether JPEG comes last,
# its quality, resize before the last sinc, last kernel, last resize.
TRACES = [
    ((64, 64), ("iso", 7), ("bicubic", 1.21), "gaussian color", 41.7,
     ("sinc", 9), ("area", 0.55), "poisson gray", True, 63.2, "bilinear", ("sinc", 21), "bicubic"),
    ((70, 66), ("aniso", 21), ("bilinear", 0.63), "poisson color", 77.3,
     ("iso", 11), ("bicubic", 1.13), "gaussian gray", False, 34.9, "area", ("pulse",), "bilinear"),
    ((67, 83), ("generalized_iso", 9), ("area", 1.17), "gaussian gray", 50.0,
     ("plateau_aniso", 17), ("bilinear", 0.71), "poisson color", True, 30.6, "bicubic", ("sinc", 7), "area"),
    ((96, 80), ("generalized_aniso", 13, 0.62), ("area", 0.37), "poisson gray", 88.8,
     None, ("bilinear", 1.08), "gaussian color", False, 94.4, "bicubic", ("sinc", 13), "bicubic"),
    ((64, 72), ("plateau_iso", 15), ("bicubic", 0.48), "gaussian color", 35.5,
     ("generalized_iso", 19, 0.87), ("area", 1.19), "gaussian both", True, 49.6, "area", ("sinc", 11), "bilinear"),
    ((81, 64), ("plateau_aniso", 19, 1.0), ("bilinear", 1.09), "poisson both", 58.1,
     ("generalized_aniso", 7), ("bicubic", 0.44), "poisson gray", False, 71.0, "bilinear", ("sinc", 17), "area"),
    ((75, 69), ("sinc", 17), ("bicubic", 1.0), "poisson color", 44.4,
     ("aniso", 15), ("area", 1.0), "gaussian color", True, 81.9, "area", ("pulse",), "bicubic"),
    ((64, 88), ("sinc", 11), ("bilinear", 0.26), "gaussian both", 66.6,
     ("plateau_iso", 13, 1.0), ("bilinear", 1.0), "poisson both", False, 38.2, "bicubic", ("sinc", 19), "bilinear"),
    ((65, 71), ("iso", 21), ("area", 1.0), "poisson gray", 92.5,
     ("sinc", 21), ("bicubic", 0.33), "gaussian gray", True, 55.5, "bilinear", ("sinc", 15), "area"),
    ((78, 66), ("plateau_iso", 17), ("area", 0.83), "gaussian gray", 31.4,
     ("iso", 5 + 2), ("bilinear", 1.16), "poisson color", False, 47.3, "area", ("sinc", 9), "bicubic"),
]


def operations(rng, h, w, first, how, noise1, quality1, second, how2, noise2, last, quality2, how3, final, how4):
    mode, s = how
    ops = [blur(rng, *first)]
    ops.append({"op": "resize", "mode": mode, "out_hw": [int(h * s), int(w * s)], "scale_factor": s})
    ops += [noise(rng, noise1, 2), {"op": "jpeg", "quality": quality1}]
    if second:
        ops.append(blur(rng, *second, second=True))
    mode, s = how2
    ops.append({"op": "resize", "mode": mode, "out_hw": [int(h / 4 * s), int(w / 4 * s)]})
    ops.append(noise(rng, noise2, len(ops), second=True))
    shrink = [{"op": "resize", "mode": how3, "out_hw": [h // 4, w // 4]}, blur(rng, *final)]
    code = [{"op": "jpeg", "quality": quality2}]
    ops += shrink + code if last else code + shrink
    return ops + [{"op": "resize", "mode": how4, "out_hw": [h, w]}]


def all_covered(traces):
    """That nothing is left out."""
    kernels, sizes, resizes, noises, qualities = set(), set(), set(), set(), set()
    for trace in traces:
        for op in trace["ops"]:
            if op["op"] == "filter2d":
                kernels.add(op["kernel"]["kind"])
                sizes.add(op["kernel"].get("size"))
            elif op["op"] == "resize":
                resizes.add((op["mode"], "scale_factor" in op))
            elif op["op"] == "jpeg":
                qualities.add(op["quality"] < 50)
            else:
                noises.add((op["op"], op["gray"]))
    assert len(kernels) == 8 and sizes == {None, *range(7, 22, 2)}, (kernels, sizes)
    assert len(resizes) == 6 and len(noises) == 4 and len(qualities) == 2


def main():
    torch.set_num_threads(1)
    traces, tensors, expected = [], {}, {}
    for i, ((h, w), *rest) in enumerate(TRACES):
        name = f"t{i}"
        for seed in range(100):
            rng, own = np.random.default_rng(100 * i + seed), {}
            torch.manual_seed(100 * i + seed)
            own[f"{name}.gt_u8"] = picture(rng, h, w)
            ops = operations(rng, h, w, *rest)
            result = degraded(name, ops, own)
            precise = degraded(name, ops, own, torch.float64)
            difference = (result.int() - precise.int()).abs()
            if difference.max() <= 1 and (difference > 0).float().mean() < 1e-3:
                break
        else:
            raise AssertionError(f"{name}: no seed will do")
        count = int((difference > 0).sum())
        print(f"{name}: seed {seed}, {h}x{w}, {count} of {difference.numel()} levels differ by 1 in float64")
        traces.append({"name": name, "ops": ops})
        tensors.update(own)
        expected[f"expected.{name}.lq_u8"] = result
    all_covered(traces)
    (HERE / "traces.json").write_text(json.dumps({"traces": traces}, indent=1) + "\n")
    save_file({key: value.contiguous() for key, value in tensors.items()}, HERE / "traces.safetensors")
    save_file(expected, HERE / "traces_expected.safetensors")
    for file in HERE.glob("traces*"):
        file.chmod(0o644)
    # As somebody else would read them.
    tensors = load_file(HERE / "traces.safetensors")
    for trace in json.loads((HERE / "traces.json").read_text())["traces"]:
        again = degraded(trace["name"], trace["ops"], dict(tensors))
        assert torch.equal(again, expected[f"expected.{trace['name']}.lq_u8"])


if __name__ == "__main__":
    main()
