# Sourced by the tests of whole runs: the tiny data set, runs of configs/tiny.yaml, and digests of
# what they leave.
cd "$(dirname "$0")/.." || exit 1
. launch/local.sh
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
work=build/tmp/$(basename "$0" .sh).$$
mkdir -p "$work"
trap 'rm -rf "$work"' EXIT
tiny=build/tmp/tiny
build=build/cpu-fp32
failed=0

say() {
    echo "$*"
    failed=1
}

# One at a time makes the data; the others wait for it.
make_tiny() {
    flock $tiny.lock $build/kintoun data demo $tiny --tiny >"$work/data.log" 2>&1 ||
        say "no data: $(cat "$work/data.log")"
}

# run NAME RANKS [SETTING]...: trains configs/tiny.yaml in $work/NAME; its output in
# $work/NAME.log.
run() {
    name=$1 ranks=$2
    shift 2
    mpirun -np "$ranks" $build/kintoun train configs/tiny.yaml run.dir="$work/$name" \
        data.sources.0.path="${mixed:-$tiny/mixed}" data.sources.1.path=$tiny/images "$@" \
        >"$work/$name.log" 2>&1
}

# must NAME RANKS [SETTING]...: the same, and it must end well.
must() {
    run "$@" && return
    say "$1 on $2 ranks failed: $(tail -n 15 "$work/$1.log")"
}

# digest NAME [STEP]: one hash of every file's sha256 in the checkpoint of a step (20).
digest() {
    folder=$work/$1/checkpoints/step-$(printf %08d "${2:-20}")
    [ -d "$folder" ] || { echo "no $folder"; return; }
    (cd "$folder" && find . -type f | sort | xargs sha256sum | sha256sum | cut -c1-16)
}

# same NAME WANT: the digest of the last step ($steps, or 20) must be WANT.
same() {
    got=$(digest "$1" "${steps:-20}")
    [ "$got" = "$2" ] || say "$1: checkpoint $got, want $2"
}

# losses NAME: step and loss of every step.
losses() {
    sed -n 's/^{"step": \([0-9]*\),.*"loss": \([0-9.e-]*\).*/\1 \2/p' "$work/$1/metrics.jsonl"
}

# close NAME NAME TOLERANCE: the loss curves agree, relative, over as many steps ($steps, or 20).
close() {
    losses "$1" >"$work/a"
    losses "$2" | head -n "${steps:-20}" >"$work/b"
    [ "$(wc -l <"$work/a")" -eq "${steps:-20}" ] ||
        say "$1 has $(wc -l <"$work/a") losses, not ${steps:-20}"
    paste "$work/a" "$work/b" | awk -v tolerance="$3" -v a="$1" -v b="$2" '
        { d = ($2 - $4) / $2; if (d < 0) d = -d
          if ($1 != $3 || d > tolerance || d != d) {
              print a, b, "differ at step", $1, $2, $4; bad = 1; exit } }
        END { exit bad }' || failed=1
}

# wait_step NAME STEP: until metrics.jsonl has the step, or the run is over.
wait_step() {
    while kill -0 $pid 2>/dev/null &&
        ! grep -q "\"step\": $2," "$work/$1/metrics.jsonl" 2>/dev/null; do
        sleep 0.01
    done
}

# processes NAME PROGRAM: ids of that run's processes: of ranks (kintoun) or of the launcher.
processes() {
    for file in $(grep -lsxz "run[.]dir=$work/$1" /proc/[0-9]*/cmdline); do
        grep -qxE "$2" "${file%cmdline}comm" 2>/dev/null || continue
        file=${file#/proc/}
        echo "${file%/cmdline}"
    done
}

# started NAME RANKS ...: starts a run in the background, as $pid; $launcher is its mpirun, $rank
# one of its ranks.
started() {
    run "$@" &
    pid=$! rank=
    while kill -0 $pid 2>/dev/null && [ -z "$rank" ]; do
        launcher=$(processes "$1" 'mpirun|prterun' | head -n 1)
        rank=$(processes "$1" kintoun | head -n 1)
    done
}
