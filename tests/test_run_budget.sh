#!/bin/sh
# run.minutes becomes numbers of steps once: they are kept in the run's folder, read again on any
# number of ranks, and refused when the settings they came from have changed. Ranks share the cores.
# seconds: 200
. "$(dirname "$0")/runs.sh"
make_tiny
must budget 2 run.minutes=0.03 run.stop_at=6
grep -q 'minutes are .* the recipe as written' "$work/budget.log" || say "nothing was said"
[ -s "$work/budget/budget.json" ] || say "nothing was kept"
cp "$work/budget/budget.json" "$work/before"
must budget 1 run.minutes=0.03 run.stop_at=8
cmp -s "$work/before" "$work/budget/budget.json" || say "it was measured again"
grep -q 'resumes at step 6' "$work/budget.log" || say "$(cat "$work/budget.log")"
run budget 1 run.minutes=5
[ $? -eq 78 ] || say "another budget was taken"
grep -q 'budget.json: not made for' "$work/budget.log" || say "$(cat "$work/budget.log")"
echo '{' >"$work/budget/budget.json"
run budget 1 run.minutes=0.03
[ $? -eq 78 ] || say "a damaged file was taken"

# Without OMP_NUM_THREADS, ranks divide the cores.
unset OMP_NUM_THREADS
for ranks in 1 2; do
    must threads$ranks $ranks run.stop_at=1
    threads=$(($(nproc) / ranks))
    grep -q ", $((threads > 0 ? threads : 1)) threads\? each$" "$work/threads$ranks.log" ||
        say "$(head -n 1 "$work/threads$ranks.log")"
done
exit $failed
