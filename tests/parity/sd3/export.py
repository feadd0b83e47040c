"""Makes tiny random models in the layout of stable-diffusion-3-medium-diffusers, and what the reference libraries make
of them in float32 on the CPU.

    python3 -m pip install torch==2.11.0 diffusers==0.42.1 transformers==5.23.0 peft==0.21.2 safetensors numpy
    python3 tests/parity/sd3/export.py
"""

import json
from pathlib import Path

import numpy as np
import tokenizers
import torch
from diffusers import AutoencoderKL, SD3Transformer2DModel
from peft import LoraConfig, get_peft_model_state_dict  # noqa: F401  (peft must be there for add_adapter)
from PIL import Image
from safetensors.torch import save_file
from transformers import (
    CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer, PreTrainedTokenizerFast, T5Config, T5EncoderModel,
)

HERE = Path(__file__).parent
SHAPE = dict(
    sample_size=12, patch_size=2, in_channels=16, num_layers=3, attention_head_dim=16, num_attention_heads=3,
    joint_attention_dim=60, caption_projection_dim=48, pooled_projection_dim=48, out_channels=16, pos_embed_max_size=14,
)
TENSORS = {}


def keep(**tensors):
    for name, tensor in tensors.items():
        TENSORS[name.replace("__", ".")] = tensor.detach().contiguous()


def shaken(model):
    """Norms at 1, biases at 0 and gates at 0 would hide mistakes."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.08)
    return model.eval()


def transformer(name, **more):
    model = shaken(SD3Transformer2DModel(**SHAPE, **more))
    model.save_pretrained(HERE / name)
    latent = torch.randn(2, 16, 10, 14)
    prompt, pooled = torch.randn(2, 23, 60), torch.randn(2, 48)
    time = torch.tensor([1000.0, 1000.0])
    velocity = model(latent, prompt, pooled, time, return_dict=False)[0]
    keep(**{f"{name}__latent": latent, f"{name}__prompt": prompt, f"{name}__pooled": pooled, f"{name}__velocity": velocity})
    return model, (latent, prompt, pooled, time)


def transformer_lora(model, inputs):
    """As the reference's training saves it: a list of up, down for each linear layer inside AdaLayerNormZero."""
    layers = [
        layer for module in model.modules() if module.__class__.__name__ == "AdaLayerNormZero"
        for layer in module.modules() if isinstance(layer, torch.nn.Linear)
    ]
    pairs = []
    for layer in layers:
        up = torch.randn(layer.out_features, 4) * 0.1
        down = torch.randn(4, layer.in_features) * 0.1
        layer.weight.data += up @ down
        # The reference casts what these layers put out, also where the transformer is in float32.
        layer.register_forward_hook(lambda module, inputs, output: output.half())
        pairs += [up, down]
    torch.save(pairs, HERE / "model_20001.pkl")
    keep(transformer__velocity_lora=model(*inputs[:3], inputs[3], return_dict=False)[0])
    return model


def vae():
    model = shaken(AutoencoderKL(
        in_channels=3, out_channels=3, latent_channels=16, block_out_channels=(12, 18, 24, 24), layers_per_block=2,
        norm_num_groups=6, sample_size=48, scaling_factor=1.5305, shift_factor=0.0609, use_quant_conv=False,
        use_post_quant_conv=False, down_block_types=["DownEncoderBlock2D"] * 4, up_block_types=["UpDecoderBlock2D"] * 4,
    ))
    model.save_pretrained(HERE / "vae")
    picture, latent = torch.rand(1, 3, 48, 72) * 2 - 1, torch.randn(1, 16, 5, 7)
    posterior = model.encode(picture).latent_dist
    keep(vae__picture=picture, vae__mean=posterior.mean, vae__logvar=posterior.logvar)
    keep(vae__latent=latent, vae__decoded=model.decode(latent, return_dict=False)[0])

    # The encoder with its LoRA inside, in half precision, as the training saved it.
    targets = ["encoder.conv_in", "conv1", "conv2", "conv_shortcut", "conv_out", "downsamplers.0.conv", "to_q", "to_k", "to_v", "to_out.0"]
    names = [
        name for name, _ in model.named_modules()
        if name.startswith("encoder.") and any(name.endswith(target) for target in targets)
    ]
    model.add_adapter(LoraConfig(r=4, init_lora_weights="gaussian", target_modules=names), adapter_name="default_encoder")
    with torch.no_grad():
        for name, parameter in model.encoder.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn_like(parameter) * 0.05)
            parameter.copy_(parameter + torch.randn_like(parameter) * 0.02)
            parameter.copy_(parameter.half().float())
    torch.save({key: tensor.half() for key, tensor in model.encoder.state_dict().items()}, HERE / "vae_encoder_20001.pt")
    posterior = model.encode(picture).latent_dist
    keep(vae__mean_lora=posterior.mean, vae__logvar_lora=posterior.logvar)
    return model


