#!/bin/sh
# The emulator finds planted faults (tests/emulator/faults.cu), each by the message or the wrong
# data it should, and what is right runs right in every order.
# seconds: 120
cd "$(dirname "$0")/.." || exit 1
. launch/local.sh
failed=0
release=build/emulator-fp32/tests/faults debug=build/debug-emulator-fp32/tests/faults
export ASAN_OPTIONS=detect_leaks=0

complain() {
    echo "$1"
    failed=1
}

# finds PROGRAM CASE TEXT [RANKS]: the case fails, and says TEXT.
finds() {
    start=
    [ -z "$4" ] || start="mpirun -np $4"
    text=$(timeout 60 $start "$1" "$2" 2>&1) && complain "$2: it ends with status 0"
    case $text in *"$3"*) ;; *) complain "$2: want '$3' in: $text" ;; esac
}

# varies CASE: wrong for some order, among those of a few seeds.
varies() {
    wrong=0
    for seed in 1 2 3 4 5; do
        EMULATOR_SEED=$seed $release "$1" >/dev/null 2>&1 || wrong=$((wrong + 1))
    done
    [ $wrong -gt 0 ] || complain "$1: right for all seeds"
}

for program in $release $debug; do
    for order in up down random; do
        EMULATOR_ORDER=$order $program right >/dev/null || complain "right: $program $order"
    done
    for case in product copy tensor; do
        $program $case >/dev/null || complain "$case: $program"
    done
    timeout 60 mpirun -np 2 $program transport >/dev/null || complain "transport: $program"
done
for seed in 1 2 3 4 5; do
    EMULATOR_SEED=$seed $release 'with event' >/dev/null || complain "with event: seed $seed"
    EMULATOR_SEED=$seed $release late >/dev/null || complain "late: seed $seed"
done

EMULATOR_ORDER=up $release barrier >/dev/null 2>&1 &&
    EMULATOR_ORDER=down $release barrier >/dev/null 2>&1 && complain "barrier: not found"
for case in event write read early; do varies $case; done
for case in outside before freed shared; do
    finds $debug $case "AddressSanitizer: use-after-poison"
done
finds $release far "a kernel touched memory of the device at"
finds $release leaves "255 of 256 threads wait at a barrier of the block (the first is 0), 1 have"
finds $release leaves "of kernel leave_kernel(float*)"
finds $release lane "is not in the mask 0000ffff that it gives"
finds $release short "the mask ffffffff names lanes that the last warp lacks: it has 8"
finds $release masks "16 of 32 threads wait in their warp (the first is 0, for the lanes ffffffff)"
finds $release lanes "16 of 32 threads wait in their warp (the first is 0, for the lanes ffffffff)"
finds $release unwaited "that did not wait for its copies into shared memory"
finds $release threads "kernel of 1 x 1 x 1 blocks of 2048 x 1 threads: invalid configuration"
finds $release memory "invalid argument"
finds $release overlaps "cublasLtMatmul: operand D overlaps operand B"
finds $release host "the host touched memory of the device at"
finds $release counts "all_gather #0 of 127 elements of type 7" 2
finds $release calls "calls broadcast #0 of 128 elements of type 7, root 0" 2
finds $release event "emulator: this was EMULATOR_SEED=1 EMULATOR_ORDER=random"

EMULATOR_CAPABILITY=8 build/emulator-bf16/tests/test_product >/dev/null 2>&1 ||
    complain "test_product on a device of capability 8.0"

echo '#include <cuda_runtime.h>
static __global__ void add(float *x) { atomicAdd(x, 1.0f); }
void start(cudaLaunchConfig_t *c, float *x) { cudaLaunchKernelEx(c, add, x); }' |
    g++ -std=c++17 -I. -I tests/emulator -fsyntax-only -x c++ - 2>/dev/null &&
    complain "an atomic sum of floats compiles"
exit $failed
