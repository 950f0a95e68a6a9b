// Communicators: MPI starts them and carries what lies on the host, in pieces of at most
// CHUNK_BYTES, so that no count comes near its int; a transport moves the data.
#include "parallel/comm.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/checksum.h"
#include "base/die.h"
#include "base/real.h"
#include "base/watchdog.h"
#include "parallel/transport.h"

enum { CHUNK_BYTES = 1 << 24 };

// What every rank must give alike in one call, for COMM_CHECK.
typedef struct {
    char operation[24];
    int64_t counter;
    int64_t size;    // Bytes or elements; for slices a checksum of the offsets.
    int64_t detail;  // The root of a broadcast.
} Call;

void comm_check_mpi(const Comm *comm, const char *call, int status) {
    if (status == MPI_SUCCESS) return;
    char reason[MPI_MAX_ERROR_STRING] = "?";
    int length = 0;
    MPI_Error_string(status, reason, &length);
    DIE("%s #%" PRId64 ": %s: %s", comm->name, comm->collectives, call, reason);
}

static void abort_job(int status) {
    transport_abort();
    MPI_Abort(MPI_COMM_WORLD, status);
}

// Takes over `mpi`.
static Comm *comm_wrap(MPI_Comm mpi, const char *name, bool check, bool shared) {
    Comm *comm = calloc(1, sizeof(*comm));
    CHECK(comm != NULL, "%s: no memory", name);
    snprintf(comm->name, sizeof(comm->name), "%s", name);
    comm->mpi = mpi;
    comm->check = check;
    comm->shared = shared;
    MPI_CHECK(comm, MPI_Comm_set_errhandler(mpi, MPI_ERRORS_RETURN));
    MPI_CHECK(comm, MPI_Comm_rank(mpi, &comm->rank));
    MPI_CHECK(comm, MPI_Comm_size(mpi, &comm->size));
    comm->offsets = calloc((size_t)comm->size + 1, sizeof(*comm->offsets));
    CHECK(comm->offsets != NULL, "%s: no memory", name);
    return comm;
}

// srun without PMI starts tasks that know nothing of each other: each would be rank 0 of the run.
static void refuse_strangers(int size) {
    const char *tasks = getenv("SLURM_STEP_NUM_TASKS");
    if (size > 1 || tasks == NULL || getenv("OMPI_COMM_WORLD_SIZE") != NULL) return;
    if (strtol(tasks, NULL, 10) < 2) return;
    fprintf(stderr,
            "kintoun: srun has started %s tasks, but MPI finds one alone; start them with srun "
            "--mpi=pmix (srun --mpi=list says what there is), or set SLURM_STEP_NUM_TASKS=1 for "
            "runs of one rank each\n",
            tasks);
    end_job(EXIT_CONFIG);
}

Comm *comm_start(int *argc, char ***argv) {
    int provided = MPI_THREAD_SINGLE;
    watchdog_start(HANG_SECONDS, NULL);  // Where a rank or its node is lost now, MPI_Init may wait.
    MPI_Init_thread(argc, argv, MPI_THREAD_FUNNELED, &provided);
    CHECK(provided >= MPI_THREAD_FUNNELED, "MPI gives thread level %d, needs MPI_THREAD_FUNNELED",
          provided);
    MPI_Comm mpi = MPI_COMM_NULL;
    MPI_Comm_dup(MPI_COMM_WORLD, &mpi);
    const char *check = getenv("COMM_CHECK");
    Comm *world = comm_wrap(mpi, "world", check != NULL && strcmp(check, "1") == 0, false);
    die_setup(world->rank, world->size, abort_job);
    refuse_strangers(world->size);
    // As on rank 0: mpirun need not pass the environment on to other nodes.
    MPI_CHECK(world, MPI_Bcast(&world->check, 1, MPI_C_BOOL, 0, mpi));
    if (world->size == 1) watchdog_stop();
    return world;
}

