#!/usr/bin/env bash
# Everything that needs a GPU, in at most 8 minutes on one H100 or H200 (`make gpu-check`): builds,
# runs every test of ops and modules against the goldens, a training run against the CPU's losses,
# several ranks on the one GPU, the compute sanitizer, the benchmarks. A part that fails does not
# stop the next. All that is said goes into one file, build/gpu/results.txt, worth an entry in
# tests/gpu/RESULTS.md.
#   tests/gpu/check.sh [PART]...      without a name: all parts, in this order
# PYTHON: a Python with PyTorch, for the comparison. SECONDS_MAX: of the whole visit (480).
cd "$(dirname "$0")/../.." || exit 1
. launch/local.sh
python=${PYTHON:-python3} limit=${SECONDS_MAX:-480}
out=build/gpu
mkdir -p $out
results=$out/results.txt
: >$results
failed=

# left SHARE: seconds that a part may take: SHARE, but never more than what is left.
left() {
    rest=$((limit - SECONDS))
    echo $((rest < $1 ? (rest > 1 ? rest : 1) : $1))
}

# step NAME SECONDS COMMAND...: its log in build/gpu/NAME.log, its verdict and end in the results.
step() {
    name=$1 wanted=$2 seconds=$(left "$2") begin=$SECONDS
    shift 2
    [ "$seconds" -ge $((wanted / 2)) ] || { # Half of its time could not tell.
        echo "## $name: not run, the $limit s are over" | tee -a $results
        return
    }
    timeout -k 5 "$seconds" "$@" >$out/$name.log 2>&1 </dev/null
    status=$?
    verdict=ok
    [ $status -eq 0 ] || { verdict="FAILED ($status)" && failed="$failed $name"; }
    { echo "## $name: $verdict, $((SECONDS - begin)) s: $*"; tail -n "${lines:-12}" $out/$name.log
      echo; } | tee -a $results
}

part_machine() {
    lines=40 step machine 20 sh -c 'date; nvidia-smi; uname -sr; nvcc --version | tail -n 2
        sh launch/find-cuda 2>&1; "$1" -c "import torch; print(torch.__version__)"
        git log --oneline | head -n 1' sh "$python"
}

# Only what this GPU and the tests need: one architecture.
part_build() {
    arch=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -n 1 | tr -d .)
    step build 150 env -u MAKEFLAGS make ARCHS="${arch:-90}" PYTHON="$python" gpu-programs
}

# Several ranks on one GPU take turns of milliseconds, unless NVIDIA's MPS is there and lets them
# work side by side. No setting of the GPU changes.
side_by_side() {
    command -v nvidia-cuda-mps-control >/dev/null || {
        "$@"
        return
    }
    export CUDA_MPS_PIPE_DIRECTORY=$PWD/$out/mps CUDA_MPS_LOG_DIRECTORY=$PWD/$out/mps
    mkdir -p $out/mps
    trap 'echo quit | nvidia-cuda-mps-control' EXIT # Where it is stopped in between.
    nvidia-cuda-mps-control -d >>$out/mps.log 2>&1 </dev/null
    "$@"
    trap - EXIT
    echo quit | nvidia-cuda-mps-control >>$out/mps.log 2>&1
    for _ in 1 2 3 4 5 6 7 8 9 10; do # Its processes' names, as the kernel cuts them.
        pgrep -x nvidia-cuda-mps >/dev/null || break
        sleep 0.5
    done
    unset CUDA_MPS_PIPE_DIRECTORY CUDA_MPS_LOG_DIRECTORY
}

# The last ones in bf16 have arrays beyond 2^32 elements, if 31 GiB are free, and messages beyond
# 2^31 bytes from rank to rank: some 30 s more by arithmetic, not measured yet.
part_tests() {
    lines=60 side_by_side step tests 170 env BUILDS=cuda-fp32 sh tests/run.sh
    lines=60 side_by_side step tests_bf16 160 env BUILDS=cuda-bf16 RANKS_MAX=2 sh tests/run.sh
}

# Whole runs on one GPU: the CPU's losses, layouts, checkpoints that any number of ranks restores, a
# rank that stands still.
part_runs() {
    lines=30 side_by_side step runs 120 \
        env KINTOUN_BUILD=build/cuda-fp32 sh tests/test_run_device.sh
    lines=30 step hang 90 \
        env KINTOUN_BUILD=build/cuda-bf16 sh tests/test_run_hang.sh
}

part_sanitizer() {
    command -v compute-sanitizer >/dev/null || {
        echo "## sanitizer: not here, skipped" | tee -a $results
        return
    }
    for test in norm qk_norm_rope pointwise flow product attention; do
        lines=4 step memcheck_$test 20 compute-sanitizer --tool memcheck --error-exitcode 9 \
            build/cuda-fp32/tests/test_$test
    done
    for test in product attention; do # cuDNN's plans take long to build.
        lines=4 step memcheck_${test}_bf16 60 compute-sanitizer --tool memcheck --error-exitcode 9 \
            build/cuda-bf16/tests/test_$test
    done
    lines=4 step racecheck_norm 20 compute-sanitizer --tool racecheck --error-exitcode 9 \
        build/cuda-fp32/tests/test_norm
    # Of our own kernels alone: cuDNN's beside them are not ours to judge. The option has two names.
    only=$(compute-sanitizer --help 2>&1 |
        grep -o -e "--kernel-name " -e "--kernel-regex " | head -n 1)
    lines=4 step racecheck_attention_bf16 90 compute-sanitizer --tool racecheck \
        --error-exitcode 9 ${only:+$only kns=tensor_} build/cuda-bf16/tests/test_attention
}

# Steps of Goku-8B's width at pack lengths from 8k to 64k tokens; those of 2B's are compared.
part_bench() {
    lines=30 step memory_bound 20 build/cuda-bf16/bench/memory_bound 65536 1792
    lines=30 step products 40 build/cuda-bf16/bench/products
    lines=30 step attention 45 build/cuda-bf16/bench/attention 14 576 576 28 64 \
        2 17280 17280 28 64 1 64800 64800 28 64 14 576 128 28 64 14 576 576 16 72 \
        1 8192 8192 24 128
    for size in '3072 48 2 8064 14' '3072 48 2 34560 1' '3072 48 1 64800 1'; do
        lines=2 step "step_$(echo $size | tr ' ' _)" 30 \
            build/cuda-bf16/bench/step $size 128 7 989
    done
}

# Packs of 288p images, 288p videos and a 480p video.
part_compare() {
    lines=40 step compare 150 "$python" bench/compare_torch.py --device cuda --rounds 1 \
        --case 1792,28,4,8064,14,128 --case 1792,28,4,34560,2,128 --case 1792,28,2,64800,1,128
}

for part in ${*:-machine build tests runs bench sanitizer compare}; do
    case $part in
    machine | build | tests | runs | sanitizer | bench | compare) part_$part ;;
    *) echo "no part is called $part" && exit 2 ;;
    esac
done
echo "${failed:+failed:$failed; }$SECONDS s, results in $results" | tee -a $results
[ -z "$failed" ]
