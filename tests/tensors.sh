# Sourced by tests of commands: safetensors files without Python.

# byte N: one byte.
byte() {
    printf "\\$(printf %03o "$1")"
}

# tensors FILE NAME SHAPE COUNT...: a safetensors file of floats, all bits zero.
tensors() {
    file=$1 header='' offset=0
    shift
    while [ $# -gt 0 ]; do
        end=$((offset + 4 * $3))
        header="$header${header:+,}\"$1\":{\"dtype\":\"F32\",\"shape\":[$2],"
        header="$header\"data_offsets\":[$offset,$end]}"
        offset=$end
        shift 3
    done
    header="{$header}"
    length=${#header}
    {
        byte $((length % 256)) && byte $((length / 256))
        printf '\000\000\000\000\000\000%s' "$header"
        head -c "$offset" /dev/zero
    } >"$file"
}
