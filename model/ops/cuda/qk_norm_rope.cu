extern "C" {
#include "model/ops/norm.h"
}

#include <inttypes.h>

#include "model/ops/cuda/sums.cuh"
#include "model/ops/cuda/walk.cuh"

// What both directions read. x [T, C], C = heads * D.
typedef struct {
    const real *x, *weight;
    const float *rope;  // NULL: no turn.
    int64_t ldx, T, C;
    int D;
} Query;

static void check_heads(int64_t heads, int64_t D) {
    CHECK(heads >= 0 && heads * D <= CHANNELS_MAX && D % 2 == 0,
          "%" PRId64 " heads of %" PRId64 "; at most %d channels, heads of even size", heads, D,
          CHANNELS_MAX);
}

// out or dout in the order of peers, as ulysses_parts has it: ranks have `few` heads each, but
// those of the first `more` heads few + 1.
typedef struct {
    PeerOrder peers;
    int64_t T;
    int few, more, D;
} Order;

static Order order_of(PeerOrder peers, int64_t T, int64_t heads, int64_t D) {
    const int n = peers.ranks, few = (int)(heads / n);
    return (Order){peers, T, few, (int)(heads % n) * (few + 1), (int)D};
}

// Row t of channel c lies at begin + t * stride.
typedef struct {
    int64_t begin, stride;
} Place;

static __device__ __forceinline__ Place place_of(const Order &o, int64_t c, int64_t C) {
    const int tensors = o.peers.tensors, tensor = o.peers.tensor;
    if (o.peers.ranks == 1) return {tensor * C + c, tensors * C};
    const int head = (int)c / o.D, first = head < o.more ? 0 : o.more;
    const int heads = head < o.more ? o.few + 1 : max(o.few, 1);  // Of the channel's rank.
    const int before = (head - first) % heads;                    // Of them.
    const int64_t part = (int64_t)(head - before) * tensors * o.T;
    return {(part + tensor * heads + before) * o.D + (int)c % o.D, (int64_t)tensors * heads * o.D};
}

// Parts of 16 bytes must not straddle heads that are turned or sent: turns lie together for one
// head alone, and heads may part.
static bool is_wide(const Query *q, const void *ordered, PeerOrder peers, const void *other,
                    int64_t ldo) {
    const bool whole = q->D % REALS_16 == 0 && (uintptr_t)q->rope % 16 == 0;
    return (whole || (q->rope == NULL && peers.ranks == 1)) && aligned_16(q->x, q->ldx) &&
           aligned_16(q->weight, q->C) && aligned_16(ordered, q->C) && aligned_16(other, ldo);
}

// cos and sin of the pairs of a part whose first channel is number `place` of its head; no turn
// where `row` is NULL.
template <bool WIDE>
static __device__ __forceinline__ void turn_read(float turn[REALS_16], const float *row, int place,
                                                 int D) {
    for (int i = 0; i < REALS_16; i += 4) {
        const float4 none = make_float4(1.0f, 0.0f, 1.0f, 0.0f);
        if (WIDE) {
            const float4 two = row != NULL ? *(const float4 *)(row + place + i) : none;
            turn[i] = two.x;
            turn[i + 1] = two.y;
            turn[i + 2] = two.z;
            turn[i + 3] = two.w;
        } else {
            for (int j = i; j < i + 4; j += 2) {
                turn[j] = row != NULL ? row[(place + j) % D] : 1.0f;
                turn[j + 1] = row != NULL ? row[(place + j) % D + 1] : 0.0f;
            }
        }
    }
}

template <bool WIDE>
static __device__ __forceinline__ void ordered_store(real *out, const Order &o, int64_t t,
                                                     int64_t c, int64_t C,
                                                     const float in[REALS_16]) {
    for (int i = 0; i < (WIDE ? 1 : REALS_16) && c + i < C; i++) {
        const Place place = place_of(o, c + i, C);
        real *const to = out + place.begin + t * place.stride;
        if (WIDE) {
            store_16(to, in);
        } else {
            *to = to_real(in[i]);
        }
    }
}

