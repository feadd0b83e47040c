"""What the reference's full-image path makes of small photos, with the tiny models of ../sd3, in float32 on the CPU: its
tiled autoencoder ("VAEHook", fast mode), its tiles of the latent and how it blends them.

    python3 -m pip install torch==2.11.0 diffusers==0.42.1 transformers==5.23.0 peft==0.21.2 safetensors numpy
    python3 tests/parity/full/export.py
"""

import json
import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, SD3Transformer2DModel
from peft import LoraConfig
from PIL import Image
from safetensors.torch import load_file, save_file

HERE = Path(__file__).parent
MODEL = HERE.parent / "sd3"
SCALING = 1.5305
TENSORS = {}
# Width and height of the photo, enlargement, seed; tile of the latent and overlap, tile of the encoder and of the decoder.
CASES = [
    (100, 60, 4, 42, 16, 4, 96, 16),
    (64, 90, 4, 7, 12, 5, 128, 8),
    (16, 20, 4, 1, 64, 16, 1024, 128),
    (24, 120, 4, 3, 24, 4, 64, 16),
    (120, 68, 2, 12345, 10, 6, 72, 6),
]


def tasks(net, decoder):
    """The network as a row of tasks; a list entry [name, value] changes while it runs."""
    queue = [["do", net.conv_in]]

    def resnet(block):
        queue.append(["keep", block.conv_shortcut if block.conv_shortcut is not None else lambda x: x])
        for norm, conv in ((block.norm1, block.conv1), (block.norm2, block.conv2)):
            queue.extend([["norm", norm], ["do", F.silu], ["do", conv]])
        queue.append(["add", None])

    def middle(mid):
        resnet(mid.resnets[0])
        attention = mid.attentions[0]

        def attend(x):
            b, c, h, w = x.shape
            flat = x.reshape(b, c, h * w).transpose(1, 2)
            q, k, v = attention.to_q(flat), attention.to_k(flat), attention.to_v(flat)
            weights = torch.softmax(q @ k.transpose(1, 2) / math.sqrt(c), -1)
            return attention.to_out[0](weights @ v).transpose(1, 2).reshape(b, c, h, w)

        queue.extend([["keep", lambda x: x], ["norm", attention.group_norm], ["do", attend], ["add", None]])
        resnet(mid.resnets[1])

    if decoder:
        middle(net.mid_block)
    blocks = net.up_blocks if decoder else net.down_blocks
    for block in blocks:
        for part in block.resnets:
            resnet(part)
        for sampler in (block.upsamplers if decoder else block.downsamplers) or []:
            queue.append(["do", sampler])
    if not decoder:
        middle(net.mid_block)
    queue.extend([["norm", net.conv_norm_out], ["do", F.silu], ["do", net.conv_out]])
    return queue


