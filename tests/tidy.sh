#!/bin/sh
# What a machine can check of the house style: layers, one door per library, banned functions,
# sizes, characters. Prints file:line: what is wrong and what to do; silent when all is well.
#   sh tests/tidy.sh [FOLDER]
# ranks: 1
cd "${1:-$(dirname "$0")/..}" || exit 1
list=$(find . \( -name .git -o -name build -o -name runs -o -name datasets \) -prune \
    -o -type f -print | sed 's,^\./,,' | sort)
only() { echo "$list" | grep -E "$1"; }
code=$(only '\.(c|h|cu|cuh|cpp)$')

problems=$(
    echo "$list" | awk '/[^A-Za-z0-9._\/+-]/ { print $0 ": only letters, digits, ._+- in names" }'
    awk '
    BEGIN {
        may["base"] = "base"; may["parallel"] = "base parallel"
        may["model"] = "base parallel model"; may["data"] = "base data"
        may["checkpoint"] = "base parallel checkpoint"; may["launch"] = "base"
        may["train"] = "base parallel model data checkpoint train"
        may["tests"] = may["train"] " tests"; may["bench"] = may["train"] " bench"
        instead["assert"] = "CHECK, which is always on"
        instead["exit"] = "end_job or a return from main"
        instead["atoi"] = instead["atof"] = instead["atol"] = "strtoll or strtod and their end"
        instead["strcpy"] = instead["strcat"] = instead["sprintf"] = "snprintf"
        instead["gets"] = "fgets"
        instead["rand"] = instead["srand"] = instead["random"] = instead["drand48"] = "base/rng.h"
        instead["strtok"] = "strcspn and strspn"
    }
    function complain(what) { print FILENAME ":" FNR ": " what }
    FNR == 1 {
        folder = FILENAME; sub("/.*", "", folder); header = FILENAME ~ /\.(h|cuh)$/; start = 0
    }
    FNR == (header ? 151 : 601) { complain("more than " FNR - 1 " lines") }
    length > 100 { complain(length " columns, 100 at most") }
    /\t/ { complain("a tab; indent by spaces") }
    /[ \t]$/ { complain("space at the end of a line") }

    /^#include "/ {
        split($2, part, /["\/]/)
        if (index(" " may[folder] " ", " " part[2] " ") == 0)
            complain(folder "/ may not include " part[2] "/, only: " may[folder])
    }
    /^#include </ {
        if ($2 == "<mpi.h>" && FILENAME !~ /^(parallel|tests\/emulator)\//)
            complain($2 " belongs to parallel/ alone")
        if ($2 == "<nccl.h>" && FILENAME !~ /^(parallel\/cuda|tests\/emulator)\//)
            complain($2 " belongs to parallel/cuda/ alone")
        if ($2 ~ /<(cuda|cublas|cudnn|nvrtc)/ && FILENAME !~ /\/cuda\//)
            complain($2 " belongs to folders called cuda alone")
        if ($2 ~ /<(dnnl|yaml)\.h>/ && ($2 in door) && door[$2] != FILENAME)
            complain($2 " is already included by " door[$2] ", which is its only door")
        door[$2] = FILENAME
    }

    {   # Only code from here on: no strings, no comments.
        line = $0; gsub(/\\./, "", line); gsub(/"[^"]*"/, "\"\"", line); sub("//.*", "", line)
    }
    line ~ /\/\*/ { complain("comments begin with //") }
    line ~ /#pragma omp.*parallel.*reduction/ {
        complain("a sum over threads changes with their number; give each thread whole results")
    }
    {
        rest = line
        while (match(rest, /[A-Za-z_][A-Za-z0-9_]*\(/)) {
            word = substr(rest, RSTART, RLENGTH - 1); rest = substr(rest, RSTART + RLENGTH)
            if (word in instead) complain(word "() is banned: use " instead[word])
        }
    }
    /^[A-Za-z_]/ { start = FNR; kernel = 0 }
    /__global__/ { kernel = 1 }
    /^}$/ && start {
        if (FNR - start + 1 > (kernel ? 100 : 70))
            complain("a function of " FNR - start + 1 " lines, " (kernel ? 100 : 70) " at most")
        start = 0
    }' $code /dev/null

    scripts=$(only '\.(sh|sbatch|py)$|^launch/[a-z-]*$|^Makefile$|^\.ci/')
    awk 'length > 100 { print FILENAME ":" FNR ": " length " columns, 100 at most" }
        FNR == 601 { print FILENAME ": more than 600 lines" }' $scripts /dev/null
    text=$(only '\.(c|h|cu|cuh|cpp|sh|sbatch|py|md|yaml)$|^launch/|Makefile$|^\.ci/')
    LC_ALL=C grep -nE '[^ -~	]' $text /dev/null | sed 's/\([^:]*:[^:]*\):.*/\1: not ASCII/'
    grep -nE '/(work|root|home)/|https?://[^ ]*:[0-9]' $text /dev/null |
        sed 's/\([^:]*:[^:]*\):.*/\1: a path or host of one machine/'
    grep -n -e '-ffast-''math' Makefile $code /dev/null |
        sed 's/\([^:]*:[^:]*\):.*/\1: -ffast-''math makes isfinite(NaN) true; leave it out/'
    if clang-format --version 2>/dev/null | grep -q 'version 14\.'; then
        [ -z "$code" ] || clang-format --dry-run $code 2>&1 |
            sed -n 's/:[0-9]*:[0-9]*: warning: code should.*/: run make format/p' | sort -u
    else
        echo "tidy: no clang-format 14 here, so the format was not checked" >&2
    fi
)
[ -z "$problems" ] || {
    echo "$problems"
    echo "$(echo "$problems" | wc -l) problems"
    exit 1
}
