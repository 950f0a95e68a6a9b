#!/bin/sh
# Whole runs of 20 steps on two ranks under the address and undefined-behaviour sanitizers, with
# resume and pictures, say nothing.
# seconds: 900
. "$(dirname "$0")/runs.sh"
make_tiny
build=build/debug-cpu-fp32
[ -x $build/kintoun ] || { echo "$build/kintoun was not built"; exit 1; }
export ASAN_OPTIONS=detect_leaks=0
must run 2 run.stop_at=6 sample.steps=2 sample.prompts.0.caption="a disc" \
    sample.prompts.0.height=4 sample.prompts.0.width=4
must run 2 sample.steps=2 sample.prompts.0.caption="a disc" \
    sample.prompts.0.height=4 sample.prompts.0.width=4
[ -d "$work/run/checkpoints/step-00000020" ] || say "the run did not come to step 20"
must split 2 parallel.sequence=2
grep -E 'ERROR: AddressSanitizer|runtime error' "$work"/*.log && failed=1
exit $failed
