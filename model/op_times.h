// Times of the ops of a run, by kind, as marks in the stream: the host waits for none of them, so
// the ops run as close behind each other as without.
#ifndef MODEL_OP_TIMES_H
#define MODEL_OP_TIMES_H

#include "base/device.h"

typedef struct {
    Event *mark;  // [2 * room] Before and behind each op.
    int *op;      // [room] Kinds.
    int64_t count, room;
} OpTimes;

// Around an op. `times` starts as zeros and grows as needed.
void op_times_begin(OpTimes *times, int op, Stream stream);
void op_times_end(OpTimes *times, Stream stream);

// Adds what the ops since the last call took to seconds[kind]. The host has waited for them.
void op_times_take(OpTimes *times, double *seconds);
void op_times_free(OpTimes *times);

#endif
