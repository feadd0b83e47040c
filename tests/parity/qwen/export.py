"""Makes tiny random Qwen2.5-VL models and what transformers makes of them in float32 on the CPU.

    python3 -m pip install torch==2.11.0 transformers==5.23.0 peft==0.21.2 safetensors numpy pillow
    python3 tests/parity/qwen/export.py
"""

from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from PIL import Image
from safetensors.torch import save_file
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

HERE = Path(__file__).parent
IMAGE, END = 140, (1, 3)
# Two layouts of heads, of windows, with and without an output layer of its own.
MODELS = {
    "tied": (dict(hidden_size=60, intermediate_size=90, num_hidden_layers=3, num_attention_heads=6, num_key_value_heads=2),
             [1, 2, 2], 36, [1, 3], True),
    "untied": (dict(hidden_size=80, intermediate_size=70, num_hidden_layers=2, num_attention_heads=5, num_key_value_heads=5),
               [2, 3, 3], 24, [2], False),
}
# Rows and columns of patches: wide, tall, tiny, two of them.
GRIDS = [[(10, 14)], [(4, 22)], [(18, 6)], [(2, 2)], [(8, 12), (6, 10)]]
TENSORS = {}


def keep(**tensors):
    for name, tensor in tensors.items():
        TENSORS[name.replace("__", ".")] = tensor.detach().contiguous()


def model(name):
    text, sections, window, full, tied = MODELS[name]
    config = Qwen2_5_VLConfig(
        text_config=dict(
            vocab_size=150, max_position_embeddings=4096, rms_norm_eps=1e-6, tie_word_embeddings=tied, bos_token_id=0, eos_token_id=END[0],
            rope_parameters=dict(rope_type="default", rope_theta=1e6, mrope_section=sections), **text,
        ),
        vision_config=dict(
            depth=4, hidden_size=48, intermediate_size=70, num_heads=3, patch_size=6, spatial_merge_size=2, temporal_patch_size=2,
            window_size=window, fullatt_block_indexes=full, out_hidden_size=text["hidden_size"],
        ),
        image_token_id=IMAGE, video_token_id=141, vision_start_token_id=142, vision_end_token_id=143, tie_word_embeddings=tied,
    )
    model = Qwen2_5_VLForConditionalGeneration(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(HERE / name)
    return model


def pictures():
    """Odd sizes: wide, tall, tiny, one pixel too many, 3000 pixels. Of large ones every 997th number is kept."""
    processor = Qwen2VLImageProcessorPil(min_pixels=3136, max_pixels=400 * 28 * 28)
    for i, (width, height) in enumerate([(61, 40), (200, 33), (30, 170), (5, 9), (70, 42), (43, 1300), (3000, 700)]):
        y, x = np.mgrid[0:height, 0:width]
        picture = np.stack([x * 3 % 256, y * 5 % 256, (x * 7 + y * 11) % 256], -1)
        picture = Image.fromarray(picture.astype(np.uint8))
        out = processor(picture, return_tensors="pt")
        keep(**{f"pictures__{i}__size": torch.tensor([width, height]), f"pictures__{i}__grid": out.image_grid_thw[0],
                f"pictures__{i}__patches": out.pixel_values.reshape(-1)[::997]})


def adapter(network):
    """A PEFT adapter of the language model, with other ranks and strengths for some layers."""
    config = LoraConfig(
        r=4, lora_alpha=12, target_modules=r".*language_model.*\.(q|k|v|o|gate|up|down)_proj", alpha_pattern={"o_proj": 5, "layers.1.mlp.up_proj": 20},
        rank_pattern={"k_proj": 2},
    )
    tuned = get_peft_model(network, config)
    for name, parameter in tuned.named_parameters():
        if "lora_" in name:
            parameter.copy_(torch.randn_like(parameter) * 0.2)
    tuned.save_pretrained(HERE / "adapter")
    ids = torch.randint(8, 130, (1, 21))
    keep(adapter__ids=ids[0], adapter__logits=tuned(input_ids=ids).logits[0, -1])


if __name__ == "__main__":
    torch.manual_seed(0)
    pictures()
    with torch.no_grad():
        for name in MODELS:
            network = model(name)
            for i, grids in enumerate(GRIDS):
                case = f"{name}__{i}__"
                ids = [5, 6, 7]
                for rows, columns in grids:
                    ids += [142] + [IMAGE] * (rows * columns // 4) + [143]
                ids += torch.randint(8, 130, (9,)).tolist()
                ids = torch.tensor([ids])
                grid = torch.tensor([(1, rows, columns) for rows, columns in grids])
                patches = torch.randn(int(grid.prod(-1).sum()), 3 * 2 * 6 * 6)
                kinds = (ids == IMAGE).int()
                inputs = dict(input_ids=ids, pixel_values=patches, image_grid_thw=grid, mm_token_type_ids=kinds)
                positions, deltas = network.model.get_rope_index(ids, kinds, image_grid_thw=grid)
                features = torch.cat(list(network.model.get_image_features(patches, grid).pooler_output))
                logits = network(**inputs).logits[0, -1]
                said = network.generate(
                    **inputs, attention_mask=torch.ones_like(ids), max_new_tokens=32, min_new_tokens=32, do_sample=False,
                    repetition_penalty=1.3, eos_token_id=list(END), pad_token_id=0,
                )[0, ids.shape[1]:]
                network.model.rope_deltas = None
                keep(**{
                    case + "ids": ids[0], case + "grids": grid, case + "patches": patches, case + "positions": positions[:, 0],
                    case + "delta": deltas[0], case + "features": features, case + "logits": logits, case + "said": said,
                })
            if name == "tied":
                adapter(network)
    save_file(TENSORS, HERE / "cases.safetensors")
