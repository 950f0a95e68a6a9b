#!/bin/sh
# A run's memory stands still: the resident memory of rank 0 of two grows by less than 2 MiB from
# step 10 to step 200.
# seconds: 300
. "$(dirname "$0")/runs.sh"
make_tiny
must long 2 stages.images.steps=100 stages.joint.steps=100 checkpoint.every=40 train.validate=0
memory() {
    sed -n "s/^{\"step\": $1,.*\"memory_bytes\": \([0-9]*\).*/\1/p" "$work/long/metrics.jsonl"
}
begin=$(memory 10) end=$(memory 200)
echo "resident: $begin bytes at step 10, $end at step 200"
[ -n "$begin" ] && [ -n "$end" ] || { echo "no memory_bytes in metrics.jsonl" && exit 1; }
[ $((end - begin)) -lt $((2 << 20)) ] || say "grew by $((end - begin)) bytes"
exit $failed
