#!/bin/sh
# cuDNN's attention without a GPU: its inputs are right, and every plan that any of configs/ needs
# is built for an H200 that is only described, by every cuDNN that is found, and one's for a B200:
# on tensor cores, with no more workspace than was planned, nothing quadratic.
# ranks: 1
# seconds: 600
cd "$(dirname "$0")/.." || exit 1
build/emulator-fp32/tests/cudnn/offsets || exit 1

nvcc=$(sed -n 's/^NVCC := //p' build/cuda.mk)
[ -n "$nvcc" ] || { echo "no CUDA with cuDNN here"; exit 77; }
plans=build/cuda-fp32/tests/cudnn/plans
[ -x $plans ] || { echo "$plans was not built"; exit 1; }
toolkit=$(dirname "$(readlink -f "$(command -v "$nvcc")")")/..
stub=$(ls "$toolkit"/lib64/stubs/libcuda.so "$toolkit"/lib/stubs/libcuda.so \
    "$toolkit"/targets/x86_64-linux/lib/stubs/libcuda.so 2>/dev/null | head -n 1)
[ -n "$stub" ] || { echo "the toolkit has no stub of the driver"; exit 77; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
sh tests/cudnn/driver.sh "$stub" "$work" || exit 1

# build LOG FOLDERS CONFIG...: the plans of these configurations, by the cuDNN in FOLDERS.
build() {
    log=$1 folders=$2
    shift 2
    gpu=${log##*/}
    [ -e "tests/cudnn/$gpu.json" ] || gpu=h200
    KERNELS=1 LD_LIBRARY_PATH=$work$folders $plans "tests/cudnn/$gpu.json" "$@" >"$log" 2>&1 ||
        echo FAILED >>"$log"
}
build "$work/small" "" configs/[!g]*.yaml configs/goku-1b.yaml configs/goku-2b.yaml &
build "$work/large" "" $(ls configs/g*.yaml | grep -v 'goku-[12]b')
build "$work/heads" ""
build "$work/b200" "" configs/goku-2b.yaml
wait
python=$(python3 -c 'import nvidia.cudnn; print(list(nvidia.cudnn.__path__)[0])' 2>/dev/null)
minor=$(sed -n 's/^#define CUDNN_MINOR *//p' "$python"/include/cudnn_version.h 2>/dev/null)
if [ "${minor:-0}" -ge 19 ] && ! grep -q "$python" build/cuda.mk; then
    build "$work/python" ":$python/lib:$python/../cu13/lib" configs/goku-1b.yaml
fi

# Each plan follows the name of its kernel: Hopper's flash attention, its tile as wide as the head;
# Blackwell's.
for log in "$work"/small "$work"/large "$work"/heads "$work"/b200 "$work"/python; do
    [ -e "$log" ] || continue
    awk -v blackwell="$(expr "$log" : '.*b200')" '
        function fail(why) { print why ": " $0; failed = 1 }
        /^kernel / { kernel = $2 }
        /^plan / {
            n[$2]++
            tile = $4 + 0 <= 64 ? 64 : $4 + 0 <= 128 ? 128 : $4 + 0 <= 192 ? 192 : 256
            want = "_flash_" ($2 == "forward" ? "f" : "b") "prop_"
            want = blackwell ? "sm100" want : "sm90" want "wgmma.*x" tile "_"
            if (kernel !~ want) fail("kernel " kernel)
            kernel = ""
        }
        /^cuDNN|^scratch/
        !/^(kernel|plan|scratch|config|cuDNN|none)/ { fail("unexpected") }
        END {
            print n["forward"] + 0 " forward and " n["backward"] + 0 " backward plans"
            if (n["forward"] == 0 || n["forward"] != n["backward"]) fail("plans are missing")
            exit failed
        }' "$log" || bad=1
done
exit ${bad:-0}
