#!/bin/sh
# The supervisor starts again after death and after 75, stops at 0 and 78, gives up on what dies
# three times, and turns SIGINT into SIGUSR1 for the ranks: with a stand-in for the program.
# ranks: 1
top=$(mktemp -d)
trap 'rm -rf "$top"' EXIT
folder="$top/with a blank"
mkdir "$folder" && cp -r launch "$folder" && cd "$folder" || exit 1
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
    [ $got -eq "$status" ] &&
        [ "$(grep -c '^train configs/a.yaml b=c --once [^ ]*$' calls)" -eq "$calls" ] && return
    echo "codes $*: status $got after $(wc -l <calls) calls, want $status after $calls"
    cat log
    failed=1
}

expect 0 1 0
expect 78 1 78
expect 0 3 75 1 0
expect 3 3 3 3 3
[ "$(sort -u calls | wc -l)" -eq 1 ] || { echo 'the starts differ' && cat calls && failed=1; }

for seconds in 1m 08 -1; do
    RETRY_SECONDS=$seconds sh launch/supervise 1 configs/a.yaml >log 2>&1
    [ $? -eq 78 ] && grep -q "RETRY_SECONDS=$seconds is no number" log || { cat log && failed=1; }
    RETRY_SECONDS=$seconds SLURM_JOB_ID=7 bash launch/train.sbatch configs/a.yaml >log 2>&1
    [ $? -eq 78 ] && grep -q "RETRY_SECONDS=$seconds is no number" log || { cat log && failed=1; }
done

# From another folder: names of that folder.
mkdir elsewhere && : >elsewhere/b.yaml && : >calls && echo 0 >codes
(cd elsewhere && sh ../launch/supervise 1 b.yaml) >log 2>&1
grep -q "^train $folder/elsewhere/b.yaml --once" calls || { cat calls log && failed=1; }
sh launch/supervise --hosts none 1 configs/a.yaml >log 2>&1
[ $? -eq 78 ] && grep -q 'none cannot be read' log || { cat log && failed=1; }

