"""Makes a training case, as `--replay` reads it, and what ordinary autograd over diffusers and PEFT makes of it.

    python3 -m pip install torch==2.11.0 diffusers==0.42.1 transformers==5.23.0 peft==0.21.2 safetensors numpy scipy \\
        timm==1.0.31 open_clip_torch==3.3.0
    python3 tests/parity/train/replay.py

The model is the tiny one of `tests/parity/sd3`. Writes `case.json`, `replay.safetensors`, `init.safetensors`,
`vgg16.pth`, `lpips.pth` and `expected.safetensors`: `losses` [micro-batch, (l2, lpips, vsd, diff)] as they are before
any weight, `grad_norms` [step, (gen, vae, reg)] before clipping, `gradS.GROUP.NAME` (accumulated, before clipping) and
`stepS.GROUP.NAME` (after step S). Micro-batches count from 0, steps from 1. The expected numbers are computed in
float64 and stored as float32, losses and norms as float64; how far float32 is from them is printed.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import (
    AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline,
)
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModelWithProjection, CLIPTokenizer, PreTrainedTokenizerFast, T5EncoderModel
from transformers.utils import logging

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "metrics"))
from reference import VGG16, VGG16_MAPS, State, features, random_lpips, random_vgg16, standardised  # noqa: E402

SD3 = HERE.parent / "sd3"
WIDTHS = (4, 6, 8, 8, 8)
HEIGHT, WIDTH = 64, 48
STEPS = 3
ALPHA, ADAPTER = 8, "default_encoder"
ARGS = {
    "learning_rate": 2e-3,
    "learning_rate_vae": 7e-4,
    "adam_beta1": 0.8,
    "adam_beta2": 0.97,
    "adam_epsilon": 1e-4,
    "adam_weight_decay": 0.05,
    "max_grad_norm": 0.2,
    "gradient_accumulation_steps": 2,
    "lambda_l2": 0.7,
    "lambda_lpips": 1.6,
    "lambda_vsd": 1.3,
    "lambda_vsd_lora": 0.9,
    "lora_rank": 3,
    "cfg_vsd": 7.5,
    "train_batch_size": 2,
}
CAPTIONS = [
    ["the red fur of an old fox", ""],
    ["whiskers, teeth, snow", "an old photo"],
    ["12 photos", "the snow"],
    ["", "fur, red, whiskers and teeth in the snow"],
    ["an old fox, snow", "teeth"],
    ["the fox don't lie", "red snow; 12 old photos of the fur"],
]


class AdaLoras(torch.nn.Module):
    """A linear layer in place of the frozen one, with a pair for each group; the one named by `using` is added."""

    using = None

    def __init__(self, linear, pairs):
        super().__init__()
        self.linear, self.pairs = linear, pairs

    def forward(self, x):
        out = self.linear(x)
        if AdaLoras.using is None:
            return out
        down, up = self.pairs[AdaLoras.using]
        return out + F.linear(F.linear(x, down), up)


class Training:
    """Models and trained parameters of `case.json`, in one precision."""

    def __init__(self, case, embeds, dtype):
        self.case, self.embeds, self.dtype = case, embeds, dtype
        self.args = args = case["args"]
        self.replay = load_file(HERE / case["replay"])
        init = load_file(HERE / case["init"])
        sd3 = HERE / case["sd3"]

        self.groups = {"gen": {}, "vae": {}, "reg": {}}
        transformer = SD3Transformer2DModel.from_pretrained(sd3 / "transformer").requires_grad_(False).to(dtype)
        for key, layer in adaptive(transformer):
            pairs = {}
            for group in ("gen", "reg"):
                names = [f"{key}.lora_{part}.weight" for part in ("down", "up")]
                own = [torch.nn.Parameter(init[f"init.{group}.{name}"].to(dtype)) for name in names]
                self.groups[group].update(zip(names, own))
                pairs[group] = own
            transformer.set_submodule(key, AdaLoras(layer, pairs))
        self.transformer = transformer.eval()

        vae = AutoencoderKL.from_pretrained(sd3 / "vae").requires_grad_(False)
        self.vae = adapted(vae, args["lora_rank"]).to(dtype)
        for name, parameter in self.vae.encoder.named_parameters():
            if ".lora_" in name:
                parameter.data.copy_(init[f"init.vae.{name}"])
                self.groups["vae"][name] = parameter
            else:
                assert not parameter.requires_grad
        self.vae.eval()

        self.vgg = State(torch.load(HERE / case["lpips_vgg"]), dtype)
        self.lin = State(torch.load(HERE / case["lpips_lin"]), dtype)
        self.times = times()
        self.optimizers = {
            group: torch.optim.AdamW(
                parameters.values(),
                lr=args["learning_rate_vae" if group == "vae" else "learning_rate"],
                betas=(args["adam_beta1"], args["adam_beta2"]),
                eps=args["adam_epsilon"],
                weight_decay=args["adam_weight_decay"],
            )
            for group, parameters in self.groups.items()
        }

    def velocity(self, using, z, t, embeds):
        AdaLoras.using = using
        prompt, pooled = (x.to(self.dtype) for x in embeds)
        out = self.transformer(z, prompt, pooled, t.expand(len(z)), return_dict=False)[0]
        AdaLoras.using = None
        return out

    def noised(self, z0, u, noise):
        """A time, its sigma and the latent with noise."""
        t = self.times[int(1000 * u.item())]
        sigma = t.to(self.dtype) / 1000
        return t, sigma, (1 - sigma) * z0 + sigma * noise

    def lpips(self, x, y):
        total = 0
        maps = [self.maps(picture) for picture in (x, y)]
        for k, (a, b) in enumerate(zip(*maps)):
            total = total + F.conv2d((a - b) ** 2, self.lin[f"lin{k}.model.1.weight"]).mean((1, 2, 3))
        return total.mean()

    def maps(self, x):
        x = standardised(x, [-0.030, -0.088, -0.188], [0.458, 0.448, 0.450])
        results = features(self.vgg, VGG16, x, lambda y: F.max_pool2d(y, 2, 2))
        for number in VGG16_MAPS:
            x = results[number]
            yield x / ((x.square().sum(1, keepdim=True) + 1e-20).sqrt() + 1e-10)

    def micro_batch(self, number):
        """Adds to the gradients; the raw losses."""
        args = self.args
        given = {key: self.replay[f"mb{number}.{key}"] for key in PARTS}
        lq, gt = (given[key].to(self.dtype) / 255 * 2 - 1 for key in ("lq_u8", "gt_u8"))
        eps, n_vsd, n_diff = (given[f"eps_{which}"].to(self.dtype) for which in ("vae", "vsd", "diff"))
        embeds = self.embeds[number]
        config = self.vae.config

        mean, logvar = self.vae.encoder(lq).chunk(2, 1)
        sample = mean + (0.5 * logvar.clamp(-30, 20)).exp() * eps
        z_in = (sample - config.shift_factor) * config.scaling_factor
        z0 = z_in - self.velocity("gen", z_in, torch.tensor(1000.0), embeds)
        pred = self.vae.decoder(z0 / config.scaling_factor + config.shift_factor)
        l2 = F.mse_loss(pred, gt)
        lpips = self.lpips(pred, gt)

        with torch.no_grad():
            t, sigma, zt = self.noised(z0, given["u_vsd"], n_vsd)
            x_reg, x_org = (zt - sigma * self.velocity(using, zt, t, embeds) for using in ("reg", None))
            weight = (z0 - x_org).abs().mean((1, 2, 3), keepdim=True).clamp(min=1e-8)
            g = (x_reg - x_org) / weight
            target = z0 - g
        vsd = F.mse_loss(z0, target)
        weighted = args["lambda_l2"] * l2 + args["lambda_lpips"] * lpips + args["lambda_vsd"] * vsd
        (weighted / args["gradient_accumulation_steps"]).backward()

        z0 = z0.detach()
        t, sigma, zt = self.noised(z0, given["u_diff"], n_diff)
        diff = F.mse_loss(zt - sigma * self.velocity("reg", zt, t, embeds), z0)
        (args["lambda_vsd_lora"] * diff / args["gradient_accumulation_steps"]).backward()
        return torch.stack([l2, lpips, vsd, diff]).detach()

    def run(self):
        """Every expected tensor."""
        out, losses, norms = {}, [], []
        accumulation = self.args["gradient_accumulation_steps"]
        for number in range(self.case["micro_batches"]):
            losses.append(self.micro_batch(number))
            step, left = divmod(number + 1, accumulation)
            if left:
                continue
            norms.append([])
            for group, parameters in self.groups.items():
                for name, parameter in parameters.items():
                    out[f"grad{step}.{group}.{name}"] = parameter.grad.clone()
                norms[-1].append(torch.nn.utils.clip_grad_norm_(parameters.values(), self.args["max_grad_norm"]))
                self.optimizers[group].step()
                self.optimizers[group].zero_grad()
                for name, parameter in parameters.items():
                    out[f"step{step}.{group}.{name}"] = parameter.detach().clone()
        out["losses"] = torch.stack(losses)
        out["grad_norms"] = torch.tensor(norms, dtype=self.dtype)
        return out


def adaptive(transformer):
    """The linear layers inside AdaLayerNormZero, by their names, in the order of traversal."""
    return [
        (f"{name}.linear", module.linear)
        for name, module in transformer.named_modules()
        if module.__class__.__name__ == "AdaLayerNormZero"
    ]


def adapted(vae, rank):
    """The model with PEFT's LoRA on every convolution and linear layer of the encoder."""
    names = [
        name for name, module in vae.named_modules()
        if name.startswith("encoder.") and isinstance(module, (torch.nn.Conv2d, torch.nn.Linear))
    ]
    vae.add_adapter(LoraConfig(r=rank, lora_alpha=ALPHA, target_modules=names), adapter_name=ADAPTER)
    return vae


