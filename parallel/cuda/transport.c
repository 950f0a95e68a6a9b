// Data by NCCL. Communicators are non-blocking: what NCCL does on the host is polled for a bounded
// time, so that a rank that waits for a lost peer says so instead of hanging. MPI carries the id.
#include "parallel/transport.h"

#include <inttypes.h>
#include <nccl.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "base/cuda/cuda.h"
#include "base/die.h"
#include "base/real.h"

enum {
    TRANSPORTS_MAX = 64,
    WAIT_SECONDS_MAX = 300,  // For peers to connect.
    ABORT_SECONDS_MAX = 5,
    NCCL_LEAST = 22800,       // 2.28.0, as launch/find-cuda wants it.
    FIRST_BYTES = 8 << 20,    // Of the first collectives.
    SHARED_CTAS = 2,          // Blocks of a collective where ranks share a GPU.
    SPIN_MICROSECONDS = 200,  // Most calls are done by then; a sleep lasts longer than it is told.
    POLL_NANOSECONDS = 50000,
};

struct Transport {
    const Comm *comm;
    ncclComm_t nccl;  // NULL for one rank alone.
};

// The communicators that a death must give up.
static Transport *open_transports[TRANSPORTS_MAX];

// Held while the thread of the collectives is in NCCL, which ends what ncclCommGetAsyncError asks
// after inside of that very call: no other thread may ask meanwhile.
static pthread_mutex_t in_use = PTHREAD_MUTEX_INITIALIZER;

static void nccl_check(const Transport *t, const char *call, ncclResult_t status) {
    const Comm *comm = t->comm;
    if (status == ncclSuccess || status == ncclInProgress) return;
    DIE("%s #%" PRId64 ": %s: %s (%s)", comm->name, comm->collectives, call,
        ncclGetErrorString(status), ncclGetLastError(t->nccl));
}

#define NCCL_CHECK(t, call) nccl_check(t, #call, call)

// Waits until NCCL's host side is done with `call`; the device may still be at it. `seconds_max` 0:
// the watchdog's patience.
static void settle(const Transport *t, const char *call, int seconds_max) {
    const Comm *comm = t->comm;
    const double start = MPI_Wtime();
    for (;;) {
        ncclResult_t state = ncclSuccess;
        die_join();  // Another thread may be giving the communicator up.
        NCCL_CHECK(t, ncclCommGetAsyncError(t->nccl, &state));
        if (state != ncclInProgress) {
            nccl_check(t, call, state);
            return;
        }
        const double waited = MPI_Wtime() - start;
        if (waited < 1e-6 * SPIN_MICROSECONDS) {
            sched_yield();
            continue;
        }
        CHECK(seconds_max == 0 || waited < seconds_max,
              "%s #%" PRId64
              ": %s: rank %d of %d has waited for its peers for %d seconds; "
              "NCCL_DEBUG=INFO tells more",
              comm->name, comm->collectives, call, comm->rank, comm->size, seconds_max);
        nanosleep(&(struct timespec){.tv_nsec = POLL_NANOSECONDS}, NULL);
    }
}

static void suggest(const char *name, const char *value) {
    CHECK(setenv(name, value, 0) == 0, "no memory for %s=%s", name, value);
}

