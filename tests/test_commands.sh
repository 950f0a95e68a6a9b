#!/bin/sh
# kintoun plan and sample: what they print and write, alone and on several ranks; each mistake is
# named, with exit 78 or 1. sample repeats the last pictures of the run that made the checkpoint.
# ranks: 1 2
. launch/local.sh
. tests/tensors.sh
kintoun=build/cpu-fp32/kintoun
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
failed=0

# says STATUS TEXT COMMAND...: kintoun ends with this status and says TEXT.
says() {
    want=$1 part=$2
    shift 2
    text=$($kintoun "$@" 2>&1)
    status=$?
    case $text in *"$part"*) [ $status -eq "$want" ] && return ;; esac
    echo "$*: status $status, want $want and '$part'; got: $text"
    failed=1
}

# ---- plan without data
says 0 'blocks 875.8 M' plan configs/goku-1b.yaml --ranks 8 --tflops 700 --memory 80
says 0 'blocks 2004.7 M' plan configs/goku-2b.yaml --ranks 64 --tflops 700 --memory 80
says 0 'blocks 8055.2 M' plan configs/goku-8b.yaml --ranks 256 --tflops 700 --memory 80
says 0 'index.json is missing, so no packs were planned' \
    plan configs/goku-8b.yaml --ranks 256 --tflops 700
says 0 'TOO MUCH' plan configs/goku-8b.yaml --ranks 256 --tflops 700 --memory 1
says 0 'recompute: block; it takes' plan configs/goku-2b.yaml --ranks 64 --tflops 700 \
    model.recompute=block
for part in 'weights to compute with' 'scratch of products' 'batch' 'sampling, for a while' \
    'saving, for a while' 'offloaded inputs of blocks' 'total of the host'; do
    says 0 "$part" plan configs/goku-2b.yaml --ranks 64 --tflops 700 model.offload=true
done
says 0 'run.deterministic (on here)' plan configs/goku-2b.yaml --ranks 64 --tflops 700 \
    run.deterministic=true
says 78 'ranks is not set' plan configs/tiny.yaml
says 78 'which CONFIG?' plan --ranks 2
says 78 'configs/none.yaml: cannot find' plan configs/none.yaml --ranks 2
# Half of the recipes' nodes, or one lost: still legal.
for lost in '2b 56' '2b 24' '8b 248' '8b 8'; do
    says 0 'layout: ' plan configs/goku-"${lost% *}".yaml --ranks "${lost#* }" --tflops 700 \
        --memory 80
done
says 78 'shard = 3 must divide the number of ranks, 64; the nearest legal one is 8' \
    plan configs/goku-2b.yaml --ranks 64 parallel.shard=3
says 0 'depends on the layout' plan configs/goku-2b.yaml --ranks 64 --tflops 1 parallel.shard=2
says 78 "unknown setting 'model.layrs'" plan configs/tiny.yaml --ranks 2 model.layrs=3
says 78 'words; at most 256 are read' train configs/tiny.yaml $(seq 300)
says 78 "unknown setting 'rank'" plan configs/tiny.yaml --rank 2
says 0 'kintoun plan CONFIG' plan --help

# ---- plan with data
$kintoun data demo "$folder/data" --tiny >"$folder/log" 2>&1 || { cat "$folder/log" && exit 1; }
sed -e "s,datasets/tiny,$folder/data,; s,runs/tiny,$folder/run," configs/tiny.yaml \
    >"$folder/tiny.yaml"
cat >>"$folder/tiny.yaml" <<'END'
sample:
  steps: 3
  count: 2
  prompts:
    - {caption: a bag, height: 4, width: 4}
    - {caption: a bag, height: 6, width: 4}
    - {caption: a bag moving left, frames: 3, height: 4, width: 4}
END
says 0 'held out for validation' plan "$folder/tiny.yaml" --ranks 2 --tflops 1
says 0 'means over the first steps' plan "$folder/tiny.yaml" --ranks 4 parallel.sequence=2
SLURM_STEP_NUM_TASKS=4 says 78 'srun has started 4 tasks, but MPI finds one alone' \
    train configs/tiny.yaml run.dir="$folder/strangers"
[ ! -e "$folder/strangers" ] || { echo "each of srun's tasks began a run" && failed=1; }
says 78 'has weight' plan "$folder/tiny.yaml" --ranks 2 stages.0.height_min=100 \
    stages.1.height_min=100

# ---- pictures during a run
# All that speaks against a run is said at once, and nothing is started.
says 78 'data.cache_bytes = 100 holds no shard; set it to at least' train "$folder/tiny.yaml" \
    data.cache_bytes=100 run.dir="$folder/large"
says 78 'sample.prompts.1: 1 x 40 x 4 needs' train "$folder/tiny.yaml" data.cache_bytes=100 \
    sample.prompts.1.height=40 run.dir="$folder/large"
