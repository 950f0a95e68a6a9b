// Where segments of one class of lengths begin, as cuDNN reads it: from device memory.
#ifndef MODEL_OPS_CUDA_ATTENTION_OFFSETS_H
#define MODEL_OPS_CUDA_ATTENTION_OFFSETS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/device.h"
#include "base/real.h"

// Classes of lengths: up to 256 queries, then each class four times as long as the one before. A
// segment with more keys than both its class's queries and KEYS_FEW is in the class of many keys.
enum { QUERIES_FIRST = 256, GROWTH = 4, KEYS_FEW = 512 };

typedef struct {
    int64_t q_least, q_most;  // Queries of its segments.
    bool many;                // All segments with many keys instead.
} LengthClass;

REAL_INLINE int64_t keys_few(int64_t q_most) {
    return max_i64(q_most, KEYS_FEW);
}

REAL_INLINE bool in_class(const LengthClass *c, int64_t queries, int64_t keys) {
    int64_t most = QUERIES_FIRST;
    while (most < queries) most *= GROWTH;
    if (queries == 0 || keys > keys_few(most)) return c->many && queries > 0;
    return !c->many && queries >= c->q_least && queries <= c->q_most;
}

enum { OFFSETS = 5 };  // Row strides of the tensors of an attention.

// Entry e of the batch is segment `skip` + e of the class, in the pack's order.
typedef struct {
    const int32_t *q_start, *k_start;  // [S + 1] On the device.
    int64_t S;
    LengthClass lengths;
    int64_t skip, batch;
    // Written: lengths [batch]; 0 where there is no segment.
    int32_t *queries, *keys;
    // Written: for each row stride the first element of each entry's queries, or keys [batch + 1];
    // where there is no segment, the end of the last one.
    struct {
        int64_t *start;
        int64_t stride;
        bool of_keys;
    } row[OFFSETS];
} SegmentOffsets;

void attention_offsets(const SegmentOffsets *offsets, Stream stream);

#endif