void comm_watch(const Comm *world, double seconds) {
    watchdog_stop();
    if (seconds > 0 && world->size > 1) watchdog_start(seconds, transport_look);
}

void comm_stop(Comm *world) {
    comm_free(world);
    MPI_Finalize();
    watchdog_stop();
}

void comm_free(Comm *comm) {
    if (comm == NULL) return;
    transport_close(comm->transport);
    MPI_CHECK(comm, MPI_Comm_free(&comm->mpi));
    free(comm->offsets);
    free(comm);
}

int comm_rank(const Comm *comm) {
    return comm->rank;
}

int comm_size(const Comm *comm) {
    return comm->size;
}

const char *comm_name(const Comm *comm) {
    return comm->name;
}

int64_t comm_collectives(const Comm *comm) {
    return comm->collectives;
}

int64_t comm_bytes(const Comm *comm) {
    return comm->bytes;
}

double comm_seconds(const Comm *comm) {
    return comm->seconds;
}

// What rank `i` of comm is called in the world, for messages.
static int world_rank(const Comm *comm, int i) {
    MPI_Group group = MPI_GROUP_NULL, all = MPI_GROUP_NULL;
    int rank = i;
    MPI_CHECK(comm, MPI_Comm_group(comm->mpi, &group));
    MPI_CHECK(comm, MPI_Comm_group(MPI_COMM_WORLD, &all));
    MPI_CHECK(comm, MPI_Group_translate_ranks(group, 1, &i, all, &rank));
    MPI_CHECK(comm, MPI_Group_free(&group));
    MPI_CHECK(comm, MPI_Group_free(&all));
    return rank;
}

static bool same_call(const Call *a, const Call *b) {
    return strcmp(a->operation, b->operation) == 0 && a->counter == b->counter &&
           a->size == b->size && a->detail == b->detail;
}

// Compares one call over the ranks. The odd one out is the first that differs from what most do
// (from rank 0 where two are equally many).
static void compare_calls(const Comm *comm, const Call *mine) {
    Call *calls = calloc((size_t)comm->size, sizeof(*calls));
    CHECK(calls != NULL, "%s: no memory", comm->name);
    MPI_CHECK(comm, MPI_Allgather(mine, (int)sizeof(*mine), MPI_BYTE, calls, (int)sizeof(*mine),
                                  MPI_BYTE, comm->mpi));
    int most = 0, usual = 0;
    for (int i = 0; i < comm->size; i++) {
        int alike = 0;
        for (int j = 0; j < comm->size; j++) alike += same_call(&calls[i], &calls[j]);
        if (alike > most) {
            most = alike;
            usual = i;
        }
    }
    for (int i = 0; i < comm->size; i++) {
        const Call *odd = &calls[i], *other = &calls[usual];
        if (same_call(odd, other)) continue;
        DIE("%s: rank %d calls #%" PRId64 " %s (%" PRId64 ", %" PRId64
            "), %d of %d ranks call #%" PRId64 " %s (%" PRId64 ", %" PRId64 ")",
            comm->name, world_rank(comm, i), odd->counter, odd->operation, odd->size, odd->detail,
            most, comm->size, other->counter, other->operation, other->size, other->detail);
    }
    free(calls);
}

// Counts the call, compares it where asked to, and returns the time it starts.
static double call_begin(Comm *comm, const char *operation, int64_t size, int64_t detail) {
    comm->collectives++;
    CHECK(size >= 0, "%s #%" PRId64 " %s: size %" PRId64, comm->name, comm->collectives, operation,
          size);
    const double start = MPI_Wtime();
    watchdog_collective(operation, comm->name, comm->collectives);
    if (comm->check) {
        Call mine = {.counter = comm->collectives, .size = size, .detail = detail};
        snprintf(mine.operation, sizeof(mine.operation), "%s", operation);
        compare_calls(comm, &mine);
    }
    return start;
}

