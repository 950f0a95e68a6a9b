// AdamW and the moving average over the slices that this rank owns.
#ifndef TRAIN_OPTIMIZER_H
#define TRAIN_OPTIMIZER_H

#include "base/arena.h"
#include "base/vector.h"
#include "parallel/fsdp.h"
#include "train/config.h"

typedef struct {
    Arena arena;
    int units;
    float **exp_avg, **exp_avg_sq, **ema;  // [units] Slices, cut as the master weights are.
    int64_t *edges;                        // [tensors] Where weight decay begins and ends.
} Optimizer;

// All memory; moments are zero, the average equals the masters once optimizer_start was called.
void optimizer_create(Optimizer *optimizer, const ParamTable *table, const Mesh *mesh);
void optimizer_free(Optimizer *optimizer);

// Bytes on the rank of `mesh` that owns most, by the same lines.
int64_t optimizer_plan(const ParamTable *table, const Mesh *mesh);

// The average starts as the master weights.
void optimizer_start(Optimizer *optimizer, Fsdp *fsdp);

// One update of all slices. `updates` counts those before it. Weight decay of rows that want it.
void optimizer_update(Optimizer *optimizer, Fsdp *fsdp, const ParamTable *table,
                      const TrainConfig *config, double lr, double gradient_scale, int64_t updates);

// Of the peak `lr` at `step` of `steps`: linear warm-up, then the schedule.
double schedule_lr(const TrainConfig *config, double lr, int64_t step, int64_t steps);

// Of the average at update number n: min(decay, (1 + n) / (10 + n)).
double ema_decay(const TrainConfig *config, int64_t updates);

#endif
