// Softmax attention over a pack of segments laid end to end (variable length, no padding): token t
// of segment s attends to all keys of segment s and to nothing else. FlashAttention-2 (arXiv
// 2307.08691).
#ifndef MODEL_OPS_ATTENTION_H
#define MODEL_OPS_ATTENTION_H

#include <stdbool.h>
#include <stdint.h>

#include "base/device.h"
#include "base/media.h"
#include "base/real.h"

// What all calls on one pack share. Query rows of segment s are [q_start[s], q_start[s + 1]), its
// keys [k_start[s], k_start[s + 1]); for self-attention the two are the same array. A segment has
// at least one key where it has queries. All starts ascend from 0.
typedef struct {
    const int32_t *q_start, *k_start;                // [S + 1], on the host.
    const int32_t *q_start_device, *k_start_device;  // The same on the device.
    int64_t S;
    int64_t heads, D;    // Heads of this rank (may be 0) and their dimension.
    float scale;         // 1 / sqrt(D).
    bool deterministic;  // Gradients may not depend on the order in which blocks run (CUDA: our own
                         // kernel instead of cuDNN's). The CPU's never do.
} AttentionShape;

// The largest call that is to be expected: T queries, X keys, S segments in total.
typedef struct {
    int64_t T, X, S;
    int64_t heads, D;
    bool cross, deterministic;  // cross: keys are not the queries' own tokens.
    // [LENGTHS_MAX], or NULL: queries that many segments will have, 0 for none. A backend may have
    // something faster for just these.
    const int64_t *lengths;
} AttentionBounds;

// out = softmax(q k^T scale) v per head. q, out [T, heads * D], k, v [X, heads * D]; rows ldq, ldk,
// ldv, ldo elements apart. lse [T, heads]: log of the sum of exp(q k^T scale). scratch:
// attention_scratch bytes. Local.
void attention_forward(real *out, int64_t ldo, float *lse, const real *q, int64_t ldq,
                       const real *k, int64_t ldk, const real *v, int64_t ldv,
                       const AttentionShape *shape, void *scratch, Stream stream);

// dq, dk, dv = (overwritten), shaped and strided like q, k, v (lddq, lddk, lddv). Needs the
// forward's inputs, out and lse.
typedef struct {
    real *dq, *dk, *dv;
    int64_t lddq, lddk, lddv;
    const real *dout, *out, *q, *k, *v;
    int64_t lddo, ldo, ldq, ldk, ldv;
    const float *lse;
} AttentionBackward;
void attention_backward(const AttentionBackward *arguments, const AttentionShape *shape,
                        void *scratch, Stream stream);

// Bytes of scratch that the forward or the backward needs at most.
int64_t attention_scratch(const AttentionBounds *bounds, bool backward);

// Makes what later calls need, so that a step allocates nothing. ldq.. as they will be.
void attention_prepare(const AttentionBounds *bounds, int64_t ldq, int64_t ldk, int64_t ldv,
                       int64_t ldo);

// What computes it here, for the log.
const char *attention_describe(int64_t D, bool deterministic);

#endif