static void call_end(Comm *comm, double start) {
    watchdog_done();
    comm->seconds += MPI_Wtime() - start;
}

static Comm *split(Comm *comm, int color, int key, int type, const char *name) {
    const double start = call_begin(comm, "split", 0, 0);
    MPI_Comm mpi = MPI_COMM_NULL;
    if (type == MPI_UNDEFINED) {
        MPI_CHECK(comm, MPI_Comm_split(comm->mpi, color, key, &mpi));
    } else {
        MPI_CHECK(comm, MPI_Comm_split_type(comm->mpi, type, key, MPI_INFO_NULL, &mpi));
    }
    call_end(comm, start);
    return comm_wrap(mpi, name, comm->check, comm->shared);
}

Comm *comm_split(Comm *comm, int color, int key, const char *name) {
    CHECK(color >= 0, "%s: split by color %d", comm->name, color);
    return split(comm, color, key, MPI_UNDEFINED, name);
}

Comm *comm_split_node(Comm *comm, const char *name) {
    return split(comm, 0, comm->rank, MPI_COMM_TYPE_SHARED, name);
}

void comm_barrier(Comm *comm) {
    const double start = call_begin(comm, "barrier", 0, 0);
    MPI_CHECK(comm, MPI_Barrier(comm->mpi));
    call_end(comm, start);
}

void comm_broadcast(Comm *comm, void *buffer, int64_t bytes, int root) {
    const double start = call_begin(comm, "broadcast", bytes, root);
    for (int64_t i = 0; i < bytes && comm->size > 1; i += CHUNK_BYTES) {
        const int count = (int)min_i64(bytes - i, CHUNK_BYTES);
        MPI_CHECK(comm, MPI_Bcast((char *)buffer + i, count, MPI_BYTE, root, comm->mpi));
    }
    if (root == comm->rank) comm->bytes += bytes * (comm->size - 1);
    call_end(comm, start);
}

void comm_connect(Comm *comm, int uses) {
    const double start = call_begin(comm, "connect", 0, 0);
    CHECK(comm->transport == NULL, "%s is already connected", comm->name);
    comm->transport = transport_open(comm, uses);
    call_end(comm, start);
}

// Counts the bytes that go to others, and looks at what the collective is given.
static void check_data(Comm *comm, const int64_t *offsets) {
    CHECK(comm->transport != NULL, "%s #%" PRId64 ": data before comm_connect", comm->name,
          comm->collectives);
    for (int i = 0; i < comm->size; i++) {
        CHECK(offsets[i] <= offsets[i + 1], "%s #%" PRId64 ": offset %d is %" PRId64 " > %" PRId64,
              comm->name, comm->collectives, i, offsets[i], offsets[i + 1]);
    }
}

// Every rank's part of `buffer` goes to all others.
static void gather(Comm *comm, char *buffer, const int64_t *offsets, Stream stream) {
    check_data(comm, offsets);
    comm->bytes += (offsets[comm->rank + 1] - offsets[comm->rank]) * (comm->size - 1);
    if (comm->size > 1) {
        transport_all_gather_slices(comm->transport, buffer, offsets, stream);
    }
}

void comm_all_gather(Comm *comm, void *out, const void *in, int64_t bytes, Stream stream) {
    const double start = call_begin(comm, "all_gather", bytes, 0);
    for (int i = 0; i <= comm->size; i++) comm->offsets[i] = i * bytes;
    char *mine = (char *)out + comm->offsets[comm->rank];
    if (in != mine) device_copy(mine, in, bytes, stream);
    gather(comm, out, comm->offsets, stream);
    call_end(comm, start);
}

void comm_all_gather_slices(Comm *comm, void *buffer, const int64_t *offsets, Stream stream) {
    const int64_t checksum =
        comm->check ? crc32c(0, offsets, (comm->size + 1) * (int64_t)sizeof(*offsets)) : 0;
    const double start = call_begin(comm, "all_gather_slices", offsets[comm->size], checksum);
    gather(comm, buffer, offsets, stream);
    call_end(comm, start);
}

