// The folders of a run: RUN/checkpoints/step-00001200 is a published checkpoint, .tmp-step-... one
// in work, .trash-... one being deleted; refused-, replaced- and newer-step-... were set aside and
// are never read. One rank calls these; the others learn the result (agree.h).
#ifndef CHECKPOINT_STEPS_H
#define CHECKPOINT_STEPS_H

#include <stdint.h>

#include "base/error.h"
#include "base/files.h"

// RUN/checkpoints.
bool steps_folder(char path[PATH_BYTES_MAX], const char *run, Error *error);

// RUN/checkpoints/step-00001200.
bool step_path(char path[PATH_BYTES_MAX], const char *run, int64_t step, Error *error);

// The steps of all published folders, newest first, malloc'd; *count of them, 0 where nothing was
// ever published. NULL on an error.
int64_t *steps_list(const char *run, int *count, Error *error);

// Renames the folder of `step` to WHY-step-... (with -2, -3 ... where that is taken), durably.
bool step_set_aside(const char *run, int64_t step, const char *why, Error *error);

// Deletes all but the newest `keep` published checkpoints. Each is renamed first, so that a
// half-deleted one is never found.
bool checkpoint_prune(const char *run, int keep, Error *error);

// Removes what an earlier start left half-written or half-deleted. A whole one that lacks only its
// final name gets it: the start may have died after the step's older folder was set aside.
bool steps_sweep(const char *run, Error *error);

#endif
