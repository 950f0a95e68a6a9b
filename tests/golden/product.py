"""product.safetensors: linear layers (model/ops/product.h), forward and gradients, for
tests/test_product.c. The rows of S samples (linear_rows_backward) are the cases called rows_*, the
input gradients through a GELU (linear_gelu_backward_input) those called gelu_*."""
import torch.nn.functional as F

from golden import Golden


def linear(x, w, b):
    return F.linear(x, w, b)


def through_gelu(z, w, dout):
    """The gradient of z in w gelu(z)."""
    z = z.detach().requires_grad_()
    F.linear(F.gelu(z, approximate="tanh"), w).backward(dout)
    return z.grad


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
for name, T, N, K in [
        ("gelu_one", 1, 24, 32),
        ("gelu_odd", 37, 40, 72),
        ("gelu_narrow", 33, 20, 12),
        ("gelu_short", 90, 8, 16)]:
    inputs = {"z": golden.normal(T, K, deviation=2.0), "dout": golden.normal(T, N),
              "w": golden.normal(N, K, deviation=K**-0.5)}
    golden.keep(name, **inputs)
    rough = {key: x.bfloat16() for key, x in inputs.items()}
    golden.expect(name, "dz", through_gelu(**inputs), through_gelu(**rough))
golden.save()
