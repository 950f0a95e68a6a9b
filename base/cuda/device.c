#include "base/device.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/cores.h"
#include "base/cuda/cuda.h"
#include "base/real.h"
#include "base/watchdog.h"

// The device of this process: device_start fills it once.
static struct {
    int number;   // What CUDA calls it here.
    int sharers;  // Ranks that run on it.
    struct cudaDeviceProp properties;
} self = {.number = -1, .sharers = 1};

const char *device_backend(void) {
    return "cuda";
}

// CUDA writes versions as 1000 * major + 10 * minor.
static int version_major(int version) {
    return version / 1000;
}

static int version_minor(int version) {
    return version % 1000 / 10;
}

// Why CUDA found no device, in words that help.
static bool refuse_status(cudaError_t status, int driver, int runtime, Error *error) {
    switch (status) {
        case cudaErrorNoDevice:
            return error_set(error,
                             "no GPU: the driver shows none (CUDA_VISIBLE_DEVICES hides them, or "
                             "the job was given none); see nvidia-smi, or set run.device=cpu");
        case cudaErrorInsufficientDriver:
            if (driver == 0) {
                return error_set(error,
                                 "no NVIDIA driver here (libcuda.so.1); install one that knows "
                                 "CUDA %d, or set run.device=cpu",
                                 version_major(runtime));
            }
            return error_set(error,
                             "the NVIDIA driver is too old: it knows CUDA %d.%d, this build needs "
                             "CUDA %d.%d; update the driver, build with an older CUDA, or set "
                             "run.device=cpu",
                             version_major(driver), version_minor(driver), version_major(runtime),
                             version_minor(runtime));
        case cudaErrorStubLibrary:
            return error_set(error,
                             "libcuda.so.1 is the toolkit's stub, not a driver; take its folder "
                             "(.../stubs) out of LD_LIBRARY_PATH");
        default:
            return error_set(error, "CUDA %d.%d with driver %d.%d does not start: %s (%s)",
                             version_major(runtime), version_minor(runtime), version_major(driver),
                             version_minor(driver), cudaGetErrorString(status),
                             cudaGetErrorName(status));
    }
}

bool device_start(int local_rank, Error *error) {
    int driver = 0, runtime = 0, devices = 0;
    CUDA_CHECK(cudaRuntimeGetVersion(&runtime));
    cudaError_t status = cudaDriverGetVersion(&driver);
    if (status == cudaSuccess) status = cudaGetDeviceCount(&devices);
    if (status == cudaSuccess && devices == 0) status = cudaErrorNoDevice;
    if (status != cudaSuccess) return refuse_status(status, driver, runtime, error);
    const int number = local_rank % devices;
    status = cudaGetDeviceProperties(&self.properties, number);
    if (status == cudaSuccess && self.properties.major < 8) {
        return error_set(error,
                         "GPU %d, %s, has compute capability %d.%d; kintoun needs 8.0 (A100) or "
                         "newer",
                         number, self.properties.name, self.properties.major,
                         self.properties.minor);
    }
    char bus[32];
    if (cudaDeviceGetPCIBusId(bus, (int)sizeof(bus), number) == cudaSuccess) {
        cores_stay_near("", bus);
    }
    if (status == cudaSuccess) status = cudaSetDevice(number);
    if (status == cudaSuccess) status = cudaFree(NULL);  // Makes the context.
    if (status != cudaSuccess) {
        return error_set(error, "GPU %d of %d does not start: %s (%s); see nvidia-smi", number,
                         devices, cudaGetErrorString(status), cudaGetErrorName(status));
    }
    self.number = number;
    return true;
}

// Slices of one GPU (MIG) have one place on the bus but names of their own.
int64_t device_identity(void) {
    uint64_t half[2];
    CHECK(self.number >= 0, "device_start comes first");
    memcpy(half, &self.properties.uuid, sizeof(half));
    return (int64_t)((half[0] ^ half[1]) >> 1);
}

void device_shared_by(int ranks) {
    self.sharers = ranks;
}

int cuda_processors(void) {
    CHECK(self.number >= 0, "device_start comes first");
    return self.properties.multiProcessorCount;
}

// What was allocated is zero for every stream: the host waits.
static void zero_new(void *memory, int64_t bytes) {
    CUDA_CHECK(cudaMemset(memory, 0, (size_t)bytes));
    CUDA_CHECK(cudaStreamSynchronize(NULL));
}

static void check_allocated(cudaError_t status, const char *name, int64_t bytes, const char *kind) {
    if (status == cudaSuccess) return;
    size_t left = 0, total = 0;
    if (cudaMemGetInfo(&left, &total) != cudaSuccess) left = total = 0;
    DIE("%s: no %s memory for %" PRId64
        " bytes (%s; GPU %d has %.1f of %.1f GiB left); use more "
        "ranks, recomputation or smaller packs",
        name, kind, bytes, cudaGetErrorString(status), self.number, (double)left / 0x1p30,
        (double)total / 0x1p30);
}

