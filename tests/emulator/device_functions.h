// Stand-in for what kernels call: indexes, barriers, shuffles, votes. C++ only.
#ifndef TESTS_EMULATOR_DEVICE_FUNCTIONS_H
#define TESTS_EMULATOR_DEVICE_FUNCTIONS_H

#include <stdint.h>
#include <string.h>

#include "tests/emulator/vector_types.h"

#define __global__
#define __device__
#define __host__
#define __constant__
#define __grid_constant__
#define __forceinline__ inline
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __launch_bounds__(...)
// Inside of a function this implies static; with extern it is the dynamic array.
#define __shared__ thread_local

extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;
static const int warpSize = 32;

// What the lanes of a warp do together; all lanes of a mask must do the same.
typedef enum { WARP_SYNC, WARP_SHUFFLE, WARP_BALLOT, WARP_TOGETHER } WarpKind;

// Waits for the lanes of `mask`; gives the value of lane `source`, or the lanes whose value is not
// zero.
uint64_t emulator_warp(WarpKind kind, unsigned mask, uint64_t value, unsigned source);

// Waits for all threads of the block; gives the sum of their values.
unsigned emulator_block(unsigned value);

unsigned emulator_lane(void);
[[noreturn]] void emulator_trap(void);

static inline void __syncthreads() {
    emulator_block(0);
}
static inline int __syncthreads_count(int predicate) {
    return (int)emulator_block(predicate != 0);
}
static inline int __syncthreads_or(int predicate) {
    return emulator_block(predicate != 0) != 0;
}
static inline int __syncthreads_and(int predicate) {
    return emulator_block(predicate == 0) == 0;
}
static inline void __syncwarp(unsigned mask = 0xffffffffu) {
    emulator_warp(WARP_SYNC, mask, 0, 0);
}
static inline unsigned __ballot_sync(unsigned mask, int predicate) {
    return (unsigned)emulator_warp(WARP_BALLOT, mask, predicate != 0, 0);
}
static inline int __any_sync(unsigned mask, int predicate) {
    return __ballot_sync(mask, predicate) != 0;
}
static inline int __all_sync(unsigned mask, int predicate) {
    return __ballot_sync(mask, predicate) == mask;
}

template <class T>
static T emulator_shuffle(unsigned mask, T value, unsigned source) {
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "shuffles move 4 or 8 bytes");
    uint64_t bits = 0;
    memcpy(&bits, &value, sizeof(value));
    bits = emulator_warp(WARP_SHUFFLE, mask, bits, source);
    memcpy(&value, &bits, sizeof(value));
    return value;
}

template <class T>
static T __shfl_sync(unsigned mask, T value, int lane, int width = 32) {
    const unsigned first = emulator_lane() & ~(unsigned)(width - 1);
    return emulator_shuffle(mask, value, first + ((unsigned)lane & (unsigned)(width - 1)));
}
template <class T>
static T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32) {
    const unsigned me = emulator_lane(), source = me ^ (unsigned)lanes;
    const unsigned end = (me & ~(unsigned)(width - 1)) + (unsigned)width;
    return emulator_shuffle(mask, value, source < end ? source : me);
}
template <class T>
static T __shfl_down_sync(unsigned mask, T value, unsigned lanes, int width = 32) {
    const unsigned me = emulator_lane(), source = me + lanes;
    const unsigned end = (me & ~(unsigned)(width - 1)) + (unsigned)width;
    return emulator_shuffle(mask, value, source < end ? source : me);
}
template <class T>
static T __shfl_up_sync(unsigned mask, T value, unsigned lanes, int width = 32) {
    const unsigned me = emulator_lane(), first = me & ~(unsigned)(width - 1);
    return emulator_shuffle(mask, value, me >= first + lanes ? me - lanes : me);
}

// Threads run in turn on one core, in the order of the program.
static inline void __threadfence() {}
static inline void __threadfence_block() {}
[[noreturn]] static inline void __trap() {
    emulator_trap();
}

#endif
