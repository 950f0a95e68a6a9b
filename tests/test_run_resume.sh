#!/bin/sh
# A run that is killed and comes back on other numbers of ranks leaves the files of one that never
# was; SIGUSR1 saves and exits 75; stop_at saves and exits 0; a damaged newest checkpoint is
# passed over; --fresh and resume.step hold once for each --once, which starts five times from one
# checkpoint.
# seconds: 600
. "$(dirname "$0")/runs.sh"
make_tiny

# Steps that take long enough to be met in the middle.
slow="model.layers=6 model.heads=6 checkpoint.every=4 checkpoint.keep=0 train.validate=0"

# kill_rank NAME: kills one rank; the run must not survive it.
kill_rank() {
    [ -n "$rank" ] && kill -9 "$rank"
    wait $pid && say "$1 ended well: too fast to be met"
}

must whole 4 $slow
want=$(digest whole)

started killed 4 $slow
wait_step killed 13
kill_rank killed
started killed 2 $slow
# The first run may have come further than it was killed for: its steps must not count.
while kill -0 $pid 2>/dev/null && ! grep -q 'resumes at step' "$work/killed.log"; do
    sleep 0.01
done
wait_step killed 14
kill_rank killed
grep -q 'resumes at step' "$work/killed.log" || say "no resume: $(tail -n 3 "$work/killed.log")"
must killed 1 $slow
same killed "$want"
close killed whole 0

started signalled 2 $slow
wait_step signalled 6
kill -USR1 "$launcher"
wait $pid
status=$?
[ $status -eq 75 ] || say "SIGUSR1: exit $status, want 75: $(tail -n 3 "$work/signalled.log")"
must signalled 3 $slow
same signalled "$want"

must stopped 1 $slow run.stop_at=7
[ -d "$work/stopped/checkpoints/step-00000007" ] || say "stop_at saved nothing"
must stopped 2 $slow
same stopped "$want"

# A flipped byte in the newest checkpoint: the one before is taken, and the end is the same.
must damaged 1 $slow run.stop_at=14
file=$work/damaged/checkpoints/step-00000014/transformer/diffusion_pytorch_model.safetensors
printf '\377\001' | dd of="$file" bs=1 seek=9000 conv=notrunc 2>/dev/null
must damaged 2 $slow
grep -q 'passed over: .*step-00000014' "$work/damaged.log" || say "the damage was not said"
grep -q 'resumes at step 12' "$work/damaged.log" || say "$(grep resumes "$work/damaged.log")"
same damaged "$want"

# A command that is repeated.
resumes() { # TEXT SETTING...: what the run "stopped" then says.
    text=$1
    shift
    must stopped 2 $slow "$@"
    grep -q "$text" "$work/stopped.log" || say "$*: $(grep -E 'starts|resumes' "$work/stopped.log")"
}
resumes 'resumes at step 4' --once a resume.step=4 run.stop_at=6
resumes 'resumes at step 6' --once a resume.step=4 run.stop_at=6
resumes 'resumes at step 4' --once b resume.step=4 run.stop_at=5
resumes 'starts from step 0' --once c --fresh run.stop_at=2
resumes 'resumes at step 2' --once c --fresh run.stop_at=3
resumes 'resumes at step 3' --once c:2 --fresh run.stop_at=3
resumes 'starts from step 0' --fresh run.stop_at=2

# Five starts of one job from the same checkpoint, and no more.
for _ in 1 2 3 4 5; do resumes 'resumes at step 2' --once d run.stop_at=2; done
run stopped 1 $slow --once d run.stop_at=2
[ $? -eq 78 ] && grep -q '^step 2: 5 starts of this job came no further' "$work/stopped.log" ||
    say "a sixth start: $(tail -n 3 "$work/stopped.log")"
resumes 'resumes at step 2' --once d:2 run.stop_at=2
resumes 'resumes at step 2' --once e run.stop_at=3
resumes 'resumes at step 3' --once d run.stop_at=3

# Another recipe stops with 78 and names what differs; --override lets it be.
run stopped 1 $slow train.beta2=0.9
[ $? -eq 78 ] || say "another recipe was taken"
grep -q 'train.beta2' "$work/stopped.log" || say "the difference was not named"
run stopped 1 $slow parallel.reduce=bf16
[ $? -eq 78 ] && grep -q '^wire = bf16: .* fp32; .* --override wire$' "$work/stopped.log" ||
    say "another wire type: $(tail -n 3 "$work/stopped.log")"
# Rows that only a checkpoint has may differ, too: stages that were taken out since.
resumes 'resumes at step 3' parallel.reduce=bf16 run.stop_at=4 --override wire \
    --override stages.7.lr
for key in stages.7.lx run.precision; do
    run stopped 1 $slow --override $key
    [ $? -eq 78 ] && grep -q "override $key: the recipe has no such setting" "$work/stopped.log" ||
        say "no setting of the recipe: $(tail -n 3 "$work/stopped.log")"
done
exit $failed
