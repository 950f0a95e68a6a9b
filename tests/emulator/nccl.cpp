// Each call becomes messages between pairs of ranks, each behind a head that says which call it
// belongs to. They are staged on the host, since MPI moves bytes while the device is closed.
#define OMPI_SKIP_MPICXX
#include "tests/emulator/nccl.h"

#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <atomic>
#include <memory>
#include <vector>

#include "tests/emulator/emulator.h"

namespace emulator {

// What a message is part of.
struct Call {
    char name[16];
    int64_t number, count;  // Number among the collectives, or among the messages of the pair.
    int type, root;
};

struct Message {
    Call call;
    bool send, started, done;
    int peer, tag;
    const char *from;
    char *to;
    std::vector<char> staged;
    MPI_Request request;
};

// A copy from a rank to itself.
struct Local {
    char *to;
    const char *from;
    size_t bytes;
};

// What one stream does at once: a call, or those of a group.
struct Batch {
    ncclComm_t comm;
    cudaStream_t stream;
    bool started;
    std::vector<Message> messages;
    std::vector<Local> locals;
};

enum { ID_TAG = 30001 };

}  // namespace emulator

struct ncclComm {
    MPI_Comm mpi;
    int rank, size;
    int64_t collectives;
    std::vector<int64_t> sent, received;  // Messages with each peer.
    std::atomic<bool> aborted;
    int64_t pending;
};

