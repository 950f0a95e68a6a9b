// Restoring: the newest checkpoint whose MANIFEST and blocks are all good on all ranks, on any
// number of ranks, each byte read once per job. What is refused is passed over, said, and set aside
// once a good one is found. DESIGN, section 7.
#ifndef CHECKPOINT_RESTORE_H
#define CHECKPOINT_RESTORE_H

#include <stdbool.h>

#include "base/error.h"
#include "checkpoint/exchange.h"

typedef enum {
    RESTORE_DONE,          // The slices, `found` and `state` are filled.
    RESTORE_NOTHING,       // No checkpoint there, or `fresh`: start from step 0.
    RESTORE_REFUSED,       // There are checkpoints and none is good, or one cannot be read: exit 1.
    RESTORE_INCOMPATIBLE,  // An intact one is not for this program, model or recipe: exit 78.
} RestoreResult;

typedef struct {
    const char *run;          // The run's folder.
    CheckpointShards shards;  // Filled; after another result than DONE they may hold anything.
    int64_t step;             // resume.step: this one and no other; -1: the newest good one.
    bool fresh;               // Set all aside as replaced-step-N and start from step 0.
    int state_version;        // The newest "version" of state.json that the caller knows.
    const char *recipe;  // Compared with "recipe" of state.json: a JSON object, setting -> text.
    const char *const *overrides;  // [override_count] Settings that may differ.
    int override_count;

    // Results, the same on every rank.
    int64_t found;     // The step that was restored.
    char *state;       // Text of its state.json, malloc'd.
    Problems refused;  // Each checkpoint that was passed over, with the place: for rank 0 to print.
    Problems problems;  // Why it is incompatible.
} Restore;

// Nothing is renamed unless the result is DONE or NOTHING: then refused checkpoints became
// refused-step-N, those newer than `step` newer-step-N, those before a fresh start replaced-step-N.
// Collective over world, shard and replica. `error` gets the reason for REFUSED.
RestoreResult checkpoint_restore(Restore *restore, Error *error);

// Adds a problem for every key whose text differs between two JSON objects (setting -> text), or
// that only one of them has, unless it is listed in `overrides`. Local.
void recipe_compare(const char *saved, const char *now, const char *const *overrides, int count,
                    Problems *problems);

#endif