says 78 '3 errors in the settings; nothing was started' train "$folder/tiny.yaml" \
    data.cache_bytes=100 sample.prompts.1.height=40 run.dir="$folder/large" \
    sample.prompts.0.caption='a a a a a a a a a a a a a a a a a'
[ ! -e "$folder/large" ] || { echo "$folder/large was made" && failed=1; }

# ---- sample
$kintoun train "$folder/tiny.yaml" run.stop_at=20 >"$folder/log" 2>&1 ||
    { cat "$folder/log" && exit 1; }
step=$folder/run/checkpoints/step-00000020
says 0 "$folder/one/videos.png" sample "$step" --out "$folder/one"
for picture in images videos a-bag a-bag-2 a-bag-moving-left; do
    cmp "$folder/one/$picture.png" "$folder/run/samples/step-000020/$picture.png" || failed=1
done
mpirun -np 2 $kintoun sample "$step" --out "$folder/two" >"$folder/log" 2>&1 ||
    { cat "$folder/log" && failed=1; }
cmp "$folder/one/latents.safetensors" "$folder/two/latents.safetensors" || failed=1
says 0 "$folder/three/latents.safetensors" sample "$step" --out "$folder/three" --weights
cmp -s "$folder/one/latents.safetensors" "$folder/three/latents.safetensors" &&
    echo "--weights: the same samples as by the average" && failed=1
says 0 "$folder/four/images.png" sample "$step/transformer_ema" --out "$folder/four"
cmp "$folder/one/latents.safetensors" "$folder/four/latents.safetensors" || failed=1
says 0 "$folder/five/images.png" sample "$step" --out "$folder/five" --caption trousers \
    --height 4 --width 6 --count 3 --caption 'a bag' --steps 2 --guidance 1 --scale 1
[ -e "$folder/five/trousers.png" ] && [ -e "$folder/five/a-bag.png" ] || failed=1
here=$PWD
(cd "$step" && "$here/$kintoun" sample . --out "$folder/nine") >"$folder/log" 2>&1 ||
    { cat "$folder/log" && failed=1; }
cmp "$folder/one/latents.safetensors" "$folder/nine/latents.safetensors" || failed=1

# Elsewhere, without a run around it, only the model is known.
cp -r "$step/transformer" "$folder/alone"
says 0 'no pictures: the codec' sample "$folder/alone" --height 4 --width 4 --out "$folder/six"
cp "$folder/six/latents.safetensors" "$folder/first"
says 0 "$folder/six/images.png" sample "$folder/alone" --height 4 --width 4 --caption 'a bag' \
    --out "$folder/six" --data "$folder/data/images"
tensors "$folder/text" text 1,64 64
says 0 'no pictures' sample "$folder/alone" --height 4 --width 4 --out "$folder/eight" \
    --text "$folder/text"
cmp "$folder/first" "$folder/eight/latents.safetensors" || failed=1
tensors "$folder/text" text 2,63 126
says 78 "'text' must have shape [L, 64]" sample "$folder/alone" --height 4 --width 4 \
    --text "$folder/text"
says 78 'only demo data sets have a text encoder' sample "$folder/alone" --height 4 --width 4 \
    --caption 'a bag'
says 78 'what to draw?' sample "$folder/alone"
says 78 'needs --height and --width' sample "$folder/alone" --caption 'a bag' --height 4
says 78 'multiples of the model' sample "$folder/alone" --height 3 --width 4
says 78 'tokens (guidance 1: once); at most 16777216 fit' sample "$folder/alone" --frames 1024 \
    --height 1024 --width 1024
says 78 "height = 'x' must be a whole number" sample "$folder/alone" --height x --width 4
says 78 '--data:' sample "$folder/alone" --height 4 --width 4 --data "$folder"
says 78 'more than 15 words' sample "$step" --height 4 --width 4 \
    --caption 'a a a a a a a a a a a a a a a a a'
says 78 'is a transformer folder: --weights' sample "$folder/alone" --weights --height 4 --width 4
says 78 'holds neither config.json nor transformer_ema' sample "$folder/run"
says 78 'no_such_option' sample "$step" --no_such_option 3
says 78 '0 folders for CHECKPOINT' sample --steps 3
says 78 "$folder/none" sample "$step" --text "$folder/none" --height 4 --width 4
says 1 'config.json: exists and is not a folder' sample "$folder/alone" --height 4 --width 4 \
    --out "$folder/alone/config.json/x"
head -c 5000 "$step/transformer_ema/diffusion_pytorch_model.safetensors" \
    >"$folder/short" &&
    cp "$folder/short" "$step/transformer_ema/diffusion_pytorch_model.safetensors"
says 1 'transformer_ema/diffusion_pytorch_model.safetensors' sample "$step" \
    --out "$folder/seven"
says 0 'kintoun sample CHECKPOINT' sample --help
exit $failed
