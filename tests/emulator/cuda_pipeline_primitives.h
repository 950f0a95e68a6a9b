// Stand-in for copies into shared memory that go on beside the thread (cp.async). They are done
// when the thread waits for them, not before; a thread that ends with one under way is a fault.
// C++ only.
#ifndef TESTS_EMULATOR_CUDA_PIPELINE_PRIMITIVES_H
#define TESTS_EMULATOR_CUDA_PIPELINE_PRIMITIVES_H

#include <stddef.h>

// bytes: 4, 8 or 16, to and from a multiple of it; the last `zeros` are zeros and are not read.
void __pipeline_memcpy_async(void *shared, const void *global, size_t bytes, size_t zeros = 0);

// What the thread has begun since its last call is a group.
void __pipeline_commit();

// Waits for all groups but the last `groups`.
void __pipeline_wait_prior(size_t groups);

#endif
