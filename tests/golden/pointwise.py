"""pointwise.safetensors: the ops of model/ops/pointwise.h, for tests/test_pointwise.c."""
import torch
import torch.nn.functional as F

from golden import Golden, segments
from goku_twin import timestep_embedding


def gated(x, h, gate, segment):
    return x + (h if gate is None else gate[segment.long()] * h)


golden = Golden("pointwise")
x = torch.cat([golden.normal(1000, deviation=2.0),
               torch.linspace(-30, 30, 300, dtype=torch.float64).bfloat16().double()])
dout = golden.normal(len(x))
golden.differentiate("gelu", lambda x: F.gelu(x, approximate="tanh"), dout, x=x)
golden.differentiate("silu", lambda x: F.silu(x), dout, x=x)

for name, C, lengths in [("gate_one", 8, [1]), ("gate", 96, [20, 1, 44]), ("gate_wide", 1152, [3]),
                         ("gate_many", 72, [1, 1, 70, 3, 64, 1, 60])]:
    T = sum(lengths)
    golden.differentiate(name, gated, golden.normal(T, C), x=golden.normal(T, C),
                         h=golden.normal(T, C), gate=golden.normal(len(lengths), C),
                         segment=segments(lengths))
golden.differentiate("bare", gated, golden.normal(3, 72), x=golden.normal(3, 72),
                     h=golden.normal(3, 72), gate=None, segment=None)

time = torch.cat([torch.rand(13, generator=golden.generator), torch.tensor([0.0, 1.0])])
golden.tensors["time.time"] = time
golden.expect("time", "embedding", timestep_embedding(time), timestep_embedding(time).bfloat16())

for name, T, width in [("swiglu", 20, 96), ("swiglu_odd", 7, 75)]:
    g = golden.normal(T, width, deviation=2.0)
    g[0] = torch.linspace(-30, 30, width, dtype=torch.float64).bfloat16().double()
    golden.differentiate(name, lambda g, u: F.silu(g) * u, golden.normal(T, width), g=g,
                         u=golden.normal(T, width))
golden.save()
