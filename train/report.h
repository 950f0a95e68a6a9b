// What a run shows of itself, by rank 0: the step lines and the progress bar, metrics.jsonl,
// TensorBoard, the loss curve. Other ranks hold an empty report and all calls do nothing.
#ifndef TRAIN_REPORT_H
#define TRAIN_REPORT_H

#include "train/metrics.h"
#include "train/step.h"
#include "train/tfevents.h"

typedef struct {
    bool on;        // Rank 0.
    bool terminal;  // A progress bar makes sense.
    Metrics *metrics;
    EventFile *events;
    double started;      // clock_seconds at the first step.
    int64_t first_step;  // Steps done when the run (re)started.
    double peak_flops;   // Of all ranks' products, measured at start.
    // Since the last line:
    int64_t steps, tokens;
    double seconds, data_seconds, comm_seconds, flops;
} Report;

// Opens the run's files and cuts metrics back to `step`. peak_flops: what products reach on all
// ranks together.
bool report_open(Report *report, const Trainer *trainer, double peak_flops, Error *error);

// After every step: files always, a line when it is due.
void report_step(Report *report, const Trainer *trainer, const StepReport *step);

// One number of a validation, one picture: in all places.
void report_validation(Report *report, int64_t step, double loss);
void report_picture(Report *report, int64_t step, const char *tag, const char *path);

// A line of text above the progress bar.
void report_say(Report *report, const char *format, ...) __attribute__((format(printf, 2, 3)));

// Draws the curve (path: RUN/loss.png), closes.
void report_close(Report *report, const Trainer *trainer);

#endif
