#include "base/param.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/die.h"
#include "base/real.h"
#include "base/rng.h"

int param_unit_begin(ParamTable *table) {
    table->unit_elements =
        realloc(table->unit_elements, (size_t)(table->units + 1) * sizeof(*table->unit_elements));
    CHECK(table->unit_elements != NULL, "no memory for %d units", table->units + 1);
    table->unit_elements[table->units] = 0;
    return table->units++;
}

int param_add(ParamTable *table, const char *name, int dims, const int64_t *shape, Init init,
              bool decay) {
    CHECK(table->units > 0, "%s: no unit was begun", name);
    CHECK(dims >= 1 && dims <= PARAM_DIMS_MAX, "%s: %d dims", name, dims);
    CHECK(strlen(name) < PARAM_NAME_MAX, "%s: name too long", name);
    CHECK(param_find(table, name) < 0, "%s: recorded twice", name);
    if (table->count == table->capacity) {
        table->capacity = table->capacity == 0 ? 64 : 2 * table->capacity;
        table->rows = realloc(table->rows, (size_t)table->capacity * sizeof(*table->rows));
        CHECK(table->rows != NULL, "no memory for %d parameters", table->capacity);
    }
    Param *row = &table->rows[table->count];
    *row =
        (Param){.dims = dims, .init = init, .decay = decay, .unit = table->units - 1, .count = 1};
    snprintf(row->name, sizeof(row->name), "%s", name);
    for (int i = 0; i < dims; i++) {
        CHECK(shape[i] > 0, "%s: size %" PRId64 " of dim %d", name, shape[i], i);
        row->shape[i] = shape[i];
        row->count *= shape[i];
    }
    int64_t *elements = &table->unit_elements[row->unit];
    row->offset = *elements;
    *elements = round_up(row->offset + row->count, PARAM_ALIGNMENT);
    return table->count++;
}

int param_find(const ParamTable *table, const char *name) {
    for (int i = 0; i < table->count; i++) {
        if (strcmp(table->rows[i].name, name) == 0) return i;
    }
    return -1;
}

int64_t param_total(const ParamTable *table) {
    int64_t total = 0;
    for (int i = 0; i < table->count; i++) total += table->rows[i].count;
    return total;
}

int param_unit_first(const ParamTable *table, int unit) {
    int row = 0;
    while (row < table->count && table->rows[row].unit < unit) row++;
    return row;
}

int64_t slice_cut(int64_t elements, int index, int size) {
    return min_i64(elements, index * slice_most(elements, size));
}

int64_t slice_most(int64_t elements, int size) {
    return div_up(div_up(elements, SLICE_BLOCK), size) * SLICE_BLOCK;
}

// Element i of a row.
static float initial_value(const Param *row, int64_t i, uint64_t seed, uint64_t name_hash) {
    switch (row->init) {
        case INIT_ZERO:
            return 0.0f;
        case INIT_ONE:
            return 1.0f;
        case INIT_XAVIER: {
            const int64_t fan_out = row->shape[0], fan_in = row->count / row->shape[0];
            const double limit = sqrt(6.0 / (double)(fan_in + fan_out));
            const uint32_t bits = rng_bits(seed, RNG_WEIGHTS, name_hash, (uint64_t)i);
            return (float)(limit * (((double)bits + 0.5) * 0x1p-31 - 1.0));
        }
        case INIT_NORMAL: {
            float value;
            rng_normal(&value, 1, seed, RNG_WEIGHTS, name_hash, (uint64_t)i);
            return 0.02f * value;
        }
    }
    DIE("%s: unknown init %d", row->name, (int)row->init);
}

void param_init(float *out, const ParamTable *table, int unit, int64_t begin, int64_t end,
                uint64_t seed) {
    memset(out, 0, (size_t)(end - begin) * sizeof(*out));
    for (int r = param_unit_first(table, unit); r < table->count; r++) {
        const Param *row = &table->rows[r];
        if (row->unit != unit) break;
        const uint64_t name_hash = hash_bytes(row->name, (int64_t)strlen(row->name));
        const int64_t first = max_i64(begin, row->offset);
        const int64_t last = min_i64(end, row->offset + row->count);
        for (int64_t i = first; i < last; i++) {
            out[i - begin] = initial_value(row, i - row->offset, seed, name_hash);
        }
    }
}

void param_free(ParamTable *table) {
    free(table->rows);
    free(table->unit_elements);
    *table = (ParamTable){0};
}
