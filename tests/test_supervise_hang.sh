#!/bin/sh
# The supervisor ends an mpirun that stays when its ranks are gone, and starts again; it lets a run
# alone that is only slow, or whose hosts do not answer; what was left behind is ended first. With
# stand-ins for the program and, but for two cases, for mpirun. The cases run side by side.
# ranks: 1
top=$(mktemp -d)
trap 'rm -rf "$top"' EXIT
export RETRY_SECONDS=1 # Looks every 5 seconds.

# case_of NAME KINTOUN MPIRUN SSH: a folder of its own with these stand-ins. The program's and
# mpirun's do nothing when they are started again; '' is the real mpirun. The stand-in for mpirun
# ignores signals before it says that it has started, as the cases send them then.
case_of() {
    name=$1
    mkdir -p "$top/$name/bin" && cp -r launch "$top/$name" && cd "$top/$name" || exit 1
    : >starts && echo a >hosts
    once='echo x >>starts; [ $(wc -l <starts) -eq 1 ] || exit 0'
    printf '#!/bin/sh\n%s\n%s\n' "$once" "$2" >kintoun
    printf '#!/bin/sh\ntrap "" TERM USR1\n%s\n%s\n' "$once" "$3" >bin/mpirun
    printf '#!/bin/sh\n%s\n' "$4" >bin/ssh
    chmod +x kintoun bin/*
    [ -n "$3" ] || rm bin/mpirun
}

# ends STATUS STARTS TEXT: how the supervisor, $pid, ends.
ends() {
    wait $pid
    got=$?
    [ $got -eq "$1" ] && [ "$(wc -l <starts)" -eq "$2" ] &&
        cat log starts | grep -q "$3" && return
    echo "$name: status $got after $(wc -l <starts) starts, want $1 after $2 and '$3'"
    cat log
}

supervise() {
    PATH=$PWD/bin:$PATH sh launch/supervise "$@" >log 2>&1 &
    pid=$!
}

# soon COMMAND...: waits until it succeeds.
soon() {
    for _ in $(seq 300); do
        "$@" && return
        sleep 0.1
    done
    echo "$name: never: $*"
}

stays='while :; do sleep 0.2; done'
gone='mpirun has no rank left here, but stays; ending it'

slow() {
    RETRY_SECONDS=2 # mpirun may take its time, too.
    case_of slow 'sleep 24' '' ''
    supervise 1 a.yaml
    ends 0 1 ''
}

wedged() {
    case_of wedged '' "$stays" ''
    supervise 2 a.yaml
    ends 0 2 "$gone"
}

# Real ranks die, a real mpirun stands still. Then those that stay when it is killed.
stopped() {
    case_of stopped 'echo $$ >rank; echo $PPID >launcher; exec sleep 60' '' ''
    supervise 1 a.yaml
    soon [ -s launcher ]
    kill -STOP $(cat launcher)
    kill -KILL $(cat rank)
    ends 0 2 "$gone"
}
left() {
    case_of left 'echo $$ >rank; echo $PPID >launcher; trap "" TERM HUP
while :; do sleep 1; done' '' ''
    supervise 1 a.yaml
    soon [ -s launcher ]
    kill -KILL $(cat launcher)
    ends 0 2 ''
    ! grep -qs '^State:[^Z]*$' "/proc/$(cat rank)/status" ||
        echo "$name: its rank is there"
}

stopping() {
    case_of stopping '' "$stays" ''
    supervise 2 a.yaml
    soon [ -s starts ]
    kill -TERM $pid
    ends 75 1 "$gone"
}

# Twice, while there are ranks.
twice() {
    case_of twice '' "shift 4; \"\$@\" & $stays" ''
    echo 'sleep 60' >kintoun
    supervise 2 a.yaml
    soon [ -s starts ]
    kill -TERM $pid
    soon grep -q saving log
    kill -TERM $pid
    ends 75 1 'saving at the next step'
    ! grep -q "$gone" log || { echo "$name: too late" && cat log; }
}

silent() {
    case_of silent '' 'touch asked; sleep 13' '[ ! -e asked ] || sleep 60; shift 5; exec "$@"'
    supervise --hosts hosts 2 a.yaml
    ends 0 1 ''
    ! grep -q "ending it" log || { echo "$name: ended" && cat log; }
}
# With MPIRUN_FLAGS for fewer ranks than hosts would have. b and c are one machine: while b looks
# for the first time, c looks, too, and must not take that for a rank.
fewer() {
    case_of fewer '' 'sleep 24' '[ $5 != a ] || { echo gpus 0; echo ranks: some; exit; }
export host=$5 PATH=$PWD/slow:$PATH
shift 5; exec "$@"'
    mkdir slow && cat >slow/grep <<GREP
#!/bin/sh
case \$1\$host in
-qszb) [ -e looks ] || { : >looks; sleep 2; } ;;
-qszc) while [ ! -e looks ]; do sleep 0.1; done ;;
esac
exec $(command -v grep) "\$@"
GREP
    chmod +x slow/grep
    printf 'a\nb\nc\n' >hosts
    supervise --hosts hosts 2 a.yaml
    ends 0 1 ''
}
empty() {
    case_of empty '' "$stays" 'shift 5; exec "$@"'
    supervise --hosts hosts 2 a.yaml
    ends 0 2 'mpirun has no rank left on any host, but stays; ending it'
}
# Of many hosts one had ranks.
lost() {
    case_of lost '' "$stays" 'echo gpus 0; [ $5 = h7 ] || { echo ranks: none; exit; }
echo x >>asked; [ $(wc -l <asked) -gt 2 ] && echo ranks: none || echo ranks: some'
    seq -f h%g 12 >hosts
    supervise --hosts hosts 2 a.yaml
    ends 0 2 'mpirun has no rank left on h7, but stays; ending it'
}

cd "$(dirname "$0")/.." || exit 1
for one in slow wedged stopped left stopping twice silent fewer empty lost; do
    $one >"$top/$one.said" 2>&1 &
done
wait
cat "$top"/*.said
[ -z "$(cat "$top"/*.said)" ]
