// A launcher repeats its command until the run is done. What holds for its first start alone, and
// when another start is of no use: RUN/checkpoints/.once keeps it, in three lines.
#ifndef TRAIN_ONCE_H
#define TRAIN_ONCE_H

#include "parallel/comm.h"

enum { ONCE_NAME_MAX = 255, ONCE_STARTS_MAX = 5 };

typedef struct {
    bool chosen;     // --fresh or resume.step has been done.
    int64_t step;    // That the last start went on from,
    int64_t starts;  // and how many in a row went on from there.
} Once;

// What the launches under `name` (NAME or NAME:TRY, up to ONCE_NAME_MAX bytes in one line) have
// left in the run's folder; zeros where the last one had another NAME, or `name` is NULL. Starts of
// another TRY do not count. Collective over `world`.
bool once_read(Once *once, const char *run, const char *name, Comm *world, Error *error);

// Notes that one more goes on from `step`, and whether it did what it was told for once. Nothing
// where `name` is NULL. Collective over `world`.
bool once_write(Once *once, const char *run, const char *name, bool chosen, int64_t step,
                Comm *world, Error *error);

#endif
