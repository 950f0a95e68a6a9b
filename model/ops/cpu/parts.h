// How the CPU's row-wise ops sum over rows in one order for any number of threads: the pack is cut
// into at most PARTS parts, by its size alone; a part's rows are summed alone, by whichever thread
// has it, and after all parts are done their sums are added one after the other. A segment that
// begins inside a part is added to at once, since no other part reaches it before then; that in
// which the part begins may have begun before it, so its sums wait with the part's. (Handing
// a turn from thread to thread after every few rows needs no memory for sums, but on processors
// that others use, too, each turn waits for a thread to run: 118 ms instead of 6 for the norm of
// [2048, 1152], two threads on two busy processors; idle ones take 0.45 ms either way.)
#ifndef MODEL_OPS_CPU_PARTS_H
#define MODEL_OPS_CPU_PARTS_H

#include <stdint.h>

#include "base/gradient.h"

enum {
    PARTS = 16,
    PART_ROWS_MIN = 16,
    CHANNELS_MAX = 8192,  // What rows on the stack hold.
};

static inline int64_t part_rows(int64_t T) {
    return max_i64(PART_ROWS_MIN, div_up(T, PARTS));
}

static inline int64_t part_count(int64_t T) {
    return div_up(T, part_rows(T));
}

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

// Gives `count` sums to the gradient.
static inline void gradient_row(Gradient g, const float *sums, int64_t count) {
#pragma omp simd
    for (int64_t i = 0; i < count; i++) gradient_put(g, i, sums[i]);
}

#endif
