"""Times the same Goku model and whole training step in PyTorch and in kintoun, in turns.

    python bench/compare_torch.py                                   the cases below, bf16
    python bench/compare_torch.py --case 256,4,8,4096,32,16 --precision fp32 --mode eager,compiled
    python bench/compare_torch.py --device cuda                     on a GPU, with its own cases

A step is forward, backward, clipping by the global norm and AdamW on fp32 master weights. PyTorch
trains in bf16 as people do it: fp32 parameters under autocast. The segments of a pack are separate
calls of scaled_dot_product_attention on the CPU; on a GPU they are one batched call, which their
equal lengths allow, by the fastest of PyTorch's kernels (cuDNN's or flash attention) for the case.
Ours is build/DEVICE-PRECISION/bench/step (`make bench`); it is left out where it is not built.
Prints a line per measurement and, per case, ours / theirs, each the median over the rounds; the
ceiling is a plain product 2048 x WIDTH x 4 WIDTH in the same round.
"""
import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
CASES = {
    "cpu": ["256,4,8,4096,32,16", "1152,16,2,2048,4,64", "1152,16,1,8192,1,64",
            "1792,28,1,4096,1,64"],
    # Goku-2B's width at 8k tokens of 288p images, 32k of 288p videos, 64k of a 480p video; 8B's.
    "cuda": ["1792,28,4,8064,14,128", "1792,28,4,34560,2,128", "1792,28,2,64800,1,128",
             "3072,48,2,8064,14,128", "3072,48,2,34560,1,128"],
}
PEAK = 989  # TFLOP/s in bf16 of an H100 or H200.
CHANNELS, PATCH = 16, 2

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
parser.add_argument("--case", action="append", metavar="WIDTH,HEADS,BLOCKS,TOKENS,SEGMENTS,TEXT")
parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
parser.add_argument("--precision", default="bf16", help="of bf16,fp32; default bf16")
parser.add_argument("--mode", default="compiled", help="of eager,compiled; default compiled")
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--rounds", type=int, default=5)
parser.add_argument("--no-ours", action="store_true", help="PyTorch alone")
parser.add_argument("--profile", action="store_true",
                    help="PyTorch's shares of products, attention and the rest (slower)")
options = parser.parse_args()
os.environ["OMP_NUM_THREADS"] = str(options.threads)  # Before PyTorch starts its threads.

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from torch.nn.attention import SDPBackend, sdpa_kernel  # noqa: E402

sys.path.insert(0, os.path.join(HERE, "..", "tests", "golden"))
import goku_twin  # noqa: E402
from goku_twin import Goku, rope_table, timestep_embedding  # noqa: E402


def batched_attention(self, x, source, rope, key_rope, lengths, source_lengths):
    """The twin's attention for segments of equal length, as one call."""
    q = goku_twin.rotate(self.split(goku_twin.rms_norm(self.q_proj(x), self.q_norm.weight)), rope)
    k = self.split(goku_twin.rms_norm(self.k_proj(source), self.k_norm.weight))
    k = k if key_rope is None else goku_twin.rotate(k, key_rope)
    v = self.split(self.v_proj(source))
    q, k, v = (part.unflatten(0, (len(lengths), -1)).transpose(1, 2) for part in (q, k, v))
    out = F.scaled_dot_product_attention(q, k.to(q), v.to(q))
    return self.o_proj(out.transpose(1, 2).flatten(2).flatten(0, 1))


def batched_spread(rows, lengths):
    """The twin's spread for segments of equal length."""
    return rows.repeat_interleave(lengths[0], 0)


if options.device == "cuda":
    goku_twin.Attention.forward = batched_attention
    goku_twin.spread = batched_spread


