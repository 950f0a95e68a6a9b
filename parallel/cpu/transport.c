// Data in MPI's messages of at most CHUNK_BYTES, so no count comes near MPI's int, and all peers
// are served at once: with ranks in one machine this is as fast as Open MPI's own all-gather, which
// has no counts beyond 2^31 either.
#include "parallel/transport.h"

#include <stdlib.h>

#include "base/die.h"
#include "base/real.h"

enum {
    CHUNK_BYTES = 1 << 24,
    TAG = 1,
};

struct Transport {
    const Comm *comm;
    MPI_Request *requests;  // [2 * size]
};

bool transport_prepare(const Comm *world, bool one_node, Error *error) {
    (void)world;
    (void)one_node;
    (void)error;
    return true;
}

Transport *transport_open(const Comm *comm, int uses) {
    (void)uses;
    Transport *t = calloc(1, sizeof(*t));
    CHECK(t != NULL, "%s: no memory", comm->name);
    t->comm = comm;
    t->requests = calloc(2 * (size_t)comm->size, sizeof(MPI_Request));
    CHECK(t->requests != NULL, "%s: no memory", comm->name);
    return t;
}

void transport_close(Transport *t) {
    if (t == NULL) return;
    free(t->requests);
    free(t);
}

void transport_look(void) {}

void transport_abort(void) {}

// Bytes of part `peer` in message number `message`.
static int chunk(const int64_t *offsets, int peer, int64_t message) {
    const int64_t left = offsets[peer + 1] - offsets[peer] - message * CHUNK_BYTES;
    return (int)max_i64(0, min_i64(left, CHUNK_BYTES));
}

// Every peer gets its part of `send` (or all get the part at send_offsets[rank] where `same`), and
// `receive` takes the parts at receive_offsets. Messages of one pair match in order; a rank goes on
// to message k + 1 when its k-th ones are done.
static void exchange(Transport *t, char *receive, const int64_t *receive_offsets, const char *send,
                     const int64_t *send_offsets, bool same) {
    const Comm *comm = t->comm;
    for (int64_t message = 0;; message++) {
        int posted = 0;
        for (int step = 1; step < comm->size; step++) {
            const int from = (comm->rank + comm->size - step) % comm->size;
            const int count = chunk(receive_offsets, from, message);
            if (count == 0) continue;
            MPI_CHECK(comm,
                      MPI_Irecv(receive + receive_offsets[from] + message * CHUNK_BYTES, count,
                                MPI_BYTE, from, TAG, comm->mpi, &t->requests[posted++]));
        }
        for (int step = 1; step < comm->size; step++) {
            const int to = (comm->rank + step) % comm->size;
            const int part = same ? comm->rank : to;
            const int count = chunk(send_offsets, part, message);
            if (count == 0) continue;
            MPI_CHECK(comm, MPI_Isend(send + send_offsets[part] + message * CHUNK_BYTES, count,
                                      MPI_BYTE, to, TAG, comm->mpi, &t->requests[posted++]));
        }
        if (posted == 0) return;
        MPI_CHECK(comm, MPI_Waitall(posted, t->requests, MPI_STATUSES_IGNORE));
    }
}

void transport_all_gather_slices(Transport *t, char *buffer, const int64_t *offsets,
                                 Stream stream) {
    (void)stream;
    exchange(t, buffer, offsets, buffer, offsets, true);
}

void transport_all_to_all(Transport *t, char *receive, const int64_t *receive_offsets,
                          const char *send, const int64_t *send_offsets, Stream stream) {
    (void)stream;
    exchange(t, receive, receive_offsets, send, send_offsets, false);
}