// NCCL refuses two ranks of one host on one GPU: each says that it is a host of its own, and they
// talk through sockets. For tests; slow.
bool transport_prepare(const Comm *world, bool one_node, Error *error) {
    int version = 0;
    if (ncclGetVersion(&version) != ncclSuccess || version < NCCL_LEAST) {
        return error_set(error,
                         "NCCL %d.%d.%d was loaded, and 2.28 or newer is needed; see ldd and "
                         "LD_LIBRARY_PATH",
                         version / 10000, version / 100 % 100, version % 100);
    }
    suggest("NCCL_LAUNCH_ORDER_IMPLICIT", "1");  // Of several communicators, on all ranks alike.
    if (!world->shared) return true;
    char id[32];
    snprintf(id, sizeof(id), "kintoun-%d", world->rank);
    suggest("NCCL_HOSTID", id);
    suggest("NCCL_MULTI_RANK_GPU_ENABLE", "1");  // From NCCL 2.30.3 on.
    suggest("NCCL_NET", "Socket");
    suggest("NCCL_IB_DISABLE", "1");
    suggest("NCCL_P2P_DISABLE", "1");
    suggest("NCCL_SHM_DISABLE", "1");
    suggest("NCCL_NVLS_ENABLE", "0");
    suggest("NCCL_PROTO", "Simple");
    suggest("NCCL_ALGO", "Ring");
    if (one_node) suggest("NCCL_SOCKET_IFNAME", "lo");
    return true;
}

static void begin_group(const Transport *t) {
    pthread_mutex_lock(&in_use);
    NCCL_CHECK(t, ncclGroupStart());
}

// What goes to the device starts here, and stream order holds only once the host side is done.
static void end_group(const Transport *t, const char *calls) {
    NCCL_CHECK(t, ncclGroupEnd());
    settle(t, calls, 0);
    pthread_mutex_unlock(&in_use);
}

void transport_all_gather_slices(Transport *t, char *buffer, const int64_t *offsets,
                                 Stream stream) {
    const Comm *comm = t->comm;
    const cudaStream_t cuda = cuda_stream(stream);
    const int64_t first = offsets[1] - offsets[0];
    bool equal = true;
    for (int i = 0; i < comm->size; i++) equal = equal && offsets[i + 1] - offsets[i] == first;
    if (offsets[comm->size] == offsets[0]) return;
    if (equal) {
        pthread_mutex_lock(&in_use);
        NCCL_CHECK(t, ncclAllGather(buffer + offsets[comm->rank], buffer + offsets[0],
                                    (size_t)first, ncclUint8, t->nccl, cuda));
        settle(t, "ncclAllGather", 0);
        pthread_mutex_unlock(&in_use);
        return;
    }
    begin_group(t);
    for (int i = 0; i < comm->size; i++) {
        const int64_t bytes = offsets[i + 1] - offsets[i];
        char *slice = buffer + offsets[i];
        if (bytes == 0) continue;
        NCCL_CHECK(t, ncclBroadcast(slice, slice, (size_t)bytes, ncclUint8, i, t->nccl, cuda));
    }
    end_group(t, "ncclBroadcast");
}

void transport_all_to_all(Transport *t, char *receive, const int64_t *receive_offsets,
                          const char *send, const int64_t *send_offsets, Stream stream) {
    const Comm *comm = t->comm;
    const cudaStream_t cuda = cuda_stream(stream);
    begin_group(t);
    for (int step = 1; step < comm->size; step++) {
        const int to = (comm->rank + step) % comm->size;
        const int from = (comm->rank + comm->size - step) % comm->size;
        const int64_t out = send_offsets[to + 1] - send_offsets[to];
        const int64_t in = receive_offsets[from + 1] - receive_offsets[from];
        if (out > 0) {
            NCCL_CHECK(
                t, ncclSend(send + send_offsets[to], (size_t)out, ncclUint8, to, t->nccl, cuda));
        }
        if (in > 0) {
            NCCL_CHECK(t, ncclRecv(receive + receive_offsets[from], (size_t)in, ncclUint8, from,
                                   t->nccl, cuda));
        }
    }
    end_group(t, "ncclSend and ncclRecv");
}

