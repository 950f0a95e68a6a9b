#!/bin/sh
# Python's safetensors opens every file of a checkpoint that a run wrote; its tensors have the names
# and shapes that the released Goku block and DESIGN document, fp32, in all four classes.
# seconds: 120
. "$(dirname "$0")/runs.sh"
python=
for candidate in build/venv/bin/python python3; do
    "$candidate" -c 'import safetensors' 2>/dev/null && python=$candidate && break
done
[ -n "$python" ] || { echo "no python3 with the module safetensors here"; exit 77; }
make_tiny
must run 2 run.stop_at=2
"$python" - "$work/run/checkpoints/step-00000002" <<'END' || failed=1
import json, os, sys
from safetensors import safe_open

folder = sys.argv[1]
config = json.load(open(folder + "/transformer/config.json"))
C = config["num_attention_heads"] * config["attention_head_dim"]
text, hidden = config["cross_attention_dim"], 4 * C
E = config["in_channels"] * config["patch_size"] ** 2 * config["patch_size_t"]
want = {"x_embedder.proj": (C, E), "time_embedder.linear_1": (C, 256),
        "time_embedder.linear_2": (C, C), "norm_out.linear": (2 * C, C), "proj_out": (E, C)}
shapes = {}
for name, (rows, cols) in want.items():
    shapes[name + ".weight"], shapes[name + ".bias"] = [rows, cols], [rows]
for i in range(config["num_layers"]):
    b = "blocks.%d." % i
    shapes[b + "norm1.linear.weight"], shapes[b + "norm1.linear.bias"] = [6 * C, C], [6 * C]
    for attn, width in (("attn1.", C), ("attn2.", text)):
        shapes[b + attn + "q_proj.weight"] = shapes[b + attn + "o_proj.weight"] = [C, C]
        shapes[b + attn + "k_proj.weight"] = shapes[b + attn + "v_proj.weight"] = [C, width]
        shapes[b + attn + "q_norm.weight"] = shapes[b + attn + "k_norm.weight"] = [C]
    shapes[b + "norm2.weight"] = shapes[b + "norm3.weight"] = [C]
    shapes[b + "mlp.fc1.weight"], shapes[b + "mlp.fc1.bias"] = [hidden, C], [hidden]
    shapes[b + "mlp.fc2.weight"], shapes[b + "mlp.fc2.bias"] = [C, hidden], [C]

assert config["_class_name"] == "GokuTransformer3DModel", config
found = {"transformer": {}, "transformer_ema": {}, "exp_avg-": {}, "exp_avg_sq": {}}
for path, _, files in os.walk(folder):
    for file in files:
        if not file.endswith(".safetensors"):
            continue
        kind = os.path.basename(path)
        if kind == "optimizer":
            kind = "exp_avg_sq" if file.startswith("exp_avg_sq") else "exp_avg-"
        with safe_open(os.path.join(path, file), "np") as tensors:
            for name in tensors.keys():
                tensor = tensors.get_tensor(name)
                assert tensor.dtype == "float32", (file, name, tensor.dtype)
                found[kind][name] = list(tensor.shape)
for kind, got in found.items():
    assert got == shapes, (kind, set(got) ^ set(shapes),
                           [n for n in got if got[n] != shapes.get(n)])
print(len(shapes), "tensors in each of", len(found), "classes")
END
exit $failed
