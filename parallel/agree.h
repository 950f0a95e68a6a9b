// What ranks decide together, so that none goes on alone.
#ifndef PARALLEL_AGREE_H
#define PARALLEL_AGREE_H

#include "base/error.h"
#include "parallel/comm.h"

// True on every rank where all gave true. Else false on every rank, and `error` (not NULL) is that
// of the lowest rank that failed, with "rank N: " before it where there are several. Collective
// over comm.
bool agree(Comm *comm, bool ok, Error *error);

// Rank 0's malloc'd bytes on every rank: elsewhere *data becomes malloc'd memory of *bytes and one
// NUL more. Collective over comm.
void share_bytes(Comm *comm, char **data, int64_t *bytes);

#endif
