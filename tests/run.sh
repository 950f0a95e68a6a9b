#!/bin/sh
# Runs the tests: programs build/*/tests/test_*, scripts tests/test_*.sh, and tidy.
#   sh tests/run.sh [PART OF A NAME]...
# The head of a test says how it is run (in a script with # instead of //):
#   // ranks: 1 2 4           once under mpirun for each number; only "1": without mpirun
#   // precision: fp32 bf16   the builds that it runs in; fp32 if not given
#   // threads: 2             OMP_NUM_THREADS, 1 if not given
#   // seconds: 600           the time limit, 300 if not given
#   // sanitize: no           not in the builds with sanitizers; bf16: in the emulator's bf16 one,
#                              too, for ops, whose kernels differ by precision
#   // backends: all          in the emulator's builds and on a GPU, too
#   // device: 1 2            the numbers of ranks in the emulator and on a GPU, if not all
#   // orders: up down         in the emulator once more with threads and blocks in each order;
#                              otherwise, and with the sanitizer, each launch draws one
# BUILDS="cuda-fp32 cuda-bf16": the programs of these builds alone, and no scripts. RANKS_MAX=2: on
# so many ranks at most.
# A script that exits with 77 was skipped; its last line says why. A program that dies, runs no
# test or was not built has failed. Tests of one rank share the cores; the others run alone.
cd "$(dirname "$0")/.." || exit 1
. launch/local.sh
results=build/results

# setting FILE WORD: what the head of a test says behind "WORD:".
setting() {
    sed -n "1,20s,^[/#].*$2: *\([a-z0-9 ]*\).*,\1,p" "$1" | head -n 1
}

# count LOG WORD: the number in cmocka's line "[  WORD  ] N test(s)", 0 without one.
count() {
    n=$(sed -n "s/.*\[ *$2 *\] \([0-9][0-9]*\) test(s).*/\1/p" "$1" | head -n 1)
    echo "${n:-0}"
}

wanted() {
    [ -n "$filter" ] || return 0
    for part in $filter; do
        case $1 in *$part*) return 0 ;; esac
    done
    return 1
}

# job QUEUE NAME SECONDS THREADS COMMAND...: the last word is the program or script.
jobs=0
job() {
    wanted "$2" || return 0
    jobs=$((jobs + 1))
    file=$results/$(printf %03d $jobs)
    echo "$file" >>"$1"
    shift
    printf '%s\n' "$@" >"$file.job"
}

# run_one FILE: runs a job; leaves "PASSED FAILED SKIPPED" and what is shown.
run_one() {
    { read -r name && read -r seconds && read -r threads; } <"$1.job"
    command=$(tail -n +4 "$1.job" | tr '\n' ' ')
    program=$(tail -n 1 "$1.job")
    begin=$(date +%s%N)
    # Open MPI leaves memory behind, so leaks are looked for where it is not linked in.
    leaks=0
    case $program in *.sh) ;; *) grep -q comm_start "$program" 2>/dev/null || leaks=1 ;; esac
    if [ -e "$program" ]; then
        ASAN_OPTIONS=detect_leaks=$leaks OMP_NUM_THREADS=$threads \
            timeout -k 10 "$seconds" $command >"$1.log" 2>&1 </dev/null &
        echo $! >"$1.pid"
        wait $!
        status=$?
        rm -f "$1.pid"
    else
        echo "$program was not built" >"$1.log"
        status=1
    fi
    [ $status -ne 124 ] || echo "ended after its time limit of $seconds s" >>"$1.log"
    passed=$(count "$1.log" PASSED) failed=$(count "$1.log" FAILED)
    skipped=$(count "$1.log" SKIPPED) verdict=ok
    case $program in *.sh) passed=$((status == 0)) failed=0 skipped=0 ;; esac
    if [ $status -eq 77 ]; then
        skipped=1 verdict="skipped: $(tail -n 1 "$1.log")"
    elif [ $status -eq 0 ] && [ $((passed + skipped)) -eq 0 ]; then
        echo "it ran no test" >>"$1.log"
        failed=1
    elif [ $status -ne 0 ] && [ "$failed" -eq 0 ]; then
        failed=1
    fi
    [ "$failed" -eq 0 ] || verdict=FAILED
    [ "$skipped" -eq 0 ] || [ $status -eq 77 ] || verdict="$verdict ($(
        sed -n 's/.*\[  SKIPPED \] \([a-z].*\)/\1/p' "$1.log" | sort -u | tr '\n' ' ')skipped)"
    echo "$passed $failed $skipped" >"$1.verdict"
    tenths=$((($(date +%s%N) - begin) / 100000000))
    {
        printf '%-44s %4d.%d s  %s\n' "$name" $((tenths / 10)) $((tenths % 10)) "$verdict"
        [ "$failed" -eq 0 ] || sed 's/^/    /' "$1.log"
    } >"$1.shown"
    cat "$1.shown"
}

