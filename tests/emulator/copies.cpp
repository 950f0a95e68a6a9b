// Copies into shared memory that go on beside their thread.
#include <string.h>

#include <vector>

#include "tests/emulator/emulator.h"

extern thread_local char dynamic_shared[];

namespace {

struct Copy {
    char *to;
    const void *from;  // NULL: zeros.
    size_t bytes;
};

struct Thread {
    std::vector<Copy> under_way;
    bool waited = true;  // For all that it has begun.
};

}  // namespace

// Of each thread of the block that runs. Not a thread-local variable: those are shared memory here.
static Thread *const threads = new Thread[emulator::THREADS_MAX]();

static void finish(const Copy &c) {
    if (c.from == NULL) memset(c.to, 0, c.bytes);
    if (c.from != NULL) memcpy(c.to, c.from, c.bytes);
}

// A copy may come at once, over what others still read, or not before the thread waits.
static void begin(uint32_t to, const void *from, bool there, size_t bytes) {
    const bool inside = to + bytes <= (uint64_t)emulator::running()->dynamic_bytes;
    if (to % bytes != 0 || (uintptr_t)from % bytes != 0 || !inside) {
        FAULT("a copy of %zu bytes from %p to byte %u of dynamic shared memory", bytes, from, to);
    }
    const Copy copy = {dynamic_shared + to, there ? from : NULL, bytes};
    Thread &thread = threads[emulator::thread()];
    thread.waited = false;
    if (emulator::random_below(2) == 0) {
        finish(copy);
    } else {
        thread.under_way.push_back(copy);
    }
}

void tensor_copy_16(uint32_t to, const void *from, bool there) {
    begin(to, from, there, 16);
}

void tensor_copy_4(uint32_t to, const void *from, bool there) {
    begin(to, from, there, 4);
}

void tensor_copies_wait() {
    Thread &thread = threads[emulator::thread()];
    for (const Copy &copy : thread.under_way) finish(copy);
    thread.under_way.clear();
    thread.waited = true;
}

void emulator::check_copies() {
    if (threads[thread()].waited) return;
    FAULT("a thread has ended that did not wait for its copies into shared memory");
}