namespace emulator {

// One for the program.
struct State {
    int depth;  // Of groups.
    int ids;
    std::vector<std::shared_ptr<Batch>> group;
};
static State &state = *new State();

static void mpi_check(int status, const char *call) {
    if (status != MPI_SUCCESS) FAULT("nccl: %s gives %d", call, status);
}
#define MPI_DO(call) mpi_check(call, #call)

static void describe(char text[128], const Call &call) {
    const int n = snprintf(text, 128, "%s #%ld of %ld elements of type %d", call.name, call.number,
                           call.count, call.type);
    if (call.root >= 0) snprintf(text + n, (size_t)(128 - n), ", root %d", call.root);
}

static bool same(const Call &a, const Call &b) {
    return strcmp(a.name, b.name) == 0 && a.number == b.number && a.count == b.count &&
           a.type == b.type && a.root == b.root;
}

static size_t type_bytes(int type) {
    static const size_t bytes[] = {1, 1, 4, 4, 8, 8, 2, 4, 8, 2};
    return bytes[type];
}

static size_t payload(const Message &m) {
    return (size_t)m.call.count * type_bytes(m.call.type);
}

static void start_send(Message &m, const ncclComm *comm) {
    m.staged.resize(sizeof(Call) + payload(m));
    memcpy(m.staged.data(), &m.call, sizeof(Call));
    if (payload(m) > 0) memcpy(m.staged.data() + sizeof(Call), m.from, payload(m));
    if (m.staged.size() > INT32_MAX) FAULT("nccl: a message of %zu bytes", m.staged.size());
    MPI_DO(PMPI_Isend(m.staged.data(), (int)m.staged.size(), MPI_BYTE, m.peer, m.tag, comm->mpi,
                      &m.request));
    m.started = true;
}

// Once the message is there, whatever its size.
static void start_receive(Message &m, const ncclComm *comm) {
    int found = 0, bytes = 0;
    MPI_Message message;
    MPI_Status status;
    MPI_DO(PMPI_Improbe(m.peer, m.tag, comm->mpi, &found, &message, &status));
    if (!found) return;
    MPI_DO(PMPI_Get_count(&status, MPI_BYTE, &bytes));
    m.staged.resize((size_t)bytes);
    MPI_DO(PMPI_Imrecv(m.staged.data(), bytes, MPI_BYTE, &message, &m.request));
    m.started = true;
}

static void finish_receive(Message &m, const ncclComm *comm) {
    Call theirs;
    memcpy(&theirs, m.staged.data(), sizeof(theirs));
    if (!same(theirs, m.call)) {
        char mine[128], other[128];
        describe(mine, m.call);
        describe(other, theirs);
        FAULT("nccl: rank %d of %d calls %s, but rank %d calls %s", comm->rank, comm->size, mine,
              m.peer, other);
    }
    if (payload(m) > 0) memcpy(m.to, m.staged.data() + sizeof(Call), payload(m));
}

static void advance(Message &m, const ncclComm *comm) {
    if (!m.started) m.send ? start_send(m, comm) : start_receive(m, comm);
    if (!m.started) return;
    int done = 0;
    MPI_DO(PMPI_Test(&m.request, &done, MPI_STATUS_IGNORE));
    if (!done) return;
    if (!m.send) finish_receive(m, comm);
    m.done = true;
}

// One step of a batch; whether it is done.
static bool advance(Batch &batch) {
    bool done = true;
    if (!batch.started) {
        for (const Local &local : batch.locals) memmove(local.to, local.from, local.bytes);
    }
    batch.started = true;
    for (Message &m : batch.messages) {
        if (!m.done && !batch.comm->aborted) advance(m, batch.comm);
        done = done && m.done;
    }
    if (!done && !batch.comm->aborted) return false;
    batch.comm->pending--;
    return true;
}

static Batch &batch_of(ncclComm_t comm, cudaStream_t stream) {
    for (const auto &batch : state.group) {
        if (batch->comm == comm && batch->stream == stream) return *batch;
    }
    state.group.push_back(std::shared_ptr<Batch>(new Batch{comm, stream, false, {}, {}}));
    return *state.group.back();
}

static void add(Batch &batch, bool send, const Call &call, int peer, int tag, const void *from,
                void *to) {
    batch.messages.push_back(Message{
        call, send, false, false, peer, tag, (const char *)from, (char *)to, {}, MPI_REQUEST_NULL});
}

// Collectives have even tags, messages of pairs odd ones.
static int tag_of(int64_t number, bool pair) {
    return (int)(number % (1 << 20)) * 2 + pair;
}

static Call call_of(const char *name, int64_t number, size_t count, int type, int root) {
    Call call = {};
    snprintf(call.name, sizeof(call.name), "%s", name);
    call.number = number;
    call.count = (int64_t)count;
    call.type = type;
    call.root = root;
    return call;
}

static bool reachable(const void *memory, size_t count, ncclDataType_t type) {
    return count == 0 || emulator_on_device(memory, count * type_bytes(type));
}

static bool valid(ncclComm_t comm, ncclDataType_t type, int peer) {
    return comm != NULL && type >= ncclInt8 && type <= ncclBfloat16 && peer >= 0 &&
           peer < comm->size;
}

static ncclResult_t pair(bool send, const void *from, void *to, size_t count, ncclDataType_t type,
                         int peer, ncclComm_t comm, cudaStream_t stream) {
    if (!valid(comm, type, peer) || !reachable(send ? from : to, count, type)) {
        return ncclInvalidArgument;
    }
    ncclGroupStart();
    const int64_t number = send ? comm->sent[(size_t)peer]++ : comm->received[(size_t)peer]++;
    add(batch_of(comm, stream), send, call_of("send and recv", number, count, type, -1), peer,
        tag_of(number, true), from, to);
    return ncclGroupEnd();
}

// Which ranks share the id, in the order of the communicator. The owner of the id collects them.
static std::vector<int> meet(int owner, int tag, int ranks, int rank) {
    int self = 0;
    MPI_DO(PMPI_Comm_rank(MPI_COMM_WORLD, &self));
    std::vector<int> members((size_t)ranks, -1);
    int mine[2] = {rank, self};
    if (self != owner) {
        MPI_DO(MPI_Send(mine, 2, MPI_INT, owner, tag, MPI_COMM_WORLD));
        MPI_DO(MPI_Recv(members.data(), ranks, MPI_INT, owner, tag, MPI_COMM_WORLD,
                        MPI_STATUS_IGNORE));
        return members;
    }
    members[(size_t)rank] = self;
    for (int i = 1; i < ranks; i++) {
        MPI_DO(MPI_Recv(mine, 2, MPI_INT, MPI_ANY_SOURCE, tag, MPI_COMM_WORLD, MPI_STATUS_IGNORE));
        if (mine[0] < 0 || mine[0] >= ranks || members[(size_t)mine[0]] >= 0) {
            FAULT("nccl: two ranks say that they are rank %d of %d", mine[0], ranks);
        }
        members[(size_t)mine[0]] = mine[1];
    }
    for (const int member : members) {
        if (member != self) {
            MPI_DO(MPI_Send(members.data(), ranks, MPI_INT, member, tag, MPI_COMM_WORLD));
        }
    }
    return members;
}

static void connect(ncclComm_t comm, const ncclUniqueId &id) {
    int facts[2];
    memcpy(facts, id.internal, sizeof(facts));
    const int tag = ID_TAG + facts[1];
    const std::vector<int> members = meet(facts[0], tag, comm->size, comm->rank);
    MPI_Group world, group;
    MPI_DO(PMPI_Comm_group(MPI_COMM_WORLD, &world));
    MPI_DO(PMPI_Group_incl(world, comm->size, members.data(), &group));
    MPI_DO(PMPI_Comm_create_group(MPI_COMM_WORLD, group, tag, &comm->mpi));
    MPI_DO(PMPI_Group_free(&group));
    MPI_DO(PMPI_Group_free(&world));
}

}  // namespace emulator

