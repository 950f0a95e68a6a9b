// Arrays beyond 2^32 elements and bytes, for tests that nothing counts in 32 bits: what an op gives
// for some of their rows, around the places where such a count would turn, is what it gives for
// these rows alone. The same tests run with small arrays everywhere.
#ifndef TESTS_WIDE_H
#define TESTS_WIDE_H

#include "base/vector.h"
#include "model/ops/flow.h"
#include "tests/op_check.h"

// Windows of rows that are looked at: the first, around bytes 2^31, 2^32 and 2^33 of an array of
// full size, and the last. Sums over rows are compared with those over PARTS of them.
enum { WINDOWS = 5, WINDOW = 8, ROWS = WINDOWS * WINDOW, SLICES = 65, PARTS = 13, SLOTS = 3 };

enum { SPARE = 32 << 20 };  // Bytes of scratch that small calls need, too.

static const int64_t REAL_BYTES = sizeof(real), FLOAT_BYTES = sizeof(float);

typedef struct {
    int64_t T, C, D;           // SLICES times some rows of C reals; heads of D.
    int64_t length;            // Of attention's segments, about.
    int64_t bytes;             // Of an array [T, C].
    int64_t period;            // Of the numbers that arrays are filled with.
    void *slot[SLOTS], *half;  // Arrays [T, C], and one of half as many bytes.
    void *few[SLOTS + 1];      // [ROWS, C] of those: the host reads them, too.
    void *got;                 // The same.
    float *numbers;            // [period] Normal ones.
} Wide;

static inline Wide wide_of(int64_t rows, int64_t C, int64_t D, int64_t length, int64_t period) {
    Wide w = {.T = SLICES * rows, .C = C, .D = D, .length = length, .period = period};
    w.bytes = w.T * C * REAL_BYTES;
    return w;
}

static inline int64_t wide_memory(const Wide *w) {
    return SLOTS * w->bytes + w->bytes / 2 + SPARE;
}

static inline void wide_create(Wide *w) {
    const int64_t few = ROWS * w->C * REAL_BYTES;
    char *all = device_allocate("wide arrays", wide_memory(w));
    for (int i = 0; i < SLOTS; i++) w->slot[i] = all + i * w->bytes;
    w->half = all + SLOTS * w->bytes;
    for (int i = 0; i <= SLOTS; i++) w->few[i] = device_allocate_shared("rows", few);
    w->got = device_allocate_shared("rows", few);
    w->numbers = device_allocate("numbers", w->period * FLOAT_BYTES);
    float *const scratch = device_allocate("scratch", w->period * FLOAT_BYTES);
    const NoiseKey key = {7, RNG_TEST, 1};
    const LatentShape shape = {32, 1, 1, (int32_t)(w->period / 32)};
    flow_noise(w->numbers, &key, shape, (PatchSize){1, 1, 1}, 0, shape.W, scratch, NULL);
    stream_wait(NULL);
    device_free(scratch);
}

static inline void wide_free(Wide *w) {
    for (int i = 0; i <= SLOTS; i++) device_free(w->few[i]);
    free_all(w->slot[0], w->got, w->numbers);
}

// Row of T where window i begins.
static inline int64_t window(int64_t T, int i) {
    return i == 0 ? 0 : i == WINDOWS - 1 ? T - WINDOW : T / SLICES * (8 << i) - WINDOW / 2;
}

// few [ROWS] = the windows of many [T], rows of row_bytes.
static inline void take(void *few, const void *many, int64_t T, int64_t row_bytes) {
    for (int i = 0; i < WINDOWS; i++) {
        device_copy((char *)few + i * WINDOW * row_bytes,
                    (const char *)many + window(T, i) * row_bytes, WINDOW * row_bytes, NULL);
    }
}

// x [n] of `type` = the numbers over and over, from a place on that `number` gives. They repeat
// after no multiple of a row, and of no power of two.
static inline void fill(const Wide *w, void *x, Type type, int64_t n, int64_t number) {
    int64_t at = number * 320 % w->period;
    for (int64_t i = 0, count; i < n; i += count, at = 0) {
        count = min_i64(w->period - at, n - i);
        vector_round((char *)x + i * type_size(type), type, w->numbers + at, count, NULL);
    }
}

// Slot i filled as [T, columns], and its windows in few[i].
static inline real *reals_filled(const Wide *w, int i, int64_t columns) {
    fill(w, w->slot[i], REAL_TYPE, w->T * columns, i);
    take(w->few[i], w->slot[i], w->T, columns * REAL_BYTES);
    return w->slot[i];
}

static inline float *floats_filled(const Wide *w, int i, int64_t columns) {
    fill(w, w->slot[i], TYPE_F32, w->T * columns, i);
    take(w->few[i], w->slot[i], w->T, columns * FLOAT_BYTES);
    return w->slot[i];
}

// Zeroed: what an op leaves out shows.
static inline void *blank(const Wide *w, int i) {
    device_zero(w->slot[i], w->bytes, NULL);
    device_zero(w->few[i], ROWS * w->C * REAL_BYTES, NULL);
    return w->slot[i];
}

// Fails unless the windows of many [T, columns] are few: the same bits, or within `tolerance`.
static inline void check_rows(const Wide *w, const char *name, const real *many, int64_t columns,
                              const real *few, double tolerance) {
    take(w->got, many, w->T, columns * REAL_BYTES);
    stream_wait(NULL);
    if (tolerance == 0) {
        check_equal(name, (const real *)w->got, few, ROWS * columns);
        return;
    }
    float *want = floats_of(few, ROWS * columns);
    check_close_real(name, (const real *)w->got, want, ROWS * columns, tolerance);
    device_free(want);
}

static inline void check_float_rows(const Wide *w, const char *name, const float *many,
                                    int64_t columns, const float *few) {
    take(w->got, many, w->T, columns * FLOAT_BYTES);
    check_equal(name, (const float *)w->got, few, ROWS * columns);
}

// Segments of all rows and of those in windows: two of them are half and a quarter of the rows.
typedef struct {
    int32_t *all, *few;
    int64_t S;
} Segments;

static inline Segments segments_wide(const Wide *w) {
    Segments s = {integers_new(w->T), integers_new(ROWS), 3};
    for (int64_t t = 0; t < w->T; t++) s.all[t] = t < w->T / 4 ? 0 : t < w->T / 4 * 3 ? 1 : 2;
    take(s.few, s.all, w->T, sizeof(int32_t));
    return s;
}

#endif
