// Numbers to measure with: a processor that is bound by its power multiplies zeros faster.
#ifndef BASE_NUMBERS_H
#define BASE_NUMBERS_H

#include "base/device.h"
#include "base/real.h"
#include "base/rng.h"

// Normal numbers in memory of the device, which repeat after a while.
static inline real *random_reals(const char *name, int64_t count) {
    enum { CHUNK = 1 << 16 };
    real *const values = device_allocate(name, count * (int64_t)sizeof(real));
    float *const wide = host_allocate("numbers", CHUNK * (int64_t)sizeof(float));
    real *const chunk = host_allocate("rounded numbers", CHUNK * (int64_t)sizeof(real));
    rng_normal(wide, CHUNK, 1, RNG_TEST, (uint64_t)count, 0);
    for (int64_t i = 0; i < CHUNK; i++) chunk[i] = to_real(wide[i]);
    for (int64_t i = 0; i < count; i += CHUNK) {
        device_copy(values + i, chunk, min_i64(CHUNK, count - i) * (int64_t)sizeof(real), NULL);
    }
    stream_wait(NULL);
    host_free(wide);
    host_free(chunk);
    return values;
}

#endif