if [ "${1:-}" = --one ]; then
    run_one "$2"
    exit 0
fi

mkdir -p build
exec 9>build/tests.lock
flock -n 9 || {
    echo "another tests/run.sh is at work in this tree (it holds build/tests.lock); wait for it"
    exit 1
}
filter=$*
rm -rf $results build/tmp && mkdir -p $results
# Threads that spin while they wait keep those of other ranks and tests from the cores.
export UBSAN_OPTIONS=print_stacktrace=1 OMP_WAIT_POLICY=passive
single=$results/single several=$results/several
: >$single && : >$several
builds_here="cpu-fp32 cpu-bf16 debug-cpu-fp32 emulator-fp32 emulator-bf16 debug-emulator-fp32 \
    debug-emulator-bf16"
has_bf16=$(grep -cm 1 avx512_bf16 /proc/cpuinfo)

# builds_of SOURCE: where it runs.
builds_of() {
    precisions=$(setting "$1" precision) backends=cpu
    [ -z "$(setting "$1" backends)" ] || backends="cpu emulator cuda"
    for backend in $backends; do
        for precision in ${precisions:-fp32}; do echo $backend-$precision; done
        case $backend$(setting "$1" sanitize)-${precisions:-fp32} in
        cuda* | *no-*) ;;
        *fp32*) echo debug-$backend-fp32 ;;
        esac
        [ $backend-"$(setting "$1" sanitize)" != emulator-bf16 ] || echo debug-emulator-bf16
    done | while read -r build; do
        case " ${BUILDS:-$builds_here} " in
        *" $build "*) echo "$build" ;;
        esac
    done
}

for source in tests/test_*.c; do
    test=$(basename "$source" .c)
    ranks=$(setting "$source" ranks) threads=$(setting "$source" threads)
    seconds=$(setting "$source" seconds) device=$(setting "$source" device)
    for build in $(builds_of "$source"); do
        if [ "$build" = cpu-bf16 ] && [ "$has_bf16" -eq 0 ]; then
            wanted "$test $build" || continue
            echo "$test $build: skipped: this processor has no bf16 products"
            echo "0 0 1" >"$results/$test.verdict"
            continue
        fi
        most=${RANKS_MAX:-99} numbers=${ranks:-1}
        case $build in
        debug-emulator*) most=1 ;;
        debug*) [ "$most" -le 2 ] || most=2 ;;
        emulator* | cuda*) numbers=${device:-$numbers} ;;
        esac
        orders=
        case $build in emulator*) orders=$(setting "$source" orders) ;; esac
        for n in $numbers; do
            [ "$n" -le $most ] || continue
            queue=$several
            set -- mpirun ${MPIRUN_FLAGS:-} -np "$n"
            case $ranks in '' | 1 | '1 ') queue=$single && set -- ;; esac
            for order in '' $orders; do
                job $queue "$test $build${order:+ $order} x$n" "${seconds:-300}" "${threads:-1}" \
                    ${order:+env EMULATOR_ORDER=$order} "$@" "build/$build/tests/$test"
            done
        done
    done
done
for script in tests/tidy.sh tests/test_*.sh; do
    [ -z "${BUILDS:-}" ] || continue
    seconds=$(setting "$script" seconds) queue=$several
    case $(setting "$script" ranks) in 1*) queue=$single ;; esac
    job $queue "$(basename "$script" .sh)" "${seconds:-300}" 1 sh "$script"
done

for job in $results/*.job; do # One that leaves no verdict has failed.
    [ ! -e "$job" ] || echo "0 1 0" >"${job%.job}.verdict"
done
trap 'kill $(cat $results/*.pid) 2>/dev/null; exit 130' INT TERM
begin=$(date +%s)
cores=$(nproc)
xargs -r -n 1 -P $((cores > 2 ? cores / 2 : cores)) sh tests/run.sh --one <$single 9>&-
xargs -r -n 1 sh tests/run.sh --one <$several 9>&-

printf '\n'
grep -h ' s  FAILED' $results/*.shown
for job in $results/*.job; do
    [ ! -e "$job" ] || [ -e "${job%.job}.shown" ] || echo "$(head -n 1 "$job"): lost, FAILED"
done
cat $results/*.verdict 2>/dev/null | awk -v seconds=$(($(date +%s) - begin)) '
    { passed += $1; failed += $2; skipped += $3 }
    END {
        if (NR == 0) { print "no test has this name"; failed = 1 }
        rest = skipped ? sprintf(", %d skipped", skipped) : ""
        printf "in %d s\n%d passed, %d failed%s\n", seconds, passed, failed, rest
        exit(failed != 0)
    }'
