#!/bin/sh
# The run does not depend on the machines: with sequence = 1 the checkpoint folder is the same
# byte for byte on 1 to 4 ranks, for every legal shard, for 1 and 2 threads, for every
# recomputation policy; with sequences the loss curves agree to 1e-5. fp32 and bf16, gradients
# sent as fp32 and as bf16.
# seconds: 900
. "$(dirname "$0")/runs.sh"
make_tiny

# layouts PREFIX [SETTING]...: all of sequence = 1 against one rank; leaves the digest in $want.
layouts() {
    prefix=$1
    shift
    must ${prefix}one 1 "$@"
    want=$(digest ${prefix}one)
    for ranks in 2 3 4; do
        must $prefix$ranks $ranks "$@"
        same $prefix$ranks "$want"
        close $prefix$ranks ${prefix}one 0
    done
    for layout in 2:1 4:1 4:2; do
        must $prefix$layout ${layout%:*} parallel.shard=${layout#*:} "$@"
        same $prefix$layout "$want"
    done
}

# laid_out RANKS:SHARD:SEQUENCE [SETTING]...: such a run, in $work/qRANKS:SHARD:SEQUENCE.
laid_out() {
    layout=$1 ranks=${1%%:*} sequence=${1##*:} shard=${1#*:}
    shift
    run q$layout $ranks parallel.shard=${shard%:*} parallel.sequence=$sequence "$@"
}

# Every legal layout with sequences on 1 to 4 ranks, and two that are refused: where sequence
# divides shard, the number of copies must be a power of two.
sequences() {
    for layout in 2:2:2 2:1:2 3:3:3 3:1:3 4:4:4 4:2:4 4:1:4 4:4:2 4:2:2 4:1:2; do
        laid_out $layout || say "q$layout: $(tail -n 15 "$work/q$layout.log")"
        close q$layout fone 1e-5
    done
    for layout in 3:1:1 4:3:1; do
        laid_out $layout
        [ $? -eq 78 ] && grep -q 'nearest legal' "$work/q$layout.log" || say "q$layout was taken"
    done
}

# alike PREFIX: two threads a rank and every recomputation policy give the bytes of $want.
alike() {
    for ranks in 1 2; do
        OMP_NUM_THREADS=2 must ${1}threads$ranks $ranks
        same ${1}threads$ranks "$want"
    done
    for ranks in 1 4; do
        for policy in none cheap linear block; do
            must $1$policy$ranks $ranks model.recompute=$policy
            same $1$policy$ranks "$want"
        done
    done
}

layouts f
fp32=$want
sequences
alike f
must gathered 4 parallel.reshard_after_forward=false run.deterministic=true
same gathered "$fp32"
layouts fb parallel.reduce=bf16
[ "$want" != "$fp32" ] || say "parallel.reduce changes nothing"

if grep -q avx512_bf16 /proc/cpuinfo; then
    build=build/cpu-bf16
    layouts b
    [ "$want" != "$fp32" ] || say "bf16 is fp32"
    alike b
    layouts bf parallel.reduce=fp32
else
    echo "bf16 skipped: this processor has no bf16 products"
fi
exit $failed
