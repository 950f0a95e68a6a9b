// Element-wise work on flat buffers (vector.h). Fused multiply-adds are written out, so an
// element's bits do not depend on where in a vector register it is computed.
#include "base/vector.h"

#include <string.h>

#include "base/adamw.h"
#include "base/die.h"

enum {
    SERIAL_MAX = 1 << 15,  // Elements below which starting the threads costs more than the work.
    BLOCK = 1024,          // Elements of one double in the sum of squares.
    LANES = 16,            // Partial sums of a block.
    TILE = 1024,           // Elements that ordered sums add at a time.
};

void vector_round(void *out, Type type, const float *x, int64_t count, Stream stream) {
    (void)stream;
    if (type == TYPE_F32) {
        vector_copy_rows(out, count * 4, x, count * 4, 1, count * 4, stream);
        return;
    }
    uint16_t *const rounded = out;
#pragma omp parallel for simd schedule(static) if (parallel : count > SERIAL_MAX)
    for (int64_t i = 0; i < count; i++) rounded[i] = float_to_bf16(x[i]);
}

void vector_widen(float *out, const void *x, Type type, int64_t count, Stream stream) {
    if (type == TYPE_F32) {
        vector_copy_rows(out, count * 4, x, count * 4, 1, count * 4, stream);
        return;
    }
    const uint16_t *const narrow = x;
#pragma omp parallel for simd schedule(static) if (parallel : count > SERIAL_MAX)
    for (int64_t i = 0; i < count; i++) out[i] = bf16_to_float(narrow[i]);
}

void vector_add(float *sum, const void *x, Type type, int64_t count, Stream stream) {
    (void)stream;
    if (type == TYPE_F32) {
        const float *const wide = x;
#pragma omp parallel for simd schedule(static) if (parallel : count > SERIAL_MAX)
        for (int64_t i = 0; i < count; i++) sum[i] += wide[i];
    } else {
        const uint16_t *const narrow = x;
#pragma omp parallel for simd schedule(static) if (parallel : count > SERIAL_MAX)
        for (int64_t i = 0; i < count; i++) sum[i] += bf16_to_float(narrow[i]);
    }
}

// sum[i] = x[at + i], or added to it where `adds`.
static void take_tile(float *sum, bool adds, const void *x, Type type, int64_t at, int64_t count) {
    const float *const wide = (const float *)x + (type == TYPE_F32 ? at : 0);
    const uint16_t *const narrow = (const uint16_t *)x + (type == TYPE_F32 ? 0 : at);
    if (type == TYPE_F32 && adds) {
#pragma omp simd
        for (int64_t i = 0; i < count; i++) sum[i] += wide[i];
    } else if (type == TYPE_F32) {
        memcpy(sum, wide, (size_t)count * sizeof(*sum));
    } else if (adds) {
#pragma omp simd
        for (int64_t i = 0; i < count; i++) sum[i] += bf16_to_float(narrow[i]);
    } else {
#pragma omp simd
        for (int64_t i = 0; i < count; i++) sum[i] = bf16_to_float(narrow[i]);
    }
}

// The tiles of the sums stay in the cache while all vectors are added.
int vector_sum_stack(float *const *sum, int depth, const Vectors *v, const uint8_t *merges,
                     int64_t count, Stream stream) {
    (void)stream;
    int end = depth;
    for (int i = 0; i < v->n; i++) {
        end += 1 - merges[i];
        CHECK(end >= 1 && end <= VECTOR_SUMS, "%d sums behind vector %d", end, i);
    }
    const int64_t tiles = div_up(count, TILE);
#pragma omp parallel for schedule(static) if (v->n * count > SERIAL_MAX)
    for (int64_t tile = 0; tile < tiles; tile++) {
        const int64_t at = tile * TILE, size = min_i64(TILE, count - at);
        int height = depth;
        for (int i = 0; i < v->n; i++) {
            if (merges[i] == 0) height++;
            take_tile(sum[height - 1] + at, merges[i] > 0, v->x, v->type, i * v->stride + at, size);
            for (int m = 1; m < merges[i]; m++) {
                height--;
                take_tile(sum[height - 1] + at, true, sum[height], TYPE_F32, at, size);
            }
        }
    }
    return end;
}

