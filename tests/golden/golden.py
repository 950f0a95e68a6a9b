"""What the generators of golden files share.

Inputs are rounded to bf16, so that both builds start from the same numbers. What an op should give
is computed in float64. Beside it lies, per tensor and over all cases of a file, the error that
PyTorch itself makes in bf16: max |bf16 - float64| / max |float64|, as NAME.bf16_error.
"""
import os

import torch
from safetensors.torch import save_file

HERE = os.path.dirname(os.path.abspath(__file__))


class Golden:
    def __init__(self, name):
        self.path = os.path.join(HERE, name + ".safetensors")
        self.tensors, self.errors = {}, {}
        self.generator = torch.Generator().manual_seed(7)

    def normal(self, *shape, mean=0.0, deviation=1.0):
        x = mean + deviation * torch.randn(*shape, generator=self.generator)
        return x.bfloat16().double()

    def keep(self, case, **tensors):
        """Inputs of a case: reals as bf16, integers as int32, None left out."""
        for name, value in tensors.items():
            if value is not None:
                kind = torch.bfloat16 if value.is_floating_point() else torch.int32
                self.tensors[f"{case}.{name}"] = value.to(kind).contiguous()

    def expect(self, case, name, value, in_bf16=None):
        """An output of a case in float64 and, for the tolerance, as PyTorch has it in bf16."""
        self.tensors[f"{case}.{name}"] = value.float().contiguous()
        if in_bf16 is not None and value.numel():
            error = (in_bf16.double() - value).abs().max() / value.abs().max()
            self.errors[name] = max(self.errors.get(name, 0.0), error.item())

    def differentiate(self, case, function, dout, **inputs):
        """Runs function(**inputs) -> out in both precisions; expects out and d(input) of each."""
        def run(kind):
            leaves = {name: x.detach().to(kind, copy=True).requires_grad_()
                      for name, x in inputs.items() if x is not None and x.is_floating_point()}
            out = function(**{**inputs, **leaves})
            out.backward(dout.to(kind))
            return {"out": out.detach(), **{"d" + name: x.grad for name, x in leaves.items()}}
        exact, rough = run(torch.float64), run(torch.bfloat16)
        self.keep(case, dout=dout, **inputs)
        for name, value in exact.items():
            self.expect(case, name, value, rough[name])

    def save(self):
        for name, error in self.errors.items():
            self.tensors[f"{name}.bf16_error"] = torch.tensor([error])
        save_file(self.tensors, self.path)
        os.chmod(self.path, 0o644)


def segments(lengths):
    """The segment of each token: 0 repeated lengths[0] times and so on."""
    return torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
