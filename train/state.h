// Where a run is: what a checkpoint keeps besides tensors, as state.json. Only what decides the
// numbers that follow: no times, hosts, paths or layouts.
#ifndef TRAIN_STATE_H
#define TRAIN_STATE_H

#include "base/error.h"
#include "data/plan.h"
#include "train/config.h"

enum { STATE_VERSION = 1, NORMS_MAX = 1024 };

typedef struct {
    int64_t step;             // Steps done.
    int64_t updates;          // Of them, those that changed the weights.
    Cursor cursor;            // Behind the last step.
    double norms[NORMS_MAX];  // Gradient norms of the last updates, a ring.
    int64_t norm_count;       // Of all updates that entered it.
    int64_t norms_held;       // Those still in it: at most the window that it was made with.
    int64_t skipped, skipped_in_row, corrupt;
} RunState;

void state_init(RunState *state, const Planner *planner);
void state_free(RunState *state);

// The recipe that checkpoints keep and compare: the settings that change the numbers, and the
// data's checksum.
json_t *recipe_json(const Config *config, const Planner *planner);

// state.json's text; the caller frees.
char *state_to_text(const RunState *state, const Planner *planner, const Config *config);

// Fills a state made by state_init. False with a reason where the text does not fit planner and
// settings.
bool state_from_text(RunState *state, const Planner *planner, const char *text, Error *error);

// Whether `norm` is above median + spike * MAD of the window; never before the window is full.
// A ring made with another window than the present one starts anew.
bool state_is_spike(const RunState *state, const TrainConfig *config, double norm);
// Empties the window: a new stage begins.
void state_restart_norms(RunState *state);
void state_add_norm(RunState *state, const TrainConfig *config, double norm);

#endif