static void copy_band(const CopyBand *b) {
    if (b->row_bytes == 0) return;
    if (b->rows == 1) {  // One long row: let the threads share it.
        const int64_t part = 4 * SERIAL_MAX;
        const int64_t parts = div_up(b->row_bytes, part);
#pragma omp parallel for schedule(static) if (parts > 1)
        for (int64_t i = 0; i < parts; i++) {
            const size_t bytes = (size_t)min_i64(part, b->row_bytes - i * part);
            memcpy((char *)b->out + i * part, (const char *)b->in + i * part, bytes);
        }
        return;
    }
#pragma omp parallel for schedule(static) if (b->rows * b->row_bytes > 4 * SERIAL_MAX)
    for (int64_t i = 0; i < b->rows; i++) {
        memcpy((char *)b->out + i * b->out_stride, (const char *)b->in + i * b->in_stride,
               (size_t)b->row_bytes);
    }
}

void vector_copy_bands(const CopyBand *bands, int count, Stream stream) {
    (void)stream;
    for (int i = 0; i < count; i++) copy_band(&bands[i]);
}

// The square of a float is exact in double, so only the order of the additions matters: lane j adds
// elements j, j + LANES, ..., then the lanes are added in pairs.
static double block_square_sum(const float *x, int64_t count) {
    double lane[LANES] = {0};
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES) {
#pragma omp simd
        for (int j = 0; j < LANES; j++) lane[j] += (double)x[i + j] * (double)x[i + j];
    }
    for (int j = 0; i + j < count; j++) lane[j] += (double)x[i + j] * (double)x[i + j];
    for (int width = LANES / 2; width > 0; width /= 2) {
        for (int j = 0; j < width; j++) lane[j] += lane[j + width];
    }
    return lane[0];
}

void vector_square_sum(ExactSum *sum, const float *x, int64_t count, Stream stream) {
    (void)stream;
    const int64_t blocks = div_up(count, BLOCK);
#pragma omp parallel if (count > SERIAL_MAX)
    {
        ExactSum mine = {{0}, 0};
#pragma omp for schedule(static)
        for (int64_t b = 0; b < blocks; b++) {
            exact_add(&mine, block_square_sum(x + b * BLOCK, min_i64(BLOCK, count - b * BLOCK)));
        }
#pragma omp critical(vector_square_sum)
        {
            for (int i = 0; i < EXACT_LIMBS; i++) sum->limb[i] += mine.limb[i];
            sum->bad += mine.bad;
        }
    }
}

static void update(const AdamWState *state, const float *g, int64_t begin, int64_t end,
                   const AdamW *adamw) {
    const AdamWState x = *state;
    const AdamW a = *adamw;
#pragma omp parallel for simd schedule(static) if (parallel : end - begin > SERIAL_MAX)
    for (int64_t i = begin; i < end; i++) {
        float w = x.w[i], m = x.m[i], v = x.v[i], ema = x.ema[i];
        adamw_element(&w, &m, &v, &ema, g[i], &a);
        x.w[i] = w;
        x.m[i] = m;
        x.v[i] = v;
        x.ema[i] = ema;
    }
    if (x.rounded == NULL) return;
    vector_round(x.rounded + begin, REAL_TYPE, x.w + begin, end - begin, NULL);
}

void vector_adamw(const AdamWState *state, const float *g, int64_t count, const int64_t *edges,
                  int edge_count, const AdamW *adamw, Stream stream) {
    (void)stream;
    CHECK(adamw->correction1 > 0.0f && adamw->correction2 > 0.0f, "bias corrections %g, %g",
          (double)adamw->correction1, (double)adamw->correction2);
    for (int part = 0; part <= edge_count; part++) {
        AdamW a = *adamw;
        if (part % 2 == 0) a.decay = 0;
        update(state, g, part == 0 ? 0 : edges[part - 1], part == edge_count ? count : edges[part],
               &a);
    }
}
