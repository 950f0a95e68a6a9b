#!/bin/sh
# launch/find-cuda: what it takes, and what it says is missing. The toolkit, python's packages and
# (for a copy of the script) the system's folders are played, so this machine's do not count.
# ranks: 1
cd "$(dirname "$0")/.." || exit 1
unset NVCC ARCHS
folder=$(mktemp -d) && folder=$(readlink -f "$folder") || exit 1
trap 'rm -rf "$folder"' EXIT
toolkit=$folder/toolkit python=$folder/python/nvidia/cudnn local=$folder/usr/local
failed=0 lib=$toolkit/lib64 shell=$(command -v sh)
mkdir -p "$folder/bin" "$toolkit/bin"
for tool in cat dirname grep ls readlink sed tr; do
    ln -s "$(command -v $tool)" "$folder/bin/$tool" || exit 1
done
sed "s,/usr,$folder/usr,g" launch/find-cuda >"$folder/find-cuda"

find_cuda() { # [NAME=VALUE]...: leaves what it prints in list and log.
    env PATH="$folder/bin" "$@" "$shell" "$folder/find-cuda" >"$folder/list" 2>"$folder/log" ||
        failed=1
}
has() { # FILE LINE: the file has just this line.
    grep -qxF -e "$2" "$folder/$1" && return
    echo "$title: $1 has no line '$2', but: $(cat "$folder/$1")"
    failed=1
}
lacks() { # MISSING: make gets no nvcc, and this.
    has list 'NVCC :='
    has list "CUDA_MISSING := $1"
}
takes() { # INCLUDES CUDNN NCCL FOLDERS: make gets these and the rest from the toolkit.
    has list "CUDA_INCLUDES :=$1"
    has list "CUDA_LIBRARIES := $2 $3 $lib/libcudart.so $lib/libcublasLt.so -lstdc++"
    has list "CUDA_FOLDERS :=$4"
    ! grep CUDA_MISSING "$folder/list" || failed=1
}
header() { # FILE NAME MAJOR MINOR
    mkdir -p "$(dirname "$1")"
    printf "#define $2_MAJOR %s\n#define $2_MINOR %s\n" "$3" "$4" >"$1"
}
empty() { # FILE...
    for file; do mkdir -p "$(dirname "$file")" && : >"$file"; done
}

for setting in NVCC= NVCC=none NVCC="$folder/none"; do
    title="no nvcc, $setting"
    find_cuda "$setting"
    lacks nvcc
done

title='all in the toolkit; nvcc on the path is a link'
cat >"$toolkit/bin/nvcc" <<NVCC
#!$shell
case \$1 in
--version) echo 'Cuda compilation tools, release 13.0, V13.0.88' ;;
--list-gpu-arch) for arch in 75 80 90 103; do echo compute_\$arch; done ;;
esac
NVCC
printf '#!%s\necho "%s"\n' "$shell" "$python" >"$folder/bin/python3"
chmod +x "$toolkit/bin/nvcc" "$folder/bin/python3"
ln -s "$toolkit/bin/nvcc" "$folder/bin/nvcc"
for name in cuda_runtime cublasLt cudnn; do empty "$toolkit/include/$name.h"; done
for name in cudart cublasLt cudnn nccl; do empty "$lib/lib$name.so"; done
header "$toolkit/include/cudnn_version.h" CUDNN 9 19
header "$toolkit/include/nccl.h" NCCL 2 28
for nvcc in "$toolkit/bin/nvcc" nvcc ''; do
    find_cuda NVCC="$nvcc"
    has list "NVCC := ${nvcc:-$folder/bin/nvcc}"
    has list 'ARCHS := 80 90'
    takes " -isystem $toolkit/include" "$lib/libcudnn.so" "$lib/libnccl.so" " $lib"
done

title='a cuDNN of no use'
for version in 9.13 8.19 10.20 0.0; do
    header "$toolkit/include/cudnn_version.h" CUDNN ${version%.*} ${version#*.}
    [ $version != 0.0 ] || rm "$toolkit/include/cudnn_version.h"
    find_cuda
    lacks "cuDNN (only $version is here, 9.19 is needed)"
    has log "cuda: cuDNN: $lib/libcudnn.so is $version (9.19 or a later 9.x is needed)"
done

title="an old one in the toolkit, a newer one in python's packages (cuDNN) or the system (NCCL)"
empty "$python/include/cudnn.h" "$python/lib/libcudnn.so.9" "$local/lib/libnccl.so.2"
header "$toolkit/include/cudnn_version.h" CUDNN 9 13
header "$python/include/cudnn_version.h" CUDNN 9 20
find_cuda
takes " -isystem $python/include -isystem $toolkit/include" "$python/lib/libcudnn.so.9" \
    "$lib/libnccl.so" " $python/lib $lib"
header "$toolkit/include/cudnn_version.h" CUDNN 9 19
header "$toolkit/include/nccl.h" NCCL 2 27
header "$local/include/nccl.h" NCCL 2 30
find_cuda
takes " -isystem $local/include -isystem $toolkit/include" "$lib/libcudnn.so" \
    "$local/lib/libnccl.so.2" " $local/lib $lib"

title='no NCCL'
rm "$local/lib/libnccl.so.2" "$lib/libnccl.so"
find_cuda
lacks NCCL
exit $failed
