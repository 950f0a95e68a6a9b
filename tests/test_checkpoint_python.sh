#!/bin/sh
# Python's safetensors opens every tensor file of a checkpoint: names, shapes, values and the index
# are the documented ones.
# ranks: 1
# $1 is the folder of the build, build/cpu-fp32 if not given.
cd "$(dirname "$0")/.." || exit 1
build=${1:-build/cpu-fp32}
. launch/local.sh

python=
for candidate in build/venv/bin/python python3; do
    "$candidate" -c 'import safetensors' 2>/dev/null && python=$candidate && break
done
if [ -z "$python" ]; then
    echo "no python3 with the module safetensors here"
    exit 77
fi

run=$(mktemp -d) || exit 1
trap 'rm -rf "$run"' EXIT
timeout 60 mpirun -np 2 "$build/tests/test_checkpoint" "$run" ||
    exit 1

"$python" - "$run" <<'END'
import glob, json, os, struct, sys
from safetensors import deserialize

rows = {  # Name: number in the table, shape. tests/checkpoint_case.h
    "x_embedder.proj.weight": (0, [3, 5]),
    "x_embedder.proj.bias": (1, [7]),
    "blocks.0.attn1.q_proj.weight": (2, [40, 33]),
    "blocks.0.scale_shift_table": (3, [1, 6, 33]),
    "blocks.1.attn1.q_proj.weight": (4, [51, 27]),
    "blocks.1.norm.weight": (5, [1]),
    "proj_out.bias": (6, [1]),
}
classes = ["transformer/diffusion_pytorch_model", "transformer_ema/diffusion_pytorch_model",
           "optimizer/exp_avg-", "optimizer/exp_avg_sq-"]
mask = (1 << 64) - 1


def value(kind, row, i, step):
    x = (i * 0x9E3779B97F4A7C15 + kind * 1000 + row * 37 + step) & mask
    x = (x ^ x >> 29) * 0xBF58476D1CE4E5B9 & mask
    return ((x >> 40) - 0x800000) * 2.0**-20


opened = 0
for step in 1, 2:
    folder = f"{sys.argv[1]}/checkpoints/step-{step:08d}"
    for kind, start in enumerate(classes):
        paths = sorted(glob.glob(f"{folder}/{start}*.safetensors"))
        assert (len(paths) > 1) == (step == 1), paths
        found = {}
        for path in paths:
            data = open(path, "rb").read()
            header = json.loads(data[8:8 + struct.unpack("<Q", data[:8])[0]])
            assert header["__metadata__"] == {"format": "pt"}, path
            assert (8 + struct.unpack("<Q", data[:8])[0]) % 4096 == 0, path
            for name, tensor in deserialize(data):
                assert name not in found, name
                found[name] = os.path.basename(path)
                row, shape = rows[name]
                assert tensor["dtype"] == "F32" and tensor["shape"] == shape, (path, name, tensor)
                got = struct.unpack(f"<{len(tensor['data']) // 4}f", tensor["data"])
                want = tuple(value(kind, row, i, step) for i in range(len(got)))
                assert got == want, (path, name)
            opened += 1
        assert set(found) == set(rows), (start, found)
        if kind < 2:
            json.load(open(f"{folder}/{os.path.dirname(start)}/config.json"))
            index = f"{folder}/{start}.safetensors.index.json"
            assert os.path.exists(index) == (step == 1), index
            if step == 1:
                content = json.load(open(index))
                assert content["weight_map"] == found, index
                assert content["metadata"]["total_size"] == 4 * (15 + 7 + 1320 + 198 + 1377 + 2)
print(f"{opened} files opened")
END
