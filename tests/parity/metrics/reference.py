"""Image-quality metrics by implementations of their own in PyTorch and NumPy, on state dicts in the published layouts.

    python3 -m pip install torch==2.11.0 timm==1.0.31 open_clip_torch==3.3.0 numpy scipy

A module for networks.py and benches/metrics.py. A metric is made of its state dicts and called with pictures, bytes
`[H, W, 3]`: `Musiq(state)(picture)`, `Lpips("alex", alexnet, lin)(picture, reference)`. Widths are those of the
tensors. The functions `random_*` make state dicts of random weights, of the published sizes where no others are given.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from scipy.ndimage import correlate1d, gaussian_filter
from timm.models.swin_transformer import SwinTransformerBlock
from timm.models.vision_transformer import VisionTransformer

# "Good photo." and "Bad photo.", and so on, between the tokens of start and end.
PROMPTS = [
    [886, 2867],
    [2103, 2867],
    [8157, 2867],
    [21977, 2867],
    [8157, 20938],
    [21977, 20938],
    [1400, 9977, 2867],
    [1042, 9977, 2867],
    [9307, 268, 1139, 2867],
    [33495, 2867],
]
START, END, CONTEXT = 49406, 49407, 77
# Convolution, ReLU and pooling, by their places in torchvision's `features`.
ALEXNET = "crp crp cr cr cr".replace(" ", "")
VGG16 = "crcrp crcrp crcrcrp crcrcrp crcrcr".replace(" ", "")
ALEXNET_MAPS, VGG16_MAPS = [1, 4, 7, 9, 11], [3, 8, 15, 22, 29]


def prompt_ids():
    ids = torch.zeros(len(PROMPTS), CONTEXT, dtype=torch.long)
    for row, prompt in zip(ids, PROMPTS):
        row[: len(prompt) + 2] = torch.tensor([START, *prompt, END])
    return ids


def unit(picture, dtype):
    """A picture of bytes as `[1, 3, H, W]` in 0 to 1."""
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].to(dtype) / 255


def standardised(x, mean, deviation):
    def column(values):
        return torch.tensor(values, dtype=x.dtype)[:, None, None]

    return (x - column(mean)) / column(deviation)


class State:
    """A state dict, and the layers whose weights it has."""

    def __init__(self, tensors, dtype):
        self.tensors = {key: value.to(dtype) if value.is_floating_point() else value for key, value in tensors.items()}

    def __getitem__(self, key):
        return self.tensors[key]

    def count(self, prefix):
        """How many numbers follow the prefix."""
        return len({key[len(prefix) :].split(".")[0] for key in self.tensors if key.startswith(prefix)})

    def below(self, prefix):
        return {key[len(prefix) :]: value for key, value in self.tensors.items() if key.startswith(prefix)}

    def linear(self, key, x):
        return F.linear(x, self[f"{key}.weight"], self[f"{key}.bias"])

    def conv(self, key, x, **options):
        return F.conv2d(x, self[f"{key}.weight"], self[f"{key}.bias"], **options)

    def layer_norm(self, key, x, eps):
        return F.layer_norm(x, x.shape[-1:], self[f"{key}.weight"], self[f"{key}.bias"], eps)


# MUSIQ


def same(x, size, stride):
    """Zeros around, as TensorFlow's padding `same` has them: an odd one is right and below."""
    pads = []
    for length in (x.shape[-1], x.shape[-2]):
        pad = max((math.ceil(length / stride) - 1) * stride + size - length, 0)
        pads += [pad // 2, pad - pad // 2]
    return F.pad(x, pads)


class Musiq:
    SIDES, PATCH, GRID, HEADS = (224, 384), 32, 10, 6

    def __init__(self, tensors, dtype=torch.float32):
        self.state = State(tensors, dtype)
        self.dtype = dtype
        self.kernels = {}
        for key in ("conv_root", "block1.conv1", "block1.conv2", "block1.conv3", "block1.conv_proj"):
            weight = self.state[f"{key}.weight"]
            deviation, mean = torch.std_mean(weight, (1, 2, 3), correction=1, keepdim=True)
            self.kernels[key] = (weight - mean) / (deviation + 1e-5)

    def conv(self, key, x, stride=1):
        kernel = self.kernels[key]
        return F.conv2d(same(x, kernel.shape[-1], stride), kernel, stride=stride)

    def group_norm(self, key, x, eps):
        return F.group_norm(x, 32, self.state[f"{key}.weight"], self.state[f"{key}.bias"], eps)

    def tokens(self, x, scale, count=0):
        """The patches, with their positions, scales and mask; zeros follow until there are `count`."""
        side = self.PATCH
        x = same(x, side, side).unfold(2, side, side).unfold(3, side, side)
        rows, columns = x.shape[2:4]
        patches = x[0].permute(1, 2, 0, 3, 4).reshape(-1, 3, side, side)
        down = torch.arange(rows) * self.GRID // rows
        right = torch.arange(columns) * self.GRID // columns
        positions = (down[:, None] * self.GRID + right).flatten()
        scales, mask = torch.full_like(positions, scale), torch.ones_like(positions)
        more = max(count - len(patches), 0)
        return F.pad(patches, (0, 0) * 3 + (0, more)), *(F.pad(x, (0, more)) for x in (positions, scales, mask))

    def embedded(self, patches):
        x = same(F.relu(self.group_norm("gn_root", self.conv("conv_root", patches, 2), 1e-6)), 3, 2)
        x = F.max_pool2d(x, 3, 2)
        y = F.relu(self.group_norm("block1.gn1", self.conv("block1.conv1", x), 1e-4))
        y = F.relu(self.group_norm("block1.gn2", self.conv("block1.conv2", y), 1e-4))
        y = self.group_norm("block1.gn3", self.conv("block1.conv3", y), 1e-4)
        x = F.relu(self.group_norm("block1.gn_proj", self.conv("block1.conv_proj", x), 1e-4) + y)
        return self.state.linear("embedding", x.permute(0, 2, 3, 1).flatten(1))

    def block(self, key, x, mask):
        state = self.state
        y = state.layer_norm(f"{key}.norm1", x, 1e-6)
        query, key_, value = (
            state.linear(f"{key}.attention.{part}", y).unflatten(-1, (self.HEADS, -1)).transpose(0, 1)
            for part in ("query", "key", "value")
        )
        logits = query @ key_.transpose(1, 2) / math.sqrt(query.shape[-1])
        logits = logits.masked_fill(mask[:, None] * mask == 0, -1000.0)
        y = (logits.softmax(-1) @ value).transpose(0, 1).flatten(1)
        x = x + state.linear(f"{key}.attention.out", y)
        y = state.layer_norm(f"{key}.norm2", x, 1e-6)
        return x + state.linear(f"{key}.mlp.fc2", F.gelu(state.linear(f"{key}.mlp.fc1", y)))

    @torch.inference_mode()
    def __call__(self, picture):
        whole = unit(picture, self.dtype) * 2 - 1
        sets = []
        for scale, longer in enumerate(self.SIDES):
            ratio = longer / max(whole.shape[2:])
            size = [round(length * ratio) for length in whole.shape[2:]]
            resized = F.interpolate(whole, size, mode="bicubic", align_corners=False)
            sets.append(self.tokens(resized, scale, math.ceil(longer / self.PATCH) ** 2))
        sets.append(self.tokens(whole, len(self.SIDES)))
        patches, positions, scales, mask = (torch.cat(parts) for parts in zip(*sets))
        encoder = "transformer_encoder"
        x = self.embedded(patches)
        x = x + self.state[f"{encoder}.posembed_input.position_emb"].reshape(-1, x.shape[1])[positions]
        x = x + self.state[f"{encoder}.scaleembed_input.scale_emb"].reshape(-1, x.shape[1])[scales]
        x = torch.cat([self.state[f"{encoder}.cls"].reshape(1, -1), x])
        mask = F.pad(mask, (1, 0), value=1)
        blocks = f"{encoder}.transformer.encoderblock_"
        for number in range(self.state.count(blocks)):
            x = self.block(f"{blocks}{number}", x, mask)
        x = self.state.layer_norm(f"{encoder}.encoder_norm", x, 1e-6)
        return self.state.linear("head", x[0]).item()


# MANIQA


class Maniqa:
    """A crop has as many tokens as the weights are for: 28 x 28, which are 224 pixels, in the published network."""

    CROPS, GRID, VIT_HEADS, BLOCKS, WINDOW = 20, 5, 12, [6, 7, 8, 9], 4

    def __init__(self, tensors, dtype=torch.float32):
        self.state = state = State(tensors, dtype)
        self.dtype = dtype
        width, _, patch, _ = state["vit.patch_embed.proj.weight"].shape
        self.tokens = math.isqrt(state["vit.pos_embed"].shape[1] - 1)
        self.side = self.tokens * patch
        self.vit = VisionTransformer(
            self.side,
            patch,
            num_classes=0,
            embed_dim=width,
            depth=state.count("vit.blocks."),
            num_heads=self.VIT_HEADS,
            mlp_ratio=(len(state["vit.blocks.0.mlp.fc1.bias"]) + 0.5) / width,
        )
        found = {key: value for key, value in state.below("vit.").items() if not key.startswith("head.")}
        self.vit.load_state_dict(found)
        self.vit.to(dtype).eval()
        self.swin = {}
        for stage in (1, 2):
            for layer in (0, 1):
                for number in (0, 1):
                    prefix = f"swintransformer{stage}.layers.{layer}.blocks.{number}."
                    found = state.below(prefix)
                    width = len(found["norm1.weight"])
                    block = SwinTransformerBlock(
                        width,
                        (self.tokens, self.tokens),
                        num_heads=found["attn.relative_position_bias_table"].shape[1],
                        window_size=self.WINDOW,
                        shift_size=number * self.WINDOW // 2,
                        mlp_ratio=(len(found["mlp.fc1.bias"]) + 0.5) / width,
                    )
                    block.load_state_dict(found)
                    self.swin[stage, layer, number] = block.to(dtype).eval()

    def crops(self, picture):
        x = standardised(unit(picture, self.dtype), [0.5] * 3, [0.5] * 3)
        shorter = min(x.shape[2:])
        if shorter <= self.side:
            x = F.interpolate(x, scale_factor=(self.side + 1) / shorter, mode="bilinear", align_corners=False)
        down, right = ((length - self.side) // (self.GRID - 1) for length in x.shape[2:])
        corners = [(i * down, j * right) for i in range(self.GRID) for j in range(self.GRID)][: self.CROPS]
        return torch.cat([x[:, :, top : top + self.side, left : left + self.side] for top, left in corners])

    def across(self, key, x):
        """Attention of channels to channels, over the tokens: `[B, C, N]`."""
        query, key_, value = (self.state.linear(f"{key}.c_{part}", x) for part in "qkv")
        weights = (query @ key_.transpose(1, 2) * x.shape[2] ** -0.5).softmax(-1)
        return x + (weights @ value).transpose(1, 2).reshape(x.shape)

    def stage(self, stage, x):
        x = self.across(f"tablock{stage}.1", self.across(f"tablock{stage}.0", x))
        x = self.state.conv(f"conv{stage}", x.unflatten(2, (self.tokens, self.tokens)))
        for layer in (0, 1):
            y = x.permute(0, 2, 3, 1)
            for number in (0, 1):
                y = self.swin[stage, layer, number](y)
            y = y.permute(0, 3, 1, 2)
            y = F.relu(self.state.conv(f"swintransformer{stage}.layers.{layer}.conv", y, padding=1))
            x = 0.13 * y + x
        return x.flatten(2)

    @torch.inference_mode()
    def __call__(self, picture):
        above, below = 0, 0
        # Few crops at a time: the attention of 3072 channels to one another takes 38 MB for each.
        for crops in self.crops(picture).split(4):
            taken = self.vit.forward_intermediates(
                crops, self.BLOCKS, stop_early=True, output_fmt="NLC", intermediates_only=True
            )
            x = self.stage(2, self.stage(1, torch.cat(taken, 2).transpose(1, 2).contiguous())).transpose(1, 2)
            score = F.relu(self.state.linear("fc_score.3", F.relu(self.state.linear("fc_score.0", x))))
            weight = torch.sigmoid(self.state.linear("fc_weight.3", F.relu(self.state.linear("fc_weight.0", x))))
            above, below = above + (weight * score).sum(), below + weight.sum()
        return (above / (below + 1e-8)).item()


# CLIP-IQA


class MeanAttention(torch.nn.Module):
    """CLIP's attention pool, without its position embedding: the mean token asks all."""

    def __init__(self, state, heads):
        super().__init__()
        self.state, self.heads = state, heads

    def forward(self, x):
        x = x.flatten(2).transpose(1, 2)
        mean = x.mean(1, keepdim=True)
        query, key, value = (
            self.state.linear(f"visual.attnpool.{part}_proj", y).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for part, y in zip("qkv", (mean, *[torch.cat([mean, x], 1)] * 2))
        )
        pooled = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(1)
        return self.state.linear("visual.attnpool.c_proj", pooled)


def clip(state):
    """The model whose tensors these are, with its weights."""
    width, text = len(state["visual.bn3.weight"]), len(state["ln_final.weight"])
    model = CLIP(
        state["text_projection"].shape[1],
        CLIPVisionCfg(
            tuple(state.count(f"visual.layer{i}.") for i in (1, 2, 3, 4)),
            width,
            image_size=32 * math.isqrt(len(state["visual.attnpool.positional_embedding"]) - 1),
        ),
        CLIPTextCfg(
            len(state["positional_embedding"]),
            len(state["token_embedding.weight"]),
            width=text,
            heads=max(text // 64, 1),
            layers=state.count("transformer.resblocks."),
        ),
        quick_gelu=True,
    )
    model.load_state_dict(state.tensors)
    return model.to(state["logit_scale"].dtype).eval()


class ClipIqa:
    MEAN, DEVIATION = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]

    @torch.inference_mode()
    def __init__(self, tensors, dtype=torch.float32):
        state = State(tensors, dtype)
        model = clip(state)
        self.dtype, self.visual, self.scale = dtype, model.visual, state["logit_scale"].exp()
        self.visual.attnpool = MeanAttention(state, len(state["visual.bn3.weight"]) // 2)
        self.text = model.encode_text(prompt_ids(), normalize=True)

    @torch.inference_mode()
    def logits(self, picture):
        image = F.normalize(self.visual(standardised(unit(picture, self.dtype), self.MEAN, self.DEVIATION)), dim=-1)
        return (self.scale * image @ self.text.T).reshape(-1, 2)

    def __call__(self, picture):
        return self.logits(picture).softmax(-1)[:, 0].mean().item()


# LPIPS and DISTS


def features(state, layers, x, pool):
    """The result of each layer."""
    results = []
    for number, layer in enumerate(layers):
        if layer == "c":
            size = state[f"features.{number}.weight"].shape[-1]
            stride, padding = {11: (4, 2), 5: (1, 2), 3: (1, 1)}[size]
            x = state.conv(f"features.{number}", x, stride=stride, padding=padding)
        else:
            x = F.relu(x) if layer == "r" else pool(x)
        results.append(x)
    return results


class Lpips:
    SHIFT, SCALE = [-0.030, -0.088, -0.188], [0.458, 0.448, 0.450]

    def __init__(self, net, trunk, lin, dtype=torch.float32):
        self.trunk, self.lin, self.dtype = State(trunk, dtype), State(lin, dtype), dtype
        self.layers, self.maps, size = {"alex": (ALEXNET, ALEXNET_MAPS, 3), "vgg": (VGG16, VGG16_MAPS, 2)}[net]
        self.pool = lambda x: F.max_pool2d(x, size, 2)

    def maps_of(self, picture):
        x = standardised(unit(picture, self.dtype) * 2 - 1, self.SHIFT, self.SCALE)
        results = features(self.trunk, self.layers, x, self.pool)
        for number in self.maps:
            x = results[number]
            yield x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10)

    @torch.inference_mode()
    def __call__(self, picture, reference):
        score = 0
        for k, (x, y) in enumerate(zip(self.maps_of(picture), self.maps_of(reference))):
            score = score + F.conv2d((x - y) ** 2, self.lin[f"lin{k}.model.1.weight"]).mean()
        return score.item()


class Dists:
    MEAN, DEVIATION = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]

    def __init__(self, trunk, weights, dtype=torch.float32):
        self.trunk, self.weights, self.dtype = State(trunk, dtype), State(weights, dtype), dtype
        hanning = torch.tensor([0.5, 1.0, 0.5], dtype=dtype)
        self.window = hanning[:, None] * hanning / hanning.sum() ** 2

    def pool(self, x):
        window = self.window.expand(x.shape[1], 1, 3, 3)
        return (F.conv2d(x**2, window, stride=2, padding=1, groups=x.shape[1]) + 1e-12).sqrt()

    def maps_of(self, picture):
        x = unit(picture, self.dtype)
        results = features(self.trunk, VGG16, standardised(x, self.MEAN, self.DEVIATION), self.pool)
        return [x, *(results[number] for number in VGG16_MAPS)]

    @torch.inference_mode()
    def __call__(self, picture, reference):
        alpha, beta = self.weights["alpha"].flatten(), self.weights["beta"].flatten()
        total, start, likeness = alpha.sum() + beta.sum(), 0, 0
        for x, y in zip(self.maps_of(picture), self.maps_of(reference)):
            x, y = x[0].flatten(1), y[0].flatten(1)
            mean_x, mean_y = x.mean(1), y.mean(1)
            variance_x, variance_y = x.var(1, correction=0), y.var(1, correction=0)
            covariance = (x * y).mean(1) - mean_x * mean_y
            light = (2 * mean_x * mean_y + 1e-6) / (mean_x**2 + mean_y**2 + 1e-6)
            structure = (2 * covariance + 1e-6) / (variance_x + variance_y + 1e-6)
            part = slice(start, start + len(x))
            likeness = likeness + (alpha[part] / total * light).sum() + (beta[part] / total * structure).sum()
            start += len(x)
        return (1 - likeness).item()


# PSNR and SSIM


def luma_rgb(picture):
    """Y of 0 to 255, rounded."""
    rgb = np.asarray(picture, np.float32) / np.float32(255)
    weights = np.float32([0.299, 0.587, 0.114])
    luma = rgb[..., 0] * weights[0] + rgb[..., 1] * weights[1] + rgb[..., 2] * weights[2]
    return np.round(luma * np.float32(255)).astype(np.float64)


def luma_ycbcr(picture):
    """Y of 16 to 235, not rounded."""
    return np.asarray(picture, np.float64) @ np.array([65.481, 128.553, 24.966]) / 255 + 16


def psnr(x, y):
    """Of values in 0 to 1."""
    return float(10 * np.log10(1 / (np.mean((x - y) ** 2) + 1e-8)))


def psnr_rgb(picture, reference):
    return psnr(np.asarray(picture, np.float64) / 255, np.asarray(reference, np.float64) / 255)


def psnr_y_ycbcr(picture, reference):
    return psnr(luma_ycbcr(picture) / 255, luma_ycbcr(reference) / 255)


def ssim(x, y):
    """Of values in 0 to 255."""
    window = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    window /= window.sum()

    def blurred(plane):
        return correlate1d(correlate1d(plane, window, 0), window, 1)[5:-5, 5:-5]

    mean_x, mean_y = blurred(x), blurred(y)
    variance_x, variance_y = blurred(x * x) - mean_x**2, blurred(y * y) - mean_y**2
    covariance = blurred(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    structure = np.maximum((2 * covariance + c2) / (variance_x + variance_y + c2), 0)
    return float(np.mean((2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1) * structure))


def ssim_rgb(picture, reference):
    return ssim(luma_rgb(picture), luma_rgb(reference))


def ssim_y_ycbcr(picture, reference):
    return ssim(np.round(luma_ycbcr(picture)), np.round(luma_ycbcr(reference)))


# Pictures


def clouds(random, height, width, power, mean=128, contrast=50):
    """A picture with the spectrum of photographs."""
    y, x = np.meshgrid(np.fft.fftfreq(height), np.fft.fftfreq(width), indexing="ij")
    spectrum = random.normal(size=(3, height, width)) + 1j * random.normal(size=(3, height, width))
    spectrum[1:] = 0.7 * spectrum[:1] + 0.7 * spectrum[1:]
    plane = np.real(np.fft.ifft2(spectrum / np.maximum(np.hypot(x, y), 1 / max(height, width)) ** power))
    plane = (plane - plane.mean((1, 2), keepdims=True)) / plane.std((1, 2), keepdims=True)
    levels = np.reshape(mean, (-1, 1, 1)) + contrast * plane
    return np.ascontiguousarray(levels.clip(0, 255).astype(np.uint8).transpose(1, 2, 0))


def distorted(random, picture, blur, noise):
    plane = gaussian_filter(picture.astype(np.float64), (blur, blur, 0)) + noise * random.normal(size=picture.shape)
    return plane.round().clip(0, 255).astype(np.uint8)


# Random weights


class Draw:
    """Draws the tensors of a state dict."""

    def __init__(self, seed):
        self.generator, self.state = torch.Generator().manual_seed(seed), {}

    def normal(self, *shape, deviation=1.0, mean=0.0):
        return torch.randn(shape, generator=self.generator) * deviation + mean

    def weight(self, key, *shape, gain=1.0):
        """Keeps the variance of what comes in, times the square of `gain`."""
        self.state[f"{key}.weight"] = self.normal(*shape, deviation=gain / math.sqrt(math.prod(shape[1:])))

    def layer(self, key, *shape, gain=1.0, bias=0.05):
        self.weight(key, *shape, gain=gain)
        self.state[f"{key}.bias"] = self.normal(shape[0], deviation=bias)

    def norm(self, key, width, gain=1.0):
        self.state[f"{key}.weight"] = self.normal(width, deviation=0.1 * gain, mean=gain)
        self.state[f"{key}.bias"] = self.normal(width, deviation=0.1)


def random_musiq(seed, width=384, blocks=14, hidden=1152, root=64, planes=64, out=256):
    draw = Draw(seed)
    draw.weight("conv_root", root, 3, 7, 7)
    draw.norm("gn_root", root)
    for name, shape in {
        "1": (planes, root, 1, 1),
        "2": (planes, planes, 3, 3),
        "3": (out, planes, 1, 1),
        "_proj": (out, root, 1, 1),
    }.items():
        draw.weight(f"block1.conv{name}", *shape)
        draw.norm(f"block1.gn{name}", shape[0])
    draw.layer("embedding", width, 8 * 8 * out)
    encoder = "transformer_encoder"
    draw.state[f"{encoder}.cls"] = draw.normal(1, 1, width)
    draw.state[f"{encoder}.posembed_input.position_emb"] = draw.normal(1, 100, width, deviation=0.5)
    draw.state[f"{encoder}.scaleembed_input.scale_emb"] = draw.normal(3, width, deviation=0.5)
    for number in range(blocks):
        block = f"{encoder}.transformer.encoderblock_{number}"
        draw.norm(f"{block}.norm1", width)
        draw.layer(f"{block}.attention.query", width, width, gain=1.5)
        draw.layer(f"{block}.attention.key", width, width, gain=1.5)
        draw.layer(f"{block}.attention.value", width, width)
        draw.layer(f"{block}.attention.out", width, width)
        draw.norm(f"{block}.norm2", width)
        draw.layer(f"{block}.mlp.fc1", hidden, width)
        draw.layer(f"{block}.mlp.fc2", width, hidden)
    draw.norm(f"{encoder}.encoder_norm", width)
    draw.layer("head", 1, width, gain=15)
    draw.state["head.bias"] += 50
    return draw.state


def random_maniqa(seed, width=768, blocks=12, hidden=3072, patch=8, side=224, stages=(768, 384), mlp=768, classes=1000):
    draw, tokens, taken = Draw(seed), (side // patch) ** 2, len(Maniqa.BLOCKS)
    draw.state["vit.cls_token"] = draw.normal(1, 1, width)
    draw.state["vit.pos_embed"] = draw.normal(1, 1 + tokens, width, deviation=0.3)
    draw.layer("vit.patch_embed.proj", width, 3, patch, patch, gain=2)
    for number in range(blocks):
        block = f"vit.blocks.{number}"
        draw.norm(f"{block}.norm1", width)
        draw.layer(f"{block}.attn.qkv", 3 * width, width, gain=1.5)
        draw.layer(f"{block}.attn.proj", width, width, gain=0.5)
        draw.norm(f"{block}.norm2", width)
        draw.layer(f"{block}.mlp.fc1", hidden, width)
        draw.layer(f"{block}.mlp.fc2", width, hidden, gain=0.5)
    draw.norm("vit.norm", width)
    draw.layer("vit.head", classes, width)
    widths = (taken * width, *stages)
    for stage in (1, 2):
        before, after = widths[stage - 1 : stage + 1]
        for number in (0, 1):
            for part, gain in (("q", 0.8), ("k", 0.8), ("v", 0.5)):
                draw.layer(f"tablock{stage}.{number}.c_{part}", tokens, tokens, gain=gain)
        draw.layer(f"conv{stage}", after, before, 1, 1, gain=0.5)
        for layer in (0, 1):
            for number in (0, 1):
                block = f"swintransformer{stage}.layers.{layer}.blocks.{number}"
                draw.norm(f"{block}.norm1", after)
                draw.state[f"{block}.attn.relative_position_bias_table"] = draw.normal(49, 4, deviation=0.5)
                draw.layer(f"{block}.attn.qkv", 3 * after, after, gain=1.5)
                draw.layer(f"{block}.attn.proj", after, after)
                draw.norm(f"{block}.norm2", after)
                draw.layer(f"{block}.mlp.fc1", mlp, after)
                draw.layer(f"{block}.mlp.fc2", after, mlp)
            draw.layer(f"swintransformer{stage}.layers.{layer}.conv", after, after, 3, 3, gain=2)
    for head, gain in (("fc_score", 0.8), ("fc_weight", 2)):
        draw.layer(f"{head}.0", stages[1], stages[1])
        draw.layer(f"{head}.3", 1, stages[1], gain=gain)
    draw.state["fc_score.3.bias"] += 0.5
    return draw.state


@torch.inference_mode()
def random_clip(seed, width=64, counts=(3, 4, 6, 3), out=1024, text=512, blocks=12, vocabulary=49408, scale=100.0):
    draw, pooled = Draw(seed), 32 * width

    def batch_norm(key, width, gain=1.0):
        draw.norm(key, width, gain)
        draw.state[f"{key}.running_mean"] = torch.zeros(width)
        draw.state[f"{key}.running_var"] = torch.ones(width)
        draw.state[f"{key}.num_batches_tracked"] = torch.tensor(0)

    for number, shape in enumerate([(width // 2, 3), (width // 2, width // 2), (width, width // 2)], 1):
        draw.weight(f"visual.conv{number}", *shape, 3, 3)
        batch_norm(f"visual.bn{number}", shape[0])
    before = width
    for stage, count in enumerate(counts):
        inner = width << stage
        for number in range(count):
            block = f"visual.layer{stage + 1}.{number}"
            draw.weight(f"{block}.conv1", inner, before, 1, 1)
            batch_norm(f"{block}.bn1", inner)
            draw.weight(f"{block}.conv2", inner, inner, 3, 3)
            batch_norm(f"{block}.bn2", inner)
            draw.weight(f"{block}.conv3", 4 * inner, inner, 1, 1)
            batch_norm(f"{block}.bn3", 4 * inner, 0.5)
            if number == 0:
                draw.weight(f"{block}.downsample.0", 4 * inner, before, 1, 1)
                batch_norm(f"{block}.downsample.1", 4 * inner)
            before = 4 * inner
    draw.state["visual.attnpool.positional_embedding"] = draw.normal(50, pooled)
    for part in "qkv":
        draw.layer(f"visual.attnpool.{part}_proj", pooled, pooled)
    draw.layer("visual.attnpool.c_proj", out, pooled)
    draw.state["token_embedding.weight"] = draw.normal(vocabulary, text)
    draw.state["positional_embedding"] = draw.normal(CONTEXT, text, deviation=0.5)
    for number in range(blocks):
        block = f"transformer.resblocks.{number}"
        draw.norm(f"{block}.ln_1", text)
        draw.state[f"{block}.attn.in_proj_weight"] = draw.normal(3 * text, text, deviation=1.5 / math.sqrt(text))
        draw.state[f"{block}.attn.in_proj_bias"] = draw.normal(3 * text, deviation=0.05)
        draw.layer(f"{block}.attn.out_proj", text, text)
        draw.norm(f"{block}.ln_2", text)
        draw.layer(f"{block}.mlp.c_fc", 4 * text, text)
        draw.layer(f"{block}.mlp.c_proj", text, 4 * text)
    draw.norm("ln_final", text)
    draw.state["text_projection"] = draw.normal(text, out, deviation=1 / math.sqrt(text))
    draw.state["logit_scale"] = torch.tensor(math.log(scale))

    # The moments of batch normalisation are those of some pictures, which else come out all alike.
    visual = clip(State(draw.state, torch.float32)).visual
    random = np.random.default_rng(seed)
    looks = [(0.8, 90, 70), (1.2, 160, 40), (1.6, 120, 60), (1.0, 60, 25), (0.5, 190, 30), (1.4, 128, 50)]
    inputs = torch.cat([unit(clouds(random, 128, 128, *look), torch.float32) for look in looks])
    for module in visual.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.train()
            module.momentum = None
    visual.attnpool = torch.nn.Identity()
    visual(standardised(inputs, ClipIqa.MEAN, ClipIqa.DEVIATION))
    moments = {f"visual.{key}": value for key, value in visual.state_dict().items()}
    return {key: moments.get(key, value).clone() for key, value in draw.state.items()}


def random_trunk(seed, layers, sizes, widths):
    """Of AlexNet or VGG16, without their last layers, which no metric reads."""
    draw, before, left = Draw(seed), 3, iter(zip(sizes, widths, strict=True))
    for number, layer in enumerate(layers):
        if layer == "c":
            size, width = next(left)
            draw.layer(f"features.{number}", width, before, size, size, gain=math.sqrt(2), bias=0.1)
            before = width
    return draw.state


def random_alexnet(seed, widths=(64, 192, 384, 256, 256)):
    return random_trunk(seed, ALEXNET, (11, 5, 3, 3, 3), widths)


def random_vgg16(seed, widths=(64, 128, 256, 512, 512)):
    each = [width for width, count in zip(widths, (2, 2, 3, 3, 3)) for _ in range(count)]
    return random_trunk(seed, VGG16, (3,) * 13, each)


def random_lpips(seed, widths):
    """Of the widths of the maps: those that `random_alexnet` or `random_vgg16` got."""
    draw = Draw(seed)
    return {f"lin{k}.model.1.weight": draw.normal(1, width, 1, 1).abs() for k, width in enumerate(widths)}


def random_dists(seed, widths=(64, 128, 256, 512, 512)):
    draw, count = Draw(seed), 3 + sum(widths)
    return {key: draw.normal(1, count, 1, 1).abs() / count for key in ("alpha", "beta")}
