#!/usr/bin/env bash
# Everything worth knowing of a CUDA device, in one call: is all found, does all compute what it
# should, do memory and streams hold under NVIDIA's checkers, how fast is it, what happens where memory runs out.
#
#   xtask/gpu.sh COZ OUT      COZ: a release build; OUT: the folder for what comes out
#
# It needs a python3 with PyTorch 2.11.0, and 24 GB of disk for random models of full size. compute-sanitizer (of the CUDA
# toolkit), and diffusers with transformers to compare with, are used where they are. DEVICE=cpu SIZE=--tiny tries the
# script itself. Each step has a limit of its own, and leaves NAME.out, NAME.err and a line in steps.tsv: name, exit code, seconds.
# The most important ones come first; it ends with 0 where all went as it should.
set -uo pipefail
coz=$(realpath "$1") out=$(mkdir -p "$2" && realpath "$2")
here=$(dirname "$(realpath "$0")")
device=${DEVICE:-cuda} size=${SIZE:---full} runs=${RUNS:-5}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
models=${MODELS:-$work/models}
LD_LIBRARY_PATH=$(python3 -c 'import torch, os; print(os.path.join(os.path.dirname(torch.__file__), "lib"))'):${LD_LIBRARY_PATH:-}
export LD_LIBRARY_PATH

# step NAME SECONDS COMMAND...: runs it for at most so long, and goes on whatever comes of it.
step() {
    local name=$1 most=$2 start=$SECONDS
    shift 2
    timeout --kill-after=10 "$most" "$@" >"$out/$name.out" 2>"$out/$name.err"
    local code=$?
    printf '%s\t%s\t%s\n' "$name" "$code" "$((SECONDS - start))" | tee -a "$out/steps.tsv"
}

# bench NAME RUNS OPTION...
bench() {
    local name=$1 runs=$2
    shift 2
    step "bench-$name" 240 "$coz" bench --json --device "$device" --runs "$runs" "${files[@]}" \
        --vlm_path "$models/vlm" --prompt_type vlm_base --include-parent "$@"
}

drill() {
    step "drill-$1" 120 env PYTORCH_CUDA_ALLOC_CONF=per_process_memory_fraction:"$fraction" "$coz" zoom \
        -i "$here/../assets/sample.jpg" -o "$work/drill" --rec-num 1 --backbone sd3 --device "$device" --memory "$1" "${files[@]}" --prompt fur
}

files=(--pretrained_model_name_or_path "$models" --lora_path "$models/ckpt/SR_LoRA/model_20001.pkl"
    --vae_path "$models/ckpt/SR_VAE/vae_encoder_20001.pt")
# So much of the card that a streamed step fits, and a resident one does not: 5 GB.
total=$(nvidia-smi --query-gpu=memory.total --format=csv,noheader,nounits 2>/dev/null | head -n 1)
fraction=$(awk -v total="${total:-0}" 'BEGIN { print (total > 5000) ? 5000 / total : 1 }')

: >"$out/steps.tsv"
if [ ! -d "$models" ]; then
    "$coz" random-models "$models" "$size" >"$out/models.out" 2>&1 &
fi
step ldd 10 ldd "$coz"
step doctor 60 "$coz" doctor
step nvidia-smi 10 nvidia-smi
step selftest 300 env NVIDIA_TF32_OVERRIDE=0 "$coz" selftest --json --device "$device"
step selftest-tf32 60 "$coz" selftest --json --device "$device" --only vae-decoder-tf32,vae-decoder,step

wait
bench auto "$runs"
bench resident "$runs" --memory resident --trace "$out/resident.trace.json"
bench staged "$runs" --memory staged
bench streamed 1 --memory streamed
# The first is to say that the memory ran out, and with which plan; the second is to succeed.
drill resident
drill streamed
if command -v compute-sanitizer >/dev/null; then
    step memcheck 180 env PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool memcheck --error-exitcode 9 \
        "$coz" selftest --device "$device" --only step,tokens,hand-over
    step stream-races 120 env PYTORCH_CUDA_ALLOC_CONF=backend:cudaMallocAsync compute-sanitizer --tool memcheck \
        --track-stream-ordered-races all --error-exitcode 9 "$coz" selftest --device "$device" --only hand-over
fi
if python3 -c 'import diffusers, transformers' 2>/dev/null; then
    reference() { step "$1" 180 python3 "$here/../benches/reference.py" "$models" --precision bf16 --runs "$runs" --device "$device" "${@:2}"; }
    reference reference
    reference reference-captioner --captioner
fi

# Without a card there is none to run out of memory.
[ "$device" = cpu ] && expected=0 || expected=1
awk -F '\t' -v expected="$expected" '
    $1 == "nvidia-smi" { next }
    $2 != ($1 == "drill-resident" ? expected : 0) { print $1 ": exit code " $2; bad = 1 }
    END { if (!bad) print "all as it should be"; exit bad }' "$out/steps.tsv"
