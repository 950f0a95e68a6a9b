"""product.safetensors: linear layers (model/ops/product.h), forward and gradients, for
tests/test_product.c. The rows of S samples (linear_rows_backward) are the cases called rows_*."""
import torch.nn.functional as F

from golden import Golden


def linear(x, w, b):
    return F.linear(x, w, b)


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
golden.save()
