"""Times one step of the reference, OSEDiff on Stable Diffusion 3 with diffusers and transformers, on the folder that
`cargo xtask make-random-models DIR --full` writes; and side by side with `coz bench`.

    python3 -m pip install torch==2.11.0 diffusers==0.42.1 transformers==5.23.0 accelerate
    python3 benches/reference.py DIR                        the reference alone, in its own precision
    python3 benches/reference.py DIR --precision bf16       all of it in bf16
    python3 benches/reference.py DIR --precision fp32 --parts       with only one model in memory at a time
    python3 benches/reference.py DIR --compare target/release/coz   a table of both, from one run
    python3 benches/reference.py DIR --compare target/release/coz --parts --plans fp32/auto,bf16/resident   the same in turns
    python3 benches/reference.py DIR --captioner --compare target/release/coz   the same of Qwen2.5-VL, which writes the prompt

With --parts each of the reference's models is read, measured and freed before the next one: memory needs to hold the largest, not
all of them. For a table `coz bench` then runs before the first stage and after each; as machines drift, a stage is compared with
the two runs around it. Where its memory plan is not `resident`, the program reads weights in every pass, as the reference does in
its first one alone; that is the last column. All times go to stderr as JSON.
"""

import argparse
import ctypes
import functools
import gc
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import time
from types import SimpleNamespace

START = time.perf_counter()
STAGES = ["encoding", "encoding the prompt", "denoising", "decoding"]


def now(device):
    """The time, when the device has done all it was asked for."""
    if device != "cpu":
        import torch

        torch.cuda.synchronize()
    return time.perf_counter()


def peak_memory():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def processor():
    """Its name, and whether it has arithmetic in bf16."""
    with open("/proc/cpuinfo") as file:
        found = dict(re.findall(r"^(model name|flags)\s*: (.*)", file.read(), re.MULTILINE))
    flags = found.get("flags", "").split()
    bf16 = [flag if flag in flags else f"no {flag}" for flag in ("avx512_bf16", "amx_bf16")]
    return ", ".join([found.get("model name", "unknown processor"), f"{os.cpu_count()} cores", *bf16])


def open_reference(folder, precision, size, device):
    """The parts of a step by stage: functions of the pass's number, which go on from what those before them made. Models are read
    when they are first used. And a function that frees them."""
    import torch
    from diffusers import AutoencoderKL, SD3Transformer2DModel
    from transformers import CLIPTextModelWithProjection, CLIPTokenizer, PreTrainedTokenizerFast, T5EncoderModel

    torch.set_grad_enabled(False)
    # The reference's own: text encoders in fp16, transformer and VAE in fp32.
    text, picture = dict(
        reference=(torch.float16, torch.float32), fp32=(torch.float32, torch.float32), bf16=(torch.bfloat16, torch.bfloat16)
    )[precision]
    tokens = [CLIPTokenizer.from_pretrained(f"{folder}/{name}") for name in ("tokenizer", "tokenizer_2")]
    tokens.append(PreTrainedTokenizerFast(
        tokenizer_file=f"{folder}/tokenizer_3/tokenizer.json", pad_token="<pad>", eos_token="</s>", unk_token="<unk>"))
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    lq = (torch.stack([x % 256, y % 256, (x ^ y) % 256]).float()[None] / 255 * 2 - 1).to(device, picture)
    made = SimpleNamespace()

    @functools.cache
    def model(cls, name, dtype):
        return cls.from_pretrained(f"{folder}/{name}", torch_dtype=dtype).eval().to(device)

    def free():
        model.cache_clear()
        gc.collect()
        torch.cuda.empty_cache()
        ctypes.CDLL(None).malloc_trim(0)

    def ids(token, length, i):
        prompt = f"fur, whiskers, an old fox in the snow, number {i}"
        return token(prompt, padding="max_length", max_length=length, truncation=True, return_tensors="pt").input_ids.to(device)

    def encode(i):
        vae = model(AutoencoderKL, "vae", picture)
        posterior = vae.encode(lq).latent_dist
        torch.manual_seed(i)
        made.z = (posterior.mean + posterior.std * torch.randn(posterior.mean.shape).to(device)) * vae.config.scaling_factor

    def clip(i):
        models = [model(CLIPTextModelWithProjection, name, text) for name in ("text_encoder", "text_encoder_2")]
        said = [encoder(ids(token, 77, i), output_hidden_states=True) for encoder, token in zip(models, tokens)]
        made.short = torch.cat([out.hidden_states[-2] for out in said], -1)
        made.pooled = torch.cat([out.text_embeds for out in said], -1)

    def t5(i):
        long = model(T5EncoderModel, "text_encoder_3", text)(ids(tokens[2], 512, i)).last_hidden_state
        short = torch.nn.functional.pad(made.short, (0, long.shape[-1] - made.short.shape[-1]))
        made.embeds = torch.cat([short, long], 1)

    def denoise(_):
        transformer, at = model(SD3Transformer2DModel, "transformer", picture), torch.tensor([1000.0], device=device)
        embeds, pooled = made.embeds.to(picture), made.pooled.to(picture)
        made.velocity = transformer(made.z.to(picture), embeds, pooled, at, return_dict=False)[0]

    def decode(_):
        vae = model(AutoencoderKL, "vae", picture)
        latent = (made.z - made.velocity) / vae.config.scaling_factor + vae.config.shift_factor
        vae.decode(latent.to(picture), return_dict=False)[0].clamp(-1, 1).mul(0.5).add(0.5).mul(255).byte().cpu()

    return dict(zip(STAGES, ([encode], [clip, t5], [denoise], [decode]))), free


