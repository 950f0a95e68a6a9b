"""product.safetensors: linear layers (model/ops/product.h), forward and gradients, for
tests/test_product.c. The rows of S samples (linear_rows_backward) are the cases called rows_*, the
products that take GELU along those called gelu_*."""
import torch.nn.functional as F

from golden import Golden


def linear(x, w, b):
    return F.linear(x, w, b)


def gelu(x):
    return F.gelu(x, approximate="tanh")


def gelu_after(x, w, b):
    """What linear_gelu_forward gives."""
    z = F.linear(x, w, b)
    return {"z": z, "g": gelu(z)}


def gelu_before(y, w2, dout):
    """What linear_gelu_backward_input gives: the gradient of y in w2 gelu(y)."""
    y = y.detach().requires_grad_()
    F.linear(gelu(y), w2).backward(dout)
    return {"dy": y.grad}


golden = Golden("product")
for name, T, N, K, bias in [
        ("one", 1, 16, 8, True),
        ("odd", 37, 72, 48, True),
        ("plain", 70, 24, 40, False),
        ("deep", 5, 12, 700, True),
        ("long", 530, 10, 6, True),
        ("rows_few", 3, 60, 40, True),
        ("rows_many", 65, 24, 16, True)]:
    golden.differentiate(name, linear, golden.normal(T, N), x=golden.normal(T, K),
                         w=golden.normal(N, K, deviation=K**-0.5),
                         b=golden.normal(N) if bias else None)
for name, T, K, N, N2, bias in [
        ("gelu_one", 1, 16, 32, 24, True),
        ("gelu_odd", 37, 24, 72, 40, True),
        ("gelu_plain", 70, 40, 24, 64, False),
        ("gelu_narrow", 33, 30, 12, 20, True),
        ("gelu_short", 90, 8, 16, 8, True)]:
    layer = {"x": golden.normal(T, K), "w": golden.normal(N, K, deviation=2 * K**-0.5),
             "b": golden.normal(N) if bias else None}
    next_layer = {"y": golden.normal(T, N, deviation=2.0),
                  "w2": golden.normal(N2, N, deviation=N**-0.5), "dout": golden.normal(T, N2)}
    golden.keep(name, **layer, **next_layer)
    for function, inputs in [(gelu_after, layer), (gelu_before, next_layer)]:
        rough = {key: x if x is None else x.bfloat16() for key, x in inputs.items()}
        for (output, exact), low in zip(function(**inputs).items(), function(**rough).values()):
            golden.expect(name, output, exact, low)
golden.save()
