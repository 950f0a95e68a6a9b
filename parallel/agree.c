#include "parallel/agree.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/die.h"

bool agree(Comm *comm, bool ok, Error *error) {
    const int size = comm_size(comm);
    int64_t first = ok ? size : comm_rank(comm);
    comm_all_reduce_min(comm, &first, 1);
    if (first == size) return true;
    Error reason = *error;
    comm_broadcast(comm, &reason, sizeof(reason), (int)first);
    if (size == 1) {
        *error = reason;
        return false;
    }
    return error_set(error, "rank %" PRId64 ": %.1000s", first, reason.text);
}

void share_bytes(Comm *comm, char **data, int64_t *bytes) {
    comm_broadcast(comm, bytes, sizeof(*bytes), 0);
    if (comm_rank(comm) != 0) {
        *data = calloc((size_t)*bytes + 1, 1);
        CHECK(*data != NULL, "no memory for %" PRId64 " bytes", *bytes);
    }
    comm_broadcast(comm, *data, *bytes, 0);
}