def timed(part, i, device):
    before = now(device)
    part(i)
    return now(device) - before


def measure(folder, precision, runs, size, device):
    stages, _ = open_reference(folder, precision, size, device)

    def step(i):
        return {name: sum(timed(part, i, device) for part in parts) for name, parts in stages.items()}

    first = sum(step(0).values())
    start_to_first = time.perf_counter() - START
    passes = [step(i) for i in range(1, runs + 1)]
    result = dict(
        precision=precision, device=device, size=size, first_seconds=first, start_to_first_seconds=start_to_first,
        seconds={name: statistics.median(p[name] for p in passes) for name in STAGES},
        pass_seconds=statistics.median(sum(p.values()) for p in passes), peak_memory=peak_memory(),
    )
    if device != "cpu":
        import torch

        result["peak_device_memory"] = torch.cuda.max_memory_allocated()
    return result


def measured_alone(folder, precision, runs, size, device):
    """After each stage its name and, by part, the first pass, in which the model is read, and the median of the others. No model is
    in memory then."""
    stages, free = open_reference(folder, precision, size, device)
    for name, parts in stages.items():
        seconds = {}
        for part in parts:
            first, *others = [timed(part, i, device) for i in range(runs + 1)]
            seconds[part.__name__] = dict(first=first, median=statistics.median(others))
            free()
        yield name, seconds


def measure_parts(folder, precision, runs, size, device):
    seconds = dict(measured_alone(folder, precision, runs, size, device))
    return dict(precision=precision, device=device, size=size, processor=processor(), seconds=seconds, peak_memory=peak_memory())


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

    class Clock(LogitsProcessor):
        def __init__(self):
            self.times = []

        def __call__(self, ids, scores):
            self.times.append(now(device))
            return scores

    seen = []
    model.model.visual.register_forward_pre_hook(lambda *_: seen.append(now(device)))
    model.model.visual.register_forward_hook(lambda *_: seen.append(now(device)))

    def caption():
        start, clock = now(device), Clock()
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
        end, times = now(device), clock.times
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
        peak_memory=peak_memory(),
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
    print(processor() + "\n")
    print("| | " + " | ".join(stage.removeprefix("captioning: ") for stage in stages) + " | peak memory |")
    print("|---|" + "---:|" * (len(stages) + 1))
    for name, row in rows.items():
        print(json.dumps(row), file=sys.stderr)
        cells = " | ".join(f"{row['seconds'][stage]:.3g} s" for stage in stages)
        print(f"| {name} | {cells} | {row['peak_memory'] / 1e9:.2f} GB |")


