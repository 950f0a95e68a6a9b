#!/bin/sh
# A step makes nothing: no memory of the device, pinned or managed, no stream, event, communicator
# or plan of a product; on the CPU no memory of the device and no primitive of oneDNN. They are
# counted in whole runs, of images and then videos too, that differ in their steps and saves alone.
# seconds: 300
. "$(dirname "$0")/runs.sh"
build=build/emulator-fp32
export EMULATOR_LENIENT=1 # Else it has algorithms that refuse sizes, and products ask for others.
short="run.share_gpu=true stages.0.steps=3 stages.0.packs=4 stages.1.packs=4 train.validate=5"
make_tiny

# counted NAME SETTING...: goes on with a copy of the run "base" on two ranks. What was made is in
# NAME.made, lines "COUNT WHAT".
counted() {
    name=$1
    shift
    rm -rf "${work:?}/$name"* && cp -r "$work/base" "$work/$name"
    export EMULATOR_COUNTS="$work/$name.counts"
    must "$name" 2 $short "$@"
    cat "$EMULATOR_COUNTS.0" "$EMULATOR_COUNTS.1" >"$work/$name.made" || failed=1
}

# check SETTING...: from a checkpoint of step 2, runs of no step, of one step and its save, of two
# such steps, and of five steps and one save.
check() {
    rm -rf "${work:?}/base"
    must base 2 $short run.stop_at=2 "$@"
    counted none "$@" run.stop_at=2
    counted one "$@" run.stop_at=3
    counted two "$@" run.stop_at=4 checkpoint.every=1
    counted five "$@" run.stop_at=7 checkpoint.every=0
    awk -v settings="$*" '
        FNR == 1 { run++ }
        { n = $1; $1 = ""; made[run $0] += n; all[$0] = 1 }
        END {
            for (what in all) {
                none = made[1 what]; one = made[2 what]; two = made[3 what]; five = made[4 what]
                if (two - one == one - none && five == one) continue
                print settings ":" what ": made " none ", " one ", " two ", " five \
                    " times in runs of 0, 1, 2, 5 steps and 0, 1, 2, 1 saves"
                bad = 1
            }
            if (!((" device memory") in all)) { print "nothing was counted"; bad = 1 }
            exit bad
        }' "$work/none.made" "$work/one.made" "$work/two.made" "$work/five.made" || failed=1
}

check model.recompute=block model.offload=true
build=build/emulator-bf16
check model.recompute=cheap parallel.sequence=2

build=build/cpu-fp32
cc -std=c11 -shared -fPIC tests/counted.c -o "$work/counted.so" -ldl || say "no tests/counted.c"
export LD_PRELOAD="$PWD/$work/counted.so"
check model.recompute=block
check model.recompute=cheap parallel.sequence=2
exit $failed
