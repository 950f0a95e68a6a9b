// Block inputs that wait for the backward in the host's memory (model.offload). The device holds
// SLOTS of them; a stream of its own copies each away once it is written and brings it back ahead
// of need. The last SLOTS never leave. All copies are ordered by events, so the host waits for
// none.
//
// Forward, for i = 0, 1, ...:   offload_write(o, i, stream);  ... writes slot(i) ...
//                               offload_written(o, i, bytes, stream);
// Backward, for i = ..., 1, 0:  offload_read(o, i, stream);   ... reads slot(i) ...
//                               offload_done(o, i, bytes, stream);
#ifndef MODEL_OFFLOAD_H
#define MODEL_OFFLOAD_H

#include "base/arena.h"
#include "base/device.h"

enum { OFFLOAD_SLOTS = 3 };

typedef struct {
    int count;                   // Inputs.
    int64_t bytes_max;           // Of one.
    char *slots[OFFLOAD_SLOTS];  // On the device, from the caller's arena.
    char *host;                  // [count - OFFLOAD_SLOTS][bytes_max], pinned.
    Stream stream;
    Event computed[OFFLOAD_SLOTS];  // The compute stream is done with the slot.
    Event moved[OFFLOAD_SLOTS];     // The slot's last copy is done.
} Offload;

// Takes the slots from the arena; run once to measure and once for real.
void offload_lay_out(Offload *offload, Arena *arena, int count, int64_t bytes_max);

// Bytes of the host's memory.
int64_t offload_host_bytes(const Offload *offload);

// The host's memory, stream and events, once the slots are there.
void offload_create(Offload *offload);
void offload_free(Offload *offload);

static inline char *offload_slot(const Offload *offload, int i) {
    return offload->slots[i % OFFLOAD_SLOTS];
}

void offload_write(Offload *offload, int i, Stream stream);
void offload_written(Offload *offload, int i, int64_t bytes, Stream stream);
void offload_read(Offload *offload, int i, Stream stream);

// The slot's next input is fetched: number i - OFFLOAD_SLOTS, of as many bytes.
void offload_done(Offload *offload, int i, int64_t bytes, Stream stream);

#endif
