#!/bin/sh
# Death: one line that names rank, place and values, exit status 1, and the job's abort is called.
# ranks: 1
program=build/cpu-fp32/tests/test_base
failed=0

# expect HOW PATTERN: the program dies with status 1 and a line like PATTERN.
expect() {
    text=$($program "$1" 2>&1)
    status=$?
    echo "$text" | grep -qE "$2" && [ $status -eq 1 ] && return
    echo "$1: status $status, want 1 and /$2/; got: $text"
    failed=1
}

expect die '^\[rank 0/1 [^]]+\] tests/test_base\.c:[0-9]+ die_on_purpose: loss nan at step 1042$'
expect check 'die_on_purpose: heads = -3 must be positive$'
expect arena 'arena_take: optimizer: second layout takes 101 of 100 bytes$'
expect abort '^\[rank 2/4 [^]]+\] .*0000$'
expect abort '^abort_job\(1\)$'
exit $failed
