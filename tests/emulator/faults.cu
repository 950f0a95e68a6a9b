// Faults planted on purpose, for tests/test_emulator.sh: what the emulator has to find. A case that
// computes something says "right", or "wrong" and ends with status 1.
#include <nccl.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/cuda/tensor.cuh"
#include "tests/emulator/cublasLt.h"

extern "C" {
#include "parallel/comm.h"
}

enum { N = 256, ROUNDS = 20 };

typedef struct {
    float *device, *other;  // [N] Memory of the device.
    float *pinned;          // [N]
    float host[N];
    Stream side;
    Event event;
} Case;

static Case case_create() {
    Case c = {};
    c.device = (float *)device_allocate("device", N * 4);
    c.other = (float *)device_allocate("other", N * 4);
    c.pinned = (float *)host_allocate("pinned", N * 4);
    for (int i = 0; i < N; i++) c.host[i] = c.pinned[i] = (float)i;
    c.side = stream_create();
    c.event = event_create();
    return c;
}

// Whether `got` is start, start + step, ...
static int compare(const float *got, float start, float step) {
    for (int i = 0; i < N; i++) {
        if (got[i] == start + step * (float)i) continue;
        printf("wrong: [%d] is %g\n", i, (double)got[i]);
        return 1;
    }
    printf("right\n");
    return 0;
}

static int compare_device(Case *c, const float *got, float start, float step) {
    device_copy(c->host, got, N * 4, NULL);
    return compare(c->host, start, step);
}

template <bool BARRIER>
static __global__ void reverse_kernel(float *x) {
    __shared__ float part[N];
    part[threadIdx.x] = x[threadIdx.x];
    if (BARRIER) __syncthreads();
    x[threadIdx.x] = part[N - 1 - threadIdx.x];
}

static int reverse(Case *c, bool barrier) {
    device_copy(c->device, c->host, N * 4, NULL);
    if (barrier) LAUNCH(reverse_kernel<true>, 1, N, 0, NULL, c->device);
    if (!barrier) LAUNCH(reverse_kernel<false>, 1, N, 0, NULL, c->device);
    return compare_device(c, c->device, N - 1, -1);
}

static __global__ void shift_kernel(float *to, const float *from, int by) {
    to[threadIdx.x] = from[(int)threadIdx.x + by];
}

static __global__ void dynamic_kernel(float *x, int by) {
    extern __shared__ char dynamic_shared[];
    float *part = (float *)dynamic_shared;
    part[(int)threadIdx.x + by] = x[threadIdx.x];
    __syncthreads();
    x[threadIdx.x] = part[(int)threadIdx.x + by];
}

static __global__ void leave_kernel(float *x) {
    if (threadIdx.x == 7) return;
    __syncthreads();
    x[threadIdx.x] = 0;
}

static __global__ void shuffle_kernel(float *x, unsigned mask) {
    x[threadIdx.x] = __shfl_xor_sync(mask, x[threadIdx.x], 1);
}

// Half of a warp waits for all of it, the other half for itself.
static __global__ void masks_kernel(float *x) {
    const unsigned mask = threadIdx.x < 16 ? 0xffffffffu : 0xffff0000u;
    x[threadIdx.x] = __shfl_xor_sync(mask, x[threadIdx.x], 1);
}

enum { COPY_WAITS, COPY_EARLY, COPY_LEAVES };

// By way of shared memory, 16 bytes a thread; what is read too early is not there yet.
template <int HOW>
static __global__ void copy_kernel(float *to, const float *from) {
    extern __shared__ char dynamic_shared[];
    float *const mine = (float *)dynamic_shared + 4 * threadIdx.x;
    tensor_copy_16(16 * threadIdx.x, from + 4 * threadIdx.x, true);
    if (HOW == COPY_WAITS) tensor_copies_wait();
    for (int i = 0; i < 4 && HOW != COPY_LEAVES; i++) to[4 * threadIdx.x + i] = mine[i];
    if (HOW == COPY_EARLY) tensor_copies_wait();
}

template <int HOW>
static int copy(Case *c) {
    device_copy(c->device, c->host, N * 4, NULL);
    LAUNCH(copy_kernel<HOW>, 1, N / 4, N * 4, NULL, c->other, c->device);
    return compare_device(c, c->other, 0, 1);
}

