"""qk_norm_rope.safetensors: query and key norm with rotary positions (model/ops/norm.h), forward
and gradients, for tests/test_qk_norm_rope.c."""
import torch

from golden import Golden
from goku_twin import rope_table

EPSILON = 1e-6


def norm_rope(heads, rope):
    def function(x, weight):
        y = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPSILON) * weight
        if rope is None:
            return y
        even, odd = y.unflatten(-1, (heads, -1, 2)).unbind(-1)
        cos, sin = rope[:, None].to(y.dtype).unbind(-1)
        return torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(1)
    return function


golden = Golden("qk_norm_rope")
# Name, heads, head dimension, grid (t, h, w) of the tokens, whether they turn.
CASES = [("one", 1, 8, (1, 1, 1), True), ("three", 2, 36, (3, 1, 1), True),
         ("block", 3, 32, (1, 5, 13), True), ("blocks", 1, 72, (2, 5, 15), True),
         ("keys", 4, 64, (1, 1, 3), False), ("wide", 16, 72, (1, 2, 2), True)]
for name, heads, D, grid, turned in CASES:
    rope = rope_table(grid, D).float().double() if turned else None
    T = grid[0] * grid[1] * grid[2]
    golden.differentiate(name, norm_rope(heads, rope), golden.normal(T, heads * D),
                         x=golden.normal(T, heads * D),
                         weight=golden.normal(heads * D, mean=1.0, deviation=0.2))
    golden.tensors[f"{name}.heads"] = torch.tensor([heads], dtype=torch.int32)
    if turned:
        golden.tensors[f"{name}.rope"] = rope.float()
golden.save()
