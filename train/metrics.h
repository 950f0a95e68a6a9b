// metrics.jsonl: everything a run measures, one JSON object a line, appended as it happens. Numbers
// are printed so that reading them gives the same double (%.17g); JSON has no NaN and no infinity,
// they become null. For one thread of rank 0.
//
//     metrics_begin(metrics, step);                    {"step": 12
//     metrics_number(metrics, "loss", loss);           , "loss": 0.5
//     metrics_text(metrics, "stage", stage);           , "stage": "images"
//     metrics_end(metrics, &error);                    }
#ifndef TRAIN_METRICS_H
#define TRAIN_METRICS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

typedef struct Metrics Metrics;

// Opens or makes the file and cuts it back to the lines with step <= resume_step, so that a resumed
// run leaves no step twice (resume_step < 0: no line stays). The file is replaced whole, and only
// when something is cut. A last line without an end was being written when the run died and goes,
// too; any other line that is no object with a whole "step" is an error, with its number.
Metrics *metrics_open(const char *path, int64_t resume_step, Error *error);

void metrics_begin(Metrics *metrics, int64_t step);
void metrics_number(Metrics *metrics, const char *key, double value);
void metrics_whole(Metrics *metrics, const char *key, int64_t value);
void metrics_text(Metrics *metrics, const char *key, const char *value);

// Hands the line to the system in one piece. False and a reason when that fails.
bool metrics_end(Metrics *metrics, Error *error);

// NULL is fine and succeeds.
bool metrics_close(Metrics *metrics, Error *error);

#endif
