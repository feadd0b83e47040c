#!/usr/bin/env bash
# Everything worth knowing of a CUDA device, in one call of about a quarter of an hour: is all found, does all compute what it
# should, do memory and streams hold under NVIDIA's checkers, how fast is it, what happens where memory runs out.
#
#   xtask/gpu.sh COZ OUT      COZ: a release build; OUT: the folder for what comes out
#
# It needs a python3 with PyTorch 2.11.0, and 24 GB of disk for random models of full size. compute-sanitizer (of the CUDA
# toolkit), and diffusers with transformers to compare with, are used where they are. DEVICE=cpu SIZE=--tiny tries the
# script itself. Each step leaves NAME.out, NAME.err and a line in steps.tsv: name, exit code, seconds.
set -uo pipefail
coz=$(realpath "$1") out=$(mkdir -p "$2" && realpath "$2")
here=$(dirname "$(realpath "$0")")
device=${DEVICE:-cuda} size=${SIZE:---full} runs=${RUNS:-5}
models=${MODELS:-$(mktemp -d)/models}
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

bench() {
    local name=$1
    shift
    step "bench-$name" 150 "$coz" bench --json --device "$device" --runs "$runs" --pretrained_model_name_or_path "$models" \
        --vlm_path "$models/vlm" --prompt_type vlm_base --include-parent "$@"
}

drill() {
    step "drill-$1" 90 env PYTORCH_CUDA_ALLOC_CONF=per_process_memory_fraction:0.05 "$coz" zoom -i "$here/../assets/sample.jpg" \
        -o "$out/drill" --rec-num 1 --backbone sd3 --device "$device" --memory "$1" --pretrained_model_name_or_path "$models" --prompt fur
}

: >"$out/steps.tsv"
if [ ! -d "$models" ]; then
    "$coz" random-models "$models" "$size" >"$out/models.out" 2>&1 &
fi
step ldd 10 ldd "$coz"
step doctor 60 "$coz" doctor
step nvidia-smi 10 nvidia-smi
step selftest 300 env NVIDIA_TF32_OVERRIDE=0 "$coz" selftest --json --device "$device"
step selftest-tf32 60 "$coz" selftest --json --device "$device" --only vae-decoder-tf32,vae-decoder,step

if command -v compute-sanitizer >/dev/null; then
    step memcheck 180 env PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool memcheck --error-exitcode 9 \
        "$coz" selftest --device "$device" --only step,tokens,hand-over
    step stream-races 120 env PYTORCH_CUDA_ALLOC_CONF=backend:cudaMallocAsync compute-sanitizer --tool memcheck \
        --track-stream-ordered-races all --error-exitcode 9 "$coz" selftest --device "$device" --only hand-over
fi

wait
bench auto
bench resident --memory resident --trace "$out/resident.trace.json"
bench staged --memory staged
bench streamed --memory streamed
# The first is to say that the memory ran out, and with which plan; the second is to succeed.
drill resident
drill streamed
if python3 -c 'import diffusers, transformers' 2>/dev/null; then
    step reference 180 python3 "$here/../benches/reference.py" "$models" --precision bf16 --runs "$runs" --device "$device"
    step reference-captioner 120 python3 "$here/../benches/reference.py" "$models" --captioner --precision bf16 --runs "$runs" --device "$device"
fi
grep -h '"ok": false' -B 4 "$out"/selftest*.out || echo "every check passed"
