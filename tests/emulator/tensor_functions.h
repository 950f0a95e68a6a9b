// Stand-in for the instructions of base/cuda/tensor.cuh: one thread computes for its whole warp, by
// the tables of the PTX ISA. C++ only.
#ifndef TESTS_EMULATOR_TENSOR_FUNCTIONS_H
#define TESTS_EMULATOR_TENSOR_FUNCTIONS_H

#include <stdint.h>

// Waits for all 32 lanes; `work` gets what each gave, one call for all of them.
void emulator_together(void (*work)(void *const of_lane[32]), void *mine);

// An address is the distance from dynamic_shared. Copies are done at once or when the thread waits
// for them, as drawn; a thread that ends without having waited is a fault.
uint32_t tensor_address(const uint16_t *shared);
void tensor_copy_16(uint32_t to, const void *from, bool there);
void tensor_copy_4(uint32_t to, const void *from, bool there);
void tensor_copies_wait();
void tensor_product(float sums[4], const uint32_t left[4], const uint32_t right[2]);
void tensor_load(uint32_t word[4], uint32_t row);
void tensor_load_transposed(uint32_t word[4], uint32_t row);
uint32_t tensor_pair(float low, float high);
float tensor_exp2(float x);

#endif
