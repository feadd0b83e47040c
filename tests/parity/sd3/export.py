"""Makes tiny random models in the layout of stable-diffusion-3-medium-diffusers, and what the reference libraries make
of them in float32 on the CPU.

    python3 -m pip install torch==2.11.0 diffusers==0.42.1 transformers==5.23.0 peft==0.21.2 safetensors numpy
    python3 tests/parity/sd3/export.py
"""

from pathlib import Path

import torch
from diffusers import AutoencoderKL, SD3Transformer2DModel
from peft import LoraConfig, get_peft_model_state_dict  # noqa: F401  (peft must be there for add_adapter)
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, T5Config, T5EncoderModel

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
        pairs += [up, down]
    torch.save(pairs, HERE / "model_20001.pkl")
    keep(transformer__velocity_lora=model(*inputs[:3], inputs[3], return_dict=False)[0])


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


def clip(name, act, end, width, heads):
    config = CLIPTextConfig(
        vocab_size=311, hidden_size=width, intermediate_size=2 * width + 6, projection_dim=20, num_hidden_layers=3,
        num_attention_heads=heads, max_position_embeddings=29, hidden_act=act, eos_token_id=end, bos_token_id=0, pad_token_id=1,
    )
    model = shaken(CLIPTextModelWithProjection(config))
    model.save_pretrained(HERE / name)
    ids = torch.randint(3, 300, (3, 29))
    # The text ends, and the padding may be the same token again.
    for row, at in enumerate((4, 28, 11)):
        ids[row, at:] = 310
    out = model(ids, output_hidden_states=True)
    keep(**{f"{name}__ids": ids, f"{name}__penultimate": out.hidden_states[-2], f"{name}__pooled": out.text_embeds})


def t5():
    config = T5Config(
        vocab_size=203, d_model=60, d_kv=9, d_ff=100, num_layers=3, num_heads=5, feed_forward_proj="gated-gelu",
        relative_attention_num_buckets=20, relative_attention_max_distance=70,
    )
    model = shaken(T5EncoderModel(config))
    model.save_pretrained(HERE / "text_encoder_3")
    ids = torch.randint(0, 203, (2, 151))
    keep(text_encoder_3__ids=ids, text_encoder_3__states=model(ids).last_hidden_state)


if __name__ == "__main__":
    torch.manual_seed(0)
    with torch.no_grad():
        transformer_lora(*transformer("transformer"))
        transformer("transformer_35", qk_norm="rms_norm", dual_attention_layers=(0, 1))
        vae()
        clip("text_encoder", "quick_gelu", 2, 36, 3)
        clip("text_encoder_2", "gelu", 310, 40, 5)
        t5()
    save_file(TENSORS, HERE / "cases.safetensors")
