"""What transformers and peft make of GRPO's log-probs, losses, gradients and steps on the tiny models of ../qwen, in float32 on the CPU;
case A in float64, because its gradients are so steep that two float32 implementations differ by 1e-5 of their norm.

    python3 -m pip install torch==2.11.0 transformers==5.23.0 peft==0.21.2 safetensors numpy pillow
    python3 tests/parity/grpo/export.py
"""

import json
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils import get_peft_model_state_dict
from PIL import Image
from safetensors.torch import save_file
from transformers import AutoTokenizer, Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

HERE = Path(__file__).parent
TWO = (
    "The second image is a zoom-in of the first image. Based on this knowledge, what is in the second image? Give me a set of "
    "words."
)
RULE = r".*language_model.*\.(q|k|v|o|gate|up|down)_proj"
MAX = 12
PROCESSOR = Qwen2VLImageProcessorPil.from_pretrained(HERE / "../qwen/tied")


def photo(number, width, height):
    random = np.random.default_rng(number)
    coarse = random.integers(0, 256, (5, 6, 3), np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.BICUBIC)


class Case:
    def __init__(self, model, pairs, generations, seed):
        self.folder = HERE / "../qwen" / model
        self.tokenizer = AutoTokenizer.from_pretrained(self.folder)
        self.image = self.tokenizer.convert_tokens_to_ids("<|image_pad|>")
        self.ends = [self.tokenizer.convert_tokens_to_ids(name) for name in ["<|im_end|>", "<|endoftext|>"]]
        random = np.random.default_rng(seed)
        self.images, self.completions, self.rewards = {}, [], []
        for i, (first, second) in enumerate(pairs):
            names = [f"{model}_{i}_{which}.png" for which in ["first", "second"]]
            for j, (name, size) in enumerate(zip(names, [first, second])):
                photo(seed * 100 + i * 2 + j, *size).save(HERE / name)
            self.images[f"pair {i}"] = names
            rows = []
            for j in range(generations):
                # Some are cut off, some end, one at once.
                length = MAX if j == 0 else int(random.integers(1, MAX))
                ids = random.integers(0, min(self.ends) - 1, length).tolist()
                rows.append(ids if j == 0 else ids[:-1] + [self.ends[j % 2]])
            self.completions.append(rows)
            rewards = random.uniform(0, 1.5, generations).round(3).tolist()
            # One group's are all equal.
            self.rewards.append([0.7] * generations if i == 1 else rewards)

    def load(self, dtype):
        return Qwen2_5_VLForConditionalGeneration.from_pretrained(self.folder, dtype=dtype).eval()

    def prompt(self, names):
        pictures = [Image.open(HERE / name) for name in names]
        seen = PROCESSOR(pictures, return_tensors="pt")
        content = [{"type": "image", "image": "x.png"} for _ in pictures]
        chat = [{"role": "system", "content": TWO}, {"role": "user", "content": content}]
        text = self.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        for count in (seen.image_grid_thw.prod(-1) // 4).tolist():
            text = text.replace("<|image_pad|>", "<|one|>" * count, 1)
        return self.tokenizer(text.replace("<|one|>", "<|image_pad|>"), return_tensors="pt").input_ids, seen

    def logps(self, network, temperature):
        """[rows, MAX] log-probs and entropies, and the mask: each prompt a batch, right-padded."""
        logps, entropies, masks = [], [], []
        for names, rows in zip(self.images.values(), self.completions):
            ids, seen = self.prompt(names)
            tokens = torch.full((len(rows), MAX), self.ends[1])
            mask = torch.zeros(len(rows), MAX, dtype=torch.float64)
            for i, row in enumerate(rows):
                tokens[i, : len(row)], mask[i, : len(row)] = torch.tensor(row), 1
            whole = torch.cat([ids.expand(len(rows), -1), tokens], 1)
            network.base_model.model.model.rope_deltas = None
            logits = network(
                input_ids=whole, attention_mask=torch.cat([torch.ones(len(rows), ids.shape[1]), mask], 1).long(),
                pixel_values=seen.pixel_values.repeat(len(rows), 1), image_grid_thw=seen.image_grid_thw.repeat(len(rows), 1),
                mm_token_type_ids=(whole == self.image).int(),
            ).logits[:, ids.shape[1] - 1 : -1] / temperature
            every = logits.log_softmax(-1)
            logps.append(every.gather(-1, tokens.unsqueeze(-1)).squeeze(-1) * mask)
            entropies.append(-(every.exp() * every).sum(-1).detach() * mask)
            masks.append(mask)
        return torch.cat(logps), torch.cat(entropies), torch.cat(masks)

    def advantages(self, scaled=True):
        rewards = torch.tensor(self.rewards, dtype=torch.float64)
        centred = rewards - rewards.mean(1, keepdim=True)
        if scaled:
            centred = centred / (rewards.std(1, keepdim=True) + 1e-4)
        return torch.where(rewards.std(1, keepdim=True) > 0, centred, 0.0)


def token_loss(logps, old, reference, advantages, beta, low, high):
    ratio = (logps - old).exp()
    advantages = advantages.reshape(-1, 1)
    clipped = ratio.clamp(1 - low, 1 + high)
    difference = reference - logps
    kl = difference.exp() - difference - 1
    is_clipped = ((ratio < 1 - low) & (advantages < 0)) | ((ratio > 1 + high) & (advantages > 0))
    return -torch.minimum(ratio * advantages, clipped * advantages) + beta * kl, ratio, kl, is_clipped.float()


def whole(loss, mask, kind):
    match kind:
        case "grpo":
            return ((loss * mask).sum(1) / mask.sum(1)).mean()
        case "bnpo" | "dapo":
            return (loss * mask).sum() / mask.sum()
        case "dr_grpo":
            return (loss * mask).sum() / (len(loss) * MAX)


def plain(network):
    return {key: tensor.detach().clone() for key, tensor in get_peft_model_state_dict(network).items()}


def gradients(network):
    """By the keys of its file."""
    names = {name.replace(".default", ""): parameter for name, parameter in network.named_parameters() if "lora_" in name}
    assert set(names) == set(plain(network))
    return {key: parameter.grad.clone() for key, parameter in names.items()}


def norm(grads):
    return torch.sqrt(sum((grad.double() ** 2).sum() for grad in grads.values())).item()


def one(case, tensors, temperature=0.9, beta=0.04, epsilon=0.2):
    network = PeftModel.from_pretrained(case.load(torch.float64), HERE / "../qwen/adapter", is_trainable=True).double().eval()
    with torch.no_grad(), network.disable_adapter():
        reference, _, _ = case.logps(network, temperature)
    expected = {"advantages": case.advantages().tolist(), "advantages_unscaled": case.advantages(False).tolist(), "loss": {}, "grad_norm": {}}
    for kind in ["grpo", "bnpo", "dr_grpo"]:
        network.zero_grad()
        logps, entropy, mask = case.logps(network, temperature)
        loss, _, kl, _ = token_loss(logps, logps.detach(), reference, case.advantages(), beta, epsilon, epsilon)
        total = whole(loss, mask, kind)
        total.backward()
        expected["loss"][kind], expected["grad_norm"][kind] = total.item(), norm(gradients(network))
        if kind == "grpo":
            tensors.update({f"A.grad.{key}": grad for key, grad in gradients(network).items()})
            tensors.update({"A.logps": logps.detach(), "A.ref_logps": reference})
            tensors.update({"A.kl": kl.detach() * mask, "A.per_token_loss": loss.detach() * mask})
            expected["kl_mean_over_tokens"] = ((kl * mask).sum() / mask.sum()).item()
            expected["entropy_mean_over_tokens"] = (entropy.sum() / mask.sum()).item()
    asked = dict(adapter="../qwen/adapter", lora_dropout=0, temperature=temperature, beta=beta, epsilon=epsilon)
    return {**asked, "completions": case.completions, "rewards": case.rewards}, expected


def several(case, tensors, name, kind, rank=3, alpha=12, count=3, temperature=1.0, beta=0.1, low=0.02, high=0.03, rate=5e-3):
    adamw = dict(lr=rate, betas=[0.9, 0.95], eps=1e-8, weight_decay=0.1)
    torch.manual_seed(7)
    network = get_peft_model(case.load(torch.float32), LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=0.0, target_modules=RULE)).eval()
    initial = {f"step0.{key}": tensor for key, tensor in plain(network).items() if "lora_A" in key}
    save(initial, HERE / f"{name}_init.safetensors")
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, **adamw)
    with torch.no_grad(), network.disable_adapter():
        reference, _, _ = case.logps(network, temperature)
    old, steps = None, []
    for number in range(1, count + 1):
        logps, _, mask = case.logps(network, temperature)
        old = logps.detach() if old is None else old
        loss, ratio, kl, is_clipped = token_loss(logps, old, reference, case.advantages(), beta, low, high)
        total = whole(loss, mask, kind)
        optimizer.zero_grad()
        total.backward()
        before = norm(gradients(network))
        torch.nn.utils.clip_grad_norm_(parameters, 0.5)
        optimizer.step()
        tensors.update({f"B.step{number}.logps": logps.detach(), f"B.step{number}.ratio": ratio.detach() * mask})
        tensors.update({f"step{number}.{key}": tensor for key, tensor in plain(network).items()})
        share = lambda value: ((value * mask).sum() / mask.sum()).item()
        steps.append({"loss": total.item(), "grad_norm_before_clipping": before, "clipped_share": share(is_clipped), "kl_mean_over_tokens": share(kl)})
    asked = dict(lora=dict(r=rank, lora_alpha=alpha, init=f"{name}_init.safetensors, step0"), temperature=temperature, beta=beta)
    asked.update(epsilon_low=low, epsilon_high=high, loss_type=kind, completions=case.completions, rewards=case.rewards)
    return {**asked, "max_grad_norm": 0.5, "adamw": adamw, "steps": [{} for _ in steps]}, {"steps": steps}


