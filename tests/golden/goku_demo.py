"""goku_demo.safetensors: loss and gradients of a whole model of the demo's size, in float64.

Weights are not stored: they are what param_init gives for SEED, and each row that starts at zero or
one gets JITTER times uniform numbers added (rng_bits, RNG_TEST, hash of the name, element), so
that nothing is hidden behind a zero. The file holds the inputs (N.latent, N.time, N.text,
N.target), `loss`, and for each parameter norm.NAME [1] of its gradient, index.NAME [K] (elements,
the largest one first) and grad.NAME [K], their gradients.

    python tests/golden/goku_demo.py [layers heads head_dim in_channels text_width]
"""
import sys

import numpy as np
import torch

from golden import Golden
from goku_twin import Goku, make_inputs, run
from weights import RNG_TEST, hash_name, initial, uniform

SEED, JITTER, KEPT = 1, 0.1, 256


def kind(name):
    """How model/goku.c starts the parameter."""
    if name.endswith("bias"):
        return "zero"
    if name.endswith(("q_norm.weight", "k_norm.weight", "norm2.weight", "norm3.weight")):
        return "one"
    if name.startswith("time_embedder."):
        return "normal"
    if "norm1.linear" in name or "norm_out.linear" in name or name == "proj_out.weight":
        return "zero"
    return "xavier"


def build(layers, heads, head_dim, in_channels, text_width):
    model = Goku({"num_layers": layers, "num_attention_heads": heads,
                  "attention_head_dim": head_dim, "in_channels": in_channels, "patch_size": 2,
                  "patch_size_t": 1, "cross_attention_dim": text_width}).double()
    for name, p in model.named_parameters():
        value = initial(kind(name), name, tuple(p.shape), SEED)
        if kind(name) in ("zero", "one"):
            noise = JITTER * uniform(SEED, RNG_TEST, hash_name(name), p.numel())
            value = value + noise.astype(np.float32).reshape(p.shape)
        p.data = torch.from_numpy(value).double()
    return model


def main(layers=4, heads=3, head_dim=64, in_channels=32, text_width=64):
    golden = Golden("goku_demo")
    model = build(layers, heads, head_dim, in_channels, text_width)
    inputs = make_inputs([(1, 8, 8), (3, 8, 6), (1, 10, 4)], [5, 7, 0], in_channels, text_width,
                         golden.generator)
    golden.tensors.update(inputs)
    result = run(model, inputs)
    golden.tensors["loss"] = result["loss"].float()
    for name, p in model.named_parameters():
        gradient = p.grad.reshape(-1)
        where = torch.randperm(p.numel(), generator=golden.generator)[:KEPT]
        where[0] = gradient.abs().argmax()
        golden.tensors[f"norm.{name}"] = gradient.norm().reshape(1).float()
        golden.tensors[f"index.{name}"] = where.int()
        golden.tensors[f"grad.{name}"] = gradient[where].float()
    golden.save()
    print(sum(p.numel() for p in model.parameters()), "parameters, loss", result["loss"].item())


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
