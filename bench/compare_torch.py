"""Times the same Goku model and whole training step in PyTorch and in kintoun, in turns.

    python bench/compare_torch.py                                   the four cases below, bf16
    python bench/compare_torch.py --case 256,4,8,4096,32,16 --precision fp32 --mode eager,compiled

A step is forward, backward, clipping by the global norm and AdamW on fp32 master weights. PyTorch
trains in bf16 as people do it: fp32 parameters under autocast. The segments of a pack are separate
calls of scaled_dot_product_attention. Ours is build/cpu-PRECISION/bench/step (`make bench`); it is
left out where it is not built. Prints a line per measurement and, per case, ours / theirs, each the
median over the rounds; the ceiling is a plain product 2048 x WIDTH x 4 WIDTH in the same round.
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
CASES = ["256,4,8,4096,32,16", "1152,16,2,2048,4,64", "1152,16,1,8192,1,64",
         "1792,28,1,4096,1,64"]
CHANNELS, PATCH = 16, 2

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
parser.add_argument("--case", action="append", metavar="WIDTH,HEADS,BLOCKS,TOKENS,SEGMENTS,TEXT")
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

sys.path.insert(0, os.path.join(HERE, "..", "tests", "golden"))
from goku_twin import Goku, rope_table, timestep_embedding  # noqa: E402


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


class Trainer:
    """One model with random weights and inputs, its optimizer, and step()."""

    def __init__(self, case, precision, mode):
        torch.manual_seed(1)
        self.model = Goku({"num_layers": case.blocks, "num_attention_heads": case.heads,
                           "attention_head_dim": case.width // case.heads, "in_channels": CHANNELS,
                           "patch_size": PATCH, "patch_size_t": 1,
                           "cross_attention_dim": case.width})
        self.bf16 = precision == "bf16"
        if mode == "compiled":  # Part by part, so that all blocks share what is compiled.
            self.model.stem = torch.compile(self.model.stem)
            self.model.head = torch.compile(self.model.head)
            for block in self.model.blocks:
                block.compile()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, fused=True)
        features = CHANNELS * PATCH * PATCH
        rope = [rope_table((1, 1, n), case.width // case.heads, torch.float32)
                for n in case.lengths]
        self.arguments = (torch.randn(case.tokens, features),
                          timestep_embedding(torch.rand(case.segments)).float(),
                          torch.randn(case.segments * case.text, case.width), torch.cat(rope),
                          case.lengths, [case.text] * case.segments)
        self.target = torch.randn(case.tokens, features)

    def step(self):
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16) if self.bf16 else contextlib.nullcontext():
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
        times.append(1e3 * (time.perf_counter() - start))
    return times


def ceiling(case, precision):
    """GFLOP/s of the plain product, the best of several."""
    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    x, w = torch.randn(2048, case.width, dtype=kind), torch.randn(4 * case.width, case.width,
                                                                  dtype=kind)
    with torch.no_grad():
        best = min(milliseconds(lambda: torch.nn.functional.linear(x, w), 12))
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
    program = os.path.join(HERE, "..", "build", f"cpu-{precision}", "bench", "step")
    if options.no_ours or not os.path.exists(program):
        return None
    done = subprocess.run([program, *case.arguments], capture_output=True, text=True)
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
    print(f"torch {torch.__version__}, {options.threads} threads, {options.rounds} rounds")
    for precision in options.precision.split(","):
        ratios = [compare(Case(text), precision) for text in options.case or CASES]
        if None not in ratios:
            print(f"{precision}: geometric mean {statistics.geometric_mean(ratios):.2f}, "
                  f"worst {min(ratios):.2f}")


if __name__ == "__main__":
    main()
