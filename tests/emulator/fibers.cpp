// Runs the blocks of a kernel, one after the other. A thread of a block is a plain call as long as
// it does not wait: it runs on the stack of a worker, which then runs the next thread. One that
// waits keeps its worker, and another worker (a fiber) takes over.
// At any time the first thread that can run does, first in the order up or down, so that of two
// threads without a barrier between them either one comes first in one of the two orders.
#include <link.h>
#include <sys/mman.h>

#include <vector>

#include "tests/emulator/emulator.h"
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
enum { STACK_BYTES = 512 << 10 };
#else
enum { STACK_BYTES = 128 << 10 };
#endif

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;
thread_local char dynamic_shared[emulator::SHARED_MAX] __attribute__((aligned(1024)));

// Leaves the stack pointer, below the registers that a function keeps, in *from; goes on with `to`.
// A longjmp takes ten times as long, and a hundred times under the address sanitizer.
extern "C" void emulator_switch(void **from, void *to);
asm(".text\n"
    ".hidden emulator_switch\n"
    ".globl emulator_switch\n"
    ".type emulator_switch, @function\n"
    "emulator_switch:\n"
    "pushq %rbp; pushq %rbx; pushq %r12; pushq %r13; pushq %r14; pushq %r15\n"
    "movq %rsp, (%rdi)\n"
    "movq %rsi, %rsp\n"
    "popq %r15; popq %r14; popq %r13; popq %r12; popq %rbx; popq %rbp\n"
    "ret\n"
    ".size emulator_switch, . - emulator_switch\n");