// As norm_forward_kernel: one row for blockDim.x threads, a warp up to 2,048 channels in bf16. 4
// bytes per element in bf16, and the row of turns, which all heads share.
template <bool WIDE, int V>
static __global__ void __launch_bounds__(256)
    qk_norm_rope_forward_kernel(real *out, Order order, float *inverses, Query q, float epsilon) {
    __shared__ float partial[8];
    const int64_t t = (int64_t)blockIdx.x * blockDim.y + threadIdx.y, C = q.C;
    const bool here = t < q.T;
    const real *x = q.x + (here ? t : 0) * q.ldx;
    float y[REALS_16], sum = 0.0f;
    uint4 raw[V];
#pragma unroll
    for (int p = 0; p < V; p++) raw[p] = part_load<WIDE>(x, part_channel(p), C);
#pragma unroll
    for (int p = 0; p < V; p++) {
        part_floats(y, raw[p]);
        for (int i = 0; i < REALS_16; i++) sum += y[i] * y[i];
    }
    const float inverse = 1.0f / sqrtf(row_sum(sum, partial) / (float)C + epsilon);
    if (here && threadIdx.x == 0) inverses[t] = inverse;
    const float *row = q.rope != NULL && here ? q.rope + t * q.D : NULL;
#pragma unroll
    for (int p = 0; p < V && here; p++) {
        const int64_t c = part_channel(p);
        float weight[REALS_16], turn[REALS_16];
        part_hold(&raw[p]);
        part_floats(y, raw[p]);
        part_read<WIDE>(weight, q.weight, c, C, 0.0f);
        turn_read<WIDE>(turn, row, (int)c % q.D, q.D);
        for (int i = 0; i < REALS_16; i += 2) {
            const float y0 = y[i] * inverse * weight[i], y1 = y[i + 1] * inverse * weight[i + 1];
            y[i] = y0 * turn[i] - y1 * turn[i + 1];
            y[i + 1] = y0 * turn[i + 1] + y1 * turn[i];
        }
        ordered_store<WIDE>(out, order, t, c, C, y);
    }
}

void qk_norm_rope_forward(real *out, PeerOrder peers, float *inverse, const real *x, int64_t ldx,
                          const real *weight, const float *rope, float epsilon, int64_t T,
                          int64_t heads, int64_t D, Stream stream) {
    check_heads(heads, D);
    if (heads == 0) return;
    const Query q = {x, weight, rope, ldx, T, heads * D, (int)D};
    const bool wide = is_wide(&q, out, peers, NULL, 0);
    const Order order = order_of(peers, T, heads, D);
    const dim3 block = row_block(q.C);
    const unsigned grid = (unsigned)div_up(T, block.y);
    const int64_t parts = wide ? div_up(row_parts(q.C), block.x) : 8;
    if (!wide) {
        LAUNCH((qk_norm_rope_forward_kernel<false, 8>), grid, block, 0, stream, out, order, inverse,
               q, epsilon);
    } else if (parts <= 2) {
        LAUNCH((qk_norm_rope_forward_kernel<true, 2>), grid, block, 0, stream, out, order, inverse,
               q, epsilon);
    } else if (parts <= 5) {
        LAUNCH((qk_norm_rope_forward_kernel<true, 5>), grid, block, 0, stream, out, order, inverse,
               q, epsilon);
    } else if (parts <= 7) {
        LAUNCH((qk_norm_rope_forward_kernel<true, 7>), grid, block, 0, stream, out, order, inverse,
               q, epsilon);
    } else {
        LAUNCH((qk_norm_rope_forward_kernel<true, 8>), grid, block, 0, stream, out, order, inverse,
               q, epsilon);
    }
}

// ---- backward
int64_t qk_norm_rope_scratch(int64_t T, int64_t heads, int64_t D) {
    return sums_bytes(chunks_bound(T, heads * D, WALK_BLOCKS), heads * D);
}