// A left factor of [g][c] = g, a right one of ones below c = 2: each sum is 2 g. `lanes` alone
// call.
static __global__ void tensor_kernel(float *to, unsigned lanes) {
    extern __shared__ char dynamic_shared[];
    uint16_t *const rows = (uint16_t *)dynamic_shared;  // [16][16], then [8][16]
    const int lane = (int)threadIdx.x;
    for (int i = lane; i < 24 * 16; i += WARP) {
        const float value = i < 256 ? (float)(i / 16) : i % 16 < 2 ? 1.0f : 0.0f;
        rows[i] = float_to_bf16(value);
    }
    __syncthreads();
    if (!(lanes >> lane & 1u)) return;
    uint32_t left[4], right[4];
    float sums[4] = {};
    tensor_load(left, tensor_address(rows + lane % 16 * 16 + lane / 16 * 8));
    tensor_load(right, tensor_address(rows + 256 + lane % 8 * 16 + lane / 8 % 2 * 8));
    tensor_product(sums, left, right);
    for (int i = 0; i < 4; i++) to[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = sums[i];
}

static int tensor(Case *c, unsigned lanes) {
    LAUNCH(tensor_kernel, 1, WARP, 24 * 32, NULL, c->other, lanes);
    device_copy(c->host, c->other, N * 4, NULL);
    for (int i = 0; i < 16 * 8; i++) {
        if (c->host[i] == (float)(2 * (i / 8))) continue;
        printf("wrong: [%d] is %g\n", i, (double)c->host[i]);
        return 1;
    }
    printf("right\n");
    return 0;
}

static __global__ void add_kernel(float *x, float value) {
    x[threadIdx.x] += value;
}

// Shuffles, votes, subsets of a warp, three dimensions.
static __global__ void right_kernel(int *sums, float *x) {
    const unsigned thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
    if (thread < WARP) {
        const float sum = warp_sum((float)thread);
        if (thread == 0) x[0] = sum;
        if (thread < 7) x[1 + thread] = __shfl_up_sync(0x7fu, (float)thread, 2);
    }
    if (thread % WARP == 5 && __ballot_sync(1u << 5, 1) == 1u << 5) atomicAdd(&sums[0], 1);
    const int odd = __syncthreads_count((int)(thread % 2));
    if (thread == 0) sums[1] = odd;
}

static int right(Case *c) {
    int *sums = (int *)device_allocate_shared("sums", 8);
    float want[8] = {496, 0, 1, 0, 1, 2, 3, 4};
    for (int round = 0; round < ROUNDS; round++) {
        sums[0] = sums[1] = 0;
        LAUNCH(right_kernel, 3, dim3(8, 8, 4), 0, NULL, sums, c->device);
        device_copy(c->host, c->device, N * 4, NULL);
        if (memcmp(c->host, want, sizeof(want)) != 0 || sums[0] != 3 * N / WARP ||
            sums[1] != N / 2) {
            printf("wrong: %d, %d, %g\n", sums[0], sums[1], (double)c->host[0]);
            return 1;
        }
    }
    device_free(sums);
    for (int i = 0; i < N; i++) c->host[i] = (float)i;
    return reverse(c, true);
}

// One stream writes, the other reads.
static int two_streams(Case *c, bool with_event) {
    int status = 0;
    for (int round = 0; round < ROUNDS && status == 0; round++) {
        device_zero(c->device, N * 4, NULL);
        device_zero(c->other, N * 4, NULL);
        event_record(c->event, NULL);
        stream_await(c->side, c->event);
        LAUNCH(add_kernel, 1, N, 0, NULL, c->device, 5.0f);
        if (with_event) event_record(c->event, NULL);
        if (with_event) stream_await(c->side, c->event);
        device_copy(c->other, c->device, N * 4, c->side);
        device_copy(c->pinned, c->other, N * 4, c->side);
        stream_wait(c->side);
        status = compare(c->pinned, 5, 0);
    }
    return status;
}

// The host writes into what is still being copied, or reads what is not there yet.
static int host_early(Case *c, bool write, bool wait) {
    if (write) {
        device_copy(c->device, c->pinned, N * 4, c->side);
        if (wait) stream_wait(c->side);
        memset(c->pinned, 0, N * 4);
        stream_wait(c->side);
        return compare_device(c, c->device, 0, 1);
    }
    memset(c->pinned, 0, N * 4);
    device_copy(c->device, c->host, N * 4, c->side);
    device_copy(c->pinned, c->device, N * 4, c->side);
    if (wait) stream_wait(c->side);
    return compare(c->pinned, 0, 1);
}

// Rank 1 takes fewer elements than rank 0 sends, or calls something else; or all is well.
static int transport(Case *c, Comm *world, const char *what) {
    const int rank = comm_rank(world), size = comm_size(world);
    ncclUniqueId id;
    ncclComm_t nccl = NULL;
    memset(&id, 0, sizeof(id));
    if (rank == 0) CHECK(ncclGetUniqueId(&id) == ncclSuccess, "no id");
    comm_broadcast(world, &id, (int64_t)sizeof(id), 0);
    CHECK(ncclCommInitRank(&nccl, size, id, rank) == ncclSuccess, "no communicator");
    const bool counts = strcmp(what, "counts") == 0, calls = strcmp(what, "calls") == 0;
    const size_t count = N / (size_t)size;
    for (int i = 0; i < N; i++) c->host[i] = (float)(i % (int)count + (int)count * rank);
    device_copy(c->device, c->host, N * 4, NULL);
    ncclResult_t status = ncclSuccess;
    if (calls && rank == 1) {
        status = ncclBroadcast(c->device, c->other, count, ncclFloat, 0, nccl, NULL);
    } else {
        status = ncclAllGather(c->device, c->other, count - (counts && rank == 1), ncclFloat, nccl,
                               NULL);
    }
    CHECK(status == ncclSuccess, "%s", ncclGetErrorString(status));
    comm_barrier(world);
    const int wrong = compare_device(c, c->other, 0, 1);
    CHECK(ncclAllGather(c->host, c->other, 1, ncclFloat, nccl, NULL) == ncclInvalidArgument,
          "the device cannot reach the host's memory");
    CHECK(ncclCommDestroy(nccl) == ncclSuccess, "ncclCommDestroy");
    return wrong;
}

// D [4, 16] = (other [4, 16] device [16, 16]^T) gelu'(aux), whose rows are `ld` apart.
static cublasStatus_t product_status(Case *c, float *D, float *aux, int64_t ld) {
    static const cublasOperation_t transposed = CUBLAS_OP_T;
    static const cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_DGELU;
    static const float one = 1, zero = 0;
    cublasLtHandle_t handle;
    cublasLtMatmulDescOpaque_t op;
    cublasLtMatrixLayoutOpaque_t a, b;
    cublasLtMatmulPreferenceOpaque_t preference;
    cublasLtMatmulHeuristicResult_t result;
    int found = 0;
    cublasLtCreate(&handle);
    cublasLtMatmulDescInit(&op, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    cublasLtMatmulDescSetAttribute(&op, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, 4);
    cublasLtMatmulDescSetAttribute(&op, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, 4);
    cublasLtMatmulDescSetAttribute(&op, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, &aux, 8);
    cublasLtMatmulDescSetAttribute(&op, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, &ld, 8);
    cublasLtMatrixLayoutInit(&a, CUDA_R_32F, 16, 16, 16);
    cublasLtMatrixLayoutInit(&b, CUDA_R_32F, 16, 4, 16);
    cublasLtMatmulPreferenceInit(&preference);
    const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(handle, &op, &a, &b, &b, &b,
                                                                 &preference, 1, &result, &found);
    if (status != CUBLAS_STATUS_SUCCESS) return status;
    return cublasLtMatmul(handle, &op, &one, c->device, &a, c->other, &b, &zero, D, &b, D, &b,
                          &result.algo, c->other + 240, 64, NULL);
}

// Auxiliary matrices as they may and may not be; or D is what is still being read.
static int product(Case *c, bool overlaps) {
    float *D = c->other + 64, *aux = c->other + 128;
    if (overlaps) return product_status(c, c->other, aux, 16) == CUBLAS_STATUS_SUCCESS;
    const bool right = product_status(c, D, aux, 16) == CUBLAS_STATUS_SUCCESS &&
                       product_status(c, D, aux, 24) == CUBLAS_STATUS_SUCCESS &&
                       product_status(c, D, aux, 20) == CUBLAS_STATUS_INVALID_VALUE &&
                       product_status(c, D, aux, 8) == CUBLAS_STATUS_INVALID_VALUE &&
                       product_status(c, D, aux + 2, 16) == CUBLAS_STATUS_INVALID_VALUE &&
                       product_status(c, D, NULL, 16) == CUBLAS_STATUS_INVALID_VALUE;
    printf(right ? "right\n" : "wrong\n");
    return !right;
}

static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

// What a launch costs here.
static int speed(Case *c) {
    static const int launches = 2000;
    for (int kind = 0; kind < 2; kind++) {
        const double begin = seconds();
        for (int i = 0; i < launches; i++) {
            if (kind == 0) LAUNCH(add_kernel, 1, N, 0, NULL, c->device, 1.0f);
            if (kind == 1) LAUNCH(reverse_kernel<true>, 1, N, 0, NULL, c->device);
        }
        stream_wait(NULL);
        printf("%d threads, %s: %.2f us\n", N, kind == 0 ? "no barrier" : "one barrier",
               1e6 * (seconds() - begin) / launches);
    }
    return 0;
}

static int run(Case *c, Comm *world, const char *what) {
    const auto is = [what](const char *name) { return strcmp(what, name) == 0; };
    const unsigned all = 0xffffffffu;
    if (is("right")) return right(c);
    if (is("barrier")) return reverse(c, false);
    if (is("outside")) LAUNCH(shift_kernel, 1, N, 0, NULL, c->device, c->other, 1);
    if (is("before")) LAUNCH(shift_kernel, 1, N, 0, NULL, c->device, c->other, -1);
    if (is("far")) LAUNCH(shift_kernel, 1, N, 0, NULL, c->device, c->other, 1 << 28);
    if (is("shared")) LAUNCH(dynamic_kernel, 1, N, N * 4, NULL, c->device, 1);
    if (is("leaves")) LAUNCH(leave_kernel, 1, N, 0, NULL, c->device);
    if (is("lane")) LAUNCH(shuffle_kernel, 1, N, 0, NULL, c->device, 0xffffu);
    if (is("short")) LAUNCH(shuffle_kernel, 1, 40, 0, NULL, c->device, all);
    if (is("masks")) LAUNCH(masks_kernel, 1, 32, 0, NULL, c->device);
    if (is("threads")) LAUNCH(add_kernel, 1, 2048, 0, NULL, c->device, 0.0f);
    if (is("memory")) LAUNCH(add_kernel, 1, N, 1 << 18, NULL, c->device, 0.0f);
    if (is("event")) return two_streams(c, false);
    if (is("with event")) return two_streams(c, true);
    if (is("host")) return compare(c->device, 0, 1);
    if (is("freed")) {
        device_free(c->other);
        LAUNCH(shift_kernel, 1, N, 0, NULL, c->device, c->other, 0);
    }
    if (is("write")) return host_early(c, true, false);
    if (is("read")) return host_early(c, false, false);
    if (is("late")) return host_early(c, true, true) || host_early(c, false, true);
    if (is("counts") || is("calls") || is("transport")) return transport(c, world, what);
    if (is("product")) return product(c, false);
    if (is("overlaps")) return product(c, true);
    if (is("copy")) return copy<COPY_WAITS>(c);
    if (is("early")) return copy<COPY_EARLY>(c);
    if (is("unwaited")) return copy<COPY_LEAVES>(c);
    if (is("tensor")) return tensor(c, all);
    if (is("lanes")) return tensor(c, 0xffffu);
    if (is("speed")) return speed(c);
    stream_wait(NULL);
    printf("not found\n");
    return 0;
}

int main(int argc, char **argv) {
    Error error;
    CHECK(argc == 2, "faults CASE");
    const char *what = argv[1];
    const bool alone =
        strcmp(what, "transport") != 0 && strcmp(what, "counts") != 0 && strcmp(what, "calls") != 0;
    Comm *world = alone ? NULL : comm_start(&argc, &argv);
    const bool started =
        alone ? device_start(0, &error) : comm_device_start(world, false, &error) == EXIT_DONE;
    CHECK(started, "%s", error.text);
    Case c = case_create();
    const int status = run(&c, world, what);
    if (world != NULL) comm_stop(world);
    return status;
}
