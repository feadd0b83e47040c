"""Makes a tiny random model in the layout of stable-diffusion-2-1-base, two OSEDiff adapters for it, and what the
reference libraries and OSEDiff's way of using them make of these in float32 on the CPU.

    python3 -m pip install torch==2.11.0 diffusers==0.42.1 transformers==5.23.0 peft==0.21.2
    python3 -m pip install safetensors numpy pillow==13.0.0
    python3 tests/parity/sd21/export.py

Deterministic: run again, it writes the same files (up to the versions of the libraries and the processor).
"""

import importlib.util
import json
import math
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from peft import LoraConfig
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

HERE = Path(__file__).parent


def script(name):
    """The script of another folder of fixtures, for what both have in common."""
    spec = importlib.util.spec_from_file_location(name, HERE.parent / name / "export.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


sd3, full, colour = script("sd3"), script("full"), script(".")
keep, TENSORS = sd3.keep, sd3.TENSORS
WIDTH, SCALING, TIME = 16, 0.18215, 999
PROMPTS = [
    *sd3.PROMPTS[:4], "whiskers and teeth in the " * 60, "fox, fur, snow, old fox, whiskers, ,",
    "a red fox!!, don't lie ! , !",
]
# Only what the published files say: no `scaling_factor`, no key that a later version has added.
UNET = dict(
    _class_name="UNet2DConditionModel", _diffusers_version="0.10.0.dev0", act_fn="silu",
    attention_head_dim=[1, 2, 3, 3],
    block_out_channels=[4, 8, 12, 12], center_input_sample=False, cross_attention_dim=WIDTH,
    down_block_types=["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"], downsample_padding=1, dual_cross_attention=False,
    flip_sin_to_cos=True, freq_shift=0, in_channels=4, layers_per_block=2, mid_block_scale_factor=1, norm_eps=1e-05,
    norm_num_groups=2, num_class_embeds=None, only_cross_attention=False, out_channels=4, sample_size=64,
    up_block_types=["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3, use_linear_projection=True,
)
VAE = dict(
    _class_name="AutoencoderKL", _diffusers_version="0.10.0.dev0", act_fn="silu", block_out_channels=[4, 8, 12, 12],
    down_block_types=["DownEncoderBlock2D"] * 4, in_channels=3, latent_channels=4, layers_per_block=2,
    norm_num_groups=2, out_channels=3, sample_size=768, up_block_types=["UpDecoderBlock2D"] * 4,
)
SCHEDULER = dict(
    _class_name="PNDMScheduler", _diffusers_version="0.10.0.dev0", beta_end=0.012, beta_schedule="scaled_linear",
    beta_start=0.00085, clip_sample=False, num_train_timesteps=1000, prediction_type="epsilon", set_alpha_to_one=False,
    skip_prk_steps=True, steps_offset=1, trained_betas=None,
)
# Width and height of the photo, enlargement, seed; tile of the latent and overlap, tile of the encoder
# and of the decoder.
FULL = [
    (80, 48, 4, 42, 16, 8, 96, 16),
    (30, 52, 4, 7, 24, 8, 32, 8),
    (45, 37, 3, 3, 10, 4, 64, 64),
]


def write(folder, name, what):
    (HERE / folder).mkdir(exist_ok=True)
    (HERE / folder / name).write_text(json.dumps(what, indent=2, ensure_ascii=False) + "\n")


def lively(model):
    """Shaken, and of numbers that 16 bits can hold, so that a file of either kind is the same model."""
    sd3.shaken(model)
    for parameter in model.parameters():
        parameter.copy_(parameter.half().float())
    return model


def save(model, name, half=False, rename=()):
    state = {key: (tensor.half() if half else tensor).contiguous() for key, tensor in model.state_dict().items()}
    for old, new in rename:
        state = {key.replace(old, new): tensor for key, tensor in state.items()}
    save_file(state, HERE / name / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"})


def base():
    """The folder as it is published."""
    write("scheduler", "scheduler_config.json", SCHEDULER)
    write("unet", "config.json", UNET)
    unet = lively(UNet2DConditionModel.from_config(UNET))
    # What is predicted is to be about as large as the latent.
    unet.conv_out.weight.copy_((unet.conv_out.weight / 4).half().float())
    save(unet, "unet", half=True)

    vae = lively(AutoencoderKL.from_config(VAE))
    vae.decoder.conv_out.weight.copy_((vae.decoder.conv_out.weight / 2).half().float())
    write("vae", "config.json", VAE)
    save(vae, "vae")
    write("vae_old_names", "config.json", VAE)
    old = [("to_q.", "query."), ("to_k.", "key."), ("to_v.", "value."), ("to_out.0.", "proj_attn.")]
    save(vae, "vae_old_names", half=True, rename=old)


def odd_unet():
    """Widths that are odd and do not fall into heads, and levels without attention."""
    torch.manual_seed(3)
    unet = UNet2DConditionModel(
        attention_head_dim=(2, 4), block_out_channels=(5, 10), cross_attention_dim=12, layers_per_block=2,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), norm_num_groups=5,
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), use_linear_projection=True,
    ).eval()
    unet.save_pretrained(HERE / "unet_odd")
    latent, prompt = torch.randn(1, 4, 9, 12), torch.randn(1, 7, 12)
    keep(odd__latent=latent, odd__prompt=prompt, odd__noise=unet(latent, 999, prompt).sample)


def tokenizer():
    """`special_tokens_map.json` and `tokenizer_config.json` disagree about the padding; the former is right."""
    sd3.HERE = HERE
    sd3.clip_tokenizer("tokenizer", "!")

    def token(content):
        return dict(content=content, lstrip=False, normalized=True, rstrip=False, single_word=False)

    tokens = dict(bos_token=token(sd3.START), eos_token=token(sd3.END), unk_token=token(sd3.END))
    write("tokenizer", "special_tokens_map.json", dict(tokens, pad_token="!"))
    write("tokenizer", "tokenizer_config.json", dict(
        {name: dict(what, __type="AddedToken") for name, what in tokens.items()}, add_prefix_space=False,
        do_lower_case=True, errors="replace", model_max_length=77, name_or_path="tiny", pad_token=sd3.END,
        special_tokens_map_file="./special_tokens_map.json", tokenizer_class="CLIPTokenizer",
    ))
    return CLIPTokenizer.from_pretrained(HERE / "tokenizer")


def text_encoder(vocab):
    config = CLIPTextConfig(
        vocab_size=vocab, hidden_size=WIDTH, intermediate_size=4 * WIDTH, num_hidden_layers=3, num_attention_heads=2,
        max_position_embeddings=77, hidden_act="gelu", projection_dim=16, bos_token_id=0, eos_token_id=2,
        pad_token_id=1, layer_norm_eps=1e-5,
    )
    model = lively(CLIPTextModel(config))
    model.save_pretrained(HERE / "text_encoder")
    file = HERE / "text_encoder/model.safetensors"
    # Newer versions leave the prefix out.
    state = {"text_model." + key.removeprefix("text_model."): tensor for key, tensor in load_file(file).items()}
    # Files of that time hold these too; nobody reads them.
    state["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    save_file(state, file, metadata={"format": "pt"})
    names = dict(
        architectures=["CLIPTextModel"], attention_dropout=0.0, bos_token_id=0, dropout=0.0, eos_token_id=2,
        hidden_act="gelu", hidden_size=WIDTH, initializer_factor=1.0, initializer_range=0.02,
        intermediate_size=4 * WIDTH, layer_norm_eps=1e-05, max_position_embeddings=77, model_type="clip_text_model",
        num_attention_heads=2, num_hidden_layers=3, pad_token_id=1, projection_dim=16, torch_dtype="float32",
        transformers_version="4.25.0.dev0", vocab_size=vocab,
    )
    write("text_encoder", "config.json", names)
    again = CLIPTextModel.from_pretrained(HERE / "text_encoder").eval()
    ids = torch.arange(77)[None]
    assert torch.equal(again(ids)[0], model(ids)[0])
    return again


def unet_modules(unet):
    """The weights OSEDiff adapts, by the adapter they go to."""
    parts = ("to_k", "to_q", "to_v", "to_out.0", "conv", "proj_out", "proj_in", "ff.net.2", "ff.net.0.proj")
    modules = {"encoder": [], "decoder": [], "others": []}
    for name, _ in unet.named_parameters():
        if "bias" in name or "norm" in name or not any(part in name for part in parts):
            continue
        encoder, decoder = "down_blocks" in name or "conv_in" in name, "up_blocks" in name or "conv_out" in name
        modules["encoder" if encoder else "decoder" if decoder else "others"].append(name.removesuffix(".weight"))
    return modules


def vae_modules(vae):
    """The same for the VAE, where a name is listed once for each pattern it matches."""
    parts = ["conv1", "conv2", "conv_in", "conv_shortcut", "conv", "conv_out", "to_k", "to_q", "to_v", "to_out.0"]
    modules = []
    for name, _ in vae.named_parameters():
        if "bias" in name or "norm" in name:
            continue
        quant = "quant_conv" in name and "post_quant_conv" not in name
        modules += [name.removesuffix(".weight") for part in parts if quant or part in name and "encoder" in name]
    return modules


def adapted(rank, modules=None):
    """The base with OSEDiff's adapters, freshly drawn."""
    unet = UNet2DConditionModel.from_pretrained(HERE / "unet", torch_dtype=torch.float32).eval()
    vae = AutoencoderKL.from_pretrained(HERE / "vae").eval()
    modules = modules or dict(unet_modules(unet), vae=vae_modules(vae))

    def config(part):
        return LoraConfig(r=rank, init_lora_weights="gaussian", target_modules=modules[part])

    for part in ("encoder", "decoder", "others"):
        unet.add_adapter(config(part), adapter_name=f"default_{part}")
    unet.set_adapter(["default_encoder", "default_decoder", "default_others"])
    vae.add_adapter(config("vae"), adapter_name="default_encoder")
    vae.set_adapter(["default_encoder"])
    return unet.eval(), vae.eval(), modules


def trained(name, rank):
    """An OSEDiff file: the adapters moved away from zero, and the UNet's first convolution changed as well."""
    unet, vae, modules = adapted(rank)
    for model in (unet, vae):
        for key, parameter in model.named_parameters():
            if "lora_B" in key:
                parameter.copy_(torch.randn_like(parameter) * 0.12)
            elif "lora_A" in key:
                parameter.copy_(torch.randn_like(parameter) / math.sqrt(parameter[0].numel()))
    for parameter in unet.conv_in.base_layer.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.1)
    states = dict(
        state_dict_unet={key: tensor for key, tensor in unet.state_dict().items() if "lora" in key or "conv_in" in key},
        state_dict_vae={key: tensor for key, tensor in vae.state_dict().items() if "lora" in key},
    )
    torch.save(dict(
        vae_lora_encoder_modules=modules["vae"], unet_lora_encoder_modules=modules["encoder"],
        unet_lora_decoder_modules=modules["decoder"], unet_lora_others_modules=modules["others"],
        rank_unet=rank, rank_vae=rank, **states,
    ), HERE / name)


def opened(name):
    """The model as OSEDiff's test script makes it of the folder and the file: adapters beside the base, not merged."""
    file = torch.load(HERE / name, weights_only=True)
    modules = {part: file[f"unet_lora_{part}_modules"] for part in ("encoder", "decoder", "others")}
    unet, vae, _ = adapted(file["rank_unet"], dict(modules, vae=file["vae_lora_encoder_modules"]))
    for model, state in ((unet, file["state_dict_unet"]), (vae, file["state_dict_vae"])):
        keys = [key for key, _ in model.named_parameters() if "lora" in key or model is unet and "conv_in" in key]
        assert sorted(keys) == sorted(state), name
        model.load_state_dict(state, strict=False)
    return unet, vae


def moments(vae, x):
    """Mean and log variance, before the latter is clamped."""
    return vae.quant_conv(vae.encoder(x))


def sampled(moments, noise):
    mean, log_variance = moments.chunk(2, 1)
    return (mean + torch.exp(0.5 * log_variance.clamp(-30, 20)) * noise) * SCALING


def alpha():
    scheduler = DDPMScheduler.from_config(SCHEDULER)
    assert not scheduler.config.clip_sample and scheduler.alphas_cumprod.dtype == torch.float32
    return scheduler.alphas_cumprod[TIME]


def denoised(z, e):
    """The step of a DDPM scheduler with one timestep: what it says of the original, and no noise (1e-10)."""
    return (z - (1 - alpha()) ** 0.5 * e) / alpha() ** 0.5


def predicted(unet, z, embeds):
    return unet(z, torch.tensor([TIME]), encoder_hidden_states=embeds).sample


def noise_for(seed, like):
    torch.manual_seed(seed)
    return torch.randn(like.shape)


def unit(picture):
    return torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1)[None].float() / 255 * 2 - 1