def statistics(x, groups):
    return torch.var_mean(x.reshape(1, groups, x.shape[1] // groups, *x.shape[2:]), dim=[0, 2, 3, 4], unbiased=False)


def normed(x, norm, variance, mean):
    grouped = x.reshape(1, norm.num_groups, x.shape[1] // norm.num_groups, *x.shape[2:])
    out = F.batch_norm(grouped, mean, variance, None, None, False, 0, 1e-6).reshape(x.shape)
    return out * norm.weight.view(1, -1, 1, 1) + norm.bias.view(1, -1, 1, 1)


def run(queue, x, found=None):
    """`found`: statistics by task; where there are none they are taken from what is there, and written down."""
    written, kept = {}, None
    for i, (what, value) in enumerate(queue):
        if what == "keep":
            kept = value(x)
        elif what == "add":
            x = x + kept
        elif what == "norm":
            written[i] = found[i] if found else statistics(x, value.num_groups)
            x = normed(x, value, *written[i])
        else:
            x = value(x)
    return x, written


def best(least, most):
    divider = 32
    while divider >= 2:
        rest = least % divider
        if rest == 0:
            return least
        candidate = least - rest + divider
        if candidate <= most:
            return candidate
        divider //= 2
    return least


def tiled(net, z, size, decoder):
    pad = 11 if decoder else 32
    _, _, h, w = z.shape
    if max(h, w) <= pad * 2 + size:
        return net(z)
    queue = tasks(net, decoder)
    rows, columns = (max(math.ceil((side - 2 * pad) / size), 1) for side in (h, w))
    tile_h, tile_w = best(math.ceil((h - 2 * pad) / rows), size), best(math.ceil((w - 2 * pad) / columns), size)
    small = F.interpolate(z, scale_factor=size / max(h, w), mode="nearest-exact")
    std_old, mean_old = torch.std_mean(z, dim=[0, 2, 3], keepdim=True)
    std_new, mean_new = torch.std_mean(small, dim=[0, 2, 3], keepdim=True)
    small = ((small - mean_new) / std_new * std_old + mean_old).clamp(z.min(), z.max())
    _, found = run(queue, small)
    scaled = (lambda v: v * 8) if decoder else (lambda v: v // 8)
    out = None
    for i in range(rows):
        for j in range(columns):
            box = [pad + j * tile_w, min(pad + (j + 1) * tile_w, w), pad + i * tile_h, min(pad + (i + 1) * tile_h, h)]
            target = [
                box[0] if box[0] > pad else 0, box[1] if box[1] < w - pad else w,
                box[2] if box[2] > pad else 0, box[3] if box[3] < h - pad else h,
            ]
            target = [scaled(v) for v in target]
            box = [max(0, box[0] - pad), min(w, box[1] + pad), max(0, box[2] - pad), min(h, box[3] + pad)]
            x, _ = run(queue, z[:, :, box[2]:box[3], box[0]:box[1]], found)
            if out is None:
                out = torch.zeros(1, x.shape[1], scaled(h), scaled(w))
            margin = [target[n] - scaled(box[n]) for n in range(4)]
            part = x[:, :, margin[2]:x.size(2) + margin[3], margin[0]:x.size(3) + margin[1]]
            out[:, :, target[2]:target[3], target[0]:target[1]] = part
    return out


def weights(side):
    def bell(middle):
        return [math.exp(-(x - middle) ** 2 / side ** 2 / (2 * 0.01)) / math.sqrt(2 * math.pi * 0.01) for x in range(side)]

    return torch.from_numpy(np.outer(bell(side / 2), bell((side - 1) / 2)))


def restored(transformer, z, embeds, pooled, tile, overlap):
    """The latent after its step, and the corners of its tiles."""
    _, _, h, w = z.shape
    time = torch.tensor([1000.0])
    if h * w <= tile * tile:
        return z - transformer(z, embeds, pooled, time, return_dict=False)[0], [(0, 0)], (h, w)
    tile = min(tile, h, w)

    def starts(length):
        at, n = 0, 0
        while at < length:
            at = max(n * tile - overlap * n, 0) + tile
            n += 1
        return [min(max(i * tile - overlap * i, 0), length - tile) for i in range(n)]

    total, count, bell, corners = torch.zeros_like(z).double(), torch.zeros_like(z).double(), weights(tile), []
    for x in starts(w):
        for y in starts(h):
            part = z[:, :, y:y + tile, x:x + tile]
            made = part - transformer(part, embeds, pooled, time, return_dict=False)[0]
            total[:, :, y:y + tile, x:x + tile] += made * bell
            count[:, :, y:y + tile, x:x + tile] += bell
            corners.append((x, y))
    return (total / (count + 1e-10)).float(), corners, (tile, tile)


def models():
    transformer = SD3Transformer2DModel.from_pretrained(MODEL / "transformer").eval()
    pairs = torch.load(MODEL / "model_20001.pkl", weights_only=True)
    layers = [
        layer for module in transformer.modules() if module.__class__.__name__ == "AdaLayerNormZero"
        for layer in module.modules() if isinstance(layer, torch.nn.Linear)
    ]
    for layer, up, down in zip(layers, pairs[::2], pairs[1::2], strict=True):
        layer.weight.data += up @ down
        # The reference casts what these layers put out, also where the transformer is in float32.
        layer.register_forward_hook(lambda module, inputs, output: output.half())
    vae = AutoencoderKL.from_pretrained(MODEL / "vae").eval()
    targets = ["encoder.conv_in", "conv1", "conv2", "conv_shortcut", "conv_out", "downsamplers.0.conv", "to_q", "to_k", "to_v", "to_out.0"]
    names = [name for name, _ in vae.named_modules() if name.startswith("encoder.") and any(name.endswith(t) for t in targets)]
    vae.add_adapter(LoraConfig(r=4, init_lora_weights="gaussian", target_modules=names), adapter_name="default_encoder")
    state = torch.load(MODEL / "vae_encoder_20001.pt", weights_only=True)
    vae.encoder.load_state_dict({key: tensor.float() for key, tensor in state.items()})
    return transformer, vae


def picture(x):
    return x.clamp(-1, 1).mul(0.5).add(0.5)[0].mul(255).byte().permute(1, 2, 0).contiguous()


if __name__ == "__main__":
    transformer, vae = models()
    # The words of a chain whose embeds are at hand already.
    given = load_file(MODEL / "cases.safetensors")
    embeds, pooled = given["chain.1.embeds"], given["chain.1.pooled"]
    rng = np.random.default_rng(5)
    with torch.no_grad():
        for n, (width, height, upscale, seed, tile, overlap, encoder, decoder) in enumerate(CASES):
            y, x = np.mgrid[0:height, 0:width]
            photo = np.stack([x * 2, y * 3, (x * 5 + y * 7) % 256], -1) + rng.integers(0, 30, (height, width, 3))
            photo = Image.fromarray(photo.clip(0, 255).astype(np.uint8))
            enlarged = photo.resize((width * upscale, height * upscale), Image.LANCZOS)
            lq = torch.from_numpy(np.asarray(enlarged).copy()).permute(2, 0, 1)[None].float() / 255 * 2 - 1
            mean, log_variance = tiled(vae.encoder, lq, encoder, False).chunk(2, 1)
            torch.manual_seed(seed)
            z = (mean + torch.exp(0.5 * log_variance.clamp(-30, 20)) * torch.randn(mean.shape)) * SCALING
            made, corners, (tile_h, tile_w) = restored(transformer, z, embeds, pooled, tile, overlap)
            x, y = corners[-1]
            last = tiled(vae.decoder, z[:, :, y:y + tile_h, x:x + tile_w] / SCALING, decoder, True)
            out = tiled(vae.decoder, made / SCALING, decoder, True)
            TENSORS |= {
                f"{n}.photo": torch.from_numpy(np.asarray(photo).copy()), f"{n}.last_tile": picture(last),
                f"{n}.result": picture(out),
            }
            TENSORS[f"{n}.options"] = torch.tensor([upscale, seed, tile, overlap, encoder, decoder, len(corners)])
            print(n, tuple(out.shape), len(corners), "tiles")
    save_file(TENSORS, HERE / "cases.safetensors")
