// What our own two attentions share: attention_own.cu on the fp32 pipes, attention_tensor.cu on
// tensor cores. Both give a block `tile` rows of one head of one segment and walk over the other
// side in ascending order, without atomics, so every sum has one owner and one order.
#ifndef MODEL_OPS_CUDA_ATTENTION_OWN_CUH
#define MODEL_OPS_CUDA_ATTENTION_OWN_CUH

#include "base/cuda/kernel.cuh"

static const float LOG2_E = 1.44269504089f, LN_2 = 0.69314718056f;

// Rows of one kind: x [rows, heads * D].
typedef struct {
    const real *x;
    int64_t ld;
} Rows;

typedef struct {
    const int32_t *q_start, *k_start;
    int S, heads, D;
    int depth;   // D as the tiles hold it: a multiple of 4, filled up with zeros.
    int stride;  // Of a tile's row. A quarter of it is odd: 8 rows' quads lie in different banks.
    bool wide;   // All rows can be read and written by 16 bytes.
    float scale;
    Rows q, k, v, dout;
    real *out, *dq, *dk, *dv;
    int64_t ldo, lddq, lddk, lddv;
    float *lse;          // [T, heads]
    const float *delta;  // [T, heads] sum over D of dout * out.
} Arguments;

// What a block owns: `rows` rows from `first` on; the other side is [other, other_end).
typedef struct {
    int64_t first, other, other_end;
    int rows;
} Item;

// Segment s has the tiles from start[s] / tile + s on, which leaves room for its last, incomplete
// one: no prefix sum is needed, and T / tile + S tiles are enough for all. rows = 0: the block has
// none.
static __device__ __forceinline__ Item item_find(const int32_t *start, const int32_t *other, int S,
                                                 int tile) {
    const int block = (int)blockIdx.x;
    int s = 0, end = S;
    while (end - s > 1) {
        const int middle = (s + end) / 2;
        if (start[middle] / tile + middle <= block) {
            s = middle;
        } else {
            end = middle;
        }
    }
    const int first = start[s] + (block - (start[s] / tile + s)) * tile;
    const int left = start[s + 1] - first;
    Item item;
    item.first = first;
    item.rows = left < 0 ? 0 : left < tile ? left : tile;
    item.other = other[s];
    item.other_end = other[s + 1];
    return item;
}

// On tensor cores, of T queries or X keys. false: they do not serve this call, nothing was started.
bool attention_tensor_forward(const Arguments *a, int64_t T, Stream stream);
bool attention_tensor_backward(const Arguments *a, int64_t T, int64_t X, Stream stream);

#endif