def pixels(picture):
    return torch.from_numpy(np.asarray(picture).copy())


def matched(result, source):
    """OSEDiff's default: the colours of the enlarged picture, taken between pictures of 8 bits."""
    result, source = (unit(picture) * 0.5 + 0.5 for picture in (result, source))
    return colour.adain(result, source)[0].clamp(0, 1).mul(255).byte().permute(1, 2, 0).contiguous()


def photo(seed, width, height):
    return Image.fromarray(colour.picture(seed, width, height) // 3 * 2 + 30)


def networks(plain, tuned, second, texts):
    """Each network alone, without and with either file."""
    for name, size in dict(even=(1, 4, 16, 16), odd=(1, 4, 13, 10), batch=(2, 4, 12, 8)).items():
        z = torch.randn(size)
        embeds = torch.cat(texts[1:1 + size[0]])
        keep(**{f"unet__{name}__latent": z, f"unet__{name}__embeds": embeds})
        for model, (unet, _) in dict(base=plain, rank_4=tuned, rank_2=second).items():
            e = predicted(unet, z, embeds)
            keep(**{f"unet__{name}__{model}": e})
    picture, latent = torch.rand(1, 3, 48, 72) * 2 - 1, torch.randn(1, 4, 5, 7)
    keep(vae__picture=picture, vae__latent=latent, vae__decoded=plain[1].decode(latent).sample)
    for model, (_, vae) in dict(base=plain, rank_4=tuned, rank_2=second).items():
        keep(**{f"vae__moments_{model}": moments(vae, picture)})
        assert torch.equal(vae.decode(latent).sample, TENSORS["vae.decoded"]), "nothing adapts the decoder"


def restored(model, picture, embeds, seed, name=None):
    unet, vae = model
    found = moments(vae, unit(picture))
    noise = noise_for(seed, found[:, :4])
    z = sampled(found, noise)
    e = predicted(unet, z, embeds)
    x0 = denoised(z, e)
    decoded = vae.decode(x0 / SCALING).sample
    if name:
        keep(**{
            f"{name}__picture": pixels(picture), f"{name}__seed": torch.tensor(seed), f"{name}__noise": noise,
            f"{name}__moments": found, f"{name}__latent": z, f"{name}__noise_pred": e, f"{name}__x0": x0,
            f"{name}__decoded": decoded,
        })
    return full.picture(decoded)


def steps(models, texts):
    for i, (model, (width, height), prompt, seed) in enumerate([
        (0, (64, 64), 5, 42), (0, (72, 40), 1, 7), (1, (40, 72), 0, 42),
    ]):
        picture = photo(i, width, height)
        out = restored(models[model], picture, texts[prompt], seed, f"step__{i}")
        keep(**{
            f"step__{i}__prompt": torch.tensor(prompt), f"step__{i}__rank": torch.tensor([4, 2][model]),
            f"step__{i}__result": out, f"step__{i}__adain": matched(out, picture),
        })


def chains(model, texts):
    """The recursion of ../sd3 with this backbone: crop, bicubic, a step, again; plain and colour-matched."""
    for i, (prompt, seed, fix) in enumerate([(0, 42, False), (5, 7, True), (3, 12345, True)]):
        source = photo(10 + i, 104, 80)
        keep(**{f"chain__{i}__photo": pixels(source), f"chain__{i}__options": torch.tensor([prompt, seed, int(fix)])})
        size = 64
        scale = size / min(source.size)
        resized = source.resize((int(source.width * scale), int(source.height * scale)), Image.LANCZOS)
        left, top = (resized.width - size) // 2, (resized.height - size) // 2
        state = resized.crop((left, top, left + size, top + size))
        for step in range(1, 4):
            n, a = size // 4, (size - size // 4) // 2
            enlarged = state.crop((a, a, a + n, a + n)).resize((size, size), Image.BICUBIC)
            out = restored(model, enlarged, texts[prompt], seed)
            out = matched(out, enlarged) if fix else out
            state = Image.fromarray(out.numpy())
            keep(**{f"chain__{i}__{step}": out})


def hooked(net, x, size, decoder):
    """In tiles, not the fast way: at each norm all tiles wait, and their means and variances are averaged by their
    pixels (of the tiles with their margins). Also gives the number of tiles."""
    pad = 11 if decoder else 32
    _, _, h, w = x.shape
    if max(h, w) <= 2 * pad + size:
        return net(x), 1
    scaled = (lambda v: v * 8) if decoder else (lambda v: v // 8)

    def spans(length):
        """Along one axis: with margins from, to; what is kept of it from, to."""
        count = max(math.ceil((length - 2 * pad) / size), 1)
        side = full.best(math.ceil((length - 2 * pad) / count), size)
        inner = [(pad + i * side, min(pad + (i + 1) * side, length)) for i in range(count)]
        return [
            (max(0, a - pad), min(length, b + pad), a if a > pad else 0, b if b < length - pad else length)
            for a, b in inner
        ]

    boxes = [(row, column) for row in spans(h) for column in spans(w)]
    tiles, kept = [x[:, :, row[0]:row[1], column[0]:column[1]] for row, column in boxes], [None] * len(boxes)
    for what, value in full.tasks(net, decoder):
        if what == "norm":
            # The original runs through the tiles back and forth: other orders of these sums, other rounding.
            found = [full.statistics(tile, value.num_groups) for tile in tiles]
            counts = torch.tensor([tile.shape[2] * tile.shape[3] for tile in tiles], dtype=torch.float32)
            share = counts / counts.max()
            share = (share / share.sum())[:, None]
            variance, mean = ((torch.stack([pair[i] for pair in found]) * share).sum(0) for i in (0, 1))
            tiles = [full.normed(tile, value, variance, mean) for tile in tiles]
        elif what == "keep":
            kept = [value(tile) for tile in tiles]
        elif what == "add":
            tiles = [tile + other for tile, other in zip(tiles, kept)]
        else:
            tiles = [value(tile) for tile in tiles]
    out = torch.zeros(x.shape[0], tiles[0].shape[1], scaled(h), scaled(w))
    for tile, ends in zip(tiles, boxes):
        (top, bottom), (left, right) = ((scaled(end[2]), scaled(end[3])) for end in ends)
        y, x = (scaled(end[2]) - scaled(end[0]) for end in ends)
        out[:, :, top:bottom, left:right] = tile[:, :, y:y + bottom - top, x:x + right - left]
    return out, len(tiles)


def in_tiles(unet, z, embeds, tile, overlap):
    """The prediction for a latent of any size, and the number of tiles: predictions are blended, not latents."""
    _, _, h, w = z.shape
    if h * w <= tile * tile:
        return predicted(unet, z, embeds), 1
    tile = min(tile, h, w)

    def starts(length):
        at, n = 0, 0
        while at < length:
            at = max(n * tile - overlap * n, 0) + tile
            n += 1
        return [min(i * (tile - overlap), length - tile) for i in range(n)]

    # Weights of 64 bits, sums of 32.
    bell, total, count = full.weights(tile), torch.zeros_like(z), torch.zeros_like(z)
    corners = [(x, y) for x in starts(w) for y in starts(h)]
    for x, y in corners:
        total[:, :, y:y + tile, x:x + tile] += predicted(unet, z[:, :, y:y + tile, x:x + tile], embeds) * bell
        count[:, :, y:y + tile, x:x + tile] += bell
    return total / count, len(corners)


def tiles(model, texts):
    unet, vae = model
    z = torch.randn(1, 4, 24, 40)
    e, n = in_tiles(unet, z, texts[1], 16, 8)
    keep(tiled__latent=z, tiled__noise_pred=e, tiled__bell=full.weights(16))
    picture, latent = photo(20, 168, 136), torch.randn(1, 4, 33, 40)
    encoded, several = hooked(vae.encoder, unit(picture), 64, False)
    decoded, many = hooked(vae.decoder, latent, 8, True)
    # Every fifth pixel: 5 meets all phases of the enlargement by 8.
    keep(tiled__picture=pixels(picture), tiled__encoded=encoded, tiled__post_quant=latent)
    keep(tiled__decoded=decoded[..., ::5, ::5])
    print("tiles:", n, "of the latent,", several, "of the encoder,", many, "of the decoder")
    for net, x, out in ((vae.encoder, unit(picture), encoded), (vae.decoder, latent, decoded)):
        print("  in tiles and at once differ by", (net(x) - out).abs().max().item(), "of", out.std().item())


def whole(model, texts):
    unet, vae = model
    for i, (width, height, upscale, seed, tile, overlap, encoder, decoder) in enumerate(FULL):
        source = photo(30 + i, width, height)
        enlarged = source.resize((width * upscale, height * upscale), Image.LANCZOS)
        # Here sides need not be multiples of 8; OSEDiff makes them so by shrinking the enlarged picture.
        sides = [side - side % 8 for side in enlarged.size]
        enlarged = enlarged.resize(sides, Image.LANCZOS)
        encoded, a = hooked(vae.encoder, unit(enlarged), encoder, False)
        found = vae.quant_conv(encoded)
        z = sampled(found, noise_for(seed, found[:, :4]))
        e, b = in_tiles(unet, z, texts[1], tile, overlap)
        x0 = denoised(z, e)
        decoded, c = hooked(vae.decoder, vae.post_quant_conv(x0 / SCALING), decoder, True)
        out = full.picture(decoded)
        keep(**{
            f"full__{i}__photo": pixels(source), f"full__{i}__latent": z, f"full__{i}__x0": x0,
            f"full__{i}__result": out, f"full__{i}__tiles": torch.tensor([a, b, c]),
            f"full__{i}__options": torch.tensor([upscale, seed, tile, overlap, encoder, decoder]),
        })


def check():
    """Sizes, and that nothing is flat or mostly clipped."""
    for name, tensor in TENSORS.items():
        values = tensor.float()
        found = f"{values.mean():.4f} +- {values.std():.4f}" if tensor.numel() > 1 else f"{tensor.item():.9g}"
        print(f"{name:28} {str(tensor.dtype):14} {str(list(tensor.shape)):20} {found}")
    for name, tensor in TENSORS.items():
        if name.endswith("result"):
            clipped = ((tensor == 0) | (tensor == 255)).float().mean()
            assert tensor.float().std() > 20 and clipped < 0.2, (name, clipped)
    for file in sorted(HERE.rglob("*")):
        if file.is_file():
            print(f"{file.stat().st_size:9} {file.relative_to(HERE)}")
    print(f"{sum(file.stat().st_size for file in HERE.rglob('*') if file.is_file()):9} in all")


if __name__ == "__main__":
    torch.manual_seed(0)
    with torch.no_grad():
        base()
        tokens = tokenizer()
        tokens.save_pretrained(HERE / "tokenizer_whole")  # tokenizer.json, as transformers 5 writes it
        text = text_encoder(len(json.loads((HERE / "tokenizer/vocab.json").read_text())))
        trained("osediff.pkl", 4)
        trained("osediff_rank_2.pkl", 2)
        plain = (
            UNet2DConditionModel.from_pretrained(HERE / "unet", torch_dtype=torch.float32).eval(),
            AutoencoderKL.from_pretrained(HERE / "vae").eval(),
        )
        tuned, second = opened("osediff.pkl"), opened("osediff_rank_2.pkl")
        texts = []
        for i, prompt in enumerate(PROMPTS):
            ids = tokens(prompt, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids
            texts.append(text(ids)[0])
            keep(**{f"text__{i}__ids": ids[0], f"text__{i}__embeds": texts[-1]})
        write(".", "prompts.json", PROMPTS)
        keep(alpha=alpha())
        networks(plain, tuned, second, texts)
        steps([tuned, second], texts)
        chains(tuned, texts)
        tiles(tuned, texts)
        whole(tuned, texts)
        odd_unet()
    save_file(TENSORS, HERE / "cases.safetensors")
    check()