class Case:
    def __init__(self, text):
        (self.width, self.heads, self.blocks, self.tokens, self.segments,
         self.text) = [int(word) for word in text.split(",")]
        self.arguments = text.split(",")
        self.lengths = [self.tokens * (s + 1) // self.segments - self.tokens * s // self.segments
                        for s in range(self.segments)]

    def gflop(self):
        """Of a step: three forwards, attention inside segments only."""
        c, t, features = self.width, self.tokens, CHANNELS * PATCH * PATCH
        keys = self.segments * self.text
        products = t * c * c * (4 + 2 + 8) + 2 * keys * c * c + self.segments * 6 * c * c
        attention = 2 * c * sum(n * n + n * self.text for n in self.lengths)
        outside = 2 * t * features * c + self.segments * (256 * c + c * c + 2 * c * c)
        return 3 * 2e-9 * (self.blocks * (products + attention) + outside)


def fastest_attention(case, bf16):
    """PyTorch's kernel that is fastest, forward and backward, for the case's self-attention."""
    shape = (case.segments, case.lengths[0], case.heads, case.width // case.heads)
    kind = torch.bfloat16 if bf16 else torch.float32
    q, k, v, gradient = (torch.randn(shape, dtype=kind, device="cuda").transpose(1, 2)
                         for _ in range(4))
    parts = [part.requires_grad_() for part in (q, k, v)]

    def attend():
        torch.autograd.grad(F.scaled_dot_product_attention(*parts), parts, gradient)

    speed = {}
    for backend in (SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION):
        with sdpa_kernel(backend):
            try:
                milliseconds(attend, 2)
                speed[backend] = min(milliseconds(attend, 3))
            except RuntimeError as error:
                print(f"  {backend.name}: {str(error).splitlines()[0]}", flush=True)
    return min(speed, key=speed.get) if speed else None


class Trainer:
    """One model with random weights and inputs, its optimizer, and step()."""

    def __init__(self, case, precision, mode):
        torch.manual_seed(1)
        torch.set_default_device(options.device)
        self.model = Goku({"num_layers": case.blocks, "num_attention_heads": case.heads,
                           "attention_head_dim": case.width // case.heads, "in_channels": CHANNELS,
                           "patch_size": PATCH, "patch_size_t": 1,
                           "cross_attention_dim": case.width})
        self.bf16 = precision == "bf16"
        if mode == "compiled":  # Part by part, so that all blocks share what is compiled.
            self.model.stem = torch.compile(self.model.stem, dynamic=False)
            self.model.head = torch.compile(self.model.head, dynamic=False)
            for block in self.model.blocks:
                block.compile(dynamic=False)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, fused=True)
        features = CHANNELS * PATCH * PATCH
        rope = [rope_table((1, 1, n), case.width // case.heads, torch.float32)
                for n in case.lengths]
        self.arguments = (torch.randn(case.tokens, features),
                          timestep_embedding(torch.rand(case.segments)).float(),
                          torch.randn(case.segments * case.text, case.width), torch.cat(rope),
                          case.lengths, [case.text] * case.segments)
        self.target = torch.randn(case.tokens, features)
        self.backend = None
        if options.device == "cuda":
            self.arguments = tuple(part.to("cuda") if torch.is_tensor(part) else part
                                   for part in self.arguments)
            self.backend = fastest_attention(case, self.bf16)

    def step(self):
        self.optimizer.zero_grad(set_to_none=True)
        chosen = sdpa_kernel(self.backend) if self.backend else contextlib.nullcontext()
        wide = torch.autocast(options.device, torch.bfloat16) if self.bf16 else \
            contextlib.nullcontext()
        with chosen, wide:
            out = self.model(*self.arguments)
        loss = (out.float() - self.target).square().mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()


def milliseconds(call, count):
    """Each of `count` calls on its own."""
    times = []
    for _ in range(count):
        start = time.perf_counter()
        call()
        if options.device == "cuda":
            torch.cuda.synchronize()
        times.append(1e3 * (time.perf_counter() - start))
    return times


def ceiling(case, precision):
    """GFLOP/s of the plain product, the best of several."""
    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    x = torch.randn(2048, case.width, dtype=kind, device=options.device)
    w = torch.randn(4 * case.width, case.width, dtype=kind, device=options.device)
    repeats = 50 if options.device == "cuda" else 1

    def products():
        for _ in range(repeats):
            F.linear(x, w)

    with torch.no_grad():
        best = min(milliseconds(products, 12)) / repeats
    return 2e-6 * 2048 * case.width * 4 * case.width / best


def shares(trainer):
    """Where PyTorch's step goes: products, attention, the rest, as fractions of operator time."""
    with torch.profiler.profile() as profile:
        trainer.step()
    total, product, attention = 0.0, 0.0, 0.0
    for row in profile.key_averages():
        total += row.self_cpu_time_total
        if any(word in row.key for word in ("::mm", "::addmm", "::bmm", "_linear", "mkl")):
            product += row.self_cpu_time_total
        elif "flash_attention" in row.key:
            attention += row.self_cpu_time_total
    return {"products": round(product / total, 3), "attention": round(attention / total, 3),
            "rest": round(1 - (product + attention) / total, 3)}


def ours(case, precision):
    """The JSON line of our program, or None where it is not built."""
    program = os.path.join(HERE, "..", "build", f"{options.device}-{precision}", "bench", "step")
    if options.no_ours or not os.path.exists(program):
        return None
    arguments = [*case.arguments, "7", str(PEAK)] if options.device == "cuda" else case.arguments
    done = subprocess.run([program, *arguments], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{program} {' '.join(case.arguments)}: {done.stderr.strip()}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def compare(case, precision):
    """All modes and our program in turns; returns ours / the best of theirs, or None."""
    trainers = {mode: Trainer(case, precision, mode) for mode in options.mode.split(",")}
    for trainer in trainers.values():
        milliseconds(trainer.step, 2)  # Compiles and warms up.
    theirs = {mode: [] for mode in trainers}
    peaks, results = [], []
    for _ in range(options.rounds):
        peaks.append(ceiling(case, precision))
        for mode, trainer in trainers.items():
            theirs[mode].append(statistics.median(milliseconds(trainer.step, 3)))
        if options.device == "cuda":
            torch.cuda.empty_cache()
        results.append(ours(case, precision))
    peak = statistics.median(peaks)
    label = f"{' '.join(case.arguments):24} {precision}"
    for mode, times in theirs.items():
        ms = statistics.median(times)
        line = {"ms": round(ms, 1), "min_ms": round(min(times), 1),
                "tokens_per_s": round(1e3 * case.tokens / ms),
                "gflops": round(1e3 * case.gflop() / ms), "ceiling_gflops": round(peak),
                "of_ceiling": round(1e3 * case.gflop() / ms / peak, 3)}
        if options.profile:
            line.update(shares(trainers[mode]))
        print(f"{label} torch {mode:8} {json.dumps(line)}", flush=True)
    if results[0] is None:
        return None
    median = sorted(results, key=lambda result: result["ms"])[len(results) // 2]
    best = min(statistics.median(times) for times in theirs.values())
    print(f"{label} kintoun        {json.dumps(median)}")
    print(f"{label} kintoun is {best / median['ms']:.2f} times as fast", flush=True)
    return best / median["ms"]


def main():
    torch.set_num_threads(options.threads)
    where = torch.cuda.get_device_name() if options.device == "cuda" else \
        f"{options.threads} threads"
    print(f"torch {torch.__version__}, {where}, {options.rounds} rounds")
    for precision in options.precision.split(","):
        ratios = [compare(Case(text), precision) for text in options.case or CASES[options.device]]
        if None not in ratios:
            print(f"{precision}: geometric mean {statistics.geometric_mean(ratios):.2f}, "
                  f"worst {min(ratios):.2f}")


if __name__ == "__main__":
    main()
