// One block of memory per lifetime, laid out twice by the same lines: first measuring, then for
// real.
//
//     Arena arena = {.name = "optimizer"};
//     lay_out(&state, &arena);   // Pass 1: every pointer NULL, arena.used counts.
//     arena_commit(&arena);      // One device allocation; used is 0 again.
//     lay_out(&state, &arena);   // Pass 2: the same lines give the pointers.
#ifndef BASE_ARENA_H
#define BASE_ARENA_H

#include <stdint.h>

typedef struct {
    const char *name;
    char *memory;  // NULL while measuring.
    int64_t size;  // Bytes allocated.
    int64_t used;  // Bytes handed out so far.
} Arena;

// What something takes of both memories. On the CPU backend they are one.
typedef struct {
    int64_t device, host;
} MemoryBytes;

// The next `bytes` bytes, at a multiple of 256. Dies when the second layout takes more than the
// first.
void *arena_take(Arena *arena, int64_t bytes);

// Allocates what was measured, zeroed, on the device, and starts the second layout.
void arena_commit(Arena *arena);

void arena_free(Arena *arena);

#endif
