// Streams as queues that run in a random order: the order of each stream, and of events, holds; no
// other. They run when the host waits, either what it waits for alone or any, and now and then a
// little when something is queued.
#include <sched.h>
#include <time.h>

#include <deque>
#include <memory>
#include <set>
#include <thread>
#include <vector>

#include "tests/emulator/emulator.h"

using std::function;
using Guard = std::lock_guard<std::recursive_mutex>;

namespace emulator {

// A place in a stream that an event marks.
struct Mark {
    bool done;
    double seconds;
    CUstream_st *stream;
};

struct Work {
    function<bool()> step;
    std::shared_ptr<Mark> awaited;  // Of one that waits.
    bool own;                       // For `owner` alone.
    std::thread::id owner;
};

}  // namespace emulator

struct CUstream_st {
    std::deque<emulator::Work> queue;
    uint64_t queued, done;
};

struct CUevent_st {
    std::shared_ptr<emulator::Mark> mark;  // The last record.
    bool timing;
};

namespace emulator {

// One for the program; the first stream is the default one.
struct State {
    std::vector<CUstream_st *> streams;
    std::set<CUevent_st *> events;
    int running;  // Work in work does not start other work.
};
static State &state = *new State();  // Never destroyed: other threads may outlive main.

static CUstream_st *find(cudaStream_t stream) {
    if (state.streams.empty()) state.streams.push_back(new CUstream_st());
    if (stream == NULL || stream == cudaStreamLegacy) return state.streams[0];
    for (CUstream_st *s : state.streams) {
        if (s == stream) return s;
    }
    FAULT("%p is no stream", (void *)stream);
}

// Runs the first work of a stream. False where there is none, or it has to wait.
static bool run_first(CUstream_st *stream) {
    if (stream->queue.empty()) return false;
    Work &work = stream->queue.front();
    if (work.own && work.owner != std::this_thread::get_id()) return false;
    state.running++;
    const bool done = work.step();
    state.running--;
    if (!done) return false;
    stream->queue.pop_front();
    stream->done++;
    return true;
}

static bool run_any() {
    const uint32_t n = (uint32_t)state.streams.size(), first = n > 1 ? random_below(n) : 0;
    for (uint32_t i = 0; i < n; i++) {
        if (run_first(state.streams[(first + i) % n])) return true;
    }
    return false;
}

// Runs the first work that `stream` needs.
static bool run_needed(CUstream_st *stream) {
    while (!stream->queue.empty() && stream->queue.front().awaited != NULL &&
           !stream->queue.front().awaited->done) {
        stream = stream->queue.front().awaited->stream;
    }
    return run_first(stream);
}

// Runs until `done`; of other streams than `needed` no more than has to be, half of the time.
static void run_until(CUstream_st *needed, const function<bool()> &done) {
    if (done()) return;
    if (state.running > 0) FAULT("work in a stream may not wait for streams");
    const bool lazy = needed != NULL && random_below(2) == 1;
    const Unlocked unlocked;
    while (!done()) {
        if (lazy && run_needed(needed)) continue;
        if (run_any()) continue;
        lock().unlock();  // Other ranks' messages, or another thread, have to come first.
        sched_yield();
        lock().lock();
    }
}

void wait_until(const function<bool()> &done) {
    const Guard guard(lock());
    run_until(NULL, done);
}

static bool all_done() {
    for (const CUstream_st *s : state.streams) {
        if (!s->queue.empty()) return false;
    }
    return true;
}

static void run_some(int most) {
    if (state.running > 0 || all_done()) return;
    const Unlocked unlocked;
    while (most-- > 0 && run_any()) continue;
}

void progress() {
    const Guard guard(lock());
    run_some(1);
}

static void push(cudaStream_t stream, Work work) {
    CUstream_st *s = find(stream);
    s->queue.push_back(std::move(work));
    s->queued++;
    if (random_below(16) == 0) run_some(1 + (int)random_below(8));
}

void enqueue_steps(cudaStream_t stream, function<bool()> step) {
    const Guard guard(lock());
    push(stream, Work{std::move(step), NULL, false, {}});
}

void enqueue_own_steps(cudaStream_t stream, function<bool()> step) {
    const Guard guard(lock());
    push(stream, Work{std::move(step), NULL, true, std::this_thread::get_id()});
}

void enqueue(cudaStream_t stream, function<void()> run) {
    enqueue_steps(stream, [run = std::move(run)] {
        run();
        return true;
    });
}

static double now() {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static CUevent_st *check(cudaEvent_t event) {
    if (state.events.count(event) == 0) FAULT("%p is no event", (void *)event);
    return event;
}

}  // namespace emulator

using namespace emulator;

void emulator_enqueue(cudaStream_t stream, void (*run)(void *), void *context) {
    enqueue(stream, [=] { run(context); });
}

cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t run, void *context) {
    emulator_enqueue(stream, run, context);
    return cudaSuccess;
}

