"""flow.safetensors: patches, noising and loss of model/ops/flow.h, for tests/test_flow.c."""
import torch

from golden import Golden, segments
from goku_twin import patchify

golden = Golden("flow")
for name, shape, patch in [("image", (4, 1, 6, 4), (1, 2, 2)), ("video", (3, 4, 2, 6), (2, 1, 3)),
                           ("token", (1, 1, 1, 1), (1, 1, 1))]:
    latent = torch.randn(shape, generator=golden.generator)
    golden.tensors[f"{name}.latent"] = latent
    golden.tensors[f"{name}.patch"] = torch.tensor(patch, dtype=torch.int32)
    golden.tensors[f"{name}.tokens"] = patchify(latent, patch).clone()

for name, E, lengths in [("one", 8, [1]), ("goku", 64, [20, 1, 44]),
                         ("many", 12, [1, 1, 70, 3, 64, 1, 60])]:
    T, S, segment = sum(lengths), len(lengths), segments(lengths)
    data, noise = (torch.randn(T, E, generator=golden.generator) for _ in range(2))
    time = torch.rand(S, generator=golden.generator)
    weight = torch.rand(S, generator=golden.generator) / T
    out = golden.normal(T, E)
    golden.tensors.update({f"{name}.data": data, f"{name}.noise": noise, f"{name}.time": time,
                           f"{name}.weight": weight, f"{name}.segment": segment.int(),
                           f"{name}.prediction": out.bfloat16()})
    t = time.double()[segment][:, None]
    x_t = t * data.double() + (1 - t) * noise.double()
    low = t.bfloat16()
    golden.expect(name, "x_t", x_t, low * data.bfloat16() + (1 - low) * noise.bfloat16())
    target = data.double() - noise.double()
    golden.expect(name, "target", target)
    share = weight.double()[segment][:, None]
    dout = 2 * (out - target) * share
    rough = 2 * (out.bfloat16() - target.bfloat16()) * share.bfloat16()
    golden.expect(name, "dout", dout, rough)
    loss = torch.zeros(S, dtype=torch.float64)
    golden.expect(name, "loss", loss.index_add(0, segment, (out - target).square().sum(1)))
golden.save()
