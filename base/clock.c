#include "base/clock.h"

#include <errno.h>
#include <math.h>
#include <time.h>

static double seconds_of(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

double clock_seconds(void) {
    return seconds_of(CLOCK_MONOTONIC);
}

double clock_wall(void) {
    return seconds_of(CLOCK_REALTIME);
}

void clock_sleep(double seconds) {
    const double whole = floor(seconds);
    struct timespec left = {(time_t)whole, (long)(1e9 * (seconds - whole))};
    while (nanosleep(&left, &left) != 0 && errno == EINTR) {
    }
}