void *device_allocate(const char *name, int64_t bytes) {
    void *memory = NULL;
    const int64_t rounded = round_up(max_i64(bytes, 1), 256);
    CHECK(self.number >= 0, "%s: device_start comes first", name);
    check_allocated(cudaMalloc(&memory, (size_t)rounded), name, rounded, "device");
    zero_new(memory, rounded);
    return memory;
}

void *device_allocate_shared(const char *name, int64_t bytes) {
    void *memory = NULL;
    const int64_t rounded = round_up(max_i64(bytes, 1), 256);
    CHECK(self.number >= 0, "%s: device_start comes first", name);
    check_allocated(cudaMallocManaged(&memory, (size_t)rounded, cudaMemAttachGlobal), name, rounded,
                    "managed");
    zero_new(memory, rounded);
    return memory;
}

void device_free(void *memory) {
    if (memory != NULL) CUDA_CHECK(cudaFree(memory));  // Of NULL it would ask for a device.
}

void *host_allocate(const char *name, int64_t bytes) {
    void *memory = NULL;
    const int64_t rounded = round_up(max_i64(bytes, 1), 256);
    CHECK(self.number >= 0, "%s: device_start comes first", name);
    check_allocated(cudaHostAlloc(&memory, (size_t)rounded, cudaHostAllocDefault), name, rounded,
                    "pinned host");
    memset(memory, 0, (size_t)rounded);
    return memory;
}

void host_free(void *memory) {
    if (memory != NULL) CUDA_CHECK(cudaFreeHost(memory));
}

void device_copy(void *to, const void *from, int64_t bytes, Stream stream) {
    if (bytes == 0) return;
    CUDA_CHECK(cudaMemcpyAsync(to, from, (size_t)bytes, cudaMemcpyDefault, cuda_stream(stream)));
}

void device_zero(void *memory, int64_t bytes, Stream stream) {
    if (bytes == 0) return;
    CUDA_CHECK(cudaMemsetAsync(memory, 0, (size_t)bytes, cuda_stream(stream)));
}

// The compute stream is CUDA's legacy one, which waits for ordinary streams: these must not be. And
// they go first: what runs beside the compute stream is short, and without that its blocks start
// only when all those of a product that came before have.
Stream stream_create(void) {
    cudaStream_t stream = NULL;
    int least = 0, greatest = 0;
    CUDA_CHECK(cudaDeviceGetStreamPriorityRange(&least, &greatest));
    CUDA_CHECK(cudaStreamCreateWithPriority(&stream, cudaStreamNonBlocking, greatest));
    return (Stream)stream;
}

void stream_free(Stream stream) {
    if (stream != NULL) CUDA_CHECK(cudaStreamDestroy(cuda_stream(stream)));
}

void stream_wait(Stream stream) {
    watchdog_device();
    CUDA_CHECK(cudaStreamSynchronize(cuda_stream(stream)));
    watchdog_done();
}

static Event create_event(unsigned flags) {
    cudaEvent_t event = NULL;
    CUDA_CHECK(cudaEventCreateWithFlags(&event, flags));
    return (Event)event;
}

Event event_create(void) {
    return create_event(cudaEventDisableTiming);
}

Event event_create_timed(void) {
    return create_event(cudaEventDefault);
}

double event_seconds(Event begin, Event end) {
    float milliseconds = 0;
    CUDA_CHECK(cudaEventElapsedTime(&milliseconds, (cudaEvent_t)begin, (cudaEvent_t)end));
    return 1e-3 * (double)milliseconds;
}

void event_free(Event event) {
    if (event != NULL) CUDA_CHECK(cudaEventDestroy((cudaEvent_t)event));
}

void event_record(Event event, Stream stream) {
    CUDA_CHECK(cudaEventRecord((cudaEvent_t)event, cuda_stream(stream)));
}

void stream_await(Stream stream, Event event) {
    CUDA_CHECK(cudaStreamWaitEvent(cuda_stream(stream), (cudaEvent_t)event, 0));
}

void event_wait(Event event) {
    watchdog_device();
    CUDA_CHECK(cudaEventSynchronize((cudaEvent_t)event));
    watchdog_done();
}

int64_t device_memory_used(void) {
    size_t left = 0, total = 0;
    CUDA_CHECK(cudaMemGetInfo(&left, &total));
    return (int64_t)(total - left);
}

int64_t device_memory_free(int local_ranks) {
    (void)local_ranks;
    size_t left = 0, total = 0;
    CHECK(self.number >= 0, "device_start comes first");
    CUDA_CHECK(cudaMemGetInfo(&left, &total));
    return (int64_t)left / self.sharers;
}

void device_describe(char *text, int64_t size) {
    int driver = 0, runtime = 0;
    CHECK(self.number >= 0, "device_start comes first");
    CUDA_CHECK(cudaRuntimeGetVersion(&runtime));
    CUDA_CHECK(cudaDriverGetVersion(&driver));
    snprintf(text, (size_t)size, "%s (cuda %d.%d, driver for %d.%d, sm_%d%d)", self.properties.name,
             version_major(runtime), version_minor(runtime), version_major(driver),
             version_minor(driver), self.properties.major, self.properties.minor);
}
