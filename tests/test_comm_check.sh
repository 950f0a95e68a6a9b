#!/bin/sh
# COMM_CHECK=1: ranks that call different things end the job at once, in a line that names the odd
# one. $1 is the folder of the build, build/cpu-fp32 if not given.
cd "$(dirname "$0")/.." || exit 1
build=${1:-build/cpu-fp32}
failed=0
. launch/local.sh

expect() {  # What test_comm does wrong, and a part of the message.
    text=$(COMM_CHECK=1 timeout 60 mpirun -np 3 \
        "$build/tests/test_comm" "$1" 2>&1)
    status=$?
    if [ $status -ne 1 ]; then
        echo "$1: exit status $status, want 1"
        failed=1
    fi
    case $text in
    *"$2"*) ;;
    *)
        echo "$1: want '$2' in: $text"
        failed=1
        ;;
    esac
}

expect odd "data: rank 1 calls #3 broadcast (12, 0), 2 of 3 ranks call #3 all_gather (10, 0)"
expect size "data: rank 1 calls #3 all_gather (11, 0), 2 of 3 ranks call #3 all_gather (10, 0)"
expect counts "data #3 all_to_all: rank 1 sends 4 bytes to rank 0, which expects 8"
exit $failed
