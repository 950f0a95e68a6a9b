"""attention.safetensors: attention over packs of segments (model/ops/attention.h), forward and
gradients, for tests/test_attention.c."""
import itertools

import torch
import torch.nn.functional as F

from golden import Golden


def attention(q, k, v, q_start, k_start):
    """q [T, heads, D], k and v [X, heads, D]; segment by segment."""
    out = []
    for s in range(len(q_start) - 1):
        rows, keys = slice(q_start[s], q_start[s + 1]), slice(k_start[s], k_start[s + 1])
        parts = (x.transpose(0, 1)[None] for x in (q[rows], k[keys], v[keys]))
        out.append(F.scaled_dot_product_attention(*parts)[0].transpose(0, 1))
    return torch.cat(out)


def log_sum_exp(q, k, q_start, k_start):
    out = []
    for s in range(len(q_start) - 1):
        rows, keys = slice(q_start[s], q_start[s + 1]), slice(k_start[s], k_start[s + 1])
        scores = torch.einsum("thd,xhd->thx", q[rows], k[keys]) / q.shape[-1] ** 0.5
        out.append(scores.logsumexp(-1))
    return torch.cat(out)  # [T, heads]


golden = Golden("attention")
for name, heads, D, queries, keys in [
        ("one", 1, 64, [1], [1]),
        ("self64", 2, 64, [5, 1, 10], None),
        ("self72", 2, 72, [9, 3], None),
        ("self128", 1, 128, [5, 1], None),
        ("small", 3, 8, [70, 1, 2], None),
        ("long", 1, 8, [520, 3], None),
        ("cross", 2, 16, [40, 1, 9], [17, 3, 1]),
        ("cross_wide", 1, 32, [7, 30], [140, 2])]:
    starts = [torch.tensor([0, *itertools.accumulate(x)]) for x in (queries, keys or queries)]
    T, X = (int(x[-1]) for x in starts)
    q, k, v = (golden.normal(n, heads, D) for n in (T, X, X))
    golden.differentiate(name, attention, golden.normal(T, heads, D), q=q, k=k, v=v,
                         q_start=starts[0], k_start=starts[1])
    golden.expect(name, "lse", log_sum_exp(q, k, *starts))
golden.save()
