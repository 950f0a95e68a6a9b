#!/bin/sh
# tidy finds each kind of fault that is planted in a folder, and nothing in a folder without faults.
# ranks: 1
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
failed=0
here=$(dirname "$0")
reset() {
    rm -rf "$folder"
    mkdir -p "$folder/base" "$folder/parallel" "$folder/model/ops/cuda" "$folder/data" \
        "$folder/tests"
    cp "$here/../.clang-format" "$folder"
    printf '#include <yaml.h>\n\n#include "base/z.h"\n\nint x_sum(int a) {\n    return a;\n}\n' \
        >"$folder/base/x.c"
    : >"$folder/Makefile"
}

# expect FILE MESSAGE: with the text on stdin added to FILE, tidy fails and says MESSAGE of it.
expect() {
    cat >>"$folder/$1"
    if found=$(sh "$here/tidy.sh" "$folder" 2>/dev/null); then
        echo "not found in $1: $2"
        failed=1
    elif ! echo "$found" | grep -F "$1" | grep -qF "$2"; then
        echo "want $1: $2; got: $found"
        failed=1
    fi
    reset
}

repeat() { awk -v n="$1" -v text="$2" 'BEGIN { while (n-- > 0) print text }'; }

reset
sh "$here/tidy.sh" "$folder" 2>/dev/null || { echo "a fault where there is none" && failed=1; }
echo '#include "model/y.h"' | expect base/y.c 'base/ may not include model/'
echo '#include "parallel/y.h"' | expect data/y.c 'data/ may not include parallel/'
echo '#include "train/y.h"' | expect model/y.c 'model/ may not include train/'
echo '#include <mpi.h>' | expect model/y.c 'belongs to parallel/ alone'
echo '#include <nccl.h>' | expect parallel/y.c 'belongs to parallel/cuda/ alone'
echo '#include <nccl.h>' | expect model/ops/cuda/y.c 'belongs to parallel/cuda/ alone'
echo '#include <cuda_runtime.h>' | expect model/y.c 'belongs to folders called cuda'
echo '#include <yaml.h>' | expect data/y.c 'already included by base/x.c'
for word in assert exit atoi strcpy strcat sprintf rand; do
    printf 'int f(int a) {\n    return %s(a);\n}\n' $word | expect model/y.c "$word() is banned"
done
printf '#pragma omp parallel for reduction(+ : sum)\n' | expect model/y.c 'a sum over threads'
printf '/* a */\n' | expect model/y.c 'comments begin with //'
{ printf 'int f(void) {\n' && repeat 69 '    g();' && echo '}'; } |
    expect model/y.c 'a function of 71'
{ printf '__global__ void f(void) {\n' && repeat 99 '    g();' && echo '}'; } |
    expect model/ops/cuda/y.cu 'a function of 101'
repeat 601 'int a;' | expect model/y.c 'more than 600 lines'
repeat 151 'int a;' | expect model/y.h 'more than 150 lines'
printf '// %0100d\n' 0 | expect model/y.c '103 columns'
printf '# %0100d\n' 0 | expect tests/y.sh '102 columns'
printf '\tint a;\n' | expect model/y.c 'a tab'
printf 'int a; \n' | expect model/y.c 'space at the end'
printf '// caf\303\251\n' | expect model/y.c 'not ASCII'
printf '# see /%s/x\n' home | expect tests/y.sh 'a path or host of one machine'
printf 'CFLAGS = -ffast-%s\n' math | expect Makefile 'isfinite(NaN)'
: | expect 'data/a b.c' 'in names'
if clang-format --version 2>/dev/null | grep -q 'version 14\.'; then
    echo 'int  a;' | expect model/y.c 'run make format'
fi
exit $failed
