#!/bin/sh
# kintoun forward: what the PyTorch twin gives, gradients included, for odd sizes and on several
# ranks; no text is one token of zeros; everything that can be wrong is named, with exit 78 or 1.
# ranks: 1 3
. launch/local.sh
. tests/tensors.sh
kintoun=build/cpu-fp32/kintoun
golden=tests/golden/goku_tiny
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
failed=0

# refused STATUS TEXT ARGUMENT...: forward ends with this status and says TEXT.
refused() {
    want=$1 part=$2
    shift 2
    text=$($kintoun forward "$@" 2>&1)
    status=$?
    case $text in *"$part"*) [ $status -eq "$want" ] && return ;; esac
    echo "forward $*: status $status, want $want and '$part'; got: $text"
    failed=1
}

# inputs STATUS TEXT NAME SHAPE COUNT...: the same for inputs of these tensors.
inputs() {
    want=$1 part=$2
    shift 2
    tensors "$folder/in" "$@"
    refused "$want" "$part" $golden --inputs "$folder/in" --outputs "$folder/out" --gradients
}

# ---- right
forward="$kintoun forward $golden --inputs $golden/inputs.safetensors"
$forward --outputs "$folder/one" --gradients && build/cpu-fp32/tests/test_goku "$folder/one" \
    >"$folder/log" 2>&1 || { cat "$folder/log" && failed=1; }
mpirun -np 3 $forward --outputs "$folder/three" --gradients --deterministic || failed=1
cmp "$folder/one" "$folder/three" || failed=1
$forward --outputs "$folder/outputs" || failed=1
if grep -q 'grad\.\|loss' "$folder/outputs" || ! grep -q '3\.output' "$folder/outputs"; then
    echo "without --gradients: not the outputs alone"
    failed=1
fi
$kintoun forward --help | grep -q 'N.latent' || failed=1

latent="0.latent 4,1,2,2 16" time="0.time 1 1" target="0.target 4,1,2,2 16"
for text in '' '0.text 0,24 0' '0.text 1,24 24'; do
    tensors "$folder/in" $latent $time $text
    $kintoun forward $golden --inputs "$folder/in" --outputs "$folder/out" || failed=1
    [ -e "$folder/first" ] || cp "$folder/out" "$folder/first"
    cmp "$folder/first" "$folder/out" || failed=1
done

# A path is taken whole, however long.
long=$(printf './%.0s' $(seq 490))$golden/inputs.safetensors
$kintoun forward $golden --inputs "$long" --outputs "$folder/out" || failed=1
cmp "$folder/out" "$folder/outputs" || failed=1

# ---- wrong on the command line
refused 78 '0 folders for MODEL'
refused 78 'inputs is not set' $golden --outputs b
refused 78 "unknown setting 'gradient'; did you mean 'gradients'" $golden --inputs a --gradient x
refused 78 '--outputs needs a value' $golden --inputs a --outputs
refused 78 '--inputs=a: the value stands behind it: --inputs a' $golden --inputs=a --outputs b
refused 78 'words; at most 256 are read' $golden $(seq 300)
refused 78 'a model is a folder with config.json' "$folder" --inputs a --outputs b
refused 78 "$folder/none" $golden --inputs "$folder/none" --outputs b
refused 1 "$folder/none/out" $golden --inputs $golden/inputs.safetensors \
    --outputs "$folder/none/out"

# ---- wrong inputs
inputs 78 "'0.latent' is missing; the pack has no samples" $time
inputs 78 "'0.time' is missing" $latent $target
inputs 78 "'0.target' is missing; --gradients" $latent $time
inputs 78 "'0.time' has shape [2], must have [1]" $latent 0.time 2 2 $target
inputs 78 "has shape [3, 1, 2, 2], must have [4, any, any, any]" 0.latent 3,1,2,2 12 $time $target
inputs 78 "multiples of the model's patch, 1 x 2 x 2" 0.latent 4,1,3,2 24 $time
inputs 78 "'0.text' has shape [2, 23], must have [any, 24]" $latent $time $target 0.text 2,23 46
inputs 78 "'0.target' has shape [4, 1, 2, 4], must have [4, 1, 2, 2]" $latent $time \
    0.target 4,1,2,4 32
inputs 78 "'0.txt' is none of" $latent $time $target 0.txt 1,24 24
inputs 78 "'00.text' is none of" $latent $time $target 00.text 1,24 24
inputs 78 "' 0.text' is none of" $latent $time $target ' 0.text' 1,24 24
inputs 78 "'2.latent' is none of" $latent $time $target 2.latent 4,1,2,2 16
tensors "$folder/zero" $latent $target $time
{ head -c -4 "$folder/zero" && printf '\000\000\200\177'; } >"$folder/in"
refused 78 "'0.time' is inf, must be t from 0" $golden --inputs "$folder/in" --outputs "$folder/out"
head -c 300 $golden/inputs.safetensors >"$folder/in"
refused 78 "$folder/in" $golden --inputs "$folder/in" --outputs "$folder/out"

# ---- wrong models
mkdir "$folder/model"
model="$folder/model --inputs $golden/inputs.safetensors --outputs $folder/out"
cp $golden/diffusion_pytorch_model.safetensors "$folder/model"
sed 's/Goku/Gaku/' $golden/config.json >"$folder/model/config.json"
refused 78 "'_class_name' is 'GakuTransformer3DModel'" $model
sed 's/"num_layers": 2/"num_layers": 3/' $golden/config.json >"$folder/model/config.json"
refused 78 "'blocks.2.attn1.q_proj.weight' is missing" $model
sed 's/"num_layers": 2/"num_layers": 1/' $golden/config.json >"$folder/model/config.json"
refused 78 "'blocks.1.attn1.q_proj.weight' is not in this model" $model

# config REPLACEMENT TEXT: config.json with this change is refused with TEXT.
config() {
    sed "$1" $golden/config.json >"$folder/model/config.json"
    refused 78 "config.json: $2" $model
}
config 's/"attention_head_dim": [0-9]*/"attention_head_dim": 12/' 'head_dim = 12 must be a multiple'
config 's/"num_attention_heads": [0-9]*/"num_attention_heads": 4096/' 'heads * head_dim = 4096 * '
config 's/"num_layers": 2/"num_layers": 1000000/' 'layers = 1000000 must be at most 1024'
config 's/"cross_attention_dim": [0-9]*/"cross_attention_dim": 20/' 'text_width = 20 must be'
config 's/"patch_size": [0-9]*/"patch_size": 1000000/' 'in_channels * patch_t * patch^2 = '
config 's/"num_layers": 2/"num_layers": 2, "mlp_ratio": 1.001/' 'mlp_ratio = 1.001 gives'
config 's/"in_channels": [0-9]*/"in_channels": 0/' "'in_channels' must be a whole number"
cp $golden/config.json "$folder/model"
head -c 5000 $golden/diffusion_pytorch_model.safetensors \
    >"$folder/model/diffusion_pytorch_model.safetensors"
refused 1 "$folder/model/diffusion_pytorch_model.safetensors" $model
exit $failed
