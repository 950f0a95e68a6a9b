#!/bin/sh
# How ranks begin: rank 0 warns where the ranks of a node do not follow each other; a node that has
# lost a GPU is a failure, too few everywhere are wrong settings (a library in front of MPI makes
# two nodes of one machine); a signal within MPI_Init saves after the first step; a run whose folder
# a later start has claimed stops for good, but not by one that is refused.
. "$(dirname "$0")/runs.sh"
make_tiny
cat >"$work/front.c" <<'SOURCE'
#include <mpi.h>
#include <signal.h>
#include <stdlib.h>
int PMPI_Comm_split_type(MPI_Comm comm, int type, int key, MPI_Info info, MPI_Comm *new) {
    int rank, size, round = getenv("ROUND_ROBIN") != NULL;
    (void)type, (void)info;
    MPI_Comm_rank(comm, &rank);
    MPI_Comm_size(comm, &size);
    return MPI_Comm_split(comm, round ? rank % 2 : rank / 2, key, new);
}
int MPI_Comm_split_type(MPI_Comm comm, int type, int key, MPI_Info info, MPI_Comm *new) {
    return PMPI_Comm_split_type(comm, type, key, info, new);
}
int MPI_Init_thread(int *argc, char ***argv, int required, int *provided) {
    if (getenv("SIGNAL_EARLY") != NULL) raise(SIGUSR1);
    return PMPI_Init_thread(argc, argv, required, provided);
}
SOURCE
mpicc -shared -fPIC "$work/front.c" -o "$work/front.so" || say "no library"
export LD_PRELOAD="$work/front.so"
warning='warning: ranks of a node do not follow each other (2 is on the node of 0, 1 is not)'
must blocks 4 run.stop_at=1
! grep -qF 'warning:' "$work/blocks.log" || say "blocks: $(cat "$work/blocks.log")"
ROUND_ROBIN=1 must robin 4 run.stop_at=1
[ "$(grep -cF "$warning" "$work/robin.log")" -eq 1 ] || say "robin: $(cat "$work/robin.log")"
SIGNAL_EARLY=1 run early 2
[ $? -eq 75 ] && [ -d "$work/early/checkpoints/step-00000001" ] ||
    say "a signal in MPI_Init: $(cat "$work/early.log")"

# few NAME WANT DEVICES DEVICES: what two nodes of two ranks with so many GPUs each end with.
few() {
    set -- "$@" build/emulator-fp32/kintoun train configs/tiny.yaml "run.dir=$work/$1"
    name=$1 want=$2 here=$3 there=$4
    shift 4
    mpirun -np 2 env EMULATOR_DEVICES="$here" "$@" : -np 2 env EMULATOR_DEVICES="$there" "$@" \
        >"$work/$name.log" 2>&1
    [ $? -eq "$want" ] && grep -q '2 ranks on this node but 1 GPU' "$work/$name.log" ||
        say "$name: not $want: $(cat "$work/$name.log")"
}
few lost 1 2 1 # The other node shows that the settings are right.
few short 78 1 1
unset LD_PRELOAD
started first 2 stages.1.steps=100000 checkpoint.every=5
wait_step first 6
mpirun -np 1 $build/kintoun train configs/tiny.yaml "run.dir=$work/first" train.beta2=0.9 \
    data.sources.0.path=$tiny/mixed data.sources.1.path=$tiny/images stages.1.steps=100000 \
    checkpoint.every=5 >"$work/refused.log" 2>&1
[ $? -eq 78 ] && grep -q train.beta2 "$work/refused.log" || say "$(cat "$work/refused.log")"
here=$(losses first | tail -n 1)
wait_step first $((${here%% *} + 12))
kill -0 $pid || say "a refused start ended the run: $(tail -n 3 "$work/first.log")"
echo 0123456789abcdef >"$work/first/checkpoints/.generation"
wait $pid
[ $? -eq 78 ] && grep -q 'a later start of this run has claimed it; this one stops' \
    "$work/first.log" || say "two starts: $(tail -n 3 "$work/first.log")"
exit $failed