using namespace emulator;

ncclResult_t ncclGetVersion(int *version) {
    const char *other = getenv("EMULATOR_NCCL_VERSION");
    *version = other != NULL ? (int)strtol(other, NULL, 10) : NCCL_VERSION_CODE;
    return ncclSuccess;
}

const char *ncclGetErrorString(ncclResult_t result) {
    return result == ncclSuccess           ? "no error"
           : result == ncclInvalidArgument ? "invalid argument"
           : result == ncclInvalidUsage    ? "invalid usage"
           : result == ncclInProgress      ? "NCCL operation in progress"
                                           : "internal error";
}

const char *ncclGetLastError(ncclComm_t) {
    return "";
}

ncclResult_t ncclGetUniqueId(ncclUniqueId *id) {
    int started = 0, facts[2] = {0, state.ids++};
    MPI_DO(PMPI_Initialized(&started));
    if (started) MPI_DO(PMPI_Comm_rank(MPI_COMM_WORLD, &facts[0]));
    memset(id, 0, sizeof(*id));
    memcpy(id->internal, facts, sizeof(facts));
    return ncclSuccess;
}

ncclResult_t ncclCommInitRank(ncclComm_t *comm, int ranks, ncclUniqueId id, int rank) {
    if (ranks < 1 || rank < 0 || rank >= ranks) return ncclInvalidArgument;
    if (state.depth > 0) FAULT("nccl: one process has one device: no communicators in groups");
    count("communicator");
    *comm = new ncclComm();
    (*comm)->mpi = MPI_COMM_NULL;
    (*comm)->rank = rank;
    (*comm)->size = ranks;
    (*comm)->sent.resize((size_t)ranks);
    (*comm)->received.resize((size_t)ranks);
    if (ranks > 1) connect(*comm, id);
    return ncclSuccess;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t *comm, int ranks, ncclUniqueId id, int rank,
                                    ncclConfig_t *config) {
    if (config != NULL && config->size != sizeof(*config)) return ncclInvalidArgument;
    return ncclCommInitRank(comm, ranks, id, rank);
}

ncclResult_t ncclCommFinalize(ncclComm_t comm) {
    if (comm == NULL) return ncclInvalidArgument;
    wait_until([comm] { return comm->pending == 0; });
    return ncclSuccess;
}

ncclResult_t ncclCommDestroy(ncclComm_t comm) {
    const ncclResult_t result = ncclCommFinalize(comm);
    if (result != ncclSuccess) return result;
    if (comm->mpi != MPI_COMM_NULL) MPI_DO(PMPI_Comm_free(&comm->mpi));
    delete comm;
    return ncclSuccess;
}

