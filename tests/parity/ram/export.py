"""Makes tiny random taggers in the layout of ram_swin_large_14m.pth and DAPE.pth, and what transformers' Swin, PyTorch's attention
and loralib make of them in float32 on the CPU.

    python3 -m pip install torch==2.11.0 transformers==5.23.0 loralib==0.1.2 numpy pillow
    python3 tests/parity/ram/export.py
"""

import json
from pathlib import Path

import loralib
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from transformers import SwinConfig, SwinModel

HERE = Path(__file__).parent
# Side, window, first width, depths, heads, width of labels, of tokens in the head, of the head's inner layers, labels.
MODELS = {
    "small": (96, 6, 12, [2, 3, 2], [2, 3, 4], 24, 20, 40, 36, 37),
    "large": (384, 12, 8, [2, 2, 2, 2], [1, 2, 4, 8], 16, 28, 32, 50, 23),
}
PARTS = ["q_proj", "k_proj", "v_proj"]
MEAN, DEVIATION = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def noise(*shape, size=0.2):
    return torch.randn(*shape) * size


class Tagger:
    def __init__(self, name):
        self.side, window, width, depths, heads, word, tokens, hidden, inner, labels = MODELS[name]
        self.base, self.changes = {}, {}
        config = SwinConfig(
            image_size=self.side, patch_size=4, embed_dim=width, depths=depths, num_heads=heads, window_size=window, mlp_ratio=3.0,
        )
        self.swin = SwinModel(config).eval()
        for parameter in self.swin.parameters():
            parameter.data += noise(*parameter.shape)
        for key, tensor in self.swin.state_dict().items():
            self.take_swin(key, tensor)
        for key in [key for key in self.swin.state_dict() if key.endswith("q_proj.weight")]:
            self.change_qkv(key)
        if name == "small":
            side = self.side // 4
            self.base["visual_encoder.layers.0.blocks.1.attn_mask"] = torch.zeros((side // window) ** 2, window**2, window**2)
        self.linear("image_proj", self.swin.num_features, tokens)
        self.base["label_embed"] = noise(labels, word, size=1.0)
        self.linear("wordvec_proj", word, hidden)
        self.head = []
        for i in range(2):
            at = f"tagging_head.encoder.layer.{i}."
            for part, inputs in [("query", hidden), ("key", tokens), ("value", tokens)]:
                self.linear(f"{at}crossattention.self.{part}", inputs, hidden)
            self.linear(at + "crossattention.output.dense", hidden, hidden)
            self.linear(at + "intermediate.dense", hidden, inner)
            self.linear(at + "output.dense", inner, hidden)
            for part in ["crossattention.output", "output"]:
                self.base[f"{at}{part}.LayerNorm.weight"] = 1 + noise(hidden)
                self.base[f"{at}{part}.LayerNorm.bias"] = noise(hidden)
            # Not used for tags.
            self.linear(at + "attention.self.query", hidden, hidden)
            attention = torch.nn.MultiheadAttention(hidden, 4, kdim=tokens, vdim=tokens, batch_first=True)
            weights = []
            for part, inputs in [("query", hidden), ("key", tokens), ("value", tokens)]:
                weight = self.base[f"{at}crossattention.self.{part}.weight"].clone()
                if part != "value":
                    # The tag encoder shares the weight, so that its change is one to it too.
                    for owner in ["tagging_head", "tag_encoder"]:
                        weight = self.change(f"{owner}.encoder.layer.{i}.crossattention.self.{part}", weight)
                weights.append(weight)
            attention.q_proj_weight.data, attention.k_proj_weight.data, attention.v_proj_weight.data = weights
            biases = [self.base[f"{at}crossattention.self.{part}.bias"] for part in ["query", "key", "value"]]
            attention.in_proj_bias.data = torch.cat(biases)
            attention.out_proj.weight.data = self.base[at + "crossattention.output.dense.weight"]
            attention.out_proj.bias.data = self.base[at + "crossattention.output.dense.bias"]
            self.head.append((at, attention.eval()))
        self.linear("fc", hidden, 1)
        # Parts that write sentences.
        self.linear("text_decoder.cls.predictions.dense", 4, 4)
        self.changes["text_decoder.bert.encoder.layer.0.crossattention.self.query.lora_A"] = noise(8, 4)
        self.changes["text_decoder.bert.encoder.layer.0.crossattention.self.query.lora_B"] = noise(4, 8)
        self.hidden = hidden

    def linear(self, name, inputs, outputs):
        self.base[name + ".weight"], self.base[name + ".bias"] = noise(outputs, inputs, size=0.4), noise(outputs)

    def take_swin(self, key, tensor):
        """A tensor of transformers' Swin under the reference's name."""
        names = [
            ("embeddings.patch_embeddings.projection", "patch_embed.proj"), ("embeddings.norm", "patch_embed.norm"),
            ("encoder.layers", "layers"), ("layernorm_before", "norm1"), ("layernorm_after", "norm2"),
            ("attention.relative_position_bias.", "attn."), ("attention.o_proj", "attn.proj"), ("layernorm", "norm"),
        ]
        if "k_proj" in key or "v_proj" in key:
            return
        if "q_proj" in key:
            state = self.swin.state_dict()
            tensor = torch.cat([state[key.replace("q_proj", part)] for part in PARTS])
            key = key.replace("attention.q_proj", "attn.qkv")
        for theirs, ours in names:
            key = key.replace(theirs, ours)
        self.base["visual_encoder." + key] = tensor.clone()

    def change_qkv(self, key):
        weight = self.swin.state_dict()[key]
        width = weight.shape[0]
        name = "visual_encoder." + key.replace("encoder.layers", "layers").replace("attention.q_proj.weight", "attn.qkv")
        layer = loralib.MergedLinear(width, 3 * width, r=8, enable_lora=[True, False, True])
        layer.weight.data = self.base[name + ".weight"].clone()
        layer.lora_A.data, layer.lora_B.data = noise(*layer.lora_A.shape), noise(*layer.lora_B.shape)
        self.changes[name + ".lora_A"], self.changes[name + ".lora_B"] = layer.lora_A.data.clone(), layer.lora_B.data.clone()
        layer.eval()
        state = self.swin.state_dict()
        for part, rows in zip(PARTS, layer.weight.data.chunk(3)):
            state[key.replace("q_proj", part)].copy_(rows)

    def change(self, name, weight):
        layer = loralib.Linear(weight.shape[1], weight.shape[0], r=8)
        layer.weight.data = weight.clone()
        layer.lora_A.data, layer.lora_B.data = noise(*layer.lora_A.shape), noise(*layer.lora_B.shape)
        self.changes[name + ".lora_A"], self.changes[name + ".lora_B"] = layer.lora_A.data.clone(), layer.lora_B.data.clone()
        layer.eval()
        return layer.weight.data

    def logits(self, picture):
        pixels = torch.from_numpy(np.asarray(picture)).permute(2, 0, 1)[None].float() / 255
        pixels = F.interpolate(pixels, size=(self.side, self.side), mode="bilinear", antialias=True)
        pixels = (pixels - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(DEVIATION).view(1, 3, 1, 1)
        tokens = self.swin(pixels).last_hidden_state
        base = self.base
        linear = lambda x, name: F.linear(x, base[name + ".weight"], base[name + ".bias"])
        image = linear(torch.cat([tokens.mean(1, keepdim=True), tokens], 1), "image_proj")
        x = F.relu(linear(base["label_embed"], "wordvec_proj"))[None]
        norm = lambda x, name: F.layer_norm(x, (self.hidden,), base[name + ".weight"], base[name + ".bias"], 1e-12)
        for at, attention in self.head:
            x = norm(attention(x, image, image)[0] + x, at + "crossattention.output.LayerNorm")
            inner = F.gelu(linear(x, at + "intermediate.dense"))
            x = norm(linear(inner, at + "output.dense") + x, at + "output.LayerNorm")
        return linear(x, "fc")[0, :, 0]


def photo(width, height):
    y, x = np.mgrid[0:height, 0:width]
    return Image.fromarray(np.stack([x * 3 % 256, y * 5 % 256, (x * 7 ^ y * 11) % 256], -1).astype(np.uint8))


if __name__ == "__main__":
    torch.manual_seed(0)
    cases = {}
    with torch.no_grad():
        for name in MODELS:
            tagger, folder = Tagger(name), HERE / name
            (folder / "data").mkdir(parents=True, exist_ok=True)
            torch.save({"model": tagger.base}, folder / "ram_swin_large_14m.pth")
            torch.save(tagger.changes, folder / "DAPE.pth")
            pictures = [photo(200, 200), photo(77, 391)]
            logits = [tagger.logits(picture) for picture in pictures]
            # About half of the tags are on.
            thresholds = (sum(logits) / 2).sigmoid().clamp(0.01, 0.99)
            thresholds = [round(t, 3) for t in (thresholds + noise(len(thresholds), size=0.05)).clamp(0.01, 0.99).tolist()]
            tags = [f"tag {i}" for i in range(len(thresholds))]
            (folder / "data" / "ram_tag_list.txt").write_text("\n".join(tags))
            (folder / "data" / "ram_tag_list_threshold.txt").write_text("\n".join(map(str, thresholds)) + "\n")
            words = []
            for logit in logits:
                probability = logit.sigmoid()
                assert (probability - torch.tensor(thresholds)).abs().min() > 1e-5
                words.append(", ".join(tag for tag, p, t in zip(tags, probability, thresholds) if p > t))
            cases[name] = {"logits": [logit.tolist() for logit in logits], "words": words}
            print(name, [len(w.split(",")) for w in words], [float(l.std()) for l in logits])
    (HERE / "cases.json").write_text(json.dumps(cases, indent=1))
