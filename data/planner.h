// What is inside a Planner: for the files that make it (planner.c), plan with it (plan.c) and check
// cursors by it (cursor.c). Everybody else sees plan.h.
#ifndef DATA_PLANNER_H
#define DATA_PLANNER_H

#include "data/order.h"
#include "data/plan.h"

// The rows of one medium of one source that pass one stage.
typedef struct {
    uint32_t *rows;   // [count], ascending.
    int64_t *starts;  // [shards + 1], as Order wants it.
    int64_t count, shards;
    Order order;
} RowList;

struct Planner {
    DataConfig config;
    StageData stages[STAGES_MAX];
    int stage_count;
    ModelNeeds needs;
    uint64_t seed;
    Catalogue *catalogues[SOURCES_MAX];
    RowList lists[STAGES_MAX][SOURCES_MAX][MEDIUM_COUNT];
    int64_t verdicts[STAGES_MAX][SOURCES_MAX][ROW_VERDICTS];
    double weight_below[STAGES_MAX][MEDIUM_COUNT][SOURCES_MAX + 1];  // Running sums; [0] is 0.
    PlanSample *held;  // [held_count], position is the index.
    int64_t held_count;
    PlanBounds bounds;
    PlanSample *candidates;  // [bounds.deferred], what a step chooses among.
    int64_t *pack_of;        // [bounds.deferred]
};

// What a row is as a sample.
PlanSample planner_sample(const Planner *planner, int64_t position, int source, uint32_t row);

// Whether the row may be drawn in the stage.
RowVerdict planner_judge(const Planner *planner, int stage, int source, uint32_t row);

#endif