# Hosts: stand-ins for ssh, which runs here what it is given, for the GPUs of each host, in files,
# and for mpirun, which shows what it is given.
mkdir bin gpus
cat >bin/mpirun <<'PROGRAM'
#!/bin/sh
echo "$@" >>mpirun.calls
[ $(wc -l <mpirun.calls) -eq 1 ] || exit 0
[ ! -e change ] || mv change gpus/c
[ ! -e leave ] || mv leave left
exit 1
PROGRAM
cat >bin/ssh <<'PROGRAM'
#!/bin/sh
while [ "$1" = -o ]; do shift 2; done
[ ! -e slow ] || { : >asked; sleep 2; }
export host=$1
shift
[ -e gpus/$host ] || exit 255
[ ! -e left ] || { rm left && exit 255; }
echo 'Welcome. Have you seen our 9 new GPUs?'
exec "$@"
PROGRAM
printf '#!/bin/sh\ncat gpus/$host\n' >bin/nvidia-smi
chmod +x bin/*
printf 'GPU 0: H100\nGPU 1: H100\n' | tee gpus/a gpus/c >gpus/c.d-e

# hosts STATUS TEXT...: the supervisor's exit status and what it, or mpirun's first command, says.
hosts() {
    status=$1
    shift
    rm -f mpirun.calls && : >calls
    PATH=$PWD/bin:$PATH sh launch/supervise --hosts hosts 2 configs/a.yaml >log 2>&1
    got=$?
    for text; do
        grep -qsF -e "$text" mpirun.calls log && continue
        echo "hosts $(cat hosts): status $got, want '$text'"
        cat mpirun.calls log
        failed=1
    done
    [ $got -eq "$status" ] || { echo "hosts: status $got, want $status" && failed=1; }
}

printf 'a\nb\nc' >hosts # The last line lacks its end.
hosts 0 '--host a:2,c:2 ' 'b does not answer; going on without it'
printf '# ours\n\n a  slots=8 \r\nc\t# the new one\r\n#b\nc.d-e\na\n' >hosts
hosts 0 '--host a:2,c:2,c.d-e:2 '
printf 'GPU 0: H100\n' >change # What c has after the first start.
hosts 0 '--host a:2,c:2,c.d-e:2 ' '--host a:2,c.d-e:2 ' \
    'c has 1 of 2 GPUs left; going on without it'
for name in fe80::1 a:8 -oProxyCommand=x 'a;b'; do
    echo "$name" >hosts
    hosts 78 "hosts: $name is no name of a host"
done
echo '# none' >hosts
hosts 78 'hosts names no host'
echo b >hosts
hosts 1 'no host answers'
rm -f mpirun.calls # Nor where nobody hears that: the log's disk is full.
PATH=$PWD/bin:$PATH sh launch/supervise --hosts hosts 2 configs/a.yaml 2>/dev/full
[ $? -eq 1 ] && [ ! -e mpirun.calls ] || { echo 'a full disk' && cat mpirun.calls && failed=1; }
echo a >hosts && touch leave # After the first start it does not answer once.
RETRY_SECONDS=2 hosts 0 'no host answers'
[ "$(wc -l <mpirun.calls)" -eq 2 ] || { echo 'a host came back' && cat log && failed=1; }
printf 'a\nb\nc\n' >hosts
sh launch/supervise --hosts hosts 2x configs/a.yaml >log 2>&1
[ $? -eq 78 ] && grep -q 'usage: sh launch/supervise' log || { cat log && failed=1; }

# flags MPIRUN_FLAGS TEXT: what mpirun gets of them; or what is wrong.
printf '#!/bin/sh\nprintf "[%%s]" "$@" >>mpirun.calls\n' >bin/mpirun
flags() {
    rm -f mpirun.calls
    PATH=$PWD/bin:$PATH MPIRUN_FLAGS=$1 sh launch/supervise 2 configs/a.yaml >log 2>&1
    grep -qsF -e "$2" mpirun.calls log && return
    echo "MPIRUN_FLAGS $1: want $2" && cat mpirun.calls log
    failed=1
}
flags '--mca x "a  b" --y' '[-np][2][--mca][x][a  b][--y]['
flags '--x
--y' '[--x][--y]['
flags '--mca x "a' 'MPIRUN_FLAGS is no list of words: --mca x "a'

# Slurm's script: srun is started again after a failure, and the job queued again after 75.
printf '#!/bin/sh\nshift 3\nexec "$@"\n' >bin/srun
printf '#!/bin/sh\necho "$@" >>scontrol.calls\n[ ! -e refused ]\n' >bin/scontrol
chmod +x bin/*
queued() { # STATUS CALLS REQUEUES CODE...
    status=$1 calls=$2 requeues=$3
    shift 3
    : >calls && : >scontrol.calls && printf '%s\n' "$@" >codes
    PATH=$PWD/bin:$PATH SLURM_JOB_ID=7 bash launch/train.sbatch configs/a.yaml b=c >log 2>&1
    got=$?
    [ $got -eq "$status" ] &&
        [ "$(grep -c '^train configs/a.yaml b=c --once 7:0$' calls)" -eq "$calls" ] &&
        [ "$(grep -c '^requeue 7$' scontrol.calls)" -eq "$requeues" ] && return
    echo "train.sbatch, codes $*: status $got" && cat calls scontrol.calls log
    failed=1
}
queued 0 1 0 0
queued 0 3 0 1 137 0
queued 75 2 1 1 75
queued 78 1 0 78
queued 3 3 0 3 3 3
: >refused # No second start then, either: the time is over.
queued 75 1 3 75
rm refused
# After a failure so late that no signal would come any more.
SLURM_JOB_END_TIME=$(($(date +%s) + 200)) queued 75 1 1 1
SLURM_JOB_END_TIME=$(($(date +%s) + 300)) queued 0 2 0 1 0
(cd elsewhere && bash ../launch/train.sbatch b.yaml) >log 2>&1
[ $? -eq 78 ] && grep -q 'there is no ./kintoun' log || { cat log && failed=1; }
rm -f mpirun.calls && : >slow
# A signal while hosts are asked: nothing is started.
PATH=$PWD/bin:$PATH sh launch/supervise --hosts hosts 4 configs/a.yaml >log 2>&1 &
pid=$!
while [ ! -e asked ] && kill -0 $pid; do sleep 0.1; done
kill -TERM $pid
wait $pid
got=$?
[ $got -eq 75 ] && [ ! -e mpirun.calls ] ||
    { echo "a signal while hosts are asked: status $got" && cat log && failed=1; }

# signals SIGNAL...: each, and the program has stopped as it should.
signals() {
    : >calls && echo wait >codes
    sh launch/supervise 1 configs/a.yaml >log 2>&1 &
    pid=$!
    for _ in $(seq 50); do
        [ ! -s calls ] || break
        sleep 0.1
    done
    sleep 0.3
    for signal; do kill -"$signal" $pid; done
    wait $pid
    got=$?
    [ $got -eq 75 ] && return
    echo "after $*: status $got, want 75" && cat log
    failed=1
}
signals TERM
signals HUP HUP HUP
signals INT HUP
printf '#!/bin/sh\necho >calls; sleep 20\n' >bin/mpirun # Has no trap yet.
PATH=$PWD/bin:$PATH signals TERM
exit $failed
