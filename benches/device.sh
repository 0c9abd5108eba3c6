#!/usr/bin/env bash
# Everything that is to be known of one device, in one run: what it is, parity, forwards, decodes and training steps,
# PyTorch beside decodes and steps, and, with TOKENS, a training that is stopped and resumed. What each part says lies in OUT,
# that of parity and benches as JSON; OUT/table.md has one table of all, and is written anew after each part.
#
#   benches/device.sh MGNT DEVICE OUT [CONFIG] [RECIPE]
#
# MGNT     the binary, built with what DEVICE needs (it may lie in a pack of its own, without this repository's target)
# DEVICE   cpu, ndarray, wgpu or cuda[:n]
# CONFIG   the model that is timed          (default configs/model-L.ron)
# RECIPE   what is trained, on drawn tokens (default on CUDA configs/image/imagenet256-L.ron, else configs/image/debug.ron; of
#          these two, where neither is named, PyTorch's steps are taken as well on CUDA and cpu, both sides without dropout)
# BATCHES, TYPES, REPEAT, PYTHON, TRAIN_BATCH in the environment change the defaults below, and PART_SECONDS ends a part that takes
# longer. With TOKENS, a token store, the recipe REAL
# (default configs/image/imagenette64.ron) is trained on it for SECONDS_OF_TRAINING (default 240), stopped, and resumed for as long;
# VALIDATION is a store too, and the same command continues it. On CUDA a first run is mostly the compiling and tuning of
# kernels, which are kept: take the times of a second one. Products on CUDA are cuBLASLt's where PYTHON's packages or
# LD_LIBRARY_PATH have it (`devices` in the results says so). A part that fails is named at the end, and does not stop
# the others.
set -uo pipefail
mgnt=$(readlink -f "$(command -v "$1" || echo "$1")") device=$2 out=$3
[ -x "$mgnt" ] || {
    echo "$1: no program" >&2
    exit 2
}
root=$(cd "$(dirname "$0")/.." && pwd)
case $device in
cuda*) large=imagenet256-L sizes=(--layers 24 --width 1024 --heads 16 --hidden 4096 --bf16) hows=("" --compile --compile=reduce-overhead) ;;
*) large=debug sizes=(--layers 4 --width 128 --heads 8 --hidden 512) hows=("" --compile) ;;
esac
config=${4:-$root/configs/model-L.ron} recipe=${5:-$root/configs/image/$large.ron}
batches=${BATCHES:-1,8,64} types=${TYPES:-f32 tf32 bf16} repeat=${REPEAT:-3} python=${PYTHON:-python3}
mkdir -p "$out"
out=$(readlink -f "$out")
failed=()

# PyTorch's own.
library=$("$python" -c 'import glob, site
for folder in site.getsitepackages() + [site.getusersitepackages()]:
    for found in glob.glob(folder + "/nvidia/*/lib/libcublasLt.so.1[23]"): print(found.rsplit("/", 1)[0])' 2>/dev/null | head -n 1)
[ -n "$library" ] && export LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$library

part() { # NAME COMMAND...: keeps what it prints, and goes on where it fails
    local name=$1
    shift
    echo "== $name: ${*/#$mgnt/mgnt}" | tee -a "$out/log.txt"
    local status=0
    if [ -n "$limit" ]; then
        # In a group of its own, which an interrupt of ours reaches by us alone.
        timeout "$limit" "$@" >"$out/$name.out" 2>"$out/$name.err" &
        trap 'kill -TERM $!; exit 130' INT
        wait $! || status=$?
        trap - INT
    else
        "$@" >"$out/$name.out" 2>"$out/$name.err" || status=$?
    fi
    if [ "$status" = 0 ]; then
        case " $* " in *" --json "*) ;; *) cat "$out/$name.out" ;; esac
    else
        local why
        why=$(tail -n 1 "$out/$name.err")
        [ -n "$limit" ] && [ "$status" = 124 ] && why="ended after $limit seconds"
        failed+=("$name: $why")
        tail -n 3 "$out/$name.err"
    fi
    "$python" "$root/benches/device_table.py" "$out" >"$out/table.new" 2>/dev/null && mv "$out/table.new" "$out/table.md"
}
limit=${PART_SECONDS:-}
rm -f "$out/train-torch.out"

part devices "$mgnt" devices
for type in $types; do
    part "parity-$type" "$mgnt" parity --golden "$root/tests/golden" --device "$device" --dtype "$type" --json
    part "forward-$type" "$mgnt" bench forward --config "$config" --device "$device" --dtype "$type" --batch "$batches" --repeat "$repeat" --json
    part "decode-$type" "$mgnt" bench decode --config "$config" --device "$device" --dtype "$type" --batch "$batches" --repeat "$repeat" --json
    if "$python" -c 'import torch, safetensors' 2>/dev/null; then
        for batch in ${batches//,/ }; do
            for compile in "${hows[@]}"; do
                part "torch-$type-$batch$compile" "$mgnt" bench-against-torch --config "$config" --device "$device" --dtype "$type" \
                    --batch "$batch" --repeat "$repeat" --python "$python" --script "$root/benches/torch_decode.py" $compile --json
            done
        done
    else
        failed+=("torch-$type: $python has no torch with safetensors")
    fi
done
step=(--config "$recipe" --device "$device" --batch "${TRAIN_BATCH:-16}")
part train "$mgnt" bench train "${step[@]}" --repeat "$repeat" --json
case $device in
cpu | cuda*)
    [ "$#" -lt 5 ] && part train-torch "$python" "$root/benches/torch/compare_steps.py" --mgnt "$mgnt" "${step[@]}" "${sizes[@]}" \
        --rounds 1 --json
    ;;
esac
if [ -n "${TOKENS:-}" ]; then
    training=("$mgnt" train-imagenet --config "${REAL:-$root/configs/image/imagenette64.ron}" --data "$TOKENS" --device "$device"
        --out "$out/real" ${VALIDATION:+--validation "$VALIDATION"})
    # An interrupt ends a training after its step, with a checkpoint and exit code 0.
    first=()
    # One that died before its first checkpoint has nothing to resume.
    compgen -G "$out/real/checkpoints/step-*[0-9]" >/dev/null && first=(--resume)
    limit=
    for turn in real real-resumed; do
        # In the foreground, so that the training is told once: a second interrupt ends it without a checkpoint.
        part "$turn" timeout --foreground --preserve-status --signal INT "${SECONDS_OF_TRAINING:-240}" "${training[@]}" ${first[@]+"${first[@]}"}
        first=(--resume)
    done
    limit=${PART_SECONDS:-}
fi
part demo "$mgnt" demo --device "$device" --hurry 10 --shipped "$root/assets/imagenette64" --out "$out/demo"

echo
"$python" "$root/benches/device_table.py" "$out" >"$out/table.md" || failed+=("table: it lacks what could not be read")
cat "$out/table.md"
echo
echo "results in $out"
if [ ${#failed[@]} -gt 0 ]; then
    printf 'failed: %s\n' "${failed[@]}"
    exit 1
fi
