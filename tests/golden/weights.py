"""base/rng.h and base/param.h in numpy: initial weights as the C program makes them, so that golden
files of large models need not hold them.

As a program it writes weights.safetensors for tests/test_weights.c: some elements of tensors of
every kind of initialisation.
"""
import ctypes

import numpy as np
import torch

from golden import Golden

RNG_WEIGHTS, RNG_TEST = 7, 12
xxhash = ctypes.CDLL("libxxhash.so.0")
xxhash.XXH3_64bits.restype = ctypes.c_uint64
xxhash.XXH3_64bits.argtypes = [ctypes.c_char_p, ctypes.c_size_t]


def hash_name(name):
    return xxhash.XXH3_64bits(name.encode(), len(name))


def philox(counter, key):
    """Ten rounds of Philox 4x32; counter: four uint64 arrays below 2^32, key: two numbers."""
    low = np.uint64(0xFFFFFFFF)
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        p0, p1 = np.uint64(0xD2511F53) * c0, np.uint64(0xCD9E8D57) * c2
        c0, c1, c2, c3 = ((p1 >> np.uint64(32)) ^ c1 ^ np.uint64(k0), p1 & low,
                          (p0 >> np.uint64(32)) ^ c3 ^ np.uint64(k1), p0 & low)
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return c0, c1, c2, c3


def rng_bits(seed, purpose, position, count):
    """The 32 bits of elements 0 .. count - 1 (count below 2^34), as uint64."""
    block = np.arange((count + 3) // 4, dtype=np.uint64)
    counter = (block, np.full_like(block, purpose << 24), np.full_like(block, position % 2**32),
               np.full_like(block, position >> 32))
    return np.stack(philox(counter, (seed % 2**32, seed >> 32)), 1).reshape(-1)[:count]


def uniform(seed, purpose, position, count):
    """Doubles in (-1, 1), as initial_value in base/param.c makes them from the bits."""
    return (rng_bits(seed, purpose, position, count).astype(np.float64) + 0.5) * 2.0**-31 - 1.0


def normal(seed, purpose, position, count):
    """Box-Muller as in base/rng.c, but in double: equal to about 1e-7."""
    bits = rng_bits(seed, purpose, position, count + count % 2).astype(np.float64).reshape(-1, 2)
    radius = np.sqrt(-2.0 * np.log((bits[:, 0] + 0.5) * 2.0**-32))
    angle = 2.0 * np.pi * np.floor(bits[:, 1] / 256.0) * 2.0**-24
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1).reshape(-1)[:count]


def initial(kind, name, shape, seed):
    """What param_init gives for a row of this kind: "zero", "one", "xavier", "normal"; float32."""
    count = int(np.prod(shape))
    if kind in ("zero", "one"):
        values = np.full(count, 0.0 if kind == "zero" else 1.0)
    elif kind == "xavier":
        limit = np.sqrt(6.0 / (count // shape[0] + shape[0]))
        values = limit * uniform(seed, RNG_WEIGHTS, hash_name(name), count)
    else:
        values = 0.02 * normal(seed, RNG_WEIGHTS, hash_name(name), count)
    return values.astype(np.float32).reshape(shape)


def main():
    golden = Golden("weights")
    for kind, name, shape in [("xavier", "blocks.3.attn1.q_proj.weight", (33, 70)),
                              ("normal", "time_embedder.linear_1.weight", (64, 257)),
                              ("one", "blocks.0.norm2.weight", (70,)),
                              ("zero", "proj_out.weight", (12, 64))]:
        golden.tensors[name] = torch.from_numpy(initial(kind, name, shape, 2**40 + 5))
    golden.save()


if __name__ == "__main__":
    main()
