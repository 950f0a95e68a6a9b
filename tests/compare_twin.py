"""Compares what `kintoun forward MODEL --inputs INPUTS --outputs OUTPUTS [--gradients]` wrote with
the PyTorch twin (tests/golden/goku_twin.py) in float64, tensor by tensor.

    python tests/compare_twin.py MODEL INPUTS OUTPUTS [TOLERANCE]      default 2e-5

Prints max |ours - twin| / max |twin| of each tensor, largest last; fails where one is above the
tolerance, or missing.
"""
import os
import sys

from safetensors.torch import load_file

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "golden"))
from goku_twin import read_model, run  # noqa: E402


def main(folder, inputs, outputs, tolerance="2e-5"):
    ours, inputs = load_file(outputs), load_file(inputs)
    twin = run(read_model(folder), inputs, gradients="loss" in ours)
    errors = []
    for name, want in twin.items():
        if name not in ours or ours[name].shape != want.shape:
            sys.exit(f"{outputs}: {name} must have the shape {list(want.shape)}, is "
                     f"{list(ours[name].shape) if name in ours else 'missing'}")
        difference = (ours[name].double() - want).abs().max() / want.abs().max()
        errors.append((difference.item(), name))
    extra = sorted(set(ours) - set(twin))
    for error, name in sorted(errors):
        print(f"{error:.3e}  {name}")
    worst = max(error for error, _ in errors)
    print(f"{len(errors)} tensors, worst {worst:.3e}, allowed {tolerance}"
          + (f"; not in the twin: {', '.join(extra)}" if extra else ""))
    passed = all(error <= float(tolerance) for error, _ in errors)  # NaN fails, too.
    return 0 if passed and not extra else 1


if __name__ == "__main__":
    if len(sys.argv) not in (4, 5):
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