// NCCL connects peers at the first collective of a kind, and takes memory for it: GiBs among the 8
// ranks of a node (NVIDIA/nccl, issue 1685). So that is now, before anybody plans with what is
// free.
static void first_collectives(Transport *t, int uses) {
    const Comm *comm = t->comm;
    const int64_t slice = max_i64(FIRST_BYTES / comm->size, 1);
    int64_t *offsets = calloc((size_t)comm->size + 1, sizeof(*offsets));
    CHECK(offsets != NULL, "%s: no memory", comm->name);
    for (int i = 0; i <= comm->size; i++) offsets[i] = i * slice;
    char *one = device_allocate("first collectives", comm->size * slice);
    char *other = device_allocate("first collectives", comm->size * slice);
    if (uses & COMM_GATHERS) transport_all_gather_slices(t, one, offsets, NULL);
    if (uses & COMM_EXCHANGES) transport_all_to_all(t, other, offsets, one, offsets, NULL);
    stream_wait(NULL);
    device_free(one);
    device_free(other);
    free(offsets);
}

Transport *transport_open(const Comm *comm, int uses) {
    Transport *t = calloc(1, sizeof(*t));
    CHECK(t != NULL, "%s: no memory", comm->name);
    t->comm = comm;
    if (comm->size == 1) return t;
    int place = 0;
    while (place < TRANSPORTS_MAX && open_transports[place] != NULL) place++;
    CHECK(place < TRANSPORTS_MAX, "%s: more than %d communicators", comm->name, TRANSPORTS_MAX);
    ncclUniqueId id = {{0}};
    if (comm->rank == 0) NCCL_CHECK(t, ncclGetUniqueId(&id));
    MPI_CHECK(comm, MPI_Bcast(&id, (int)sizeof(id), MPI_BYTE, 0, comm->mpi));
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    config.commName = comm->name;
    if (comm->shared) config.maxCTAs = SHARED_CTAS;
    pthread_mutex_lock(&in_use);
    NCCL_CHECK(t, ncclCommInitRankConfig(&t->nccl, comm->size, id, comm->rank, &config));
    open_transports[place] = t;
    settle(t, "ncclCommInitRankConfig", WAIT_SECONDS_MAX);
    pthread_mutex_unlock(&in_use);
    first_collectives(t, uses);
    return t;
}

void transport_close(Transport *t) {
    if (t == NULL) return;
    if (t->nccl != NULL) {
        pthread_mutex_lock(&in_use);
        NCCL_CHECK(t, ncclCommFinalize(t->nccl));
        settle(t, "ncclCommFinalize", WAIT_SECONDS_MAX);
        for (int i = 0; i < TRANSPORTS_MAX; i++) {
            if (open_transports[i] == t) open_transports[i] = NULL;
        }
        NCCL_CHECK(t, ncclCommDestroy(t->nccl));
        pthread_mutex_unlock(&in_use);
    }
    free(t);
}

// The network fails while collectives are under way on the device: no call tells of it.
void transport_look(void) {
    if (pthread_mutex_trylock(&in_use) != 0) return;  // Who is in NCCL asks.
    for (int i = 0; i < TRANSPORTS_MAX; i++) {
        const Transport *t = open_transports[i];
        ncclResult_t state = ncclSuccess;
        if (t == NULL) continue;
        NCCL_CHECK(t, ncclCommGetAsyncError(t->nccl, &state));
        nccl_check(t, "on the device", state);
    }
    pthread_mutex_unlock(&in_use);
}

// ncclCommAbort may wait for a device that never answers: a thread of its own does it, and the job
// ends without it.
static void *abort_all(void *done) {
    for (int i = 0; i < TRANSPORTS_MAX; i++) {
        if (open_transports[i] != NULL) ncclCommAbort(open_transports[i]->nccl);
    }
    __atomic_store_n((bool *)done, true, __ATOMIC_RELEASE);
    return NULL;
}

void transport_abort(void) {
    static bool done;  // The thread may outlive this call.
    pthread_t thread;
    if (pthread_create(&thread, NULL, abort_all, &done) != 0) return;
    pthread_detach(thread);
    const double start = MPI_Wtime();
    while (!__atomic_load_n(&done, __ATOMIC_ACQUIRE) && MPI_Wtime() - start < ABORT_SECONDS_MAX) {
        nanosleep(&(struct timespec){.tv_nsec = POLL_NANOSECONDS}, NULL);
    }
}
