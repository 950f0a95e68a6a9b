// Products on tensor cores (sm_80 and later) as the lanes of a warp share in them: bf16 factors,
// float sums; and copies into shared memory that go on beside the thread.
// All 32 lanes load and multiply together. Which lane holds what (PTX ISA, "Matrix
// Multiply-Accumulate Operation Using mma Instruction", m16n8k16), with g = lane / 4 and c = 2
// (lane % 4); a word holds two neighbours, the first one in its low half:
//     left [16, 16]   words: (g, c..)  (g + 8, c..)  (g, c + 8..)  (g + 8, c + 8..)
//     right [16, 8]   words: (c.., g)  (c + 8.., g), neighbours below each other
//     sums [16, 8]    (g, c)  (g, c + 1)  (g + 8, c)  (g + 8, c + 1)
// So sums of two products side by side, rounded, are a left factor as they lie.
#ifndef BASE_CUDA_TENSOR_CUH
#define BASE_CUDA_TENSOR_CUH

#include "base/cuda/kernel.cuh"

// g++ has the same names from tests/emulator/tensor_functions.h.
#ifdef __CUDACC__

// sums += left right. Each sum's order is the hardware's, the same in every run.
static __device__ __forceinline__ void tensor_product(float sums[4], const uint32_t left[4],
                                                      const uint32_t right[2]) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
        : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "r"(right[0]), "r"(right[1]));
}

// The address in shared memory that copies and loads take; bytes may be added to it.
static __device__ __forceinline__ uint32_t tensor_address(const uint16_t *shared) {
    return (uint32_t)__cvta_generic_to_shared(shared);
}

// Begins to copy 16 or 4 bytes, at a multiple of them, to shared memory; zeros where nothing is
// `there`: then it does not read.
static __device__ __forceinline__ void tensor_copy_16(uint32_t to, const void *from, bool there) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to),
                 "l"(__cvta_generic_to_global(from)), "r"(there ? 16 : 0)
                 : "memory");
}
static __device__ __forceinline__ void tensor_copy_4(uint32_t to, const void *from, bool there) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(to),
                 "l"(__cvta_generic_to_global(from)), "r"(there ? 4 : 0)
                 : "memory");
}

// The thread's copies are done. Other threads see them behind a barrier.
static __device__ __forceinline__ void tensor_copies_wait() {
    asm volatile("cp.async.wait_all;" ::: "memory");
}

// Four 8 x 8 matrices of bf16 from shared memory: lane l names the start of row l % 8 of matrix
// l / 8, 16 bytes, at a multiple of 16. word[i] is (g, c) and (g, c + 1) of matrix i.
static __device__ __forceinline__ void tensor_load(uint32_t word[4], uint32_t row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(word[0]), "=r"(word[1]), "=r"(word[2]), "=r"(word[3])
                 : "r"(row)
                 : "memory");
}

// As above, but word[i] is (c, g) and (c + 1, g) of matrix i.
static __device__ __forceinline__ void tensor_load_transposed(uint32_t word[4], uint32_t row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(word[0]), "=r"(word[1]), "=r"(word[2]), "=r"(word[3])
                 : "r"(row)
                 : "memory");
}

// Two floats as bf16, as float_to_bf16 rounds; `low` in the low half.
static __device__ __forceinline__ uint32_t tensor_pair(float low, float high) {
    uint32_t pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

// 2^x in one instruction, good to 2^-22; below 2^-126 it is 0.
static __device__ __forceinline__ float tensor_exp2(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

#endif

#endif
