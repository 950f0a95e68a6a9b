#!/bin/sh
# Whole runs on a device: each of 20 losses as on the CPU to 1e-4; the same checkpoints, byte for
# byte, on 1, 2 and 4 ranks with any shard, stopped and resumed on fewer; with sequences the same
# losses to 1e-5; checkpoints go from the CPU to the device and back; in bf16 the same bytes on 1
# and 4 ranks, and the losses of fp32 to 1e-3. The device is the emulator's, which does most layouts
# for 10 steps, where KINTOUN_BUILD names no other build.
# tests/losses/tiny-fp32.txt is what the CPU's build in fp32 had, by
#   KINTOUN_BUILD=build/cpu-fp32 sh tests/test_run_device.sh losses >tests/losses/tiny-fp32.txt
# seconds: 900
. "$(dirname "$0")/runs.sh"
cpu=$build device=${KINTOUN_BUILD:-build/emulator-fp32} build=$device steps=20
settings="run.deterministic=true run.share_gpu=true"
make_tiny

must one 1 $settings
if [ "${1:-}" = losses ]; then
    losses one
    exit $failed
fi
mkdir -p "$work/file"
sed 's/\(.*\) \(.*\)/{"step": \1, "loss": \2}/' tests/losses/tiny-fp32.txt \
    >"$work/file/metrics.jsonl"
close one file 1e-4

# same_as_one NAME: the checkpoint of the last step and the losses are those of one rank.
same_as_one() {
    same "$1" "$(digest one $steps)"
    close "$1" one 0
}

must 4:2 4 parallel.shard=2 $settings # RANKS:SHARD
same_as_one 4:2
[ -n "${KINTOUN_BUILD:-}" ] || steps=10
end=run.stop_at=$steps
must 4:4and2:1 4 parallel.shard=4 $settings run.stop_at=6
must 4:4and2:1 2 parallel.shard=1 $settings $end
same_as_one 4:4and2:1
for ranks in 2 4; do # Each pack split over all.
    must sequence$ranks $ranks parallel.sequence=$ranks $settings $end
    close sequence$ranks one 1e-5
done

fp32=$build all_steps=$steps
build=${device%fp32}bf16 steps=3
must bf16 1 $settings run.stop_at=3
must bf16:4 4 parallel.shard=2 $settings run.stop_at=3
same bf16:4 "$(digest bf16 3)"
close bf16:4 bf16 0
close bf16 one 1e-3
build=$fp32 steps=$all_steps

# crossed NAME FROM TO: one build goes on with the checkpoint of another.
crossed() {
    build=$2
    must "$1" 2 $settings run.stop_at=6
    build=$3
    must "$1" 1 $settings $end
    grep -q 'resumes at step 6' "$work/$1.log" || say "$1: $(tail -n 3 "$work/$1.log")"
    close "$1" one 1e-4
}
if [ -z "${KINTOUN_BUILD:-}" ]; then # A machine for GPUs may lack what the CPU's build needs.
    crossed there $cpu "$device"
    crossed back "$device" $cpu
fi
exit $failed
