"""The PyTorch twin of model/goku.c: the same mathematics over a pack of samples, in any precision.

Goku (arXiv 2502.04896) and its released block, with what the paper leaves open decided as
model/goku.c says. Every sample of a pack attends to itself and to its own text only. Used by the
generators beside it, by tests/compare_twin.py and by bench/compare_torch.py.

As a program it writes the golden files of one small model with odd-sized samples:

    python tests/golden/goku_twin.py            -> tests/golden/goku_tiny/
"""
import json
import math
import os

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

EPSILON = 1e-6
TIME_WIDTH = 256


def rms_norm(x, weight=None):
    """Over all channels; weight as in the checkpoint, or None. At least float inside."""
    wide = x if x.dtype == torch.float64 else x.float()
    y = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + EPSILON)
    return (y if weight is None else y * weight).to(x.dtype)


def layer_norm(x):
    wide = x if x.dtype == torch.float64 else x.float()
    return F.layer_norm(wide, wide.shape[-1:], eps=EPSILON).to(x.dtype)


def rope_table(grid, dim, dtype=torch.float64, theta=1e4):
    """cos and sin [T, dim / 2, 2] for tokens in order (t, h, w), w fastest."""
    side = 2 * (3 * dim // 16)
    position = torch.meshgrid(*[torch.arange(n, dtype=torch.float64) for n in grid], indexing="ij")
    angles = []
    for where, width in zip(position, (dim - 2 * side, side, side)):
        exponent = torch.arange(width // 2, dtype=torch.float64) * 2 / width
        angles.append(where.reshape(-1, 1) * theta ** -exponent)
    angle = torch.cat(angles, 1)
    return torch.stack([angle.cos(), angle.sin()], -1).to(dtype)


def rotate(x, rope):
    """Turns the pairs (2i, 2i + 1) of x [T, heads, D]; rope [T, D / 2, 2]."""
    wide = x if x.dtype == torch.float64 else x.float()
    even, odd = wide.unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = rope[:, None, :, 0], rope[:, None, :, 1]
    turned = torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1)
    return turned.flatten(-2).to(x.dtype)


def patchify(latent, patch):
    """[C, F, H, W] -> [tokens, C pt ph pw]."""
    c, f, h, w = latent.shape
    t, y, x = patch
    grid = latent.reshape(c, f // t, t, h // y, y, w // x, x)
    return grid.permute(1, 3, 5, 0, 2, 4, 6).reshape(-1, c * t * y * x)


def unpatchify(tokens, shape, patch):
    c, f, h, w = shape
    t, y, x = patch
    grid = tokens.reshape(f // t, h // y, w // x, c, t, y, x)
    return grid.permute(3, 0, 4, 1, 5, 2, 6).reshape(c, f, h, w)


def timestep_embedding(time, width=TIME_WIDTH, factor=1000.0):
    half = width // 2
    frequency = 1e4 ** (-torch.arange(half, dtype=torch.float64) / half)
    angle = time.double()[:, None] * factor * frequency
    return torch.cat([angle.cos(), angle.sin()], 1)


class Linears(nn.Module):
    """A bare holder, so that the names are those of the checkpoint."""


class Attention(nn.Module):
    def __init__(self, width, text_width, heads):
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(width, width, bias=False)
        self.k_proj = nn.Linear(text_width, width, bias=False)
        self.v_proj = nn.Linear(text_width, width, bias=False)
        self.o_proj = nn.Linear(width, width, bias=False)
        self.q_norm, self.k_norm = Linears(), Linears()
        self.q_norm.weight = nn.Parameter(torch.ones(width))
        self.k_norm.weight = nn.Parameter(torch.ones(width))

    def split(self, x):
        return x.unflatten(-1, (self.heads, -1))

    def forward(self, x, source, rope, key_rope, lengths, source_lengths):
        q = rotate(self.split(rms_norm(self.q_proj(x), self.q_norm.weight)), rope)
        k = self.split(rms_norm(self.k_proj(source), self.k_norm.weight))
        k = k if key_rope is None else rotate(k, key_rope)
        v = self.split(self.v_proj(source))
        parts = zip(q.split(lengths), k.split(source_lengths), v.split(source_lengths))
        out = [F.scaled_dot_product_attention(*(a.transpose(0, 1)[None] for a in part))[0]
               for part in parts]
        return self.o_proj(torch.cat([part.transpose(0, 1).flatten(1) for part in out]))


def spread(rows, lengths):
    """[S, C] -> [T, C]: each token gets its segment's row."""
    if len(lengths) == 1:
        return rows
    return torch.cat([row.expand(n, -1) for row, n in zip(rows.split(1), lengths)])


class Block(nn.Module):
    def __init__(self, width, text_width, heads, hidden):
        super().__init__()
        self.norm1, self.norm2, self.norm3, self.mlp = Linears(), Linears(), Linears(), Linears()
        self.norm1.linear = nn.Linear(width, 6 * width)
        self.attn1 = Attention(width, width, heads)
        self.norm2.weight = nn.Parameter(torch.ones(width))
        self.attn2 = Attention(width, text_width, heads)
        self.norm3.weight = nn.Parameter(torch.ones(width))
        self.mlp.fc1 = nn.Linear(width, hidden)
        self.mlp.fc2 = nn.Linear(hidden, width)

    def forward(self, x, c, text, rope, lengths, text_lengths):
        rows = self.norm1.linear(F.silu(c)).chunk(6, -1)
        shift_msa, scale_msa, gate_msa, shift_mlp, scale_mlp, gate_mlp = [
            spread(row, lengths) for row in rows]
        h = layer_norm(x) * (1 + scale_msa) + shift_msa
        x = x + gate_msa * self.attn1(h, h, rope, rope, lengths, lengths)
        h = rms_norm(x, self.norm2.weight)
        x = x + self.attn2(h, text, rope, None, lengths, text_lengths)
        h = rms_norm(x, self.norm3.weight) * (1 + scale_mlp) + shift_mlp
        h = self.mlp.fc2(F.gelu(self.mlp.fc1(h), approximate="tanh"))
        return x + gate_mlp * h


class Goku(nn.Module):
    """Built from the keys of config.json. forward works on tokens; `pack` makes them."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        heads, dim = config["num_attention_heads"], config["attention_head_dim"]
        width, text_width = heads * dim, config["cross_attention_dim"]
        side = config["patch_size"]
        self.patch = (config["patch_size_t"], side, side)
        features = config["in_channels"] * math.prod(self.patch)
        self.x_embedder, self.time_embedder, self.norm_out = Linears(), Linears(), Linears()
        self.x_embedder.proj = nn.Linear(features, width)
        self.time_embedder.linear_1 = nn.Linear(TIME_WIDTH, width)
        self.time_embedder.linear_2 = nn.Linear(width, width)
        self.blocks = nn.ModuleList(
            Block(width, text_width, heads, round(config.get("mlp_ratio", 4) * width))
            for _ in range(config["num_layers"]))
        self.norm_out.linear = nn.Linear(width, 2 * width)
        self.proj_out = nn.Linear(width, features)

    def stem(self, tokens, sinusoid):
        c = F.silu(self.time_embedder.linear_1(sinusoid))
        return self.x_embedder.proj(tokens), self.time_embedder.linear_2(c)

    def head(self, x, c, lengths):
        shift, scale = [spread(row, lengths)
                        for row in self.norm_out.linear(F.silu(c)).chunk(2, -1)]
        return self.proj_out(layer_norm(x) * (1 + scale) + shift)

    def forward(self, tokens, sinusoid, text, rope, lengths, text_lengths):
        """tokens [T, E], sinusoid [S, 256], text [X, width], rope [T, D / 2, 2] -> [T, E]."""
        x, c = self.stem(tokens, sinusoid)
        for block in self.blocks:
            x = block(x, c, text, rope, lengths, text_lengths)
        return self.head(x, c, lengths)

    def pack(self, latents, times, texts):
        """The arguments of forward from samples: latents [C, F, H, W], times [1], texts [L, w]."""
        weight = self.proj_out.weight
        rope = [rope_table([n // p for n, p in zip(latent.shape[1:], self.patch)],
                           self.config["attention_head_dim"],
                           theta=self.config.get("rope_theta", 1e4)) for latent in latents]
        tokens = [patchify(latent, self.patch) for latent in latents]
        sinusoid = timestep_embedding(torch.cat(times),
                                      factor=self.config.get("time_factor", 1000.0))
        return (torch.cat(tokens).to(weight), sinusoid.to(weight), torch.cat(texts).to(weight),
                torch.cat(rope).to(weight), [len(part) for part in tokens],
                [len(text) for text in texts])


def read_model(folder, dtype=torch.float64):
    """The model in a transformer folder: config.json and one or more safetensors files."""
    with open(os.path.join(folder, "config.json")) as file:
        model = Goku(json.load(file)).to(dtype)
    state = {}
    for name in sorted(os.listdir(folder)):
        if name.startswith("diffusion_pytorch_model") and name.endswith(".safetensors"):
            state.update(load_file(os.path.join(folder, name)))
    model.load_state_dict({name: value.to(dtype) for name, value in state.items()})
    return model


def samples(inputs, key):
    """The tensors 0.key, 1.key, ... of an inputs file."""
    count = sum(name.endswith(".latent") for name in inputs)
    return [inputs[f"{n}.{key}"] for n in range(count)]


def run(model, inputs, gradients=True):
    """What `kintoun forward MODEL --inputs A --outputs B [--gradients]` writes, by name."""
    latents = samples(inputs, "latent")
    arguments = model.pack(latents, samples(inputs, "time"), samples(inputs, "text"))
    out = model(*arguments)
    result = {f"{n}.output": unpatchify(part, latent.shape, model.patch)
              for n, (part, latent) in enumerate(zip(out.split(arguments[4]), latents))}
    if gradients:
        target = torch.cat([patchify(t, model.patch) for t in samples(inputs, "target")]).to(out)
        loss = (out - target).square().mean()
        model.zero_grad()
        loss.backward()
        result["loss"] = loss.reshape(1)
        result.update({f"grad.{name}": p.grad for name, p in model.named_parameters()})
    return {name: value.detach() for name, value in result.items()}


def randomize(model, generator):
    """Random values everywhere, none left zero, so that no path is hidden."""
    for name, p in model.named_parameters():
        noise = torch.randn(p.shape, generator=generator, dtype=torch.float64)
        if name.endswith("norm.weight") or name.endswith(("norm2.weight", "norm3.weight")):
            value = 1 + 0.2 * noise
        elif p.dim() == 1:
            value = 0.1 * noise
        else:
            value = noise / math.sqrt(p.shape[1])
        p.data = value.float().to(p.dtype)  # As the file will hold it.


def make_inputs(shapes, text_lengths, channels, text_width, generator):
    """Samples of [F, H, W]; a text length of 0 stands for no text: one zero token."""
    inputs = {}
    for n, (shape, length) in enumerate(zip(shapes, text_lengths)):
        inputs[f"{n}.latent"] = torch.randn(channels, *shape, generator=generator)
        inputs[f"{n}.target"] = torch.randn(channels, *shape, generator=generator)
        inputs[f"{n}.time"] = torch.rand(1, generator=generator)
        inputs[f"{n}.text"] = (torch.randn(length, text_width, generator=generator)
                               if length else torch.zeros(1, text_width))
    return inputs


def store(tensors, path):
    save_file({name: value.float().contiguous() for name, value in tensors.items()}, path)


def main():
    folder = os.path.join(os.path.dirname(os.path.abspath(__file__)), "goku_tiny")
    os.makedirs(folder, exist_ok=True)
    config = {"_class_name": "GokuTransformer3DModel", "num_layers": 2, "num_attention_heads": 2,
              "attention_head_dim": 32, "in_channels": 4, "patch_size": 2, "patch_size_t": 1,
              "cross_attention_dim": 24}
    generator = torch.Generator().manual_seed(3)
    model = Goku(config).double()
    randomize(model, generator)
    inputs = make_inputs([(1, 6, 4), (3, 4, 6), (1, 2, 2), (2, 10, 2)], [5, 1, 0, 9],
                         config["in_channels"], config["cross_attention_dim"], generator)
    with open(os.path.join(folder, "config.json"), "w") as file:
        json.dump(config, file, indent=2)
        file.write("\n")
    store(model.state_dict(), os.path.join(folder, "diffusion_pytorch_model.safetensors"))
    store(inputs, os.path.join(folder, "inputs.safetensors"))
    store(run(model, inputs), os.path.join(folder, "outputs.safetensors"))
    for name in os.listdir(folder):
        os.chmod(os.path.join(folder, name), 0o644)


if __name__ == "__main__":
    main()
