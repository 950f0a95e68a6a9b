// Memory. That of cudaMalloc lies in one reserved range, which is closed while the host runs: who
// touches it then ends with a message. It consists of huge pages, which make opening and closing
// cheap: 30 ms for 300 MB of small ones. Addresses are not used again before all is freed, and
// behind each allocation lies a gap that the address sanitizer watches. Managed and pinned memory
// come from malloc. All starts as NaN.
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>

#include <map>
#include <vector>

#include "tests/emulator/emulator.h"
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#define POISON(memory, bytes) __asan_poison_memory_region(memory, bytes)
#define UNPOISON(memory, bytes) __asan_unpoison_memory_region(memory, bytes)
#else
#define POISON(memory, bytes) (void)(memory)
#define UNPOISON(memory, bytes) (void)(memory)
#endif

using Guard = std::lock_guard<std::recursive_mutex>;

namespace emulator {

static const uint64_t RESERVED = 1ull << 40, TOTAL = 8ull << 30, PAGE = 2 << 20, GAP = 256;

struct Allocation {
    uint64_t bytes;
    cudaMemoryType type;
};

// One for the program.
struct State {
    char *base;
    uint64_t end;  // What was given out of the range.
    uint64_t used;
    int open;         // How many want it open.
    uint64_t opened;  // Pages up to here are.
    std::map<const char *, Allocation> allocations;
    struct sigaction old;
};
static State &state = *new State();  // Never destroyed: other threads may outlive main.

// The allocation that holds `memory`, or end().
static std::map<const char *, Allocation>::iterator find(const void *memory) {
    auto i = state.allocations.upper_bound((const char *)memory);
    if (i == state.allocations.begin()) return state.allocations.end();
    --i;
    const bool inside = (const char *)memory < i->first + i->second.bytes;
    return inside ? i : state.allocations.end();
}

static bool in_range(const void *memory) {
    return state.base != NULL && (const char *)memory >= state.base &&
           (const char *)memory < state.base + RESERVED;
}

static void on_fault(int number, siginfo_t *info, void *context) {
    if (in_range(info->si_addr)) {
        const char *address = (const char *)info->si_addr;
        const auto i = find(address);
        const char *who = running() != NULL ? "a kernel" : state.open ? "a stream" : "the host";
        if (i == state.allocations.end()) {
            FAULT("%s touched memory of the device at %p, which belongs to no allocation", who,
                  (const void *)address);
        }
        FAULT("%s touched memory of the device at %p, byte %ld of an allocation of %lu", who,
              (const void *)address, (long)(address - i->first), i->second.bytes);
    }
    sigaction(SIGSEGV, &state.old, NULL);
    if (state.old.sa_flags & SA_SIGINFO) state.old.sa_sigaction(number, info, context);
    // Otherwise the access is tried again, and the old action follows.
}

static uint64_t round_up_to(uint64_t bytes, uint64_t unit) {
    return (bytes + unit - 1) / unit * unit;
}

static void start() {
    if (state.base != NULL) return;
    void *base =
        mmap(NULL, RESERVED + PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED) FAULT("no range of addresses for the device");
    state.base = (char *)round_up_to((uint64_t)base, PAGE);
    madvise(state.base, RESERVED, MADV_HUGEPAGE);
    struct sigaction action = {};
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    sigaction(SIGSEGV, &action, &state.old);
}

// Opens what is not open, or closes all.
static void protect() {
    const uint64_t end = state.open > 0 ? round_up_to(state.end, PAGE) : 0;
    const uint64_t from = end > state.opened ? state.opened : end;
    const uint64_t to = end > state.opened ? end : state.opened;
    const int protection = end > state.opened ? PROT_READ | PROT_WRITE : PROT_NONE;
    if (to > from && mprotect(state.base + from, to - from, protection) != 0) {
        FAULT("mprotect of %lu bytes failed", to - from);
    }
    state.opened = end;
}

Unlocked::Unlocked() {
    if (state.open++ == 0) protect();
}

Unlocked::~Unlocked() {
    if (--state.open == 0) protect();
}

static cudaMemoryType type_of(const void *memory) {
    const auto i = find(memory);
    return i == state.allocations.end() ? cudaMemoryTypeUnregistered : i->second.type;
}

static bool overruns(const void *memory, uint64_t bytes) {
    const auto i = find(memory);
    if (i == state.allocations.end()) return in_range(memory);
    return (uint64_t)((const char *)memory - i->first) + bytes > i->second.bytes;
}

static cudaError_t allocate_host(void **memory, uint64_t bytes, cudaMemoryType type) {
    const Guard guard(lock());
    count(type == cudaMemoryTypeManaged ? "managed memory" : "pinned memory");
    *memory = NULL;
    if (bytes == 0) return cudaSuccess;
    if (posix_memalign(memory, 256, bytes) != 0) return report(cudaErrorMemoryAllocation);
    memset(*memory, 0xff, bytes);
    state.allocations[(char *)*memory] = {bytes, type};
    return cudaSuccess;
}

// The rows of a copy.
struct Rows {
    char *to;
    const char *from;
    size_t to_pitch, from_pitch, width, height;
};

static void copy_rows(const Rows &r) {
    for (size_t y = 0; y < r.height; y++) {
        memcpy(r.to + y * r.to_pitch, r.from + y * r.from_pitch, r.width);
    }
}

static bool fits(cudaMemcpyKind kind, cudaMemoryType to, cudaMemoryType from) {
    const bool to_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
    const bool from_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
    if (kind == cudaMemcpyDefault) return true;
    return (to == cudaMemoryTypeManaged || (to == cudaMemoryTypeDevice) == to_device) &&
           (from == cudaMemoryTypeManaged || (from == cudaMemoryTypeDevice) == from_device);
}

static cudaError_t copy(Rows r, cudaMemcpyKind kind, cudaStream_t stream) {
    if (r.width == 0 || r.height == 0) return cudaSuccess;
    if (r.width > r.to_pitch || r.width > r.from_pitch) return report(cudaErrorInvalidValue);
    const cudaMemoryType to = type_of(r.to), from = type_of(r.from);
    if (!fits(kind, to, from)) return report(cudaErrorInvalidMemcpyDirection);
    const size_t to_bytes = (r.height - 1) * r.to_pitch + r.width;
    const size_t from_bytes = (r.height - 1) * r.from_pitch + r.width;
    if (overruns(r.to, to_bytes) || overruns(r.from, from_bytes)) {
        return report(cudaErrorInvalidValue);
    }
    if (r.height == 1 && r.to < r.from + r.width && r.from < r.to + r.width) {
        FAULT("a copy of %zu bytes from %p to %p: the two overlap", r.width, (const void *)r.from,
              (void *)r.to);
    }
    if (from == cudaMemoryTypeUnregistered) {
        // Staged at the call.
        std::vector<char> staged(r.width * r.height);
        copy_rows({staged.data(), r.from, r.width, r.from_pitch, r.width, r.height});
        enqueue(stream, [r, staged = std::move(staged)] {
            copy_rows({r.to, staged.data(), r.to_pitch, r.width, r.width, r.height});
        });
    } else {
        enqueue(stream, [r] { copy_rows(r); });
    }
    return to == cudaMemoryTypeUnregistered ? cudaStreamSynchronize(stream) : cudaSuccess;
}

}  // namespace emulator

