"""norm.safetensors: norm_modulate (model/ops/norm.h) and its gradients, for tests/test_norm.c."""
import torch
import torch.nn.functional as F

from golden import Golden, segments

EPSILON = 1e-6


def layer(x, weight, shift, scale, segment):
    return modulate(F.layer_norm(x, x.shape[-1:], eps=EPSILON), weight, shift, scale, segment)


def rms(x, weight, shift, scale, segment):
    n = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPSILON)
    return modulate(n, weight, shift, scale, segment)


def modulate(n, weight, shift, scale, segment):
    n = n if weight is None else n * weight
    if shift is None:
        return n
    where = segment.long()
    return n * (1 + scale[where]) + shift[where]


golden = Golden("norm")
CASES = [  # Name, function, channels, affine, lengths of modulated segments or a number of tokens.
    ("one", layer, 8, False, [1]),
    ("goku", layer, 96, False, [20, 1, 44]),
    ("wide", layer, 1152, False, [2, 1]),
    ("many", layer, 72, False, [1, 1, 70, 3, 64, 1, 60]),
    ("plain", layer, 72, False, 5),
    ("affine", layer, 8, True, 3),
    ("rms", rms, 96, True, 65),
    ("rms_wide", rms, 256, True, 3),
    ("rms_goku", rms, 72, True, [63, 2, 65]),
    ("rms_bare", rms, 8, False, 3),
]
for name, function, C, affine, lengths in CASES:
    modulated = isinstance(lengths, list)
    T, S = (sum(lengths), len(lengths)) if modulated else (lengths, 1)
    golden.differentiate(
        name, function, golden.normal(T, C), x=golden.normal(T, C, mean=0.5),
        weight=golden.normal(C, mean=1.0, deviation=0.2) if affine else None,
        shift=golden.normal(S, C) if modulated else None,
        scale=golden.normal(S, C, deviation=0.5) if modulated else None,
        segment=segments(lengths) if modulated else None)
golden.save()