START, END = "<|startoftext|>", "<|endoftext|>"
WORDS = "the red fur of an old fox, whiskers and teeth in the snow; 12 photos don't lie".split()


def clip_tokenizer(name, pad):
    """Bytes, some merges, the special tokens last: as in CLIP's vocabulary, the end has the largest id."""
    folder = HERE / name
    folder.mkdir(exist_ok=True)
    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocab, merges = letters + [letter + "</w>" for letter in letters], []
    for word in WORDS:
        left, *rest = [c for c in word[:-1] if c.isalnum()] + [word[-1] + "</w>"]
        for right in rest:
            if f"{left} {right}" not in merges:
                merges.append(f"{left} {right}")
            left += right
            if left not in vocab:
                vocab.append(left)
    if pad == "!":
        # Id 0, as in the second tokenizer of Stable Diffusion 3.
        vocab.remove("!")
        vocab.insert(0, "!")
    vocab += [START, END]
    ids = {token: i for i, token in enumerate(vocab)}
    (folder / "vocab.json").write_text(json.dumps(ids, ensure_ascii=False))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))
    added = {str(ids[token]): dict(content=token, lstrip=False, normalized=token != "!", rstrip=False, single_word=False, special=True)
             for token in {START, END, pad}}
    (folder / "tokenizer_config.json").write_text(json.dumps(dict(
        added_tokens_decoder=added, bos_token=START, eos_token=END, unk_token=END, pad_token=pad, model_max_length=77,
        tokenizer_class="CLIPTokenizer", do_lower_case=True,
    )))
    return CLIPTokenizer.from_pretrained(folder)