namespace emulator {

enum { WARPS_MAX = THREADS_MAX / 32, WORDS = THREADS_MAX / 64 };

struct Fiber {
    void *at;  // The stack pointer, while another one runs.
    const void *stack;
    size_t bytes;
    uint3 index;  // Of the thread it runs.
    void *fake;   // The address sanitizer's.
};

// What a thread waits for in its warp. work: of WARP_TOGETHER, whose value is a pointer.
struct Lane {
    WarpKind kind;
    unsigned mask, source;
    uint64_t value, result;
    void (*work)(void *const of_lane[32]);
};

// One for the program: whoever runs a kernel holds the lock.
struct Block {
    const Launch *launch;
    bool down;
    unsigned threads, started, ended;
    uint64_t ready[WORDS];  // Threads that waited and may go on.
    unsigned ready_count;
    unsigned arrived, sum, result;  // At the block's barrier.
    unsigned waiting[WARPS_MAX];    // Lanes that wait in their warp.
    Lane lanes[THREADS_MAX];
    Fiber *of[THREADS_MAX];
    Fiber home, *current, *previous;
    std::vector<Fiber *> idle;
    size_t fibers;
};
static Block &block = *new Block();

const Launch *running() {
    return block.launch;
}

static unsigned linear(const uint3 &index) {
    return index.x + blockDim.x * (index.y + blockDim.y * index.z);
}

unsigned thread_count(const dim3 &size) {
    return size.x * size.y * size.z;
}

// The thread that comes k-th.
static unsigned in_order(unsigned k) {
    return block.down ? block.threads - 1 - k : k;
}

static unsigned take_ready() {
    for (unsigned i = 0; i < WORDS; i++) {
        const unsigned w = block.down ? WORDS - 1 - i : i;
        const uint64_t bits = block.ready[w];
        if (bits == 0) continue;
        const unsigned bit = (unsigned)(block.down ? 63 - __builtin_clzll(bits)  //
                                                   : __builtin_ctzll(bits));
        block.ready[w] &= ~(1ull << bit);
        block.ready_count--;
        return w * 64 + bit;
    }
    FAULT("no thread is ready");
}

static void run_next() {
    const unsigned thread = in_order(block.started++);
    Fiber *self = block.current;
    const unsigned x = blockDim.x, y = blockDim.y;
    self->index = thread < x ? make_uint3(thread, 0, 0)
                             : make_uint3(thread % x, thread / x % y, thread / x / y);
    block.of[thread] = self;
    threadIdx = self->index;
    block.launch->thread();
    check_copies();
    block.of[thread] = NULL;
    block.ended++;
}

static void run_unstarted() {
    while (block.ready_count == 0 && block.started < block.threads) run_next();
}

static void fiber_main();

// Stacks begin at different places of a page, or they would share a few lines of the cache.
static Fiber *fiber_create() {
    static const size_t page = 4096, line = 64;
    Fiber *fiber = new Fiber();
    const size_t offset = block.fibers++ * 9 * line % page;
    char *memory = (char *)mmap(NULL, page + STACK_BYTES, PROT_READ | PROT_WRITE,
                                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED || mprotect(memory, page, PROT_NONE) != 0) {
        FAULT("no memory for the stacks of threads");
    }
    fiber->stack = memory + page;
    fiber->bytes = STACK_BYTES - offset;
    // What emulator_switch takes from the stack: six registers, where to go on; and a caller, none.
    void **top = (void **)(memory + page + fiber->bytes) - 8;
    top[6] = (void *)fiber_main;
    fiber->at = top;
    return fiber;
}

[[noreturn]] static void stuck() {
    unsigned in_block = 0, in_warp = 0, first_block = 0, first_warp = 0;
    for (unsigned i = block.threads; i-- > 0;) {
        if (block.of[i] == NULL) continue;
        const bool warp = block.waiting[i / 32] >> (i % 32) & 1u;
        (warp ? in_warp : in_block)++;
        (warp ? first_warp : first_block) = i;
    }
    if (in_warp == 0) {
        FAULT("%u of %u threads wait at a barrier of the block (the first is %u), %u have ended",
              in_block, block.threads, first_block, block.ended);
    }
    FAULT(
        "%u of %u threads wait in their warp (the first is %u, for the lanes %08x), %u at a "
        "barrier of the block, %u have ended",
        in_warp, block.threads, first_warp, block.lanes[first_warp].mask, in_block, block.ended);
}

// Who runs now.
static Fiber *pick() {
    if (block.ready_count > 0) return block.of[take_ready()];
    if (block.started < block.threads) {
        if (block.idle.empty()) return fiber_create();
        Fiber *fiber = block.idle.back();
        block.idle.pop_back();
        return fiber;
    }
    if (block.ended < block.threads) stuck();
    return &block.home;
}

// Tells the address sanitizer that the stack is another one; it tells where the last one was.
static void arrive(void *fake) {
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_finish_switch_fiber(fake, &block.previous->stack, &block.previous->bytes);
#else
    (void)fake;
#endif
}

// Goes on in `to`; returns when somebody switches back.
static void switch_to(Fiber *to) {
    Fiber *self = block.current;
    if (to != self) {
#ifdef __SANITIZE_ADDRESS__
        __sanitizer_start_switch_fiber(&self->fake, to->stack, to->bytes);
#endif
        block.previous = self;
        block.current = to;
        emulator_switch(&self->at, to->at);
        arrive(self->fake);
    }
    threadIdx = self->index;
}

static void fiber_main() {
    arrive(NULL);
    for (;;) {
        run_unstarted();
        Fiber *next = pick();
        if (next != block.current) block.idle.push_back(block.current);
        switch_to(next);
    }
}

static void run_block() {
    block.started = block.ended = block.arrived = block.sum = 0;
    memset(block.waiting, 0, sizeof(block.waiting));
    run_unstarted();
    while (block.ended < block.threads) {
        switch_to(pick());
        run_unstarted();
    }
}

// The calling thread's thread-local variables of the program: they are all shared memory.
struct Range {
    char *begin;
    size_t bytes;
};

static int find_locals(struct dl_phdr_info *info, size_t, void *range) {
    for (int i = 0; i < info->dlpi_phnum; i++) {
        if (info->dlpi_phdr[i].p_type != PT_TLS) continue;
        *(Range *)range = {(char *)info->dlpi_tls_data, info->dlpi_phdr[i].p_memsz};
    }
    return 1;  // The first is the program itself; no more.
}

static void clear_shared(const Range &locals, int64_t dynamic_bytes) {
    const size_t before = (size_t)(dynamic_shared - locals.begin), to = before + SHARED_MAX;
    memset(locals.begin, 0xff, before + (size_t)dynamic_bytes);
    memset(locals.begin + to, 0xff, locals.bytes - to);
}

void run_kernel(const Launch &launch) {
    Range locals = {};
    dl_iterate_phdr(find_locals, &locals);
#ifdef __SANITIZE_ADDRESS__
    // Only what the launch asked for may be touched.
    __asan_unpoison_memory_region(dynamic_shared, (size_t)launch.dynamic_bytes);
    __asan_poison_memory_region(dynamic_shared + launch.dynamic_bytes,
                                sizeof(dynamic_shared) - (size_t)launch.dynamic_bytes);
#endif
    block.launch = &launch;
    block.threads = thread_count(launch.block);
    block.current = &block.home;
    blockDim = launch.block;
    gridDim = launch.grid;
    const bool down = downwards();
    const uint64_t x = gridDim.x, y = gridDim.y, blocks = x * y * gridDim.z;
    for (uint64_t i = 0; i < blocks; i++) {
        const uint64_t b = down ? blocks - 1 - i : i;
        blockIdx = make_uint3((unsigned)(b % x), (unsigned)(b / x % y), (unsigned)(b / x / y));
        block.down = downwards();
        clear_shared(locals, launch.dynamic_bytes);
        run_block();
    }
    block.launch = NULL;
#ifdef __SANITIZE_ADDRESS__
    __asan_unpoison_memory_region(dynamic_shared, sizeof(dynamic_shared));
#endif
}

static void set_ready(unsigned warp, unsigned lanes) {
    block.ready[warp / 2] |= (uint64_t)lanes << (warp % 2 * 32);
    block.ready_count += (unsigned)__builtin_popcount(lanes);
}

// The lanes of a warp, where the last one may be short.
static unsigned lanes_of(unsigned warp) {
    const unsigned there = block.threads - warp * 32;
    return there >= 32 ? 0xffffffffu : (1u << there) - 1;
}

static void check_in_kernel(const char *what) {
    if (block.launch == NULL) FAULT("%s outside of a kernel", what);
}

// The last lane has arrived: all get their results.
static void finish_warp(unsigned warp, unsigned mask, WarpKind kind) {
    Lane *const lanes = &block.lanes[warp * 32];
    uint64_t ballot = 0;
    for (unsigned rest = mask; rest != 0; rest &= rest - 1) {
        const unsigned l = (unsigned)__builtin_ctz(rest);
        ballot |= (uint64_t)(lanes[l].value != 0) << l;
        const bool as_first = lanes[l].work == lanes[__builtin_ctz(mask)].work;
        if (lanes[l].mask == mask && lanes[l].kind == kind && as_first) continue;
        FAULT("lanes of a warp meet with masks %08x and %08x (lane %u)%s", mask, lanes[l].mask, l,
              lanes[l].kind == kind && as_first ? "" : " in different calls");
    }
    if (kind == WARP_TOGETHER) {
        void *of_lane[32];
        for (int l = 0; l < 32; l++) of_lane[l] = (void *)(uintptr_t)lanes[l].value;
        lanes[0].work(of_lane);
    }
    for (unsigned rest = mask; rest != 0; rest &= rest - 1) {
        Lane &lane = lanes[__builtin_ctz(rest)];
        // CUDA leaves open what comes from a lane outside of the mask: a NaN here.
        const bool known = lane.source < 32 && (mask >> lane.source & 1u);
        const uint64_t moved = known ? lanes[lane.source].value : ~0ull;
        lane.result = kind == WARP_BALLOT ? ballot : moved;
    }
    set_ready(warp, mask);
    block.waiting[warp] &= ~mask;
}

}  // namespace emulator

