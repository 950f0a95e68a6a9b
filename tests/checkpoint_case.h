// A small model's state on some ranks, in device memory: filled, saved, restored, compared.
#ifndef TESTS_CHECKPOINT_CASE_H
#define TESTS_CHECKPOINT_CASE_H

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/die.h"
#include "checkpoint/restore.h"
#include "checkpoint/save.h"
#include "tests/checkpoint_values.h"

typedef struct {
    ParamTable table;
    CheckpointShards shards;
    float **slice[CLASS_COUNT];  // On the device.
} Case;

static inline void case_slice_bounds(const Case *c, int unit, int64_t *begin, int64_t *end) {
    const int index = comm_rank(c->shards.shard), size = comm_size(c->shards.shard);
    *begin = slice_cut(c->table.unit_elements[unit], index, size);
    *end = slice_cut(c->table.unit_elements[unit], index + 1, size);
}

// What element `e` of a unit's buffer must be; 0 in the gaps.
static inline float case_element(const Case *c, int class, int unit, int64_t e, int step) {
    for (int r = param_unit_first(&c->table, unit); r < param_unit_first(&c->table, unit + 1);
         r++) {
        const Param *row = &c->table.rows[r];
        if (e >= row->offset && e < row->offset + row->count) {
            return case_value(class, r, e - row->offset, step);
        }
    }
    return 0.0f;
}

// Shard groups of `shards` consecutive ranks of `world`, which stays the caller's.
static inline Case case_start(Comm *world, int shards, bool large) {
    const int rank = comm_rank(world);
    Case c = {.table = case_table(large),
              .shards = {.world = world, .window_bytes = large ? CHECKPOINT_BLOCK : 0}};
    c.shards.shard = comm_split(world, rank / shards, rank, "shard");
    c.shards.replica = comm_split(world, rank % shards, rank, "replica");
    comm_connect(c.shards.shard, COMM_EXCHANGES);
    comm_connect(c.shards.replica, COMM_GATHERS | COMM_EXCHANGES);
    for (int k = 0; k < CLASS_COUNT; k++) {
        c.slice[k] = calloc((size_t)c.table.units, sizeof(float *));
        CHECK(c.slice[k] != NULL, "no memory");
        for (int unit = 0; unit < c.table.units; unit++) {
            int64_t begin, end;
            case_slice_bounds(&c, unit, &begin, &end);
            c.slice[k][unit] = device_allocate("slice", (end - begin) * 4);
        }
        c.shards.slice[k] = c.slice[k];
    }
    return c;
}

static inline void case_stop(Case *c) {
    for (int k = 0; k < CLASS_COUNT; k++) {
        for (int unit = 0; unit < c->table.units; unit++) device_free(c->slice[k][unit]);
        free(c->slice[k]);
    }
    comm_free(c->shards.shard);
    comm_free(c->shards.replica);
    param_free(&c->table);
}

// What a slice must hold at `step`, or NaN for -1; malloc'd.
static inline float *case_slice(const Case *c, int class, int unit, int64_t *count, int step) {
    int64_t begin, end;
    case_slice_bounds(c, unit, &begin, &end);
    float *values = calloc((size_t)(end - begin) + 1, sizeof(float));
    CHECK(values != NULL, "no memory");
    *count = end - begin;
    for (int64_t i = 0; i < *count; i++) {
        values[i] = step < 0 ? NAN : case_element(c, class, unit, begin + i, step);
    }
    return values;
}

// Fills the slices with the state of `step`, or with NaN for -1.
static inline void case_fill(const Case *c, int step) {
    for (int k = 0; k < CLASS_COUNT; k++) {
        for (int unit = 0; unit < c->table.units; unit++) {
            int64_t count;
            float *values = case_slice(c, k, unit, &count, step);
            device_copy(c->slice[k][unit], values, count * 4, NULL);
            free(values);
        }
    }
}

// How many elements of the first `classes` classes' slices are not those of `step`.
static inline int64_t case_wrong(const Case *c, int classes, int step) {
    int64_t wrong = 0;
    for (int k = 0; k < classes; k++) {
        for (int unit = 0; unit < c->table.units; unit++) {
            int64_t count;
            float *want = case_slice(c, k, unit, &count, step);
            float *got = case_slice(c, k, unit, &count, -1);
            device_copy(got, c->slice[k][unit], count * 4, NULL);
            stream_wait(NULL);
            for (int64_t i = 0; i < count; i++) wrong += !(got[i] == want[i]);
            free(got);
            free(want);
        }
    }
    return wrong;
}

static inline bool case_save(const Case *c, const char *run, int step, uint64_t generation,
                             int64_t file_bytes_max, Error *error) {
    char state[256];
    CheckpointSave save = {run, step, generation, file_bytes_max, CASE_CONFIG, NULL, c->shards};
    save.state = case_state(state, step);
    save.shards.table = &c->table;
    case_fill(c, step);
    return checkpoint_save(&save, error);
}

// The usual settings; the caller changes what it tests, and frees restore.state.
static inline Restore case_restore(const Case *c, const char *run) {
    Restore restore = {.run = run, .step = -1, .state_version = 1, .recipe = CASE_RECIPE};
    restore.shards = c->shards;
    restore.shards.table = &c->table;
    return restore;
}

#endif
