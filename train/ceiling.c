#include "train/ceiling.h"

#include <stddef.h>

#include "base/clock.h"
#include "base/device.h"
#include "base/vector.h"
#include "model/ops/product.h"

double ceiling_flops(int64_t width) {
    const double flops = linear_plain_flops(2048, 4 * width, width);
    // What does that in a fraction of a millisecond is busy only with more rows.
    return flops < 1e13 ? flops : linear_plain_flops(8192, 4 * width, width);
}

double ceiling_copy(void) {
    enum { TRIES = 5 };
    const int64_t bytes = 256 << 20;
    char *from = device_allocate("ceiling", bytes), *to = device_allocate("ceiling", bytes);
    double best = 0;
    for (int i = 0; i < TRIES; i++) {
        const double start = clock_seconds();
        vector_copy_rows(to, bytes, from, bytes, 1, bytes, NULL);
        stream_wait(NULL);
        const double speed = 2.0 * (double)bytes / (clock_seconds() - start);
        if (speed > best) best = speed;
    }
    device_free(from);
    device_free(to);
    return best;
}