typedef struct {
    real *dx;
    int64_t lddx;
    const real *dout;
    Order order;
    const float *inverse;
    float *sums;  // [chunks] rows: those of dout * n.
    Chunks chunks;
    int rows;  // In shared memory at once.
} QueryBackward;

// `place` is that of channel c.
template <bool WIDE>
static __device__ __forceinline__ void ordered_fetch(uint4 *to, const QueryBackward &b, Place place,
                                                     int64_t t, int64_t c, int64_t C) {
    union {
        real value[REALS_16];
        uint4 raw;
    } part;
    if (WIDE) {
        part_fetch<true>(to, b.dout + place.begin + t * place.stride - c, c, C);
    } else {
        for (int i = 0; i < REALS_16; i++) {
            place = place_of(b.order, c + i, C);
            part.value[i] = c + i < C ? b.dout[place.begin + t * place.stride] : to_real(0.0f);
        }
        *to = part.raw;
    }
}

// Row t, where it is before `last`, sets out for `slot`.
template <bool WIDE, int V>
static __device__ __forceinline__ void fetch_row(const Query &q, const QueryBackward &b,
                                                 const Place place[V], uint4 *slot, int64_t t,
                                                 int64_t last) {
#pragma unroll
    for (int p = 0; p < V && t < last; p++) {
        const int64_t c = part_channel(p);
        uint4 *to = slot + p * blockDim.x + threadIdx.x;
        part_fetch<WIDE>(to, q.x + t * q.ldx, c, q.C);
        ordered_fetch<WIDE>(to + V * blockDim.x, b, place[p], t, c, q.C);
    }
    fetch_end();
}

// d = the gradient of y: dout turned back.
static __device__ __forceinline__ void turn_back(float d[REALS_16], const float turn[REALS_16]) {
    for (int i = 0; i < REALS_16; i += 2) {
        const float d0 = d[i], d1 = d[i + 1];
        d[i] = d0 * turn[i] + d1 * turn[i + 1];
        d[i + 1] = d1 * turn[i] - d0 * turn[i + 1];
    }
}

