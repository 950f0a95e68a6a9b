#!/bin/sh
# A rank that stands still ends the job within run.hang_minutes, by the line of one that waits for
# it, and the run resumes; so does a fault of NCCL's. A job that was stopped whole goes on.
# seconds: 300
. "$(dirname "$0")/runs.sh"
make_tiny

# Steps that take long enough to be met in the middle; 3 seconds of patience.
slow="model.layers=6 model.heads=6 checkpoint.every=4 train.validate=0"
patience=run.hang_minutes=0.05

# hangs BUILD NAME: one of two ranks is stopped.
hangs() {
    build=$1
    started "$2" 2 $slow $patience run.share_gpu=true
    wait_step "$2" 6
    kill -STOP "$rank"
    wait $pid
    status=$?
    [ $status -eq 1 ] || say "$2: exit $status, want 1: $(tail -n 3 "$work/$2.log")"
    grep -q 'no end after 3 seconds (run.hang_minutes)' "$work/$2.log" ||
        say "$2: nothing of a wait in: $(tail -n 3 "$work/$2.log")"
    tries=0
    while kill -0 "$rank" 2>/dev/null; do # Its launcher kills it last.
        tries=$((tries + 1))
        [ $tries -lt 100 ] || { say "$2: the rank that was stopped is still there"; break; }
        sleep 0.1
    done
    must "$2" 2 $slow $patience run.share_gpu=true run.stop_at=12
    grep -q 'resumes at step' "$work/$2.log" || say "$2 did not resume"
}

hangs build/cpu-fp32 cpu
hangs build/emulator-fp32 device

# A fault of the network that no call tells of, since the rank waits for its device already.
export EMULATOR_NCCL_FAULT="$work/fault"
started fault 2 $slow run.share_gpu=true
wait_step fault 6
kill -STOP "$rank"
sleep 1
touch "$EMULATOR_NCCL_FAULT"
wait $pid
status=$?
[ $status -eq 1 ] || say "a fault of the network: exit $status, want 1"
grep -q 'on the device: ' "$work/fault.log" ||
    say "a fault of the network: $(tail -n 3 "$work/fault.log")"

build=build/cpu-fp32
started paused 2 $slow $patience
wait_step paused 6
ranks=$(processes paused kintoun)
kill -STOP $ranks
sleep 5
kill -CONT $ranks
wait $pid || say "stopped and continued: $(tail -n 3 "$work/paused.log")"
exit $failed