def t5_tokenizer():
    folder = HERE / "tokenizer_3"
    folder.mkdir(exist_ok=True)
    pieces = ["\u2581"] + ["\u2581" + word for word in WORDS] + sorted(set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJ0123456789!?.,;:'-é"))
    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    vocab += [(piece, -1.0 - i / 10) for i, piece in enumerate(dict.fromkeys(pieces))]
    tokenizer = tokenizers.Tokenizer(tokenizers.models.Unigram(vocab, unk_id=2))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer.add_special_tokens(["<pad>", "</s>", "<unk>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def clip(name, act, vocab, end, width, heads, projection):
    config = CLIPTextConfig(
        vocab_size=vocab, hidden_size=width, intermediate_size=2 * width + 6, projection_dim=projection, num_hidden_layers=3,
        num_attention_heads=heads, max_position_embeddings=77, hidden_act=act, eos_token_id=end, bos_token_id=0, pad_token_id=1,
    )
    model = shaken(CLIPTextModelWithProjection(config))
    model.save_pretrained(HERE / name)
    ids = torch.randint(3, 300, (3, 29))
    # The text ends, and the padding may be the same token again.
    for row, at in enumerate((4, 28, 11)):
        ids[row, at:] = vocab - 1
    out = model(ids, output_hidden_states=True)
    keep(**{f"{name}__ids": ids, f"{name}__penultimate": out.hidden_states[-2], f"{name}__pooled": out.text_embeds})
    return model


def t5():
    config = T5Config(
        vocab_size=203, d_model=60, d_kv=9, d_ff=100, num_layers=3, num_heads=5, feed_forward_proj="gated-gelu",
        relative_attention_num_buckets=20, relative_attention_max_distance=70,
    )
    model = shaken(T5EncoderModel(config))
    model.save_pretrained(HERE / "text_encoder_3")
    ids = torch.randint(0, 203, (2, 151))
    keep(text_encoder_3__ids=ids, text_encoder_3__states=model(ids).last_hidden_state)
    return model


PROMPTS = [
    "", "The red FUR of an old fox", "teeth! in the snow!!  12 photos", "don't  lie\n\tin \u2603 \U0001F98A snow; caf\u00e9, na\u00efve?",
    "whiskers and " * 300,
]


def chain(tokens, texts, transformer, vae):
    """The reference's recursion: crop, bicubic, OSEDiff, again."""
    rng = np.random.default_rng(3)
    for i, (prompt, seed) in enumerate(zip(PROMPTS, (42, 7, 42, 1, 12345))):
        y, x = np.mgrid[0:80, 0:104]
        photo = np.stack([x * 2, y * 3, (x * 5 + y * 7) % 256], -1) + rng.integers(0, 30, (80, 104, 3))
        photo = Image.fromarray(photo.clip(0, 255).astype(np.uint8))
        keep(**{f"chain__{i}__photo": torch.from_numpy(np.asarray(photo).copy())})
        # The first state as the reference makes it: the short side to the size, then the middle.
        size = 64
        scale = size / min(photo.size)
        photo = photo.resize((int(photo.width * scale), int(photo.height * scale)), Image.LANCZOS)
        left, top = (photo.width - size) // 2, (photo.height - size) // 2
        state = photo.crop((left, top, left + size, top + size))

        ids = [tokens[n](prompt, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids for n in (0, 1)]
        ids.append(tokens[2](prompt, padding="max_length", max_length=512, truncation=True, return_tensors="pt").input_ids)
        for n in range(3):
            keep(**{f"chain__{i}__ids_{n}": ids[n][0]})
        clips = [texts[n](ids[n], output_hidden_states=True) for n in (0, 1)]
        clip_embeds = torch.cat([out.hidden_states[-2] for out in clips], -1)
        long = texts[2](ids[2]).last_hidden_state
        clip_embeds = torch.nn.functional.pad(clip_embeds, (0, long.shape[-1] - clip_embeds.shape[-1]))
        embeds = torch.cat([clip_embeds, long], 1)
        pooled = torch.cat([out.text_embeds for out in clips], -1)
        keep(**{f"chain__{i}__embeds": embeds, f"chain__{i}__pooled": pooled})
        for step in range(1, 4):
            n = size // 4
            a = (size - n) // 2
            enlarged = state.crop((a, a, a + n, a + n)).resize((size, size), Image.BICUBIC)
            lq = torch.from_numpy(np.asarray(enlarged).copy()).permute(2, 0, 1)[None].float() / 255 * 2 - 1
            posterior = vae.encode(lq).latent_dist
            torch.manual_seed(seed)
            noise = torch.randn(posterior.mean.shape)
            z = (posterior.mean + posterior.std * noise) * 1.5305
            z = z - transformer(z, embeds, pooled, torch.tensor([1000.0]), return_dict=False)[0]
            out = vae.decode(z / 1.5305 + 0.0609, return_dict=False)[0].clamp(-1, 1) * 0.5 + 0.5
            state = Image.fromarray(out[0].mul(255).byte().permute(1, 2, 0).numpy())
            keep(**{f"chain__{i}__{step}": torch.from_numpy(np.asarray(state).copy())})


if __name__ == "__main__":
    torch.manual_seed(0)
    with torch.no_grad():
        tuned = transformer_lora(*transformer("transformer"))
        transformer("transformer_35", qk_norm="rms_norm", dual_attention_layers=(0, 1))
        autoencoder = vae()
        tokens = [clip_tokenizer("tokenizer", END), clip_tokenizer("tokenizer_2", "!"), t5_tokenizer()]
        sizes = [len(json.loads((HERE / name / "vocab.json").read_text())) for name in ("tokenizer", "tokenizer_2")]
        texts = [
            clip("text_encoder", "quick_gelu", sizes[0], 2, 24, 3, 20),
            clip("text_encoder_2", "gelu", sizes[1], sizes[1] - 1, 30, 5, 28), t5(),
        ]
        chain(tokens, texts, tuned, autoencoder)
    save_file(TENSORS, HERE / "cases.safetensors")
