#!/bin/sh
# launch/setup on a machine that lacks everything: what it asks apt for, that it waits for another
# apt's lock, and what it says where that fails or there is none. With a stand-in for apt-get.
# ranks: 1
cd "$(dirname "$0")/.." || exit 1
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
mkdir "$folder/bin" "$folder/launch" && cp launch/setup "$folder/launch" && cd "$folder" || exit 1
for tool in sh sed cat mktemp tail rm dirname env grep; do
    ln -s "$(command -v $tool)" bin/$tool
done
printf '#!/bin/sh\necho 0\n' >bin/id
printf '#!/bin/sh\necho "$@" >>apt.calls\n' >bin/apt-get
echo '[ ! -e lock ] || { rm lock; echo "E: Could not get lock x"; exit 100; }' >>bin/apt-get
printf '#!/bin/sh\necho sleep "$@" >>apt.calls\n' >bin/sleep
echo '[ ! -e broken ] || { echo "E: no network"; exit 100; }' >>bin/apt-get
chmod +x bin/id bin/apt-get bin/sleep
failed=0

# says STATUS TEXT...: the exit status, and what it or apt-get's command has.
says() {
    want=$1
    shift
    : >apt.calls
    PATH=$folder/bin sh launch/setup >log 2>&1
    got=$?
    [ $got -eq "$want" ] || { echo "status $got, want $want" && cat log && failed=1; }
    for text; do
        grep -qF -e "$text" apt.calls log && continue
        echo "want '$text'" && cat apt.calls log
        failed=1
    done
}

says 0 'setup: make is missing: building' 'setup: installing make gcc g++ libc6-dev' \
    'install -y --no-install-recommends make gcc' 'DPkg::Lock::Timeout=300'
touch lock
says 0 'sleep 5' 'install -y --no-install-recommends make gcc'
touch broken
says 1 'E: no network' 'setup: these could not be installed: make gcc'
rm bin/apt-get
says 1 'setup: no apt-get here; install these by other means: make gcc'
exit $failed