def bench(options, precision, memory):
    """The program's command, but for how many runs."""
    return [options.compare, "bench", "--pretrained-model-name-or-path", options.folder,
            "--lora-path", f"{options.folder}/ckpt/SR_LoRA/model_20001.pkl",
            "--vae-path", f"{options.folder}/ckpt/SR_VAE/vae_encoder_20001.pt", "--device", options.device,
            "--mixed-precision", precision, "--memory", memory, "--size", str(options.size), "--json"]


def compare_parts(options):
    print(processor())
    for plan in options.plans.split(","):
        precision, _, memory = plan.partition("/")

        def coz():
            row = run([*bench(options, precision, memory), "--runs", str(options.runs)])[0]
            print(json.dumps(row), file=sys.stderr)
            # Nothing but what the first stage needs is read before a stage begins.
            row["seconds"]["encoding"] += row["seconds"]["loading the model"]
            return row

        before, rows = coz(), {}
        for stage, parts in measured_alone(options.folder, precision, options.runs, options.size, options.device):
            after = coz()
            print(json.dumps({stage: parts}), file=sys.stderr)
            ours = (before["seconds"][stage] + after["seconds"][stage]) / 2
            rows[stage] = [ours, *(sum(part[which] for part in parts.values()) for which in ("median", "first"))]
            before = after
        rows["all of it"] = [sum(times) for times in zip(*rows.values())]
        print(f"\n| {precision}, {before['memory']} | coz / reference | coz | reference | reference, first pass |")
        print("|---|---:|---:|---:|---:|")
        for name, (ours, theirs, first) in rows.items():
            print(f"| {name} | {ours / theirs:.2f} | {ours:.3g} s | {theirs:.3g} s | {first:.3g} s |")


def compare(options):
    common = ["--runs", str(options.runs), "--size", str(options.size)]
    rows = {}
    for precision in options.precisions.split(","):
        command = [sys.executable, __file__, options.folder, "--precision", precision, "--device", options.device, *common]
        rows[f"reference {precision}"] = row = run(command)[0]
        print(json.dumps(row), file=sys.stderr)
    for plan in options.plans.split(","):
        precision, _, memory = plan.partition("/")
        coz = bench(options, precision, memory)
        row = run([*coz, "--runs", str(options.runs)])[0]
        # Nothing but the first pass, from the start of the process to its end.
        row["start_to_first_seconds"] = run([*coz, "--runs", "0"])[1]
        rows[f"coz {plan}"] = row
        print(json.dumps(row), file=sys.stderr)
    print(processor() + "\n")
    print("| | start to first result | whole pass | " + " | ".join(STAGES) + " | peak memory |")
    print("|---|" + "---:|" * (len(STAGES) + 3))
    for name, row in rows.items():
        peak = row.get("peak_device_memory") or row["peak_memory"]
        cells = [row["start_to_first_seconds"], row["pass_seconds"], *(row["seconds"][stage] for stage in STAGES)]
        print(f"| {name} | " + " | ".join(f"{cell:.3g} s" for cell in cells) + f" | {peak / 1e9:.2f} GB |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--precision", choices=["reference", "fp32", "bf16"], default="reference")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compare", metavar="COZ")
    parser.add_argument("--captioner", action="store_true")
    parser.add_argument("--parts", action="store_true")
    parser.add_argument("--precisions")
    parser.add_argument("--plans")
    options = parser.parse_args()
    options.precisions = options.precisions or ("bf16" if options.captioner else "reference,bf16")
    options.plans = options.plans or ("fp32/auto" if options.parts else "bf16/resident,bf16/staged,bf16/streamed")
    if options.compare:
        (compare_captioner if options.captioner else compare_parts if options.parts else compare)(options)
    else:
        measured = measure_captioner if options.captioner else measure_parts if options.parts else measure
        print(json.dumps(measured(options.folder, options.precision, options.runs, options.size, options.device)))
