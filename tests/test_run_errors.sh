#!/bin/sh
# What a user may get wrong stops before anything starts, with exit 78 and every problem with its
# place; data that goes bad is named and carries no loss; data that is gone ends the job.
# seconds: 300
. "$(dirname "$0")/runs.sh"
make_tiny

# refused WORDS SETTING...: exit 78 and a line with WORDS.
refused() {
    words=$1
    shift
    run bad 1 "$@"
    status=$?
    [ $status -eq 78 ] || say "$*: exit $status, want 78: $(tail -n 2 "$work/bad.log")"
    grep -q "$words" "$work/bad.log" || say "$*: no '$words' in: $(cat "$work/bad.log")"
    [ ! -e "$work/bad" ] || say "$*: a run folder was made"
}

refused "unknown setting 'model.layrs'" model.layrs=3
refused 'model.layers' model.layers=-3
refused 'train.caption_dropout' train.caption_dropout=nan
refused '2 errors' model.layers=x train.beta1=2
refused 'flow.strata = 3' flow.strata=3
refused 'run.hang_minutes = 0.001; allowed: 0 (never), or 0.01 and more' run.hang_minutes=0.001
refused 'head_dim' model.head_dim=12
refused 'shard' parallel.shard=3
mixed=/nonexistent
refused 'index.json'
mixed=
refused 'channels' model.in_channels=16
refused "unknown option '--frsh'" --frsh

mpirun -np 1 $build/kintoun train "$work/none.yaml" >"$work/none.log" 2>&1
[ $? -eq 78 ] || say "a missing file: $(cat "$work/none.log")"
$build/kintoun trian >"$work/word.log" 2>&1
[ $? -eq 78 ] || say "an unknown command: $(cat "$work/word.log")"
$build/kintoun train --help | grep -q 'Exit codes' || say "no help"
$build/kintoun train --settings | grep -q 'train.clip' || say "no list of settings"

# Every sample of one shard is corrupt: said, counted, no loss; too many end the run.
cp -r $tiny/mixed "$work/mixed"
shard=$work/mixed/shard.00001.mds.zstd
printf '\377\377' | dd of="$shard" bs=1 seek=2000 conv=notrunc 2>/dev/null
mixed=$work/mixed
must corrupt 2 data.corrupt_max=10000
grep -q 'carries no loss.*shard.00001' "$work/corrupt.log" ||
    say "the corrupt shard was not named"
grep -q '"corrupt": [1-9]' "$work/corrupt/metrics.jsonl" || say "not counted"
run corrupt_max 2 data.corrupt_max=2
[ $? -eq 1 ] || say "too many corrupt samples were taken"
rm "$shard"
run gone 2 && say "a missing shard was taken"
grep -q 'shard.00001' "$work/gone.log" ||
    say "the missing shard was not named: $(tail -n 3 "$work/gone.log")"

# Steps whose norm spikes change nothing, are reported with their samples, and end the run when
# they do not stop.
mixed=
run spikes 2 train.spike=0.000001 train.skips_max=2 stages.joint.steps=80
[ $? -eq 1 ] || say "a run of skipped steps ended well"
grep -q 'steps skipped in a row: gradient norm spiked' "$work/spikes.log" ||
    say "$(tail -n 2 "$work/spikes.log")"
grep -q '"reason": "gradient norm spiked".*"packs": \[\[{"position": ' \
    "$work/spikes/skipped.jsonl" ||
    say "no report of what was skipped"
exit $failed