def times():
    """Of 1000 steps, as the scheduler with its shift of 3 gives them, float32."""
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(1000)
    s = torch.linspace(1, 0.003 / 1.002, 1000, dtype=torch.float64)
    ours = (3000 * s / (1 + 2 * s)).float()
    assert (ours - scheduler.timesteps).abs().max() < 2e-4
    return ours


@torch.no_grad()
def encoders(sd3):
    """The pipeline's text encoders."""
    return StableDiffusion3Pipeline(
        transformer=None, scheduler=None, vae=None,
        text_encoder=CLIPTextModelWithProjection.from_pretrained(sd3 / "text_encoder").eval(),
        text_encoder_2=CLIPTextModelWithProjection.from_pretrained(sd3 / "text_encoder_2").eval(),
        text_encoder_3=T5EncoderModel.from_pretrained(sd3 / "text_encoder_3").eval(),
        tokenizer=CLIPTokenizer.from_pretrained(sd3 / "tokenizer"),
        tokenizer_2=CLIPTokenizer.from_pretrained(sd3 / "tokenizer_2"),
        tokenizer_3=PreTrainedTokenizerFast(
            tokenizer_file=str(sd3 / "tokenizer_3/tokenizer.json"),
            pad_token="<pad>", eos_token="</s>", unk_token="<unk>",
        ),
    )