unsigned emulator::thread() {
    return linear(threadIdx);
}

// Waits in the warp; work as in Lane.
static uint64_t meet(WarpKind kind, unsigned mask, uint64_t value, unsigned source,
                     void (*work)(void *const of_lane[32])) {
    using namespace emulator;
    check_in_kernel("a shuffle, vote or product");
    const unsigned me = linear(threadIdx), warp = me / 32, lane = me % 32;
    if (!(mask >> lane & 1u)) FAULT("lane %u is not in the mask %08x that it gives", lane, mask);
    if (mask & ~lanes_of(warp)) {
        FAULT("the mask %08x names lanes that the last warp lacks: it has %u", mask,
              block.threads - warp * 32);
    }
    block.lanes[me] = Lane{kind, mask, source, value, 0, work};
    block.waiting[warp] |= 1u << lane;
    if ((block.waiting[warp] & mask) == mask) finish_warp(warp, mask, kind);
    switch_to(pick());
    return block.lanes[me].result;
}

uint64_t emulator_warp(WarpKind kind, unsigned mask, uint64_t value, unsigned source) {
    return meet(kind, mask, value, source, NULL);
}

void emulator_together(void (*work)(void *const of_lane[32]), void *mine) {
    meet(WARP_TOGETHER, 0xffffffffu, (uint64_t)(uintptr_t)mine, 0, work);
}

unsigned emulator_block(unsigned value) {
    using namespace emulator;
    check_in_kernel("a barrier");
    block.sum += value;
    if (++block.arrived == block.threads) {
        block.result = block.sum;
        block.arrived = block.sum = 0;
        for (unsigned w = 0; w * 32 < block.threads; w++) set_ready(w, lanes_of(w));
    }
    switch_to(pick());
    return block.result;
}

unsigned emulator_lane() {
    return emulator::linear(threadIdx) % 32;
}

void emulator_trap() {
    FAULT("__trap()");
}
