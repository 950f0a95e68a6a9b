// Products on tensor cores. A lane's place g, c is that of base/cuda/tensor.cuh.
#include "tests/emulator/emulator.h"

extern "C" {
#include "base/real.h"
}

extern thread_local char dynamic_shared[];

namespace {

struct Product {
    float *sums;
    const uint32_t *left, *right;
};

struct Load {
    uint32_t *word;
    const uint16_t *row;
};

}  // namespace

static float half(uint32_t word, int which) {
    return bf16_to_float((uint16_t)(word >> 16 * which));
}

// Half of a test's time under the sanitizers, if they looked at it.
__attribute__((no_sanitize("address", "undefined"))) static void product(void *const of_lane[32]) {
    float left[16][16], right[8][16];  // right: by columns.
    for (int lane = 0; lane < 32; lane++) {
        const Product *p = (const Product *)of_lane[lane];
        const int g = lane / 4, c = 2 * (lane % 4);
        for (int i = 0; i < 2; i++) {
            left[g][c + i] = half(p->left[0], i);
            left[g + 8][c + i] = half(p->left[1], i);
            left[g][c + 8 + i] = half(p->left[2], i);
            left[g + 8][c + 8 + i] = half(p->left[3], i);
            right[g][c + i] = half(p->right[0], i);
            right[g][c + 8 + i] = half(p->right[1], i);
        }
    }
    for (int lane = 0; lane < 32; lane++) {
        const Product *p = (const Product *)of_lane[lane];
        const int g = lane / 4, c = 2 * (lane % 4);
        for (int i = 0; i < 4; i++) {
            float sum = 0;
            for (int k = 0; k < 16; k++) sum += left[g + i / 2 * 8][k] * right[c + i % 2][k];
            p->sums[i] += sum;
        }
    }
}

void tensor_product(float sums[4], const uint32_t left[4], const uint32_t right[2]) {
    Product mine = {sums, left, right};
    emulator_together(product, &mine);
}

template <bool TRANSPOSED>
static void load(void *const of_lane[32]) {
    for (int lane = 0; lane < 32; lane++) {
        const Load *to = (const Load *)of_lane[lane];
        const int g = lane / 4, c = 2 * (lane % 4);
        for (int matrix = 0; matrix < 4; matrix++) {
            uint16_t two[2];
            for (int i = 0; i < 2; i++) {
                const int row = TRANSPOSED ? c + i : g, column = TRANSPOSED ? g : c + i;
                two[i] = ((const Load *)of_lane[8 * matrix + row])->row[column];
            }
            to->word[matrix] = two[0] | (uint32_t)two[1] << 16;
        }
    }
}

uint32_t tensor_address(const uint16_t *shared) {
    return (uint32_t)((const char *)shared - dynamic_shared);
}

static Load load_of(uint32_t word[4], uint32_t row) {
    const bool inside = row + 16 <= (uint64_t)emulator::running()->dynamic_bytes;
    if (row % 16 != 0 || !inside) FAULT("ldmatrix from byte %u of dynamic shared memory", row);
    return Load{word, (const uint16_t *)(const void *)(dynamic_shared + row)};
}

void tensor_load(uint32_t word[4], uint32_t row) {
    Load mine = load_of(word, row);
    emulator_together(load<false>, &mine);
}

void tensor_load_transposed(uint32_t word[4], uint32_t row) {
    Load mine = load_of(word, row);
    emulator_together(load<true>, &mine);
}

uint32_t tensor_pair(float low, float high) {
    return float_to_bf16(low) | (uint32_t)float_to_bf16(high) << 16;
}

float tensor_exp2(float x) {
    const float y = exp2f(x);
    return y < 0x1p-126f ? 0.0f : y;
}
