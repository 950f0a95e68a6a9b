// The values of a small model's state: every element is a function of (class, row, element, step),
// known to all.
#ifndef TESTS_CHECKPOINT_VALUES_H
#define TESTS_CHECKPOINT_VALUES_H

#include <stdio.h>

#include "base/param.h"

static const char CASE_CONFIG[] = "{\"_class_name\": \"GokuTransformer3DModel\"}\n";

#define CASE_RECIPE "{\"lr\": \"1e-4\", \"packs\": \"8\"}"

// Step is all that differs between the states of two steps.
static inline char *case_state(char text[256], int step) {
    snprintf(text, 256, "{\"version\": 1, \"step\": %d, \"recipe\": %s}\n", step, CASE_RECIPE);
    return text;
}

// Odd sizes; units shorter than a slice's block and, if `large`, longer than a block of a file.
static inline ParamTable case_table(bool large) {
    ParamTable table = {0};
    param_unit_begin(&table);
    param_add(&table, "x_embedder.proj.weight", 2, (int64_t[]){3, 5}, INIT_ZERO, true);
    param_add(&table, "x_embedder.proj.bias", 1, (int64_t[]){7}, INIT_ZERO, false);
    param_unit_begin(&table);
    param_add(&table, "blocks.0.attn1.q_proj.weight", 2, (int64_t[]){40, 33}, INIT_ZERO, true);
    param_add(&table, "blocks.0.scale_shift_table", 3, (int64_t[]){1, 6, 33}, INIT_ZERO, false);
    param_unit_begin(&table);
    param_add(&table, "blocks.1.attn1.q_proj.weight", 2,
              large ? (int64_t[]){513, 1027} : (int64_t[]){51, 27}, INIT_ZERO, true);
    param_add(&table, "blocks.1.norm.weight", 1, (int64_t[]){1}, INIT_ZERO, false);
    if (large) param_add(&table, "blocks.1.proj", 2, (int64_t[]){300, 301}, INIT_ZERO, true);
    param_unit_begin(&table);
    param_add(&table, "proj_out.bias", 1, (int64_t[]){1}, INIT_ZERO, false);
    return table;
}

static inline float case_value(int class, int64_t row, int64_t i, int step) {
    uint64_t x = (uint64_t)i * 0x9E3779B97F4A7C15u + (uint64_t)(class * 1000 + row * 37 + step);
    x = (x ^ x >> 29) * 0xBF58476D1CE4E5B9u;
    return (float)((int32_t)(x >> 40) - 0x800000) * 0x1p-20f;
}

#endif
