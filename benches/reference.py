"""Times one step of the reference, OSEDiff on Stable Diffusion 3 with diffusers and transformers, part by part, on the
folder that `cargo xtask make-random-models DIR --full` writes; and side by side with `coz bench`.

    python3 -m pip install torch==2.11.0 diffusers==0.42.1 transformers==5.23.0 safetensors accelerate numpy psutil
    python3 benches/reference.py DIR                        the reference alone, in its own precision
    python3 benches/reference.py DIR --precision bf16       all of it in bf16
    python3 benches/reference.py DIR --compare target/release/coz   a table of both, from one run
    python3 benches/reference.py DIR --captioner --compare target/release/coz   the same of Qwen2.5-VL, which writes the prompt
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time

START = time.perf_counter()
STAGES = ["encoding", "encoding the prompt", "denoising", "decoding"]


def measure(folder, precision, runs, size, device):
    import torch
    from diffusers import AutoencoderKL, SD3Transformer2DModel
    from transformers import CLIPTextModelWithProjection, CLIPTokenizer, PreTrainedTokenizerFast, T5EncoderModel

    # The reference's own: text encoders in fp16, transformer and VAE in fp32.
    text, picture = dict(
        reference=(torch.float16, torch.float32), fp32=(torch.float32, torch.float32), bf16=(torch.bfloat16, torch.bfloat16)
    )[precision]
    imported = time.perf_counter()

    def load(cls, part, dtype):
        return cls.from_pretrained(f"{folder}/{part}", torch_dtype=dtype).eval().to(device)

    tokens = [CLIPTokenizer.from_pretrained(f"{folder}/{name}") for name in ("tokenizer", "tokenizer_2")]
    tokens.append(PreTrainedTokenizerFast(
        tokenizer_file=f"{folder}/tokenizer_3/tokenizer.json", pad_token="<pad>", eos_token="</s>", unk_token="<unk>"))
    clips = [load(CLIPTextModelWithProjection, name, text) for name in ("text_encoder", "text_encoder_2")]
    t5 = load(T5EncoderModel, "text_encoder_3", text)
    transformer, vae = load(SD3Transformer2DModel, "transformer", picture), load(AutoencoderKL, "vae", picture)
    loaded = time.perf_counter()

    def settle():
        if device != "cpu":
            torch.cuda.synchronize()
        return time.perf_counter()

    def step(i):
        times, before = {}, settle()

        def stage(name):
            nonlocal before
            now = settle()
            times[name], before = now - before, now

        y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
        lq = torch.stack([x % 256, y % 256, (x ^ y) % 256]).float()[None] / 255 * 2 - 1
        posterior = vae.encode(lq.to(device, picture)).latent_dist
        torch.manual_seed(i)
        z = (posterior.mean + posterior.std * torch.randn(posterior.mean.shape).to(device)) * vae.config.scaling_factor
        stage("encoding")
        prompt = f"fur, whiskers, an old fox in the snow, number {i}"
        ids = [token(prompt, padding="max_length", max_length=length, truncation=True, return_tensors="pt").input_ids.to(device)
               for token, length in zip(tokens, (77, 77, 512))]
        said = [clip(part, output_hidden_states=True) for clip, part in zip(clips, ids)]
        long = t5(ids[2]).last_hidden_state
        short = torch.cat([out.hidden_states[-2] for out in said], -1)
        short = torch.nn.functional.pad(short, (0, long.shape[-1] - short.shape[-1]))
        embeds, pooled = torch.cat([short, long], 1), torch.cat([out.text_embeds for out in said], -1)
        stage("encoding the prompt")
        velocity = transformer(z.to(picture), embeds.to(picture), pooled.to(picture), torch.tensor([1000.0], device=device), return_dict=False)[0]
        stage("denoising")
        decoded = vae.decode(((z - velocity) / vae.config.scaling_factor + vae.config.shift_factor).to(picture), return_dict=False)[0]
        decoded.clamp(-1, 1).mul(0.5).add(0.5).mul(255).byte().cpu()
        stage("decoding")
        return times

    with torch.no_grad():
        step(0)
        first = time.perf_counter()
        passes = [step(i) for i in range(1, runs + 1)]
    result = dict(
        precision=precision, device=device, size=size, import_seconds=imported - START, load_seconds=loaded - imported,
        first_seconds=first - loaded, start_to_first_seconds=first - START,
        seconds={name: statistics.median(p[name] for p in passes) for name in STAGES},
        pass_seconds=statistics.median(sum(p.values()) for p in passes),
        peak_memory=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    )
    if device != "cpu":
        result["peak_device_memory"] = torch.cuda.max_memory_allocated()
    return result


def measure_captioner(folder, precision, runs, size, device):
    import numpy as np
    import torch
    from PIL import Image
    from transformers import AutoTokenizer, LogitsProcessor, Qwen2_5_VLForConditionalGeneration
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    dtype = torch.float32 if precision == "fp32" else torch.bfloat16
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(f"{folder}/vlm", dtype=dtype).eval().to(device)
    tokenizer = AutoTokenizer.from_pretrained(f"{folder}/vlm")
    processor = Qwen2VLImageProcessorPil()
    loaded = time.perf_counter()

    def settle():
        if device != "cpu":
            torch.cuda.synchronize()
        return time.perf_counter()

    class Clock(LogitsProcessor):
        def __init__(self):
            self.times = []

        def __call__(self, ids, scores):
            self.times.append(settle())
            return scores

    seen = []
    model.model.visual.register_forward_pre_hook(lambda *_: seen.append(settle()))
    model.model.visual.register_forward_hook(lambda *_: seen.append(settle()))

    def caption():
        start, clock = settle(), Clock()
        y, x = np.mgrid[0:size, 0:size]
        picture = Image.fromarray(np.stack([x % 256, y % 256, (x ^ y) % 256], -1).astype(np.uint8))
        images = processor([picture], return_tensors="pt")
        chat = [{"role": "system", "content": "What is in this image? Give me a set of words."}, {"role": "user", "content": [{"type": "image"}]}]
        text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        count = int(images.image_grid_thw.prod()) // 4
        ids = tokenizer(text.replace("<|image_pad|>", "<|image_pad|>" * count), return_tensors="pt").input_ids.to(device)
        seen.clear()
        model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=images.pixel_values.to(device),
            image_grid_thw=images.image_grid_thw.to(device), mm_token_type_ids=(ids == model.config.image_token_id).int(),
            min_new_tokens=32, max_new_tokens=32, logits_processor=[clock], do_sample=False)
        end, times = settle(), clock.times
        tokens = [after - before for before, after in zip(times, times[1:])]
        return {
            "captioning": end - start, "captioning: images": seen[-1] - start,
            "captioning: prefill": times[0] - seen[-1], "captioning: a token": statistics.median(tokens),
        }

    with torch.no_grad():
        caption()
        passes = [caption() for _ in range(runs)]
    return dict(
        precision=precision, device=device, size=size, load_seconds=loaded - START,
        seconds={name: statistics.median(p[name] for p in passes) for name in passes[0]},
        peak_memory=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    )


def run(command):
    """What a command prints as JSON, and how long the first result took from its start."""
    start = time.perf_counter()
    process = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(process.stdout), time.perf_counter() - start


def compare_captioner(options):
    common = ["--runs", str(options.runs), "--size", str(options.size), "--device", options.device]
    rows = {}
    for precision in options.precisions.split(","):
        coz = [options.compare, "bench", "--captioner-only", "--prompt-type", "vlm_base", "--vlm-path", f"{options.folder}/vlm",
               "--mixed-precision", precision, "--memory", "resident", "--json"]
        rows[f"coz {precision}"] = run([*coz, *common])[0]
        command = [sys.executable, __file__, options.folder, "--captioner", "--precision", precision]
        rows[f"reference {precision}"] = run([*command, *common])[0]
    stages = ["captioning: images", "captioning: prefill", "captioning: a token", "captioning"]
    print("| | " + " | ".join(stage.removeprefix("captioning: ") for stage in stages) + " | peak memory |")
    print("|---|" + "---:|" * (len(stages) + 1))
    for name, row in rows.items():
        print(json.dumps(row), file=sys.stderr)
        cells = " | ".join(f"{row['seconds'][stage]:.3g} s" for stage in stages)
        print(f"| {name} | {cells} | {row['peak_memory'] / 1e9:.2f} GB |")


def compare(options):
    files = ["--pretrained-model-name-or-path", options.folder,
             "--lora-path", f"{options.folder}/ckpt/SR_LoRA/model_20001.pkl",
             "--vae-path", f"{options.folder}/ckpt/SR_VAE/vae_encoder_20001.pt", "--device", options.device]
    common = ["--runs", str(options.runs), "--size", str(options.size)]
    rows = {}
    for precision in options.precisions.split(","):
        command = [sys.executable, __file__, options.folder, "--precision", precision, "--device", options.device, *common]
        rows[f"reference {precision}"] = row = run(command)[0]
        print(json.dumps(row), file=sys.stderr)
    for plan in options.plans.split(","):
        precision, _, memory = plan.partition("/")
        coz = [options.compare, "bench", *files, "--mixed-precision", precision, "--memory", memory, "--json"]
        row = run([*coz, *common])[0]
        # Nothing but the first pass, from the start of the process to its end.
        row["start_to_first_seconds"] = run([*coz, "--size", str(options.size), "--runs", "0"])[1]
        rows[f"coz {plan}"] = row
        print(json.dumps(row), file=sys.stderr)
    print("| | start to first result | whole pass | " + " | ".join(STAGES) + " | peak memory |")
    print("|---|" + "---:|" * (len(STAGES) + 3))
    for name, row in rows.items():
        peak = row.get("peak_device_memory") or row["peak_memory"]
        cells = [row["start_to_first_seconds"], row["pass_seconds"], *(row["seconds"][stage] for stage in STAGES)]
        print(f"| {name} | " + " | ".join(f"{cell:.3g} s" for cell in cells) + f" | {peak / 1e9:.2f} GB |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--precision", choices=["reference", "fp32", "bf16"], default="reference")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compare", metavar="COZ")
    parser.add_argument("--captioner", action="store_true")
    parser.add_argument("--precisions")
    parser.add_argument("--plans", default="bf16/resident,bf16/staged,bf16/streamed")
    options = parser.parse_args()
    options.precisions = options.precisions or ("bf16" if options.captioner else "reference,bf16")
    if options.compare:
        (compare_captioner if options.captioner else compare)(options)
    else:
        measured = measure_captioner if options.captioner else measure
        print(json.dumps(measured(options.folder, options.precision, options.runs, options.size, options.device)))
