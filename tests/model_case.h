// A small model with random weights and one pack, for the tests of whole models: on any mesh, under
// any recomputation policy, from numbers that do not depend on them.
#ifndef TESTS_MODEL_CASE_H
#define TESTS_MODEL_CASE_H

#include <stdlib.h>

#include "base/die.h"
#include "base/rng.h"
#include "base/vector.h"
#include "model/model.h"
#include "parallel/ulysses.h"
#include "tests/ranks.h"

enum { CASE_SEED = 1 };

typedef struct {
    Comm *comm;
    Mesh mesh;
    Model model;
    Fsdp *fsdp;
    PackBind bind;
    const Segment *segments;
    int64_t count;
} ModelCase;

static inline void *case_room(int64_t bytes) {
    void *memory = calloc(1, (size_t)max_i64(bytes, 1));
    CHECK(memory != NULL, "no memory for %lld bytes", (long long)bytes);
    return memory;
}

// What the device has there, malloc'd.
static inline void *case_copy(const void *device, int64_t bytes) {
    void *memory = case_room(bytes);
    device_copy(memory, device, bytes, NULL);
    stream_wait(NULL);
    return memory;
}

// NaN everywhere, so that what is read before it is written shows.
static inline void case_spoil(void *device, int64_t bytes) {
    void *memory = case_room(bytes);
    memset(memory, 0xff, (size_t)bytes);
    device_copy(device, memory, bytes, NULL);
    free(memory);
}

// Initial weights; rows that start at zero or one get up to 0.1 more or less, so that nothing is
// hidden behind a zero (as tests/golden/goku_demo.py has it).
static inline void case_weights(ModelCase *c) {
    const ParamTable *table = &c->model.params;
    for (int unit = 0; unit < table->units; unit++) {
        const int64_t elements = table->unit_elements[unit];
        const int64_t begin = fsdp_slice_begin(c->fsdp, unit), end = fsdp_slice_end(c->fsdp, unit);
        float *weights = case_room(elements * (int64_t)sizeof(float));
        param_init(weights, table, unit, 0, elements, CASE_SEED);
        for (int r = param_unit_first(table, unit); r < param_unit_first(table, unit + 1); r++) {
            const Param *row = &table->rows[r];
            if (row->init != INIT_ZERO && row->init != INIT_ONE) continue;
            const uint64_t name = hash_bytes(row->name, (int64_t)strlen(row->name));
            for (int64_t i = 0; i < row->count; i++) {
                const double bits = rng_bits(CASE_SEED, RNG_TEST, name, (uint64_t)i);
                weights[row->offset + i] += (float)(0.1 * ((bits + 0.5) * 0x1p-31 - 1.0));
            }
        }
        device_copy(fsdp_master(c->fsdp, unit), weights + begin, (end - begin) * 4, NULL);
        free(weights);
    }
    fsdp_invalidate(c->fsdp);
}

// `comm` and `segments` must outlive it. Collective over comm.
static inline void case_open(ModelCase *c, Comm *comm, MeshConfig layout, const ModelConfig *config,
                             const Segment *segments, int64_t count, Recompute recompute) {
    memset(c, 0, sizeof(*c));
    c->comm = comm;
    c->segments = segments;
    c->count = count;
    mesh_init(&c->mesh, comm, &layout);
    model_record(&c->model, config, &c->mesh);
    const FsdpConfig sharding = {TYPE_F32, .reshard_after_forward = true, .packs_max = 4};
    c->fsdp = fsdp_create(&c->model.params, &c->mesh, &sharding);
    ModelBounds bounds = {.segments = count};
    for (int64_t s = 0; s < count; s++) {
        bounds.tokens += latent_tokens(segments[s].shape, model_patch(config));
        bounds.text += segments[s].text;
    }
    model_plan(&c->model, recompute, bounds);
    model_allocate(&c->model);
    pack_create(&c->bind, c->model.bound[ROWS_TOKENS], count, config->head_dim);
    const Rope rope = {config->head_dim, config->rope_theta};
    pack_bind(&c->bind, segments, count, model_patch(config), &rope, c->mesh.sequence_index,
              c->mesh.sequences);
    case_weights(c);
}

static inline void case_close(ModelCase *c) {
    pack_free(&c->bind);
    fsdp_free(c->fsdp);
    model_free(&c->model);
    mesh_free(&c->mesh);
}

// Rows [first, first + rows) of a matrix of normal numbers, `cols` wide, on the device.
static inline void case_normals(real *out, uint64_t stream, int64_t first, int64_t rows,
                                int64_t cols) {
    float *values = case_room(rows * cols * (int64_t)sizeof(float));
    real *rounded = case_room(rows * cols * (int64_t)sizeof(real));
    rng_normal(values, rows * cols, CASE_SEED, RNG_TEST, stream, (uint64_t)(first * cols));
    for (int64_t i = 0; i < rows * cols; i++) rounded[i] = to_real(values[i]);
    device_copy(out, rounded, rows * cols * (int64_t)sizeof(real), NULL);
    free(rounded);
    free(values);
}

// Fills the model's inputs and the gradient of its output with numbers of the pack's rows.
static inline void case_fill(ModelCase *c) {
    Model *m = &c->model;
    const PackBind *b = &c->bind;
    const int64_t E = model_token_elements(&m->config);
    case_normals(m->patches, 1, b->first, b->T, E);
    case_normals(m->text, 2, b->text_first, b->X, m->config.text_width);
    case_normals(m->dout, 3, b->first, b->T, E);
    for (int64_t s = 0; s < b->S; s++) {
        const uint64_t segment = (uint64_t)(b->segment_first + s);
        const float time = (float)rng_uniform(CASE_SEED, RNG_TEST, 4, segment);
        device_copy(m->time + s, &time, sizeof(time), NULL);
    }
}

// All units' gradients end to end, malloc'd; *count of them. Collective.
static inline float *case_gradients(ModelCase *c, int64_t *count) {
    const ParamTable *table = &c->model.params;
    *count = 0;
    for (int unit = 0; unit < table->units; unit++) *count += table->unit_elements[unit];
    float *all = case_room(*count * (int64_t)sizeof(float)), *out = all;
    for (int unit = 0; unit < table->units; unit++) {
        fsdp_gather(c->fsdp, out, unit, fsdp_gradient(c->fsdp, unit));
        out += table->unit_elements[unit];
    }
    return all;
}

#endif
