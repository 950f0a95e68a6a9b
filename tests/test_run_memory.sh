#!/bin/sh
# A run's memory stands still: resident memory grows by less than 2 MiB from step 10 to step 200,
# on every rank's average.
# seconds: 300
. "$(dirname "$0")/runs.sh"
make_tiny
must long 2 stages.images.steps=100 stages.joint.steps=100 checkpoint.every=40 train.validate=0
memory() {
    sed -n "s/^{\"step\": $1,.*\"memory_bytes\": \([0-9]*\).*/\1/p" "$work/long/metrics.jsonl"
}
begin=$(memory 10) end=$(memory 200)
echo "resident: $begin bytes at step 10, $end at step 200"
[ $((end - begin)) -lt $((2 << 20)) ] || say "grew by $((end - begin)) bytes"
exit $failed