// What rank i sends to j must be what j expects from i. For COMM_CHECK.
static void compare_counts(const Comm *comm, const int64_t *receive_offsets,
                           const int64_t *send_offsets) {
    const int n = comm->size;
    const size_t row = 2 * (size_t)n;
    int64_t *counts = calloc(row * (size_t)(n + 1), sizeof(*counts));
    CHECK(counts != NULL, "%s: no memory", comm->name);
    int64_t *mine = counts + row * (size_t)n;
    for (int i = 0; i < n; i++) {
        mine[i] = send_offsets[i + 1] - send_offsets[i];
        mine[n + i] = receive_offsets[i + 1] - receive_offsets[i];
    }
    MPI_CHECK(comm, MPI_Allgather(mine, 2 * n, MPI_INT64_T, counts, 2 * n, MPI_INT64_T, comm->mpi));
    for (int i = 0; i < n; i++) {
        for (int j = 0; j < n; j++) {
            const int64_t sent = counts[(size_t)i * row + (size_t)j];
            const int64_t expected = counts[(size_t)j * row + (size_t)(n + i)];
            if (sent == expected) continue;
            DIE("%s #%" PRId64 " all_to_all: rank %d sends %" PRId64
                " bytes to rank %d, which expects %" PRId64,
                comm->name, comm->collectives, world_rank(comm, i), sent, world_rank(comm, j),
                expected);
        }
    }
    free(counts);
}

void comm_all_to_all(Comm *comm, void *receive, const int64_t *receive_offsets, const void *send,
                     const int64_t *send_offsets, Stream stream) {
    const double start = call_begin(comm, "all_to_all", 0, 0);
    const int rank = comm->rank;
    check_data(comm, receive_offsets);
    check_data(comm, send_offsets);
    if (comm->check) compare_counts(comm, receive_offsets, send_offsets);
    const int64_t own = send_offsets[rank + 1] - send_offsets[rank];
    const int64_t taken = receive_offsets[rank + 1] - receive_offsets[rank];
    CHECK(own == taken, "%s #%" PRId64 ": %" PRId64 " bytes from itself, %" PRId64 " to itself",
          comm->name, comm->collectives, taken, own);
    device_copy((char *)receive + receive_offsets[rank], (const char *)send + send_offsets[rank],
                own, stream);
    comm->bytes += send_offsets[comm->size] - send_offsets[0] - own;
    if (comm->size > 1) {
        transport_all_to_all(comm->transport, receive, receive_offsets, send, send_offsets, stream);
    }
    call_end(comm, start);
}

static void all_reduce(Comm *comm, int64_t *buffer, int64_t count, MPI_Op op, const char *name) {
    const double start = call_begin(comm, name, count, 0);
    const int64_t most = CHUNK_BYTES / (int64_t)sizeof(*buffer);
    for (int64_t i = 0; i < count && comm->size > 1; i += most) {
        MPI_CHECK(comm, MPI_Allreduce(MPI_IN_PLACE, buffer + i, (int)min_i64(count - i, most),
                                      MPI_INT64_T, op, comm->mpi));
    }
    if (comm->size > 1) comm->bytes += count * (int64_t)sizeof(*buffer);
    call_end(comm, start);
}

void comm_all_reduce_sum(Comm *comm, int64_t *buffer, int64_t count) {
    all_reduce(comm, buffer, count, MPI_SUM, "all_reduce_sum");
}

void comm_all_reduce_max(Comm *comm, int64_t *buffer, int64_t count) {
    all_reduce(comm, buffer, count, MPI_MAX, "all_reduce_max");
}

void comm_all_reduce_min(Comm *comm, int64_t *buffer, int64_t count) {
    all_reduce(comm, buffer, count, MPI_MIN, "all_reduce_min");
}
