#include "model/op_times.h"

#include <stdlib.h>

#include "base/die.h"
#include "base/real.h"

static void grow(OpTimes *times) {
    const int64_t room = max_i64(256, 2 * times->room);
    times->mark = realloc(times->mark, (size_t)(2 * room) * sizeof(*times->mark));
    times->op = realloc(times->op, (size_t)room * sizeof(*times->op));
    CHECK(times->mark != NULL && times->op != NULL, "no memory for the times of ops");
    for (int64_t i = 2 * times->room; i < 2 * room; i++) times->mark[i] = event_create_timed();
    times->room = room;
}

void op_times_begin(OpTimes *times, int op, Stream stream) {
    if (times->count == times->room) grow(times);
    times->op[times->count] = op;
    event_record(times->mark[2 * times->count], stream);
}

void op_times_end(OpTimes *times, Stream stream) {
    event_record(times->mark[2 * times->count++ + 1], stream);
}

void op_times_take(OpTimes *times, double *seconds) {
    for (int64_t i = 0; i < times->count; i++) {
        seconds[times->op[i]] += event_seconds(times->mark[2 * i], times->mark[2 * i + 1]);
    }
    times->count = 0;
}

void op_times_free(OpTimes *times) {
    for (int64_t i = 0; i < 2 * times->room; i++) event_free(times->mark[i]);
    free(times->mark);
    free(times->op);
    *times = (OpTimes){0};
}
