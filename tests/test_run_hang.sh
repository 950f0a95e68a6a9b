#!/bin/sh
# A rank that stands still ends the job after run.hang_minutes, by the line of one that waits for
# it, which names it, and the run resumes; so does a fault of NCCL's. A job that was stopped whole
# goes on. The device is the emulator's, where KINTOUN_BUILD names no other build.
# seconds: 300
. "$(dirname "$0")/runs.sh"
trap 'kill -9 $launcher $(processes ".*" kintoun) 2>/dev/null; rm -rf "$work"' EXIT
trap 'exit 1' TERM INT
build=${KINTOUN_BUILD:-$build}
make_tiny

# Steps that take long enough to be met in the middle, or enough of them.
small="train.validate=0 run.share_gpu=true"
large="$small model.layers=6 model.heads=6"
if [ -z "${KINTOUN_BUILD:-}" ]; then
    slow="$large checkpoint.every=4" last=6
else
    slow="$large checkpoint.every=10 stages.1.steps=100000" last=14
fi

# stop_one NAME [FAULT]: one rank is stopped after step $last, and FAULT made; the run fails.
stop_one() {
    wait_step "$1" $last
    kill -STOP "$rank" || say "$1 has no rank to stop: $(tail -n 3 "$work/$1.log")"
    [ -z "$2" ] || { sleep 1 && touch "$2"; }
    wait $pid
    status=$?
    [ $status -eq 1 ] || say "$1: exit $status, want 1: $(tail -n 3 "$work/$1.log")"
}

# hangs BUILD NAME RANKS SECONDS MINUTES: the same number.
hangs() {
    build=$1
    started "$2" "$3" $slow run.hang_minutes="$5"
    stopped=$(tr '\0' '\n' <"/proc/$rank/environ" | sed -n 's/^OMPI_COMM_WORLD_RANK=//p')
    stop_one "$2"
    grep -q "for $4 seconds (run.hang_minutes): no word from rank $stopped within 5 s; rank" \
        "$work/$2.log" ||
        say "$2: nothing of a wait in: $(tail -n 3 "$work/$2.log")"
    tries=0
    while kill -0 "$rank" 2>/dev/null; do # Its launcher kills it last.
        tries=$((tries + 1))
        [ $tries -lt 100 ] || { say "$2: the rank that was stopped is still there"; break; }
        sleep 0.1
    done
    saved=$(ls "$work/$2/checkpoints" | sed -n 's/^step-0*//p' | tail -n 1)
    must "$2" "$3" $slow run.stop_at=$((saved + 4))
    grep -q 'resumes at step' "$work/$2.log" || say "$2 did not resume"
    ! ls -d "$work/$2"/hang-* 2>/dev/null || say "$2: the last call's folder is still there"
}

[ -z "${KINTOUN_BUILD:-}" ] || {
    hangs "$KINTOUN_BUILD" device 2 12 0.2
    exit $failed
}
hangs build/cpu-fp32 cpu 3 6 0.1
slow="$small checkpoint.every=4" # The emulator's steps are long.
hangs build/emulator-fp32 device 2 6 0.1

# A fault of the network that no call tells of, since the rank waits for its device already.
export EMULATOR_NCCL_FAULT="$work/broken"
started fault 2 $slow
stop_one fault "$EMULATOR_NCCL_FAULT"
grep -q 'on the device: ' "$work/fault.log" ||
    say "a fault of the network: $(tail -n 3 "$work/fault.log")"

build=build/cpu-fp32 slow=$large
started paused 2 $slow run.hang_minutes=0.1
wait_step paused 6
ranks=$(processes paused kintoun)
kill -STOP $ranks || say "no ranks to stop: $(tail -n 3 "$work/paused.log")"
sleep 8
kill -CONT $ranks
wait $pid || say "stopped and continued: $(tail -n 3 "$work/paused.log")"

# Who comes back while the others ask for it is taken back.
started back 2 $slow run.hang_minutes=0.1
wait_step back 6
kill -STOP "$rank" || say "back has no rank to stop: $(tail -n 3 "$work/back.log")"
sleep 8
ls -d "$work"/back/hang-* >/dev/null || say "back: nobody asked"
kill -CONT "$rank"
wait $pid || say "stopped and back in time: $(tail -n 3 "$work/back.log")"

# A rank alone waits for nobody, however long its steps: these take more than 0.6 seconds.
must alone 1 model.layers=12 model.heads=12 train.validate=0 run.hang_minutes=0.01 run.stop_at=2
exit $failed
