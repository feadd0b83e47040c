"""Makes tiny random Qwen2.5-VL models and what transformers makes of them in float32 on the CPU.

    python3 -m pip install torch==2.11.0 transformers==5.23.0 peft==0.21.2 safetensors numpy pillow
    python3 tests/parity/qwen/export.py
"""

import json
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from PIL import Image
from safetensors.torch import save_file
from transformers import GenerationConfig, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2TokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

HERE = Path(__file__).parent
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>"]
WORDS = "What is in this image Give me a set of words The second zoom first Based on knowledge fur fox".split()
# In the manner of the published one: a namespace that counts, a loop in a loop, tests of strings, maps and membership.
TEMPLATE = (
    "{% set seen = namespace(value=0) %}{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou help.<|im_end|>\n{% endif %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}<|im_end|>\n{% else %}"
    "{% for content in message['content'] %}{% if content['type'] == 'image' or 'image' in content %}"
    "{% set seen.value = seen.value + 1 %}{% if add_vision_id %}Picture {{ seen.value }}: {% endif %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% elif 'text' in content %}{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>\n"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tokenizer():
    letters = list(bytes_to_unicode().values())
    tokens, merges = list(letters), []
    for word in ["\u0120" + word for word in WORDS] + WORDS:
        left = word[0]
        for letter in word[1:]:
            if (left, letter) not in merges:
                merges.append((left, letter))
            left += letter
            if left not in tokens:
                tokens.append(left)
    vocabulary = {token: i for i, token in enumerate(tokens)}
    made = Qwen2TokenizerFast(vocab=vocabulary, merges=merges, additional_special_tokens=SPECIAL[1:])
    made.chat_template = TEMPLATE
    return made


TOKENIZER = tokenizer()
VOCABULARY = len(TOKENIZER) + 3
IMAGE = TOKENIZER.convert_tokens_to_ids("<|image_pad|>")
END = tuple(TOKENIZER.convert_tokens_to_ids(name) for name in ["<|im_end|>", "<|endoftext|>"])
VISION = [TOKENIZER.convert_tokens_to_ids(name) for name in ["<|vision_start|>", "<|vision_end|>"]]
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
            vocab_size=VOCABULARY, max_position_embeddings=4096, rms_norm_eps=1e-6, tie_word_embeddings=tied, bos_token_id=0, eos_token_id=END[0],
            rope_parameters=dict(rope_type="default", rope_theta=1e6, mrope_section=sections), **text,
        ),
        vision_config=dict(
            depth=4, hidden_size=48, intermediate_size=70, num_heads=3, patch_size=6, spatial_merge_size=2, temporal_patch_size=2,
            window_size=window, fullatt_block_indexes=full, out_hidden_size=text["hidden_size"],
        ),
        image_token_id=IMAGE, video_token_id=VOCABULARY - 1, vision_start_token_id=VISION[0], vision_end_token_id=VISION[1], tie_word_embeddings=tied,
    )
    model = Qwen2_5_VLForConditionalGeneration(config).eval()
    with torch.no_grad():
        # Layers that say more than the word before: a model that only repeats itself would test little.
        for key, parameter in model.named_parameters():
            parameter.add_(torch.randn_like(parameter) * (0.0 if "embed_tokens" in key else 0.2))
    folder = HERE / name
    penalty = {"tied": 1.05, "untied": 1.2}[name]
    model.generation_config = GenerationConfig(
        bos_token_id=END[1], pad_token_id=END[1], eos_token_id=list(END), do_sample=True, temperature=1e-6, repetition_penalty=penalty,
    )
    model.save_pretrained(folder)
    TOKENIZER.save_pretrained(folder)
    about = PROCESSOR.to_dict()
    if name == "tied":
        # As published: the template among the tokenizer's settings, the image processor in a file of its own.
        (folder / "chat_template.jinja").unlink()
        config = json.loads((folder / "tokenizer_config.json").read_text())
        (folder / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": TEMPLATE}, indent=1))
        about = {**about, "min_pixels": 3136, "max_pixels": 120000, "size": None}
        (folder / "preprocessor_config.json").write_text(json.dumps(about, indent=1))
    else:
        # As newer libraries write it.
        (folder / "processor_config.json").write_text(json.dumps({"image_processor": about}, indent=1))
    return model


PROCESSOR = Qwen2VLImageProcessorPil(patch_size=6, min_pixels=3136, max_pixels=120000)
ONE = "What is in this image? Give me a set of words."
TWO = (
    "The second image is a zoom-in of the first image. Based on this knowledge, what is in the second image? Give me a set of "
    "words."
)


def words(network, message, images):
    """What the reference's prompt extractor says of some pictures."""
    seen = PROCESSOR(images, return_tensors="pt")
    content = [{"type": "image", "image": "x.png"} for _ in images]
    chat = [{"role": "system", "content": message}, {"role": "user", "content": content}]
    text = TOKENIZER.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    counts = (seen.image_grid_thw.prod(-1) // 4).tolist()
    for count in counts:
        text = text.replace("<|image_pad|>", "<|one|>" * count, 1)
    ids = TOKENIZER(text.replace("<|one|>", "<|image_pad|>"), return_tensors="pt").input_ids
    network.model.rope_deltas = None
    said = network.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=seen.pixel_values, image_grid_thw=seen.image_grid_thw,
        mm_token_type_ids=(ids == IMAGE).int(), max_new_tokens=32,
    )
    return TOKENIZER.batch_decode(said[:, ids.shape[1]:], skip_special_tokens=True, clean_up_tokenization_spaces=False)[0]


def photo(width, height):
    y, x = np.mgrid[0:height, 0:width]
    return Image.fromarray(np.stack([x * 3 % 256, y * 5 % 256, (x * 7 ^ y * 11) % 256], -1).astype(np.uint8))


def odd(network, name):
    """Words for pictures of odd sizes: wide, tall, tiny, large, one and two of them."""
    sizes = [(200, 33), (30, 170), (5, 9), (3000, 700), (61, 40)]
    for i, size in enumerate(sizes):
        one, before = photo(*size), photo(*sizes[i - 1])
        ODD[f"{name}.{i}"] = [list(size), list(sizes[i - 1]), words(network, ONE, [one]), words(network, TWO, [before, one])]


ODD = {}


def chains(network, name):
    """Words along chains of plain bicubic steps: what `coz zoom` is to find in the same pictures."""
    found = {}
    for width, height, size in [(150, 131, 96), (97, 260, 120)]:
        scale = size / min(width, height)
        first = photo(width, height).resize((int(width * scale), int(height * scale)), Image.LANCZOS)
        left, top = (first.width - size) // 2, (first.height - size) // 2
        first = first.crop((left, top, left + size, top + size))
        for kind in ["recursive", "recursive_multiscale"]:
            state = first
            for i in range(3):
                side = size // 4
                corner = (size - side) // 2
                box = (corner, corner, (size + side) // 2, (size + side) // 2)
                enlarged = state.crop(box).resize((size, size), Image.BICUBIC)
                images = [state, enlarged] if kind == "recursive_multiscale" else [enlarged]
                found[f"{width}x{height}.{size}.{kind}.{i}"] = words(network, TWO if len(images) > 1 else ONE, images)
                state = enlarged
    CHAINS[name] = found


CHAINS = {}


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
    ids = torch.randint(8, 256, (1, 21))
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
                    ids += [VISION[0]] + [IMAGE] * (rows * columns // 4) + [VISION[1]]
                ids += torch.randint(8, 256, (9,)).tolist()
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
            chains(network, name)
            odd(network, name)
            if name == "tied":
                adapter(network)
                base = Qwen2_5_VLForConditionalGeneration.from_pretrained(HERE / name, dtype=torch.float32)
                chains(PeftModel.from_pretrained(base, HERE / "adapter").merge_and_unload().eval(), "tuned")
    (HERE / "chains.json").write_text(json.dumps(CHAINS, indent=1))
    (HERE / "odd.json").write_text(json.dumps(ODD, indent=1))
    save_file(TENSORS, HERE / "cases.safetensors")
