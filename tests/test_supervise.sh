#!/bin/sh
# The supervisor starts again after death and after 75, stops at 0 and 78, gives up on what dies
# three times, and turns SIGINT into SIGUSR1 for the ranks: with a stand-in for the program.
# ranks: 1
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cp -r launch "$folder" && cd "$folder" || exit 1
export RETRY_SECONDS=20 # Every run is short; pauses of at most a second.
failed=0

# The stand-in: exits with the next number in `codes`, "wait" waits for SIGUSR1 and exits with 75.
cat >kintoun <<'PROGRAM'
#!/bin/sh
trap 'exit 75' USR1
code=$(head -n 1 codes)
sed -i 1d codes
echo "$*" >>calls
[ "$code" != wait ] || while :; do sleep 0.1; done
exit "$code"
PROGRAM
chmod +x kintoun

# expect STATUS CALLS CODE...: the supervisor's exit status and how often it started the program.
expect() {
    status=$1 calls=$2
    shift 2
    : >calls && printf '%s\n' "$@" >codes
    sh launch/supervise 1 configs/a.yaml b=c >log 2>&1
    got=$?
    [ $got -eq "$status" ] && [ "$(grep -c '^train configs/a.yaml b=c$' calls)" -eq "$calls" ] &&
        return
    echo "codes $*: status $got after $(wc -l <calls) calls, want $status after $calls"
    cat log
    failed=1
}

# drops WORD: it is passed on to the first start and to no other.
drops() {
    : >calls && printf '%s\n' 1 75 0 >codes
    sh launch/supervise 1 configs/a.yaml "$1" b=c >log 2>&1
    [ "$(grep -c -e "$1" calls)" -eq 1 ] && [ "$(wc -l <calls)" -eq 3 ] &&
        [ "$(sed -n 1p calls)" = "train configs/a.yaml $1 b=c" ] && return
    echo "$1 after a restart:" && cat calls log
    failed=1
}

expect 0 1 0
expect 78 1 78
expect 0 3 75 1 0
expect 3 3 3 3 3
drops --fresh
drops resume.step=7

# From another folder: names of that folder.
mkdir elsewhere && : >elsewhere/b.yaml && : >calls && echo 0 >codes
(cd elsewhere && sh ../launch/supervise 1 b.yaml) >log 2>&1
grep -q "^train $folder/elsewhere/b.yaml$" calls || { cat calls log && failed=1; }
sh launch/supervise --hosts none 1 configs/a.yaml >log 2>&1
[ $? -eq 78 ] && grep -q 'none cannot be read' log || { cat log && failed=1; }

# Hosts: a stand-in for ssh, and for mpirun, which shows what it is given. The last line lacks its
# end. A signal while they are asked: nothing is started.
mkdir bin && printf '#!/bin/sh\necho "$@" >>mpirun.calls\n' >bin/mpirun
printf '#!/bin/sh\n[ ! -e slow ] || sleep 2\ncase "$*" in *" b "*) exit 1 ;; esac\n' >bin/ssh
chmod +x bin/*
printf 'a\nb\nc' >hosts
PATH=$PWD/bin:$PATH sh launch/supervise --hosts hosts 4 configs/a.yaml >log 2>&1
grep -q -e '--host a:4,c:4 ' mpirun.calls || { cat mpirun.calls log && failed=1; }

# A host that has lost a GPU since the start is left out of the next.
cat >bin/mpirun <<'PROGRAM'
#!/bin/sh
echo "$@" >>mpirun.calls
[ $(wc -l <mpirun.calls) -gt 1 ] || exit 1
PROGRAM
cat >bin/ssh <<'PROGRAM'
#!/bin/sh
[ ! -e slow ] || sleep 2
case "$*" in *" c "*) [ ! -e mpirun.calls ] || { echo 7 && exit; } ;; esac
echo 8
PROGRAM
rm -f mpirun.calls
PATH=$PWD/bin:$PATH sh launch/supervise --hosts hosts 4 configs/a.yaml >log 2>&1
grep -q -e '--host a:4,b:4,c:4 ' mpirun.calls && grep -q -e '--host a:4,b:4 ' mpirun.calls &&
    grep -q 'c has 7 of 8 GPUs left; going on without it' log ||
    { cat mpirun.calls log && failed=1; }

# Slurm's script: srun is started again after a failure, and the job queued again after 75.
printf '#!/bin/sh\nshift 3\nexec "$@"\n' >bin/srun
printf '#!/bin/sh\necho "$@" >>scontrol.calls\n[ ! -e refused ]\n' >bin/scontrol
chmod +x bin/*
queued() { # STATUS CALLS REQUEUES CODE...
    status=$1 calls=$2 requeues=$3
    shift 3
    : >calls && : >scontrol.calls && printf '%s\n' "$@" >codes
    PATH=$PWD/bin:$PATH SLURM_JOB_ID=7 bash launch/train.sbatch configs/a.yaml --fresh b=c >log 2>&1
    got=$?
    [ $got -eq "$status" ] && [ "$(grep -c '^train configs/a.yaml' calls)" -eq "$calls" ] &&
        [ "$(grep -c '^requeue 7$' scontrol.calls)" -eq "$requeues" ] &&
        [ "$(grep -c -e --fresh calls)" -eq 1 ] && return
    echo "train.sbatch, codes $*: status $got" && cat calls scontrol.calls log
    failed=1
}
queued 0 1 0 0
queued 0 3 0 1 137 0
queued 75 2 1 1 75
queued 78 1 0 78
queued 3 3 0 3 3 3
: >refused # No second start then, either: the time is over.
queued 75 1 1 75
rm -f mpirun.calls && : >slow
PATH=$PWD/bin:$PATH sh launch/supervise --hosts hosts 4 configs/a.yaml >log 2>&1 &
pid=$!
sleep 1
kill -TERM $pid
wait $pid
got=$?
[ $got -eq 75 ] && [ ! -e mpirun.calls ] ||
    { echo "a signal while hosts are asked: status $got" && cat log && failed=1; }

: >calls && echo wait >codes
sh launch/supervise 1 configs/a.yaml >log 2>&1 &
pid=$!
for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
    [ -s calls ] && break
    sleep 0.2
done
sleep 0.3
kill -TERM $pid
wait $pid
got=$?
[ $got -eq 75 ] || { echo "after SIGTERM: status $got, want 75" && cat log && failed=1; }
exit $failed