// May be called by any thread at any time, so what is under way keeps the communicator.
ncclResult_t ncclCommAbort(ncclComm_t comm) {
    if (comm == NULL) return ncclInvalidArgument;
    comm->aborted = true;
    return ncclSuccess;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t *error) {
    if (comm == NULL) return ncclInvalidArgument;
    const char *fault = getenv("EMULATOR_NCCL_FAULT");
    *error = fault != NULL && access(fault, F_OK) == 0 ? ncclRemoteError : ncclSuccess;
    return ncclSuccess;
}

ncclResult_t ncclCommCount(const ncclComm_t comm, int *count) {
    *count = comm->size;
    return ncclSuccess;
}

ncclResult_t ncclCommUserRank(const ncclComm_t comm, int *rank) {
    *rank = comm->rank;
    return ncclSuccess;
}

ncclResult_t ncclCommCuDevice(const ncclComm_t, int *device) {
    return cudaGetDevice(device) == cudaSuccess ? ncclSuccess : ncclUnhandledCudaError;
}

ncclResult_t ncclMemAlloc(void **memory, size_t bytes) {
    return cudaMalloc(memory, bytes) == cudaSuccess ? ncclSuccess : ncclUnhandledCudaError;
}

ncclResult_t ncclMemFree(void *memory) {
    return cudaFree(memory) == cudaSuccess ? ncclSuccess : ncclUnhandledCudaError;
}

ncclResult_t ncclGroupStart() {
    state.depth++;
    return ncclSuccess;
}

ncclResult_t ncclGroupEnd() {
    if (state.depth == 0) return ncclInvalidUsage;
    if (--state.depth > 0) return ncclSuccess;
    for (const auto &batch : state.group) {
        batch->comm->pending++;
        enqueue_own_steps(batch->stream, [batch] { return advance(*batch); });
    }
    state.group.clear();
    return ncclSuccess;
}

ncclResult_t ncclSend(const void *from, size_t count, ncclDataType_t type, int peer,
                      ncclComm_t comm, cudaStream_t stream) {
    return pair(true, from, NULL, count, type, peer, comm, stream);
}

ncclResult_t ncclRecv(void *to, size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream) {
    return pair(false, NULL, to, count, type, peer, comm, stream);
}

ncclResult_t ncclBroadcast(const void *from, void *to, size_t count, ncclDataType_t type, int root,
                           ncclComm_t comm, cudaStream_t stream) {
    if (!valid(comm, type, root) || !reachable(to, count, type)) return ncclInvalidArgument;
    const bool mine = comm->rank == root;
    if (mine && !reachable(from, count, type)) return ncclInvalidArgument;
    ncclGroupStart();
    Batch &batch = batch_of(comm, stream);
    const int64_t number = comm->collectives++;
    const Call call = call_of("broadcast", number, count, type, root);
    for (int peer = 0; peer < comm->size && mine; peer++) {
        if (peer != root) add(batch, true, call, peer, tag_of(number, false), from, NULL);
    }
    if (!mine) add(batch, false, call, root, tag_of(number, false), NULL, to);
    if (mine) {
        batch.locals.push_back({(char *)to, (const char *)from, count * type_bytes(type)});
    }
    return ncclGroupEnd();
}

ncclResult_t ncclAllGather(const void *from, void *to, size_t count, ncclDataType_t type,
                           ncclComm_t comm, cudaStream_t stream) {
    if (!valid(comm, type, 0)) return ncclInvalidArgument;
    const size_t bytes = count * type_bytes(type);
    if (!reachable(from, count, type) || !reachable(to, count * (size_t)comm->size, type)) {
        return ncclInvalidArgument;
    }
    ncclGroupStart();
    Batch &batch = batch_of(comm, stream);
    const int64_t number = comm->collectives++;
    const Call call = call_of("all_gather", number, count, type, -1);
    for (int peer = 0; peer < comm->size; peer++) {
        char *slice = (char *)to + (size_t)peer * bytes;
        if (peer == comm->rank) {
            batch.locals.push_back({slice, (const char *)from, bytes});
            continue;
        }
        add(batch, true, call, peer, tag_of(number, false), from, NULL);
        add(batch, false, call, peer, tag_of(number, false), NULL, slice);
    }
    return ncclGroupEnd();
}
