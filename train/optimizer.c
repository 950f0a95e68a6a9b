#include "train/optimizer.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/die.h"

static int64_t slice_bytes(const ParamTable *table, int unit, int index, int size) {
    const int64_t elements = table->unit_elements[unit];
    return (slice_cut(elements, index + 1, size) - slice_cut(elements, index, size)) *
           (int64_t)sizeof(float);
}

static void lay_out(Optimizer *o, Arena *arena, const ParamTable *table, int index, int size) {
    ExactSum *const square_sum = arena_take(arena, sizeof(ExactSum));
    if (o != NULL) o->square_sum = square_sum;
    for (int unit = 0; unit < table->units; unit++) {
        const int64_t bytes = slice_bytes(table, unit, index, size);
        float *const exp_avg = arena_take(arena, bytes);
        float *const exp_avg_sq = arena_take(arena, bytes);
        float *const ema = arena_take(arena, bytes);
        if (o == NULL) continue;
        o->exp_avg[unit] = exp_avg;
        o->exp_avg_sq[unit] = exp_avg_sq;
        o->ema[unit] = ema;
    }
}

int64_t optimizer_plan(const ParamTable *table, const Mesh *mesh) {
    Arena arena = {.name = "optimizer"};
    lay_out(NULL, &arena, table, 0, mesh->shards);
    return arena.used;
}

void optimizer_create(Optimizer *o, const ParamTable *table, const Mesh *mesh) {
    memset(o, 0, sizeof(*o));
    o->arena.name = "optimizer";
    o->units = table->units;
    float **slices = calloc((size_t)(3 * table->units), sizeof(*slices));
    CHECK(slices != NULL, "no memory for %d units", table->units);
    o->exp_avg = slices;
    o->exp_avg_sq = slices + table->units;
    o->ema = slices + 2 * table->units;
    lay_out(o, &o->arena, table, mesh->shard_index, mesh->shards);
    arena_commit(&o->arena);
    lay_out(o, &o->arena, table, mesh->shard_index, mesh->shards);
}

void optimizer_free(Optimizer *o) {
    arena_free(&o->arena);
    free(o->exp_avg);
    *o = (Optimizer){0};
}

void optimizer_start(Optimizer *o, Fsdp *fsdp) {
    for (int unit = 0; unit < o->units; unit++) {
        const int64_t count = fsdp_slice_end(fsdp, unit) - fsdp_slice_begin(fsdp, unit);
        device_copy(o->ema[unit], fsdp_master(fsdp, unit), count * (int64_t)sizeof(float), NULL);
    }
}

void optimizer_square_sum(Optimizer *o, ExactSum *sum, Fsdp *fsdp, const ParamTable *table,
                          const Mesh *mesh) {
    device_zero(o->square_sum, sizeof(*o->square_sum), NULL);
    for (int unit = 0; unit < table->units && mesh->replica_index == 0; unit++) {
        const int64_t count = fsdp_slice_end(fsdp, unit) - fsdp_slice_begin(fsdp, unit);
        vector_square_sum(o->square_sum, fsdp_gradient(fsdp, unit), count, NULL);
    }
    device_copy(sum, o->square_sum, sizeof(*sum), NULL);
    stream_wait(NULL);
}

// One unit's slice, tensor by tensor, for weight decay differs among them. Gaps stay zero.
static void update_unit(Optimizer *o, Fsdp *fsdp, const ParamTable *table, int unit, AdamW adamw,
                        float decay) {
    const int64_t begin = fsdp_slice_begin(fsdp, unit), end = fsdp_slice_end(fsdp, unit);
    for (int r = param_unit_first(table, unit); r < table->count; r++) {
        const Param *row = &table->rows[r];
        if (row->unit != unit) break;
        const int64_t first = max_i64(begin, row->offset) - begin;
        const int64_t last = min_i64(end, row->offset + row->count) - begin;
        if (first >= last) continue;
        adamw.decay = row->decay ? decay : 0.0f;
        vector_adamw(fsdp_master(fsdp, unit) + first, o->exp_avg[unit] + first,
                     o->exp_avg_sq[unit] + first, o->ema[unit] + first,
                     fsdp_gradient(fsdp, unit) + first, last - first, &adamw, NULL);
    }
}

void optimizer_update(Optimizer *o, Fsdp *fsdp, const ParamTable *table, const TrainConfig *config,
                      double lr, double gradient_scale, int64_t updates) {
    const double n = (double)(updates + 1);
    const AdamW adamw = {.lr = (float)lr,
                         .beta1 = (float)config->beta1,
                         .beta2 = (float)config->beta2,
                         .epsilon = (float)config->epsilon,
                         .correction1 = (float)(1 - pow(config->beta1, n)),
                         .correction2 = (float)(1 - pow(config->beta2, n)),
                         .gradient_scale = (float)gradient_scale,
                         .ema_keep = (float)ema_decay(config, updates)};
    for (int unit = 0; unit < o->units; unit++) {
        update_unit(o, fsdp, table, unit, adamw, (float)config->weight_decay);
    }
    fsdp_invalidate(fsdp);
}

double schedule_lr(const TrainConfig *config, double lr, int64_t step, int64_t steps) {
    if (step < config->warmup) return lr * (double)(step + 1) / (double)config->warmup;
    const double length = (double)max_i64(steps - config->warmup, 1);
    const double x = fmin((double)(step - config->warmup + 1) / length, 1);
    switch ((Schedule)config->schedule) {
        case SCHEDULE_CONSTANT:
            return lr;
        case SCHEDULE_COSINE:
            return lr *
                   (config->lr_end + (1 - config->lr_end) * 0.5 * (1 + cos(3.141592653589793 * x)));
        case SCHEDULE_LINEAR:
            return lr * (1 + (config->lr_end - 1) * x);
    }
    DIE("unknown schedule %d", config->schedule);
}

double ema_decay(const TrainConfig *config, int64_t updates) {
    return fmin(config->ema_decay, (1 + (double)updates) / (10 + (double)updates));
}
