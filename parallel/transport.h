// The seam below the data collectives of comm.h: how a backend moves their bytes. MPI carries them
// on the CPU backend, NCCL on CUDA's. Only the sources of communicators include this; comm.c has
// checked the arguments, counted the call and copied a rank's own part.
#ifndef PARALLEL_TRANSPORT_H
#define PARALLEL_TRANSPORT_H

#include <mpi.h>

#include "parallel/comm.h"

typedef struct Transport Transport;

enum {
    COMM_NAME_BYTES = 32,
    HANG_SECONDS = 1800,  // The watchdog's, until comm_watch says another.
};

struct Comm {
    char name[COMM_NAME_BYTES];
    MPI_Comm mpi;
    int rank, size;
    bool check;   // COMM_CHECK=1.
    bool shared;  // Some ranks of the world run on one device.
    int64_t collectives, bytes;
    double seconds;
    int64_t *offsets;      // [size + 1] For comm_all_gather.
    Transport *transport;  // NULL until comm_connect.
};

// Dies with the communicator, its counter, the call and MPI's reason.
void comm_check_mpi(const Comm *comm, const char *call, int status);
#define MPI_CHECK(comm, call) comm_check_mpi(comm, #call, call)

// Before the first transport_open: sets up what ranks that share a device need. false: what carries
// the data cannot be used here. Local.
bool transport_prepare(const Comm *world, bool one_node, Error *error);

// Collective over comm, and so is all that follows but transport_abort.
Transport *transport_open(const Comm *comm, int uses);  // As comm_connect.
void transport_close(Transport *transport);

// comm.h's collectives. In all_to_all a rank's own part is not theirs.
void transport_all_gather_slices(Transport *transport, char *buffer, const int64_t *offsets,
                                 Stream stream);
void transport_all_to_all(Transport *transport, char *receive, const int64_t *receive_offsets,
                          const char *send, const int64_t *send_offsets, Stream stream);

// Dies where a transport has a fault that shows in no call. On a thread of its own. Local.
void transport_look(void);

// Before the job ends by a death: gives up what is under way, in bounded time. Local.
void transport_abort(void);

#endif
