"""NIQE of small pictures by an implementation of its own in NumPy, from the paper and MATLAB's functions that its authors used.

    python3 -m pip install numpy scipy pillow safetensors
    python3 tests/parity/metrics/export.py NIQE_PRIS_PARAMS.npz

The parameters are `basicsr/metrics/niqe_pris_params.npz` of the source package basicsr 1.4.2; they are written to
assets/niqe.safetensors. Writes `niqe.safetensors`: pictures, `[H, W, 3]` bytes, with their scores (NaN: none).
"""

import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from scipy.ndimage import correlate
from scipy.special import gamma

HERE = Path(__file__).parent
pristine = np.load(sys.argv[1])
MEAN, COVARIANCE = pristine["mu_pris_param"], np.ascontiguousarray(pristine["cov_pris_param"])
SHAPES = 0.2 + 0.001 * np.arange(9801)
RATIOS = gamma(2 / SHAPES) ** 2 / (gamma(1 / SHAPES) * gamma(3 / SHAPES))


def half(plane):
    """MATLAB's imresize(plane, 0.5), bicubic."""

    def rows(plane):
        def cubic(x):
            x = abs(x)
            return np.where(x <= 1, 1.5 * x**3 - 2.5 * x**2 + 1, np.where(x <= 2, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2, 0))

        count = len(plane)
        middles = 2 * np.arange(1, count // 2 + 1) - 0.5
        places = np.floor(middles - 4)[:, None] + np.arange(10)
        weights = cubic(0.5 * (middles[:, None] - places))
        weights /= weights.sum(1, keepdims=True)
        mirrored = np.concatenate([np.arange(count), np.arange(count)[::-1]])
        return np.einsum("ij,ijk->ik", weights, plane[mirrored[(places.astype(int) - 1) % (2 * count)]])

    return rows(rows(plane).T).T


def normalised(plane):
    y, x = np.mgrid[-3:4, -3:4]
    window = np.exp(-(x**2 + y**2) / (2 * (7 / 6) ** 2))
    window = (window / window.sum()).astype(np.float32).astype(np.float64)
    mean = correlate(plane, window, mode="nearest")
    deviation = np.sqrt(np.abs(correlate(plane**2, window, mode="nearest") - mean**2) + 2.2e-16)
    return (plane - mean) / (deviation + 1)


def fitted(x):
    x = x.ravel()
    left, right = np.sqrt(np.mean(x[x < 0] ** 2)), np.sqrt(np.mean(x[x > 0] ** 2))
    skew = left / right
    ratio = np.mean(np.abs(x)) ** 2 / np.mean(x**2) * (skew**3 + 1) * (skew + 1) / (skew**2 + 1) ** 2
    shape = SHAPES[np.argmin(np.abs(RATIOS - ratio))]
    width = np.sqrt(gamma(1 / shape) / gamma(3 / shape))
    return shape, left * width, right * width


def features(block):
    shape, left, right = fitted(block)
    found = [shape, (left + right) / 2]
    for shift in [(0, 1), (1, 0), (1, 1), (1, -1)]:
        shape, left, right = fitted(block * np.roll(block, shift, (0, 1)))
        found += [shape, (right - left) * gamma(2 / shape) / gamma(1 / shape), left, right]
    return found


def niqe(picture):
    rgb = picture.astype(np.float32) / np.float32(255)
    height, width = (length // 96 * 96 for length in picture.shape[:2])
    if min(height, width) == 0:
        return np.nan
    weights = np.float32([0.299, 0.587, 0.114])
    luma = (rgb[..., 0] * weights[0] + rgb[..., 1] * weights[1] + rgb[..., 2] * weights[2]) * np.float32(255)
    luma = np.round(luma).astype(np.float64)[:height, :width]
    scales = [(normalised(luma), 96), (normalised(half(luma)), 48)]
    blocks = []
    for y in range(height // 96):
        for x in range(width // 96):
            blocks.append(sum([features(p[y * s : (y + 1) * s, x * s : (x + 1) * s]) for p, s in scales], []))
    blocks = np.array(blocks)
    mean = np.nanmean(blocks, 0)
    whole = blocks[~np.isnan(blocks).any(1)]
    if not len(whole):
        return np.nan
    covariance = np.cov(whole.T) if len(whole) > 1 else np.zeros((36, 36))
    apart = MEAN - mean
    return float(np.sqrt(apart @ np.linalg.pinv((COVARIANCE + covariance) / 2) @ apart.T).item())


def pictures():
    random = np.random.default_rng(5)

    def clouds(height, width, power):
        y, x = np.meshgrid(np.fft.fftfreq(height), np.fft.fftfreq(width), indexing="ij")
        spectrum = (random.normal(size=(3, height, width)) + 1j * random.normal(size=(3, height, width)))
        plane = np.real(np.fft.ifft2(spectrum / np.maximum(np.hypot(x, y), 1 / max(height, width)) ** power))
        plane = (plane - plane.mean((1, 2), keepdims=True)) / plane.std((1, 2), keepdims=True)
        return (128 + 50 * plane).clip(0, 255).astype(np.uint8).transpose(1, 2, 0)

    yield "clouds", clouds(200, 300, 1.2)
    yield "one_block", clouds(100, 191, 1.0)
    half_flat = clouds(192, 192, 1.4)
    half_flat[:, :96] = 77
    yield "half_flat", half_flat
    yield "noise", random.integers(0, 256, (96, 200, 3), dtype=np.uint8)
    yield "flat", np.full((120, 120, 3), 9, np.uint8)
    yield "small", clouds(95, 400, 1.0)


if __name__ == "__main__":
    save_file({"mu_pris_param": MEAN, "cov_pris_param": COVARIANCE}, HERE.parents[2] / "assets" / "niqe.safetensors")
    tensors = {}
    with np.errstate(all="ignore"):
        for name, picture in pictures():
            tensors[f"{name}.picture"] = np.ascontiguousarray(picture)
            tensors[f"{name}.score"] = np.array([niqe(picture)])
            print(name, picture.shape, tensors[f"{name}.score"])
    save_file(tensors, HERE / "niqe.safetensors")