// A block walks the rows of chunk blockIdx.x, as norm_backward_kernel does; turns are read one row
// ahead. With g = d * weight and n = x * inverse: dx = inverse (g - n mean(g n)). Reads 4, writes 2
// bytes per element in bf16, the row of turns, and writes 4 bytes per channel and chunk.
template <bool WIDE, int V>
static __global__ void __launch_bounds__(Walk<V>::THREADS_MAX, Walk<V>::BLOCKS_MIN)
    qk_norm_rope_backward_kernel(Query q, QueryBackward b) {
    extern __shared__ char dynamic_shared[];
    __shared__ float row_sums[2][2][WARPS_MAX];
    const int row_uint4 = 2 * V * (int)blockDim.x, D = q.D;
    uint4 *slots = (uint4 *)dynamic_shared;
    const int64_t first = blockIdx.x * b.chunks.rows, C = q.C;
    const int64_t last = min_i64(q.T, first + b.chunks.rows);
    Place place[V];
#pragma unroll
    for (int p = 0; p < V; p++) place[p] = place_of(b.order, part_channel(p), C);
    for (int r = 0; r < b.rows; r++) {
        fetch_row<WIDE, V>(q, b, place, slots + r * row_uint4, first + r, last);
    }
    float weight[V][REALS_16], sum[V][REALS_16], turn[V][REALS_16], next = b.inverse[first];
#pragma unroll
    for (int p = 0; p < V; p++) {
        const int64_t c = part_channel(p);
        part_read<WIDE>(weight[p], q.weight, c, C, 0.0f);
        turn_read<WIDE>(turn[p], q.rope != NULL ? q.rope + first * D : NULL, (int)c % D, D);
        for (int i = 0; i < REALS_16; i++) sum[p][i] = 0.0f;
    }
    int slot = 0;
    for (int64_t t = first; t < last; t++) {
        const uint4 *mine = slots + slot * row_uint4 + threadIdx.x;
        const float inverse = next;
        if (t + 1 < last) next = b.inverse[t + 1];
        fetch_wait(b.rows - 1);
        float d[V][REALS_16], n[REALS_16], gn = 0.0f, unused = 0.0f;
#pragma unroll
        for (int p = 0; p < V; p++) {
            part_floats(n, mine[p * blockDim.x]);
            part_floats(d[p], mine[(V + p) * blockDim.x]);
            turn_back(d[p], turn[p]);
            for (int i = 0; i < REALS_16; i++) {
                n[i] *= inverse;
                sum[p][i] += d[p][i] * n[i];
                d[p][i] *= weight[p][i];
                gn += d[p][i] * n[i];
            }
            if (q.rope != NULL && t + 1 < last) {
                turn_read<WIDE>(turn[p], q.rope + (t + 1) * D, (int)part_channel(p) % D, D);
            }
        }
        block_sum_2(&gn, &unused, row_sums[(t - first) % 2]);
        const float mean = gn / (float)C;
#pragma unroll
        for (int p = 0; p < V; p++) {
            part_floats(n, mine[p * blockDim.x]);
            for (int i = 0; i < REALS_16; i++) {
                d[p][i] = inverse * (d[p][i] - n[i] * inverse * mean);
            }
            part_store<WIDE>(b.dx + t * b.lddx, part_channel(p), C, d[p]);
        }
        fetch_row<WIDE, V>(q, b, place, slots + slot * row_uint4, t + b.rows, last);
        slot = slot + 1 < b.rows ? slot + 1 : 0;
    }
#pragma unroll
    for (int p = 0; p < V; p++) {
        sums_store(b.sums + blockIdx.x * sum_ld(C), part_channel(p), C, sum[p]);
    }
}

// All rows: dx, and the sums of the chunks.
static void backward_rows(const Query &q, const QueryBackward &b, bool wide, int parts, int64_t row,
                          Stream stream) {
    const int threads = walk_threads(q.C);
    const unsigned grid = (unsigned)b.chunks.count;
    if (!wide) {
        LAUNCH((qk_norm_rope_backward_kernel<false, 4>), grid, threads, b.rows * row, stream, q, b);
    } else if (parts == 1) {
        LAUNCH((qk_norm_rope_backward_kernel<true, 1>), grid, threads, b.rows * row, stream, q, b);
    } else if (parts == 2) {
        LAUNCH((qk_norm_rope_backward_kernel<true, 2>), grid, threads, b.rows * row, stream, q, b);
    } else {
        LAUNCH((qk_norm_rope_backward_kernel<true, 4>), grid, threads, b.rows * row, stream, q, b);
    }
}

void qk_norm_rope_backward(real *dx, int64_t lddx, Gradient dweight, const real *dout,
                           PeerOrder peers, const real *x, int64_t ldx, const real *weight,
                           const float *rope, const float *inverse, int64_t T, int64_t heads,
                           int64_t D, void *scratch, Stream stream) {
    check_heads(heads, D);
    if (heads == 0) return;
    const Query q = {x, weight, rope, ldx, T, heads * D, (int)D};
    const bool wide = is_wide(&q, dout, peers, dx, lddx);
    const int parts = wide ? walk_parts(q.C) : 4;
    const int64_t row = 2 * (int64_t)sizeof(uint4) * parts * walk_threads(q.C);
    const QueryBackward b = {dx,
                             lddx,
                             dout,
                             order_of(peers, T, heads, D),
                             inverse,
                             (float *)scratch,
                             chunks_of(T, q.C, WALK_BLOCKS),
                             walk_rows(row)};
    if (T > 0) backward_rows(q, b, wide, parts, row, stream);
    const RowSum sum = {dweight, b.sums, NULL};
    sums_add(&sum, NULL, q.C, NULL, b.chunks, 1, q.C, stream);
}
