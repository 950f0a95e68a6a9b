#!/bin/sh
# Where nvcc is found: the CUDA programs and the device tests are linked, hold code for every
# architecture, and without a GPU the program says in its first line what is missing.
# ranks: 1
cd "$(dirname "$0")/.." || exit 1
[ "${NVCC:-}" != none ] || { echo "NVCC=none left CUDA out" && exit 77; }
eval "$(sed -n 's/^\(NVCC\|ARCHS\) := *\(.*\)/\1="\2"/p' build/cuda.mk 2>/dev/null)"
if [ -z "${NVCC:-}" ]; then
    echo "no nvcc was found when this was built"
    exit 77
fi
failed=0
say() {
    echo "$*"
    failed=1
}

# Prints what a program's fat binaries lack: each one has a head (magic, version, its size, bytes)
# and then for each architecture kind (2: machine code, 1: PTX), version, the size of its head,
# bytes, ..., at byte 28 the architecture.
codes() {
    python3 - "$ARCHS" "$@" <<'PYTHON'
import struct, sys
archs = [int(a) for a in sys.argv[1].split()]
for path in sys.argv[2:]:
    data = open(path, "rb").read()
    at, binaries = 0, 0
    while (at := data.find(struct.pack("<I", 0xBA55ED50), at)) >= 0:
        head, size = struct.unpack_from("<HQ", data, at + 6)
        entry, end, found = at + head, at + head + size, set()
        while entry < end:
            kind, _, head, size = struct.unpack_from("<HHIQ", data, entry)
            found.add((kind, struct.unpack_from("<I", data, entry + 28)[0]))
            entry += head + size
        wanted = {(2, a) for a in archs} | {(1, archs[-1])}
        if not wanted <= found:
            print(f"{path}: fat binary {binaries} lacks {sorted(wanted - found)}")
        at, binaries = end, binaries + 1
    if binaries == 0:
        print(f"{path}: holds no code for a GPU")
PYTHON
}

tests=$(grep -l '^// backends:' tests/test_*.c)
for precision in fp32 bf16; do
    build=build/cuda-$precision
    for file in $build/kintoun $build/bench/step; do
        [ -x $file ] || say "$file was not built"
    done
    for test in $tests; do
        [ $precision = fp32 ] || grep -q '^// precision:.*bf16' "$test" || continue
        [ -x $build/"${test%.c}" ] || say "$build/${test%.c} was not built"
    done
    [ -x $build/kintoun ] || continue
    if command -v python3 >/dev/null; then
        lacks=$(codes $build/kintoun 2>&1)
        [ -z "$lacks" ] || say "$lacks"
    else
        echo "no python3 here, so the architectures of $build were not read"
    fi

    # Nothing is to be seen of a GPU that may be here.
    work=build/tmp/cuda_build.$$
    text=$(CUDA_VISIBLE_DEVICES='' timeout 60 $build/kintoun train configs/tiny.yaml \
        run.dir=$work 2>&1)
    status=$?
    rm -rf $work
    [ $status -eq 1 ] || say "$build: status $status without a GPU, not 1"
    case $(echo "$text" | grep -v '^--\|^MPI_ABORT') in
    *"no NVIDIA driver"* | *"no GPU"* | *"driver is too old"*) ;;
    *) say "$build without a GPU says: $text" ;;
    esac
done
exit $failed
