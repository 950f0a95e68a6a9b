// A thread that plans steps and reads this data rank's packs ahead of need. Memory is bounded:
// packs [ahead + 1], plans [3], and the reader's cache. The order of what it returns is fixed, so
// nothing depends on its speed.
//
//     for (;;) {
//         // The whole step, as every rank has it.
//         const StepPlan *plan = loader_step(loader, &error);
//         for (int i = 0; i < my_packs; i++) {
//             // The i-th of this rank's packs.
//             const LoadedPack *pack = loader_pack(loader, &error);
//             ...
//         }
//         ...plan->after is the cursor that a checkpoint after this step keeps.
//     }
#ifndef DATA_LOADER_H
#define DATA_LOADER_H

#include "data/plan.h"
#include "data/reader.h"

// Which packs of a step this data rank runs, in the order in which it runs them: writes indexes
// into packs[pack_count] and returns how many. Called on the loader's thread; a function of its
// arguments.
typedef int64_t (*PackShare)(int64_t *packs, int64_t pack_count, int stage, const void *context);

typedef struct Loader Loader;

// Starts at `cursor` (copied) and ends after the last step of the last stage or after step
// `step_end` - 1, whichever comes first. From here to loader_free the planner belongs to the
// loader's thread: only its facts (plan.h) may be asked. NULL and a reason when the reader cannot
// be made.
Loader *loader_create(Planner *planner, const Cursor *cursor, int64_t step_end, int64_t ahead,
                      int64_t cache_bytes, PackShare share, const void *context, Error *error);
void loader_free(Loader *loader);

// The next step; every pack of the one before must have been taken. Valid until the next call.
// NULL and the reason after an I/O error that stayed; asking beyond the last step dies.
const StepPlan *loader_step(Loader *loader, Error *error);

// The next of this rank's packs of that step. Valid until the next call of loader_pack or
// loader_step.
const LoadedPack *loader_pack(Loader *loader, Error *error);

// Seconds that loader_step and loader_pack have waited so far.
double loader_waited_seconds(const Loader *loader);

// What the loader allocates, for `plan`.
int64_t loader_bytes(const Planner *planner, int64_t ahead, int64_t cache_bytes);

#endif
