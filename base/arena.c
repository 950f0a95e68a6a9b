#include "base/arena.h"

#include <inttypes.h>
#include <stddef.h>

#include "base/device.h"
#include "base/die.h"
#include "base/real.h"

enum { ALIGNMENT = 256 };

void *arena_take(Arena *arena, int64_t bytes) {
    const int64_t start = round_up(arena->used, ALIGNMENT);
    arena->used = start + bytes;
    if (arena->memory == NULL) return NULL;  // Measuring: only the size matters.
    CHECK(arena->used <= arena->size, "%s: second layout takes %" PRId64 " of %" PRId64 " bytes",
          arena->name, arena->used, arena->size);
    return arena->memory + start;
}

void arena_commit(Arena *arena) {
    CHECK(arena->memory == NULL, "%s: committed twice", arena->name);
    arena->size = max_i64(arena->used, 1);
    arena->memory = device_allocate(arena->name, arena->size);
    arena->used = 0;
}

void arena_free(Arena *arena) {
    device_free(arena->memory);
    *arena = (Arena){.name = arena->name};
}
