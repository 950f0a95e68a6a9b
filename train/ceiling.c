#include "train/ceiling.h"

#include <stddef.h>

#include "base/clock.h"
#include "base/device.h"
#include "base/vector.h"
#include "model/ops/product.h"

double ceiling_flops(int64_t width) {
    enum { ROWS = 2048, TRIES = 5 };
    const int64_t N = 4 * width, size = type_size(REAL_TYPE);
    real *x = device_allocate("ceiling", ROWS * width * size);
    real *w = device_allocate("ceiling", N * width * size);
    real *out = device_allocate("ceiling", ROWS * N * size);
    linear_prepare(ROWS, N, width, false);
    double best = 0;
    for (int i = 0; i < TRIES; i++) {
        const double start = clock_seconds();
        linear_forward(out, N, x, width, w, NULL, ROWS, N, width, NULL);
        stream_wait(NULL);
        const double flops = 2.0 * ROWS * (double)N * (double)width / (clock_seconds() - start);
        if (flops > best) best = flops;
    }
    device_free(x);
    device_free(w);
    device_free(out);
    return best;
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
