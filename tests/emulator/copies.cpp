// Copies into shared memory that go on beside their thread.
#include <string.h>

#include <deque>

#include "tests/emulator/cuda_pipeline_primitives.h"
#include "tests/emulator/emulator.h"

namespace {

struct Copy {
    void *to;
    const void *from;
    size_t bytes, zeros, group;
};

struct Thread {
    std::deque<Copy> copies;
    size_t groups;  // Committed.
};

}  // namespace

// Of the block that runs. Not a thread-local variable: those are shared memory here.
static Thread *const threads = new Thread[emulator::THREADS_MAX]();

void __pipeline_memcpy_async(void *shared, const void *global, size_t bytes, size_t zeros) {
    const bool fits = (bytes == 4 || bytes == 8 || bytes == 16) && zeros <= bytes;
    if (!fits || (uintptr_t)shared % bytes != 0 || (uintptr_t)global % bytes != 0) {
        FAULT("a copy of %zu bytes, %zu of them zeros, from %p to %p of shared memory", bytes,
              zeros, global, shared);
    }
    Thread &t = threads[emulator::thread()];
    t.copies.push_back(Copy{shared, global, bytes, zeros, t.groups});
}

void __pipeline_commit() {
    threads[emulator::thread()].groups++;
}

void __pipeline_wait_prior(size_t groups) {
    Thread &t = threads[emulator::thread()];
    while (!t.copies.empty() && t.copies.front().group + groups < t.groups) {
        const Copy &c = t.copies.front();
        memcpy(c.to, c.from, c.bytes - c.zeros);
        memset((char *)c.to + c.bytes - c.zeros, 0, c.zeros);
        t.copies.pop_front();
    }
}

void emulator::check_copies() {
    const Thread &t = threads[thread()];
    if (t.copies.empty()) return;
    FAULT("a thread has ended that did not wait for %zu copies into shared memory",
          t.copies.size());
}
