// Between the parts of the emulator, and for stand-ins of libraries in C++.
#ifndef TESTS_EMULATOR_EMULATOR_H
#define TESTS_EMULATOR_EMULATOR_H

#include <stdint.h>

#include <functional>
#include <mutex>

#include "tests/emulator/cuda_runtime.h"

extern "C" {
#include "base/die.h"
}

namespace emulator {

// Queues work. `step` is called until it gives true, and others may run in between.
void enqueue(cudaStream_t stream, std::function<void()> run);
void enqueue_steps(cudaStream_t stream, std::function<bool()> step);

// Queues it for the calling thread alone to run (MPI wants that).
void enqueue_own_steps(cudaStream_t stream, std::function<bool()> step);

// The host waits until `done` holds, while streams run in a random order.
void wait_until(const std::function<bool()> &done);

// The host waits for something else: runs a little of what is queued. Returns at once.
void progress();

// Everything of the emulator is done under this lock, kernels included.
std::recursive_mutex &lock();

// Device memory may be touched while one of these lives.
struct Unlocked {
    Unlocked();
    ~Unlocked();
};

// Counts what is made: memory, streams, events, plans, communicators. What was made how often is in
// EMULATOR_COUNTS.RANK at the end where EMULATOR_COUNTS is set.
void count(const char *what);

// Errors stay until cudaGetLastError. Returns `error`.
cudaError_t report(cudaError_t error);

// Runs all blocks of a kernel now.
struct Launch {
    dim3 grid, block;
    int64_t dynamic_bytes;
    const void *kernel;
    std::function<void()> thread;
};
void run_kernel(const Launch &launch);

// The kernel that is running, NULL without one; the number of its thread in the block.
const Launch *running();
unsigned thread();

// The thread ends: it has waited for all copies that it has begun.
void check_copies();

// The name of a function of this program, for messages. The text lives until the next call.
const char *function_name(const void *function);

// Random numbers of this process: below n; and EMULATOR_ORDER's choice.
uint32_t random_below(uint32_t n);
bool downwards();

// Ends the program with a message.
#define FAULT(...) ::emulator::fault(__VA_ARGS__)
[[noreturn]] void fault(const char *format, ...) __attribute__((format(printf, 1, 2)));

enum {
    SHARED_MAX = 232448,  // Dynamic shared memory of a block on an H100.
    SHARED_DEFAULT = 48 * 1024,
    SHARED_STATIC = 8 * 1024,  // Of that, a kernel's own arrays at most, which are not seen here.
    THREADS_MAX = 1024,
};

}  // namespace emulator

#endif
