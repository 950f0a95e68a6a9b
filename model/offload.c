#include "model/offload.h"

#include <stddef.h>

#include "base/real.h"

void offload_lay_out(Offload *o, Arena *arena, int count, int64_t bytes_max) {
    o->count = count;
    o->bytes_max = bytes_max;
    for (int s = 0; s < OFFLOAD_SLOTS; s++) o->slots[s] = arena_take(arena, bytes_max);
}

// Inputs that leave the device.
static int64_t away(const Offload *o) {
    return max_i64(0, o->count - OFFLOAD_SLOTS);
}

int64_t offload_host_bytes(const Offload *o) {
    return away(o) * o->bytes_max;
}

void offload_create(Offload *o) {
    o->host = host_allocate("offloaded block inputs", offload_host_bytes(o));
    o->stream = stream_create();
    for (int s = 0; s < OFFLOAD_SLOTS; s++) {
        o->computed[s] = event_create();
        o->moved[s] = event_create();
    }
}

void offload_free(Offload *o) {
    if (o->host == NULL) return;
    stream_wait(o->stream);
    for (int s = 0; s < OFFLOAD_SLOTS; s++) {
        event_free(o->computed[s]);
        event_free(o->moved[s]);
    }
    stream_free(o->stream);
    host_free(o->host);
    *o = (Offload){0};
}

// Copies slot and host's place of input i, once the compute stream is done with what the slot
// holds now.
static void move(Offload *o, int i, int64_t bytes, bool to_host, Stream stream) {
    const int s = i % OFFLOAD_SLOTS;
    char *const host = o->host + i * o->bytes_max;
    event_record(o->computed[s], stream);
    stream_await(o->stream, o->computed[s]);
    device_copy(to_host ? host : o->slots[s], to_host ? o->slots[s] : host, bytes, o->stream);
    event_record(o->moved[s], o->stream);
}

void offload_write(Offload *o, int i, Stream stream) {
    stream_await(stream, o->moved[i % OFFLOAD_SLOTS]);
}

void offload_written(Offload *o, int i, int64_t bytes, Stream stream) {
    if (i < away(o)) move(o, i, bytes, true, stream);
}

void offload_read(Offload *o, int i, Stream stream) {
    stream_await(stream, o->moved[i % OFFLOAD_SLOTS]);
}

void offload_done(Offload *o, int i, int64_t bytes, Stream stream) {
    if (i >= OFFLOAD_SLOTS) move(o, i - OFFLOAD_SLOTS, bytes, false, stream);
}