using namespace emulator;

bool emulator_on_device(const void *memory, size_t bytes) {
    const Guard guard(lock());
    return type_of(memory) != cudaMemoryTypeUnregistered && !overruns(memory, bytes);
}

cudaError_t cudaMalloc(void **memory, size_t bytes) {
    const Guard guard(lock());
    count("device memory");
    start();
    *memory = NULL;
    if (bytes == 0) return cudaSuccess;
    if (bytes > TOTAL - state.used) return report(cudaErrorMemoryAllocation);
    const uint64_t whole = round_up_to(bytes + GAP, GAP);
    if (state.end + whole > RESERVED) FAULT("the device's addresses are used up");
    char *begin = state.base + state.end;
    state.end += whole;
    const Unlocked unlocked;
    protect();  // It may have been open before, up to the old end.
    POISON(begin, whole);
    UNPOISON(begin, bytes);
    memset(begin, 0xff, bytes);
    state.allocations[begin] = {bytes, cudaMemoryTypeDevice};
    state.used += bytes;
    *memory = begin;
    return cudaSuccess;
}

cudaError_t cudaMallocManaged(void **memory, size_t bytes, unsigned) {
    return allocate_host(memory, bytes, cudaMemoryTypeManaged);
}

cudaError_t cudaMallocHost(void **memory, size_t bytes) {
    return allocate_host(memory, bytes, cudaMemoryTypeHost);
}

