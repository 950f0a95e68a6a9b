// TensorBoard event files, written without TensorBoard: records of hand-encoded protobuf messages
// (tensorflow/core/util/event.proto and framework/summary.proto), in the framing of TFRecord. A
// start of the program opens a file of its own; TensorBoard merges the files of a folder by step.
// For one thread of rank 0.
#ifndef TRAIN_TFEVENTS_H
#define TRAIN_TFEVENTS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

typedef struct EventFile EventFile;

// Makes folder/events.out.tfevents.SECONDS.HOST.PID.N, N the first number that is free; the folder
// must exist. wall_time: seconds since 1970. NULL and a reason when the file cannot be made.
EventFile *events_create(const char *folder, double wall_time, Error *error);

void events_scalar(EventFile *events, double wall_time, int64_t step, const char *tag, float value);

// `png`: the bytes of a PNG file (an animated one moves); channels 1 gray, 3 RGB.
void events_image(EventFile *events, double wall_time, int64_t step, const char *tag,
                  const uint8_t *png, int64_t png_bytes, int width, int height, int channels);

// Shown as Markdown under TEXT.
void events_text(EventFile *events, double wall_time, int64_t step, const char *tag,
                 const char *text);

// Hands everything to the system. False and a reason when any write since events_create failed: a
// full disk is noticed here.
bool events_flush(EventFile *events, Error *error);

// Flushes and closes. Frees also after an error. NULL is fine and succeeds.
bool events_close(EventFile *events, Error *error);

#endif
