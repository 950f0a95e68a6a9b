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

}  // namespace

// Of each thread of the block that runs. Not a thread-local variable: those are shared memory here.
static std::vector<Copy> *const under_way = new std::vector<Copy>[emulator::THREADS_MAX]();

static void begin(uint32_t to, const void *from, bool there, size_t bytes) {
    const bool inside = to + bytes <= (uint64_t)emulator::running()->dynamic_bytes;
    if (to % bytes != 0 || (uintptr_t)from % bytes != 0 || !inside) {
        FAULT("a copy of %zu bytes from %p to byte %u of dynamic shared memory", bytes, from, to);
    }
    under_way[emulator::thread()].push_back({dynamic_shared + to, there ? from : NULL, bytes});
}

void tensor_copy_16(uint32_t to, const void *from, bool there) {
    begin(to, from, there, 16);
}

void tensor_copy_4(uint32_t to, const void *from, bool there) {
    begin(to, from, there, 4);
}

void tensor_copies_wait() {
    std::vector<Copy> &copies = under_way[emulator::thread()];
    for (const Copy &c : copies) {
        if (c.from == NULL) memset(c.to, 0, c.bytes);
        if (c.from != NULL) memcpy(c.to, c.from, c.bytes);
    }
    copies.clear();
}

void emulator::check_copies() {
    const size_t count = under_way[thread()].size();
    if (count == 0) return;
    FAULT("a thread has ended that did not wait for %zu copies into shared memory", count);
}
