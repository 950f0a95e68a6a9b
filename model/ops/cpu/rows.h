// How the CPU's row-wise ops sum over rows in one order for any number of threads: the pack is cut
// into blocks of ROW_BLOCK rows; the thread that has a block sums its rows on its stack, and blocks
// are added to the result one after the other (`omp ordered`). Threads take blocks in turn, so one
// waits only while another adds. The segment that a block begins in may have begun before it: its
// sums wait for their turn. Segments that begin inside the block are added at once, since nobody
// reaches them before this block's turn is over.
#ifndef MODEL_OPS_CPU_ROWS_H
#define MODEL_OPS_CPU_ROWS_H

#include <stdint.h>

#include "base/real.h"

enum {
    ROW_BLOCK = 64,       // Rows of a block: small enough for the cache, large beside the adding.
    CHANNELS_MAX = 8192,  // What a thread's row of sums holds, on its stack.
};

// The first row after t, at most `end`, that is of another segment. segment NULL: all are of one.
static inline int64_t run_end(const int32_t *segment, int64_t t, int64_t end) {
    if (segment == NULL) return end;
    int64_t last = t + 1;
    while (last < end && segment[last] == segment[t]) last++;
    return last;
}

// Rows that processing should be behind fetching: about 4,096 elements, since the processor itself
// fetches no further than a page and the ops compute for as long as memory takes (gelu 18.1 ms
// without, 9.7 with; [4096, 4608] in bf16, one thread).
static inline int64_t rows_ahead(int64_t C) {
    return 1 + 4096 / max_i64(C, 1);
}

// Asks for the n elements at x without waiting for them.
static inline void fetch(const real *x, int64_t n) {
    for (int64_t i = 0; i < n; i += 64 / (int64_t)sizeof(real)) __builtin_prefetch(x + i);
}

static inline void add_row(float *sum, const float *row, int64_t C) {
#pragma omp simd
    for (int64_t c = 0; c < C; c++) sum[c] += row[c];
}

#endif
