// Golden files (safetensors, written by the generators in tests/golden/) as tests of ops want them:
// one case at a time, as reals of either precision, with the tolerance that belongs to it. All
// arrays are shared with the device and freed by free_all.
#ifndef TESTS_GOLDEN_FILE_H
#define TESTS_GOLDEN_FILE_H

#include <stdio.h>
#include <stdlib.h>

#include "base/device.h"
#include "base/die.h"
#include "base/safetensors.h"
#include "tests/check.h"

// n zeroed elements (never NULL).
static inline real *reals_new(int64_t n) {
    return device_allocate_shared("reals", n * (int64_t)sizeof(real));
}

static inline float *floats_new(int64_t n) {
    return device_allocate_shared("floats", n * (int64_t)sizeof(float));
}

static inline int32_t *integers_new(int64_t n) {
    return device_allocate_shared("integers", n * (int64_t)sizeof(int32_t));
}

static inline real *reals_of(const float *values, int64_t n) {
    real *result = reals_new(n);
    for (int64_t i = 0; i < n; i++) result[i] = to_real(values[i]);
    return result;
}

// One case of a golden file: tensors are called CASE.NAME.
typedef struct {
    Safetensors file;
    const char *name;
} Golden;

static inline Golden golden_open(const char *path, const char *name) {
    Golden golden = {.name = name};
    Error error;
    CHECK(safetensors_open(&golden.file, path, &error), "%s", error.text);
    return golden;
}

static inline const TensorInfo *golden_find(const Golden *g, const char *tensor) {
    char name[TENSOR_NAME_MAX];
    snprintf(name, sizeof(name), "%s.%s", g->name, tensor);
    return safetensors_find(&g->file, name);
}

// Its size along `dim`.
static inline int64_t golden_size(const Golden *g, const char *tensor, int dim) {
    const TensorInfo *info = golden_find(g, tensor);
    CHECK(info != NULL && dim < info->dims, "%s: no %s.%s", g->file.path, g->name, tensor);
    return info->shape[dim];
}

// All elements; NULL where the case has no such tensor.
static inline float *golden_floats(const Golden *g, const char *tensor) {
    const TensorInfo *info = golden_find(g, tensor);
    if (info == NULL) return NULL;
    Error error;
    float *loaded = safetensors_load(&g->file, info->name, NULL, &error);
    CHECK(loaded != NULL, "%s", error.text);
    float *values = floats_new(info->count);
    memcpy(values, loaded, (size_t)info->count * sizeof(float));
    free(loaded);
    return values;
}

static inline int32_t *golden_integers(const Golden *g, const char *tensor) {
    const TensorInfo *info = golden_find(g, tensor);
    if (info == NULL) return NULL;
    Error error;
    int32_t *values = integers_new(info->count);
    CHECK(info->dtype == DTYPE_I32, "%s", info->name);
    CHECK(safetensors_read(&g->file, info, 0, info->count, values, &error), "%s", error.text);
    return values;
}

static inline real *golden_reals(const Golden *g, const char *tensor) {
    const TensorInfo *info = golden_find(g, tensor);
    if (info == NULL) return NULL;
    float *values = golden_floats(g, tensor);
    real *result = reals_of(values, info->count);
    device_free(values);
    return result;
}

// Fails unless `got` is the golden tensor: within 1e-5 of its largest element or, where bf16
// stores it, within twice the error that PyTorch makes in bf16.
static inline void golden_check_reals(const Golden *g, const char *tensor, const real *got) {
    const TensorInfo *info = golden_find(g, tensor);
    float *want = golden_floats(g, tensor);
    char name[TENSOR_NAME_MAX];
    double tolerance = 1e-5;
    if (REAL_TYPE == TYPE_BF16) {
        const Golden whole = {.file = g->file, .name = tensor};
        float *measured = golden_floats(&whole, "bf16_error");
        CHECK(measured != NULL, "%s: no %s.bf16_error", g->file.path, tensor);
        tolerance = 2.0 * (double)measured[0];
        device_free(measured);
    }
    snprintf(name, sizeof(name), "%s.%s", g->name, tensor);
    check_close_real(name, got, want, info->count, tolerance);
    device_free(want);
}

// The same for what is float in both builds.
static inline void golden_check_floats(const Golden *g, const char *tensor, const float *got) {
    const TensorInfo *info = golden_find(g, tensor);
    float *want = golden_floats(g, tensor);
    check_close(info->name, got, want, info->count, 1e-5);
    device_free(want);
}

#endif