cudaError_t cudaHostAlloc(void **memory, size_t bytes, unsigned) {
    return allocate_host(memory, bytes, cudaMemoryTypeHost);
}

static cudaError_t release(void *memory, bool pinned) {
    if (memory == NULL) return cudaSuccess;
    cudaDeviceSynchronize();
    const Guard guard(lock());
    const auto i = state.allocations.find((const char *)memory);
    if (i == state.allocations.end() || (i->second.type == cudaMemoryTypeHost) != pinned) {
        return report(cudaErrorInvalidValue);
    }
    const Allocation allocation = i->second;
    state.allocations.erase(i);
    if (allocation.type != cudaMemoryTypeDevice) {
        free(memory);
        return cudaSuccess;
    }
    POISON(memory, round_up_to(allocation.bytes + GAP, GAP));
    const uint64_t first = round_up_to((uint64_t)memory, PAGE);
    const uint64_t last = ((uint64_t)memory + allocation.bytes) / PAGE * PAGE;
    if (last > first) madvise((void *)first, last - first, MADV_DONTNEED);
    state.used -= allocation.bytes;
    if (state.used == 0) state.end = 0;
    return cudaSuccess;
}

cudaError_t cudaFree(void *memory) {
    return release(memory, false);
}

cudaError_t cudaFreeHost(void *memory) {
    return release(memory, true);
}

cudaError_t cudaMemGetInfo(size_t *free, size_t *total) {
    const Guard guard(lock());
    *total = TOTAL;
    *free = TOTAL - state.used;
    return cudaSuccess;
}

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes *attributes, const void *memory) {
    const Guard guard(lock());
    *attributes = {};
    attributes->type = type_of(memory);
    const bool unregistered = attributes->type == cudaMemoryTypeUnregistered;
    attributes->device = unregistered ? -2 : 0;
    if (!unregistered) attributes->devicePointer = (void *)memory;
    if (attributes->type != cudaMemoryTypeDevice) attributes->hostPointer = (void *)memory;
    return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
    const Guard guard(lock());
    return copy({(char *)to, (const char *)from, bytes, bytes, bytes, 1}, kind, stream);
}

cudaError_t cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch,
                              size_t width, size_t height, cudaMemcpyKind kind,
                              cudaStream_t stream) {
    const Guard guard(lock());
    return copy({(char *)to, (const char *)from, to_pitch, from_pitch, width, height}, kind,
                stream);
}

cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, cudaMemcpyKind kind) {
    const cudaError_t status = cudaMemcpyAsync(to, from, bytes, kind, NULL);
    return status == cudaSuccess ? cudaStreamSynchronize(NULL) : status;
}

cudaError_t cudaMemset2DAsync(void *memory, size_t pitch, int value, size_t width, size_t height,
                              cudaStream_t stream) {
    const Guard guard(lock());
    if (width == 0 || height == 0) return cudaSuccess;
    if (width > pitch || !emulator_on_device(memory, (height - 1) * pitch + width)) {
        return report(cudaErrorInvalidValue);
    }
    enqueue(stream, [=] {
        for (size_t y = 0; y < height; y++) memset((char *)memory + y * pitch, value, width);
    });
    return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void *memory, int value, size_t bytes, cudaStream_t stream) {
    return cudaMemset2DAsync(memory, bytes, value, bytes, 1, stream);
}

cudaError_t cudaMemset(void *memory, int value, size_t bytes) {
    return cudaMemsetAsync(memory, value, bytes, NULL);
}