def save(tensors, file):
    save_file({key: tensor.float().contiguous() for key, tensor in tensors.items()}, file)


def write(name, model, case, tensors, asked, expected):
    about = dict(model=f"../qwen/{model}", images=case.images, system_text=TWO, max_new_tokens=MAX, pad_id=case.ends[1], end_ids=case.ends)
    (HERE / f"{name}.json").write_text(json.dumps({**about, **asked}) + "\n")
    (HERE / f"{name}_expected.json").write_text(json.dumps(expected) + "\n")
    save(tensors, HERE / f"{name}_expected.safetensors")


case, tensors = Case("tied", [((61, 60), (44, 80)), ((90, 41), (50, 50))], 3, 1), {}
asked_one, expected_one = one(case, tensors)
asked_several, expected_several = several(case, tensors, "tied", "grpo")
write("tied", "tied", case, tensors, {"A": asked_one, "B": asked_several}, {"A": expected_one, "B": expected_several})
case, tensors = Case("untied", [((70, 66), (80, 50)), ((40, 40), (64, 64)), ((30, 95), (64, 60))], 2, 2), {}
asked, expected = several(case, tensors, "untied", "dr_grpo", rank=2, alpha=5, count=2, temperature=0.7, beta=0.0, low=0.1, high=0.2, rate=5e-4)
write("untied", "untied", case, tensors, {"B": asked}, {"B": expected})
