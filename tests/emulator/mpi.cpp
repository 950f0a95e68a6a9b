// While the host waits inside of MPI, a device goes on: MPI's blocking calls are polled here, and
// the streams run a little between two looks. Otherwise a rank could wait in a barrier for one that
// waits for what it has queued.
#define OMPI_SKIP_MPICXX
#include <mpi.h>
#include <sched.h>

#include "tests/emulator/emulator.h"

static int finish(int status, MPI_Request *request, MPI_Status *about) {
    int done = 0;
    while (status == MPI_SUCCESS) {
        status = PMPI_Test(request, &done, about);
        if (done) break;
        emulator::progress();
        sched_yield();
    }
    return status;
}

// All ranks of `comm` are here; the device went on meanwhile. Before calls that can only block.
static int meet(MPI_Comm comm) {
    MPI_Request request;
    const int status = PMPI_Ibarrier(comm, &request);
    return finish(status, &request, MPI_STATUS_IGNORE);
}

extern "C" {

int MPI_Barrier(MPI_Comm comm) {
    return meet(comm);
}

int MPI_Bcast(void *data, int count, MPI_Datatype type, int root, MPI_Comm comm) {
    MPI_Request request;
    const int status = PMPI_Ibcast(data, count, type, root, comm, &request);
    return finish(status, &request, MPI_STATUS_IGNORE);
}

int MPI_Allreduce(const void *from, void *to, int count, MPI_Datatype type, MPI_Op op,
                  MPI_Comm comm) {
    MPI_Request request;
    const int status = PMPI_Iallreduce(from, to, count, type, op, comm, &request);
    return finish(status, &request, MPI_STATUS_IGNORE);
}

int MPI_Reduce(const void *from, void *to, int count, MPI_Datatype type, MPI_Op op, int root,
               MPI_Comm comm) {
    MPI_Request request;
    const int status = PMPI_Ireduce(from, to, count, type, op, root, comm, &request);
    return finish(status, &request, MPI_STATUS_IGNORE);
}

int MPI_Allgather(const void *from, int count, MPI_Datatype type, void *to, int to_count,
                  MPI_Datatype to_type, MPI_Comm comm) {
    MPI_Request request;
    const int status = PMPI_Iallgather(from, count, type, to, to_count, to_type, comm, &request);
    return finish(status, &request, MPI_STATUS_IGNORE);
}

int MPI_Allgatherv(const void *from, int count, MPI_Datatype type, void *to, const int to_counts[],
                   const int offsets[], MPI_Datatype to_type, MPI_Comm comm) {
    MPI_Request request;
    const int status =
        PMPI_Iallgatherv(from, count, type, to, to_counts, offsets, to_type, comm, &request);
    return finish(status, &request, MPI_STATUS_IGNORE);
}

int MPI_Gather(const void *from, int count, MPI_Datatype type, void *to, int to_count,
               MPI_Datatype to_type, int root, MPI_Comm comm) {
    MPI_Request request;
    const int status = PMPI_Igather(from, count, type, to, to_count, to_type, root, comm, &request);
    return finish(status, &request, MPI_STATUS_IGNORE);
}

int MPI_Alltoall(const void *from, int count, MPI_Datatype type, void *to, int to_count,
                 MPI_Datatype to_type, MPI_Comm comm) {
    MPI_Request request;
    const int status = PMPI_Ialltoall(from, count, type, to, to_count, to_type, comm, &request);
    return finish(status, &request, MPI_STATUS_IGNORE);
}

int MPI_Send(const void *data, int count, MPI_Datatype type, int to, int tag, MPI_Comm comm) {
    MPI_Request request;
    const int status = PMPI_Isend(data, count, type, to, tag, comm, &request);
    return finish(status, &request, MPI_STATUS_IGNORE);
}

int MPI_Recv(void *data, int count, MPI_Datatype type, int from, int tag, MPI_Comm comm,
             MPI_Status *about) {
    MPI_Request request;
    const int status = PMPI_Irecv(data, count, type, from, tag, comm, &request);
    return finish(status, &request, about);
}

int MPI_Wait(MPI_Request *request, MPI_Status *about) {
    return finish(MPI_SUCCESS, request, about);
}

int MPI_Waitall(int count, MPI_Request requests[], MPI_Status about[]) {
    for (int done = 0;;) {
        const int status = PMPI_Testall(count, requests, &done, about);
        if (status != MPI_SUCCESS || done) return status;
        emulator::progress();
        sched_yield();
    }
}

int MPI_Comm_split(MPI_Comm comm, int color, int key, MPI_Comm *part) {
    const int status = meet(comm);
    return status == MPI_SUCCESS ? PMPI_Comm_split(comm, color, key, part) : status;
}

int MPI_Comm_split_type(MPI_Comm comm, int type, int key, MPI_Info info, MPI_Comm *part) {
    const int status = meet(comm);
    return status == MPI_SUCCESS ? PMPI_Comm_split_type(comm, type, key, info, part) : status;
}

int MPI_Comm_dup(MPI_Comm comm, MPI_Comm *copy) {
    const int status = meet(comm);
    return status == MPI_SUCCESS ? PMPI_Comm_dup(comm, copy) : status;
}

int MPI_Comm_free(MPI_Comm *comm) {
    const int status = meet(*comm);
    return status == MPI_SUCCESS ? PMPI_Comm_free(comm) : status;
}

int MPI_Finalize(void) {
    cudaDeviceSynchronize();
    const int status = meet(MPI_COMM_WORLD);
    return status == MPI_SUCCESS ? PMPI_Finalize() : status;
}

}  // extern "C"
