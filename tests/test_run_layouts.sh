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

sequences() {
    for layout in 2:2:2 2:1:2 3:3:3 3:1:3 4:4:4 4:2:4 4:2:2 4:4:2 4:1:2; do
        IFS=: read -r ranks shard sequence <<LAYOUT
$layout
LAYOUT
        # What is no legal number of replicas says so.
        run q$layout $ranks parallel.shard=$shard parallel.sequence=$sequence "$@"
        status=$?
        if [ $status -eq 78 ] && grep -q 'nearest legal' "$work/q$layout.log"; then continue; fi
        [ $status -eq 0 ] || say "q$layout: $(tail -n 3 "$work/q$layout.log")"
        close q$layout fone 1e-5
    done
}

layouts f
fp32=$want
sequences
OMP_NUM_THREADS=2 must threads 1
same threads "$fp32"
OMP_NUM_THREADS=2 must threads2 2
same threads2 "$fp32"
for policy in none cheap linear block; do
    must r1$policy 1 model.recompute=$policy
    same r1$policy "$fp32"
    must r4$policy 4 model.recompute=$policy
    same r4$policy "$fp32"
done
must gathered 4 parallel.reshard_after_forward=false
same gathered "$fp32"
layouts fb parallel.reduce=bf16
[ "$want" != "$fp32" ] || say "parallel.reduce changes nothing"

if grep -q avx512_bf16 /proc/cpuinfo; then
    build=build/cpu-bf16
    layouts b
    [ "$want" != "$fp32" ] || say "bf16 is fp32"
    OMP_NUM_THREADS=2 must bthreads 1
    same bthreads "$want"
    must b1block 1 model.recompute=block
    same b1block "$want"
    must b4linear 4 model.recompute=linear
    same b4linear "$want"
    layouts bf parallel.reduce=fp32
else
    echo "bf16 skipped: this processor has no bf16 products"
fi
exit $failed
