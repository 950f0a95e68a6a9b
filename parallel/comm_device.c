// Which rank runs on which device, and on how many threads: decided over each node, agreed over the
// world.
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cores.h"
#include "base/die.h"
#include "base/rng.h"
#include "parallel/agree.h"
#include "parallel/transport.h"

// How many ranks of the node run on each one's device: [size].
static int *count_sharers(Comm *node) {
    const int size = comm_size(node);
    int64_t *devices = calloc((size_t)size, sizeof(*devices));
    int *sharers = calloc((size_t)size, sizeof(*sharers));
    CHECK(devices != NULL && sharers != NULL, "no memory for %d ranks", size);
    devices[comm_rank(node)] = device_identity();
    comm_all_reduce_sum(node, devices, size);
    for (int i = 0; i < size; i++) {
        for (int j = 0; j < size; j++) {
            sharers[i] += i == j || (devices[i] >= 0 && devices[i] == devices[j]);
        }
    }
    free(devices);
    return sharers;
}

// Ranks that share one device count as one device together.
static int count_devices(const int *sharers, int size) {
    double devices = 0;
    for (int i = 0; i < size; i++) devices += 1.0 / sharers[i];
    return (int)(devices + 0.5);
}

static bool place(Comm *node, bool share, bool *shared, Error *error) {
    const int size = comm_size(node);
    int *sharers = count_sharers(node);
    const int devices = count_devices(sharers, size);
    device_shared_by(sharers[comm_rank(node)]);
    free(sharers);
    *shared = devices < size;
    if (!*shared || share) return true;
    return error_set(error,
                     "%d ranks on this node but %d GPU%s; start at most %d rank%s per node, or set "
                     "run.share_gpu=true (--share-gpu)",
                     size, devices, devices == 1 ? "" : "s", devices, devices == 1 ? "" : "s");
}

// One number for the set of cores that this process may run on; 0: unknown.
static int64_t cores_key(void) {
    char line[4096];
    int64_t key = 0;
    FILE *status = fopen("/proc/self/status", "r");
    while (status != NULL && fgets(line, sizeof(line), status) != NULL) {
        if (strncmp(line, "Cpus_allowed:", 13) != 0) continue;
        key = (int64_t)(hash_bytes(line, (int64_t)strlen(line)) >> 1);
    }
    if (status != NULL) fclose(status);
    return key;
}

// Ranks of a node that may run on just the same cores divide them: threads that wait for a core at
// every barrier make a step a hundred times as long. So do threads beyond a container's quota.
// Where ranks' cores overlap in part OMP_NUM_THREADS must say what each gets.
static void share_cores(Comm *node) {
    const int size = comm_size(node), rank = comm_rank(node);
    int64_t *keys = calloc((size_t)size, sizeof(*keys));
    CHECK(keys != NULL, "no memory for %d ranks", size);
    keys[rank] = cores_key();
    comm_all_reduce_max(node, keys, size);
    int sharers = 0;
    for (int i = 0; i < size; i++) sharers += keys[i] == keys[rank];
    free(keys);
    if (getenv("OMP_NUM_THREADS") != NULL) return;
    const int quota = cores_quota("");
    int threads = omp_get_num_procs() / sharers;
    if (quota > 0 && quota / size < threads) threads = quota / size;
    omp_set_num_threads(threads > 0 ? threads : 1);
}

int comm_scattered(const int64_t *nodes, int ranks) {
    for (int i = 1; i < ranks; i++) {
        if (nodes[i] != i && nodes[i] != nodes[i - 1]) return i;
    }
    return -1;
}

// Results are the same, so this is no error.
static void warn_of_scattered(Comm *world, Comm *node) {
    const int size = comm_size(world), rank = comm_rank(world);
    int64_t first = rank;  // The node's lowest rank names it.
    int64_t *nodes = calloc((size_t)size, sizeof(*nodes));
    CHECK(nodes != NULL, "no memory for %d ranks", size);
    comm_broadcast(node, &first, sizeof(first), 0);
    nodes[rank] = first;
    comm_all_reduce_max(world, nodes, size);
    const int odd = comm_scattered(nodes, size);
    if (rank == 0 && odd > 0) {
        fprintf(stderr,
                "warning: ranks of a node do not follow each other (%d is on the node of %d, %d "
                "is not), so groups of ranks cross nodes more than they need and are slow; use "
                "mpirun --map-by slot or srun --distribution=block\n",
                odd, (int)nodes[odd], odd - 1);
    }
    free(nodes);
}

int comm_device_start(Comm *world, bool share, Error *error) {
    Comm *node = comm_split_node(world, "node");
    bool shared = false;
    int status = EXIT_DONE;
    warn_of_scattered(world, node);
    comm_watch(world, HANG_SECONDS);  // A driver may hang.
    if (!agree(world, device_start(comm_rank(node), error), error)) {
        status = EXIT_FAILED;
    } else {
        share_cores(node);  // A device may have narrowed them.
        const bool fits = place(node, share, &shared, error);
        int64_t some_fit = fits;
        comm_all_reduce_max(world, &some_fit, 1);
        if (!agree(world, fits, error)) status = some_fit ? EXIT_FAILED : EXIT_CONFIG;
    }
    int64_t any = shared;
    const bool one_node = comm_size(node) == comm_size(world);
    comm_free(node);
    if (status != EXIT_DONE) return status;
    comm_all_reduce_max(world, &any, 1);
    world->shared = any;
    return agree(world, transport_prepare(world, one_node, error), error) ? EXIT_DONE : EXIT_FAILED;
}
