// Element-wise work on flat buffers that sharding and training share: casts, ordered sums, the
// exact gradient norm, the optimizer. Every element is computed alone, so nothing here depends on
// how buffers are cut or on the number of threads.
#ifndef BASE_VECTOR_H
#define BASE_VECTOR_H

#include <stdint.h>

#include "base/device.h"
#include "base/real.h"

// out[i] = x[i], rounded to `type` (to nearest, ties to even). out has `count` elements of `type`.
void vector_round(void *out, Type type, const float *x, int64_t count, Stream stream);

// out[i] = x[i] where x has elements of `type`.
void vector_widen(float *out, const void *x, Type type, int64_t count, Stream stream);

// sum[i] += x[i], where x has elements of `type`.
void vector_add(float *sum, const void *x, Type type, int64_t count, Stream stream);

// Vectors of one length: i of n is at x + i * stride elements of `type`.
typedef struct {
    const void *x;
    int64_t stride;
    Type type;
    int n;
} Vectors;

// Ordered sums in one pass over memory. One after the other, vectors [count] go on top of a stack;
// behind each, merges[i] times, the upper two of the stack give way to their sum in fp32. Before,
// the stack holds sum[0] to sum[depth - 1]; returns how many from sum[0] on it holds in the end.
// `sum` needs a place for every vector that is not merged at once: what is above the end has no
// meaning any more. At most VECTOR_SUMS places; nothing overlaps; n may be 0.
enum { VECTOR_SUMS = 32 };
int vector_sum_stack(float *const *sum, int depth, const Vectors *v, const uint8_t *merges,
                     int64_t count, Stream stream);

// Rows of `row_bytes` from one place to another; the strides are the bytes from row to row.
typedef struct {
    void *out;
    const void *in;
    int64_t out_stride, in_stride, rows, row_bytes;
} CopyBand;

// Copies all bands, in no order: what is written overlaps with nothing else.
void vector_copy_bands(const CopyBand *bands, int count, Stream stream);

static inline void vector_copy_rows(void *out, int64_t out_stride, const void *in,
                                    int64_t in_stride, int64_t rows, int64_t row_bytes,
                                    Stream stream) {
    const CopyBand band = {out, in, out_stride, in_stride, rows, row_bytes};
    vector_copy_bands(&band, 1, stream);
}

// A sum of non-negative doubles that does not depend on their order: a fixed-point number in units
// of 2^-640, EXACT_LIMBS digits of 32 bits in 64-bit words. Words of many ranks may be added as
// integers (`bad` too), up to 2^30 terms in all. A term's bits below 2^-640 are dropped; squares of
// floats, and sums of them in double, have none.
enum { EXACT_LIMBS = 40 };
typedef struct {
    int64_t limb[EXACT_LIMBS];
    int64_t bad;  // Terms that were not finite, negative or 2^600 and more.
} ExactSum;

void exact_add(ExactSum *sum, double term);
double exact_value(const ExactSum *sum);  // To nearest, rounded once; NaN where bad > 0.

// Adds the sum of squares of x to `sum`, on the device: per block of 1,024 elements (the last may
// be short) in double in a fixed order, the blocks exactly. x starts at a block boundary of its
// unit.
void vector_square_sum(ExactSum *sum, const float *x, int64_t count, Stream stream);

// One AdamW update with decoupled weight decay (Loshchilov and Hutter, arXiv 1711.05101) and the
// EMA.
typedef struct {
    float lr, beta1, beta2, epsilon, decay;
    float correction1, correction2;  // 1 - beta^updates.
    float gradient_scale;            // Clipping and averaging: g is multiplied by it first.
    float ema_keep;                  // ema = ema_keep * ema + (1 - ema_keep) * w.
} AdamW;

// What an update changes, [count] each: master weights, moments, EMA; `rounded`, NULL or what w is
// in compute precision.
typedef struct {
    float *w, *m, *v, *ema;
    real *rounded;
} AdamWState;

// For count elements with gradients g. `edges`, ascending, from 0 to count: elements from one with
// even index to the next decay, the others do not.
void vector_adamw(const AdamWState *state, const float *g, int64_t count, const int64_t *edges,
                  int edge_count, const AdamW *adamw, Stream stream);

#endif
