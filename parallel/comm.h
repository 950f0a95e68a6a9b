// Communicators: every collective of the program goes through one of these. Facts and results on
// the host go by MPI and are there on return. Data goes by the backend's transport (NCCL on CUDA)
// in the order of a stream (on the CPU backend: done on return). Each collective counts itself;
// with COMM_CHECK=1 in the environment every call first compares (counter, operation, size) over
// the ranks and dies naming the odd one out. Sums over ranks exist for integers only: their result
// has no order.
#ifndef PARALLEL_COMM_H
#define PARALLEL_COMM_H

#include <stdbool.h>
#include <stdint.h>

#include "base/device.h"
#include "base/error.h"

typedef struct Comm Comm;

// Starts MPI and returns the world, named "world"; sets up die.h so that a death ends the whole
// job.
Comm *comm_start(int *argc, char ***argv);

// Takes a device for every rank (device.h), before memory is asked for: by its number on the node.
// Where OMP_NUM_THREADS is not set, ranks on just the same cores divide them; ranks that nobody has
// bound stay on the cores near their GPU.
// Warns where ranks of a node do not follow each other.
// Returns an exit code of die.h, the same on all ranks, with the reason of the first that failed:
// EXIT_DONE; EXIT_FAILED where one of them finds none that works, or another node has enough;
// EXIT_CONFIG where ranks would meet on one GPU on every node and `share` does not let them take
// turns.
// Collective over the world.
int comm_device_start(Comm *world, bool share, Error *error);

// The first rank that is on the node of earlier ranks but not of the one before it, or -1. A node
// is called by its lowest rank: nodes [ranks]. Local.
int comm_scattered(const int64_t *nodes, int ranks);

// From now on, until comm_stop, a rank that neither begins nor ends a collective or a wait for its
// device for `seconds` ends the job (0: never), and so does one whose transport reports a fault.
// comm_start begins with 30 minutes. A rank alone waits for nobody. Local.
void comm_watch(const Comm *world, double seconds);

// Ends MPI. Collective over all ranks; frees the world.
void comm_stop(Comm *world);

int comm_rank(const Comm *comm);
int comm_size(const Comm *comm);
const char *comm_name(const Comm *comm);
int64_t comm_collectives(const Comm *comm);  // Calls so far.
int64_t comm_bytes(const Comm *comm);        // Bytes this rank has sent so far.
double comm_seconds(const Comm *comm);       // Of the host, in calls so far; on CUDA their launch.

// The ranks that give the same color, ordered by key, as a new communicator. Collective over
// `comm`.
Comm *comm_split(Comm *comm, int color, int key, const char *name);

// The ranks on this node. Collective over `comm`.
Comm *comm_split_node(Comm *comm, const char *name);
void comm_free(Comm *comm);

// Opens the transport that the data collectives of `comm` need; `uses`: of which kinds they will
// be, so that a backend takes the memory for them now. Dies, naming comm and rank, when it is not
// there in time. Collective over `comm`, after comm_device_start.
typedef enum { COMM_GATHERS = 1, COMM_EXCHANGES = 2 } CommUse;
void comm_connect(Comm *comm, int uses);

// All below: collective over `comm`. Offsets and counts in bytes; sizes may pass 2^31; 0 is legal.
void comm_barrier(Comm *comm);

// On host memory, done on return: for facts and results.
void comm_broadcast(Comm *comm, void *buffer, int64_t bytes, int root);

// The data collectives, on device memory, in the order of `stream`. comm_connect comes first.
//
// out [size][bytes] = every rank's `bytes` bytes at `in`, in rank order.
void comm_all_gather(Comm *comm, void *out, const void *in, int64_t bytes, Stream stream);

// In place: rank r contributes buffer[offsets[r], offsets[r + 1]). offsets [size + 1].
void comm_all_gather_slices(Comm *comm, void *buffer, const int64_t *offsets, Stream stream);

// Rank r gets send[send_offsets[r], send_offsets[r + 1]) of every rank, laid end to end in rank
// order at receive_offsets. Both [size + 1].
void comm_all_to_all(Comm *comm, void *receive, const int64_t *receive_offsets, const void *send,
                     const int64_t *send_offsets, Stream stream);

// In place on host memory.
void comm_all_reduce_sum(Comm *comm, int64_t *buffer, int64_t count);
void comm_all_reduce_max(Comm *comm, int64_t *buffer, int64_t count);
void comm_all_reduce_min(Comm *comm, int64_t *buffer, int64_t count);

#endif
