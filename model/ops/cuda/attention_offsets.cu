#include "base/cuda/kernel.cuh"

extern "C" {
#include "model/ops/cuda/attention_offsets.h"
}

enum { THREADS = 256 };

static __device__ bool taken(const SegmentOffsets &o, int64_t s) {
    return in_class(&o.lengths, o.q_start[s + 1] - o.q_start[s], o.k_start[s + 1] - o.k_start[s]);
}

// One block: a pack has some hundreds of segments. A thread owns n segments, counts those of the
// class, and writes them behind those of the threads before it. Who writes the last entry tells
// where the rest begins.
static __global__ void offsets_kernel(const SegmentOffsets o) {
    __shared__ int count[THREADS / WARP];  // Of each warp.
    __shared__ int64_t q_end, k_end;
    const int64_t n = (o.S + THREADS - 1) / THREADS, first = threadIdx.x * n,
                  end = first + n < o.S ? first + n : o.S;
    const int lane = (int)threadIdx.x % WARP, warp = (int)threadIdx.x / WARP;
    int mine = 0;
    for (int64_t s = first; s < end; s++) mine += taken(o, s);
    int before = mine;  // Of the warp, up to this thread.
    for (int step = 1; step < WARP; step *= 2) {
        const int more = __shfl_up_sync(0xffffffffu, before, step);
        if (lane >= step) before += more;
    }
    if (lane == WARP - 1) count[warp] = before;
    if (threadIdx.x == 0) q_end = k_end = 0;
    __syncthreads();
    int64_t entry = before - mine - o.skip, used = -o.skip;
    for (int w = 0; w < THREADS / WARP; w++) {
        if (w < warp) entry += count[w];
        used += count[w];
    }
    if (used < 0) used = 0;
    if (used > o.batch) used = o.batch;
    for (int64_t s = first; s < end; s++) {
        if (!taken(o, s)) continue;
        if (entry >= 0 && entry < used) {
            o.queries[entry] = o.q_start[s + 1] - o.q_start[s];
            o.keys[entry] = o.k_start[s + 1] - o.k_start[s];
            for (int r = 0; r < OFFSETS; r++) {
                o.row[r].start[entry] =
                    (o.row[r].of_keys ? o.k_start[s] : o.q_start[s]) * o.row[r].stride;
            }
        }
        if (entry >= 0 && entry == used - 1) {
            q_end = o.q_start[s + 1];
            k_end = o.k_start[s + 1];
        }
        entry++;
    }
    __syncthreads();
    for (int64_t e = used + threadIdx.x; e <= o.batch; e += THREADS) {
        if (e < o.batch) o.queries[e] = o.keys[e] = 0;
        for (int r = 0; r < OFFSETS; r++) {
            o.row[r].start[e] = (o.row[r].of_keys ? k_end : q_end) * o.row[r].stride;
        }
    }
}

void attention_offsets(const SegmentOffsets *offsets, Stream stream) {
    LAUNCH(offsets_kernel, 1, THREADS, 0, stream, *offsets);
}
