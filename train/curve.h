// A run's loss curve as a picture, from its metrics.jsonl: each value faint, a running mean strong
// (a spike counts in it as three times what is usual around it), stages parted by lines with their
// names, axes with numbers.
#ifndef TRAIN_CURVE_H
#define TRAIN_CURVE_H

#include <stdbool.h>

#include "base/error.h"

// Draws `key` (a number in the lines; lines without it are passed over) over "step". A change of
// "stage" (text or a whole number) between lines starts a stage. False and a reason when the file
// cannot be read, has a line that is no JSON (but for a last one without an end), has no value, or
// the picture cannot be written.
bool curve_write(const char *png_path, const char *metrics_path, const char *key, Error *error);

#endif