def encoded(pipeline, captions):
    """What the pipeline makes of the captions of each micro-batch: sequences and pooled, float32."""
    out = []
    for prompts in captions:
        prompt, _, pooled, _ = pipeline.encode_prompt(
            prompts, None, None, do_classifier_free_guidance=False, max_sequence_length=512, device="cpu",
        )
        assert prompt.shape[1] == 77 + 512 and prompt.dtype == torch.float32
        out.append((prompt, pooled))
    return out



PARTS = ("lq_u8", "gt_u8", "eps_vae", "eps_vsd", "eps_diff", "u_vsd", "u_diff")


def pictures(rng, batch):
    """Pairs of bytes `[B, 3, H, W]`: a scene, and the same blurred with noise."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH] / 12
    gt = np.zeros((batch, 3, HEIGHT, WIDTH))
    for plane in gt.reshape(-1, HEIGHT, WIDTH):
        a, b, c = rng.uniform(-2, 2, 3)
        plane += 128 + 70 * np.sin(a * x + b * y + c) + 30 * (np.sin(b * x * 3 - a * y) > 0)
    gt = torch.from_numpy(gt).clamp(0, 255).round()
    lq = F.interpolate(F.avg_pool2d(gt, 4), (HEIGHT, WIDTH), mode="bicubic")
    lq = lq + torch.from_numpy(rng.normal(0, 6, lq.shape))
    return lq.round().clamp(0, 255).byte(), gt.byte()


def make():
    """The inputs."""
    rng = np.random.default_rng(11)
    torch.manual_seed(11)
    batch, micro_batches = ARGS["train_batch_size"], STEPS * ARGS["gradient_accumulation_steps"]
    replay = {}
    # Times of all parts of the range, none near the edge of another.
    us = (rng.permutation(2 * micro_batches) + rng.uniform(0.05, 0.95, 2 * micro_batches)) / (2 * micro_batches)
    us = (np.floor(us * 1000) + 0.5) / 1000
    for number in range(micro_batches):
        lq, gt = pictures(rng, batch)
        noise = torch.randn(3, batch, 16, HEIGHT // 8, WIDTH // 8)
        u = torch.from_numpy(us[2 * number : 2 * number + 2]).float().split(1)
        for key, value in zip(PARTS, (lq, gt, *noise, *u)):
            replay[f"mb{number}.{key}"] = value.contiguous()
    save_file(replay, HERE / "replay.safetensors")

    rank, init = ARGS["lora_rank"], {}
    transformer = SD3Transformer2DModel.from_pretrained(SD3 / "transformer")
    for group in ("gen", "reg"):
        for key, layer in adaptive(transformer):
            init[f"init.{group}.{key}.lora_down.weight"] = torch.randn(rank, layer.in_features) / rank
            init[f"init.{group}.{key}.lora_up.weight"] = torch.randn(layer.out_features, rank) * 0.05
    for name, parameter in adapted(AutoencoderKL.from_pretrained(SD3 / "vae"), rank).encoder.named_parameters():
        if ".lora_" in name:
            init[f"init.vae.{name}"] = torch.randn_like(parameter) * (1 / rank if "lora_A" in name else 0.03)
    save_file(init, HERE / "init.safetensors")

    vgg = random_vgg16(5, WIDTHS)
    for number in VGG16_MAPS:
        # Where all channels are next to 0, gradients grow without bound, and precision decides on them.
        vgg[f"features.{number - 1}.bias"][0] += 2
    torch.save(vgg, HERE / "vgg16.pth", _use_new_zipfile_serialization=False)
    # Scaled to values of about those of photos.
    lin = {key: weight * 0.1 for key, weight in random_lpips(6, WIDTHS).items()}
    torch.save(lin, HERE / "lpips.pth", _use_new_zipfile_serialization=False)
    case = {
        "sd3": "../sd3", "lpips_vgg": "vgg16.pth", "lpips_lin": "lpips.pth", "replay": "replay.safetensors",
        "init": "init.safetensors", "micro_batches": micro_batches, "args": ARGS, "captions": CAPTIONS,
    }
    assert len(CAPTIONS) == micro_batches and all(len(captions) == batch for captions in CAPTIONS)
    (HERE / "case.json").write_text(json.dumps(case, indent=1) + "\n")
    return case


def compare(single, double):
    """Prints how far float32 is off, by kind: the largest difference, absolute and over the largest value."""
    worst = {}
    for key, exact in double.items():
        kind = ".".join(key.split(".")[:2]) if "." in key else key
        off, size = (single[key].double() - exact).abs().max().item(), exact.abs().max().item()
        of = worst.setdefault(kind, [0.0, 0.0, 0.0])
        worst[kind] = [max(of[0], off), max(of[1], size), max(of[2], off / max(size, 1e-30))]
    for kind, (off, size, relative) in worst.items():
        print(f"{kind:12} off by {off:.1e} of {size:.1e}, at worst {relative:.1e} of a tensor's largest")


def main():
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    make()
    case = json.loads((HERE / "case.json").read_text())
    embeds = encoded(encoders(HERE / case["sd3"]), case["captions"])
    double, single = (Training(case, embeds, dtype).run() for dtype in (torch.float64, torch.float32))
    print(double["losses"], double["grad_norms"], sep="\n")
    compare(single, double)
    for key, value in double.items():
        double[key] = value if key in ("losses", "grad_norms") else value.float()
    save_file(double, HERE / "expected.safetensors")
    for file in sorted(HERE.iterdir()):
        if file.is_file():
            file.chmod(0o644)
            print(f"{file.name}: {file.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
