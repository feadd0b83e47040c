"""Writes tiny random models of the networks that spandrel reads, in the layouts that are in circulation, and what spandrel
makes of a random picture with each: NAME.pth or NAME.safetensors, and `cases.safetensors` with NAME.input and NAME.output.

    python3 -m pip install torch==2.11.0 torchvision==0.26.0 spandrel==0.4.2 einops safetensors
    python3 tests/parity/single_image/export.py
"""

import os

import torch
from safetensors.torch import save_file
from spandrel import ModelLoader
from spandrel.architectures.DAT import DAT
from spandrel.architectures.DRCT import DRCT
from spandrel.architectures.HAT import HAT
from spandrel.architectures.OmniSR import OmniSR
from spandrel.architectures.PLKSR import PLKSR, RealPLKSR
from spandrel.architectures.SPAN import SPAN
from spandrel.architectures.SwinIR import SwinIR

HERE = os.path.dirname(os.path.abspath(__file__))
torch.set_grad_enabled(False)
cases = {}


def random(model, seed):
    """Weights that keep what passes through them about as large as it is, and no bias or norm that does nothing."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.dim() > 1:
            parameter.copy_(noise * 0.7 / max(parameter[0].numel(), 1) ** 0.5)
        elif name.endswith("weight"):
            parameter.copy_(1 + 0.1 * noise)
        else:
            parameter.copy_(0.1 * noise)
        if "temperature" in name or "bias_table" in name or "rel_pos_bias" in name:
            parameter.copy_(1 + noise)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.copy_(0.1 * torch.randn(buffer.shape, generator=generator))
        if name.endswith("running_var"):
            buffer.copy_(0.5 + torch.rand(buffer.shape, generator=generator))
    return model.eval()


def case(name, model, size, write, seed):
    """`write` makes a file of the weights; what spandrel loads from it is asked."""
    weights = {key: value.contiguous().clone() for key, value in random(model, seed).state_dict().items()}
    file = os.path.join(HERE, name)
    write(weights, file)
    network = ModelLoader().load_from_file(file)
    network.model.eval()
    x = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(seed + 1000))
    stem = name.split(".")[0]
    cases[f"{stem}.input"] = x
    # The module itself: its caller would clamp what comes out.
    cases[f"{stem}.output"] = network.model(x).contiguous()
    print(name, os.path.getsize(file), "x", network.scale, cases[f"{stem}.output"].std().item())


def wrapped(key, prefix=""):
    return lambda weights, file: torch.save({key: {prefix + name: value for name, value in weights.items()}}, file)


def bare(weights, file):
    torch.save(weights, file)


def safetensors(dtype):
    def write(weights, file):
        save_file({name: value.to(dtype) if value.is_floating_point() else value for name, value in weights.items()}, file)

    return write


def unshuffled(write):
    """As the files name it where a pixel unshuffle stands before the first convolution."""

    def renamed(weights, file):
        write({name.replace("conv_first.", "conv_first.1."): value for name, value in weights.items()}, file)

    return renamed


def stale(write):
    """With an `eval_conv` as after training that was stopped between two updates of it."""

    def stirred(weights, file):
        write({name: value + 1 if "eval_conv" in name else value for name, value in weights.items()}, file)

    return stirred


case("span_x4.pth", SPAN(num_in_ch=3, num_out_ch=3, feature_channels=8, upscale=4), (11, 14), stale(wrapped("params_ema")), 1)
case("span_x2_plain.safetensors", SPAN(num_in_ch=3, num_out_ch=3, feature_channels=6, upscale=2, norm=False), (9, 16),
     safetensors(torch.float16), 2)

small = dict(dim=8, n_blocks=2, kernel_size=7, split_ratio=0.25)
case("plksr_x4.pth", PLKSR(**small, upscaling_factor=4, ccm_type="CCM"), (13, 10), wrapped("params"), 3)
case("plksr_x2_iccm.safetensors", PLKSR(**small, upscaling_factor=2, ccm_type="ICCM", use_ea=False), (12, 9),
     safetensors(torch.float32), 4)
case("plksr_x3_dccm.pth", PLKSR(**small, upscaling_factor=3, ccm_type="DCCM"), (8, 9), bare, 5)
case("realplksr_x4.pth", RealPLKSR(**small, upscaling_factor=4), (13, 17), wrapped("params_ema"), 6)
case("realplksr_x2_dysample.safetensors", RealPLKSR(**small, upscaling_factor=2, dysample=True, layer_norm=True), (10, 13),
     safetensors(torch.bfloat16), 7)
case("realplksr_x3_dysample.pth", RealPLKSR(**small, upscaling_factor=3, dysample=True, use_ea=False), (9, 11),
     wrapped("net_g"), 8)
case("realplksr_x1_dysample.pth", RealPLKSR(**small, upscaling_factor=1, dysample=True), (9, 11), wrapped("state_dict"), 9)

case("dat_x2.safetensors", DAT(img_size=8, embed_dim=32, split_size=[4, 8], depth=[3, 5], num_heads=[2, 4],
                               expansion_factor=2.0, upscale=2, resi_connection="3conv"), (18, 21),
     safetensors(torch.float16), 10)
case("dat_x4_direct.pth", DAT(img_size=8, embed_dim=32, split_size=[4, 2], depth=[3, 1], num_heads=[2, 2],
                              expansion_factor=2.0, upscale=4, qkv_bias=False, upsampler="pixelshuffledirect"), (17, 16),
     bare, 11)

swin = dict(img_size=16, embed_dim=12, depths=[2, 3], num_heads=[2, 3], mlp_ratio=2.0)
case("swinir_x4_nearest.safetensors", SwinIR(**swin, window_size=8, upscale=4, upsampler="nearest+conv",
                                             resi_connection="3conv"), (17, 22), safetensors(torch.float16), 12)
case("swinir_x2_direct.safetensors", SwinIR(**swin, window_size=4, upscale=2, upsampler="pixelshuffledirect"),
     (18, 16), safetensors(torch.float16), 13)
case("swinir_x2.safetensors", SwinIR(**swin, window_size=4, upscale=2, upsampler="pixelshuffle"), (16, 19),
     safetensors(torch.bfloat16), 14)
case("swinir_x1_jpeg.pth", SwinIR(img_size=14, embed_dim=12, depths=[2], num_heads=[2], mlp_ratio=2.0, window_size=7,
                                  upscale=1, img_range=255.0), (20, 23), wrapped("params", "module."), 15)
case("swinir_x1_unshuffle.safetensors", SwinIR(**swin, window_size=4, upscale=2, upsampler="nearest+conv", start_unshuffle=2),
     (24, 40),
     unshuffled(safetensors(torch.float16)), 16)

hat = dict(img_size=16, depths=[2, 1], num_heads=[2, 3], compress_ratio=3, squeeze_factor=6, mlp_ratio=2.0,
           upsampler="pixelshuffle", resi_connection="1conv", num_feat=8)
case("hat_x4.safetensors", HAT(**hat, embed_dim=12, window_size=4, overlap_ratio=0.5, upscale=4), (18, 21),
     safetensors(torch.float16), 17)
case("hat_x2_bf16.safetensors", HAT(**hat, embed_dim=12, window_size=8, overlap_ratio=0.25, upscale=2, qkv_bias=False), (17, 16),
     safetensors(torch.bfloat16), 18)

case("drct_x2.safetensors", DRCT(img_size=16, embed_dim=12, depths=(6, 6), num_heads=(3, 2), window_size=4, upscale=2, gc=5,
                                 upsampler="pixelshuffle"), (16, 32), safetensors(torch.float16), 20)

case("drct_x2_unshifted.safetensors", DRCT(img_size=8, embed_dim=12, depths=(6,), num_heads=(2,), window_size=8, upscale=2, gc=4,
                                           upsampler="pixelshuffle"), (16, 16), safetensors(torch.float16), 23)

case("omnisr_x4.pth", OmniSR(num_feat=16, block_num=1, res_num=2, window_size=8, up_scale=4), (17, 22), wrapped("params"), 21)
case("omnisr_x2_plain.safetensors", OmniSR(num_feat=8, block_num=2, res_num=1, window_size=8, up_scale=2, pe=False), (16, 25),
     safetensors(torch.float16), 22)

case("omnisr_x3_no_bias.safetensors", OmniSR(num_feat=8, block_num=1, res_num=1, window_size=8, up_scale=3, bias=False), (19, 16),
     safetensors(torch.float16), 24)

save_file(cases, os.path.join(HERE, "cases.safetensors"))
