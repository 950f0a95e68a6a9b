#!/bin/sh
# ./kintoun: which build it starts for run.device and run.precision, and the one line that says what
# is missing where CUDA is asked for. The builds are played by scripts that print their names.
# ranks: 1
cd "$(dirname "$0")/.." || exit 1
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
failed=0
cp kintoun "$folder/" || exit 1

# says STATUS TEXT ARGUMENTS...: the launcher ends with this status and prints just this text.
says() {
    want=$1 part=$2
    shift 2
    text=$("$folder/kintoun" "$@" 2>&1)
    status=$?
    [ $status -eq "$want" ] && [ "$text" = "$part" ] && return
    echo "$*: status $status, want $want and '$part'; got: $text"
    failed=1
}

build() {  # Plays the build of that name.
    mkdir -p "$folder/build/$1"
    printf '#!/bin/sh\necho %s "$@"\n' "$1" >"$folder/build/$1/kintoun"
    chmod +x "$folder/build/$1/kintoun"
}

build cpu-fp32
build cpu-bf16
remedy='install that and run make again, or set run.device=cpu'
says 78 "kintoun: run.device = cuda, but this was built without it, missing: the programs in \
build/cuda-*, which make builds; $remedy" train none.yaml run.device=cuda
echo 'CUDA_MISSING := cuDNN NCCL' >"$folder/build/cuda.mk"
says 78 "kintoun: run.device = cuda, but this was built without it, missing: cuDNN NCCL; $remedy" \
    train none.yaml run.device=cuda
says 0 'cpu-fp32 train none.yaml run.device=cpu run.precision=fp32' \
    train none.yaml run.device=cpu run.precision=fp32
# Commands without settings get none.
says 0 'cpu-fp32 sample step --count 2' \
    sample step run.device=cpu --count 2 run.precision=fp32
says 0 'cpu-fp32 sample step run.device=gpu run.precision=fp32' \
    sample step run.device=gpu run.precision=fp32

build cuda-bf16 # As make PRECISION=bf16 leaves it.
says 0 'cuda-bf16 plan none.yaml run.device=cuda' plan none.yaml run.device=cuda
says 78 "kintoun: cannot start $folder/build/cuda-fp32/kintoun; run make" \
    plan none.yaml run.device=cuda run.precision=fp32
build cuda-fp32
# A plan may be for another machine; what computes needs a GPU.
says 0 'cuda-bf16 plan none.yaml run.device=cuda' plan none.yaml run.device=cuda
says 0 'cuda-fp32 plan none.yaml run.device=cuda run.precision=fp32' \
    plan none.yaml run.device=cuda run.precision=fp32
printf 'run:\n  device: cuda\n' >"$folder/cuda.yaml"
if ls /dev/nvidia[0-9]* >/dev/null 2>&1; then
    says 0 "cuda-bf16 train $folder/cuda.yaml" train "$folder/cuda.yaml"
    says 0 'cuda-bf16 data info x' data info x
else
    says 78 'kintoun: run.device = cuda, but there is no GPU here (/dev/nvidia*); set '\
'run.device=cpu' train "$folder/cuda.yaml"
    says 0 'cpu-fp32 data info x' data info x run.precision=fp32
fi

# Libraries that were there when it was linked, by names that no system has.
echo 'int f(void); int main(void) { return f(); }' >"$folder/main.c"
echo 'int f(void) { return 0; }' >"$folder/f.c"
for name in libfirst_lost.so.9 libsecond_lost.so.2; do
    cc -shared -fPIC -Wl,-soname,$name "$folder/f.c" -o "$folder/$name" || failed=1
done
cc -Wl,--no-as-needed -Wl,-rpath,"$folder" "$folder/main.c" "$folder/libfirst_lost.so.9" \
    "$folder/libsecond_lost.so.2" -o "$folder/build/cuda-fp32/kintoun" || failed=1
echo "CUDA_FOLDERS := $folder" >"$folder/build/cuda.mk"
plan='plan none.yaml run.device=cuda run.precision=fp32'
says 0 '' $plan
lost() { # NAME...: these are missing.
    says 1 "kintoun: libraries of the CUDA program are missing: $*, looked for in \
LD_LIBRARY_PATH, where make found them ( $folder ) and in the system's folders; install them, add \
their folder to LD_LIBRARY_PATH, or set run.device=cpu" $plan
}
rm "$folder/libfirst_lost.so.9"
lost libfirst_lost.so.9
rm "$folder/libsecond_lost.so.2"
lost libfirst_lost.so.9 libsecond_lost.so.2
exit $failed