cudaError_t cudaDeviceSynchronize() {
    const Guard guard(lock());
    run_until(NULL, all_done);
    return cudaSuccess;
}

cudaError_t cudaDeviceReset() {
    return cudaDeviceSynchronize();
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags) {
    const Guard guard(lock());
    count("stream");
    if (flags != cudaStreamNonBlocking) return report(cudaErrorNotSupported);
    find(NULL);
    state.streams.push_back(new CUstream_st());
    *stream = state.streams.back();
    return cudaSuccess;
}

cudaError_t cudaStreamCreateWithPriority(cudaStream_t *stream, unsigned flags, int) {
    return cudaStreamCreateWithFlags(stream, flags);
}

cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest) {
    *least = 0;
    *greatest = -5;
    return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    const Guard guard(lock());
    CUstream_st *s = find(stream);
    if (s == state.streams[0]) return report(cudaErrorInvalidResourceHandle);
    run_until(s, [s] { return s->queue.empty(); });
    for (size_t i = 0; i < state.streams.size(); i++) {
        if (state.streams[i] == s) state.streams.erase(state.streams.begin() + (int64_t)i);
    }
    delete s;
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    const Guard guard(lock());
    CUstream_st *s = find(stream);
    run_until(s, [s, last = s->queued] { return s->done >= last; });
    return cudaSuccess;
}

cudaError_t cudaStreamQuery(cudaStream_t stream) {
    const Guard guard(lock());
    const CUstream_st *s = find(stream);
    run_some(1);
    return s->queue.empty() ? cudaSuccess : cudaErrorNotReady;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
    const Guard guard(lock());
    const std::shared_ptr<Mark> mark = check(event)->mark;
    if (mark != NULL) push(stream, Work{[mark] { return mark->done; }, mark, false, {}});
    return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t *event) {
    return cudaEventCreateWithFlags(event, cudaEventDefault);
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags) {
    const Guard guard(lock());
    count("event");
    *event = new CUevent_st();
    (*event)->timing = !(flags & cudaEventDisableTiming);
    state.events.insert(*event);
    return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
    const Guard guard(lock());
    state.events.erase(check(event));
    delete event;
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
    const Guard guard(lock());
    const std::shared_ptr<Mark> mark(new Mark{false, 0, find(stream)});
    check(event)->mark = mark;
    enqueue(stream, [mark] {
        mark->seconds = now();
        mark->done = true;
    });
    return cudaSuccess;
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
    const Guard guard(lock());
    const std::shared_ptr<Mark> mark = check(event)->mark;
    run_some(1);
    return mark == NULL || mark->done ? cudaSuccess : cudaErrorNotReady;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
    const Guard guard(lock());
    const std::shared_ptr<Mark> mark = check(event)->mark;
    if (mark != NULL) run_until(mark->done ? NULL : mark->stream, [mark] { return mark->done; });
    return cudaSuccess;
}

cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t begin, cudaEvent_t end) {
    const Guard guard(lock());
    const std::shared_ptr<Mark> a = check(begin)->mark, b = check(end)->mark;
    if (a == NULL || b == NULL) return report(cudaErrorInvalidResourceHandle);
    if (!begin->timing || !end->timing) return report(cudaErrorInvalidResourceHandle);
    if (!a->done || !b->done) return report(cudaErrorNotReady);
    *milliseconds = (float)(1e3 * (b->seconds - a->seconds));
    return cudaSuccess;
}
