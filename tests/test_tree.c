// Ordered sums: merging leaves as they come gives the bits of the tree as it is defined, within the
// promised number of buffers; and any number of replicas that divides gives those bits too.
// ranks: 1
// backends: all
#include "parallel/tree.h"
#include "tests/op_check.h"

enum { LEAVES_MAX = 70, COUNT = 37 };

static float (*leaves)[COUNT];  // [LEAVES_MAX]

static void fill(void) {
    leaves = (float(*)[COUNT])floats_new(LEAVES_MAX * COUNT);
    for (int i = 0; i < LEAVES_MAX; i++) {
        rng_normal(leaves[i], COUNT, 7, RNG_TEST, (uint64_t)i, 0);
    }
}

// The definition: the first ceil(n / 2) leaves, and the rest.
static float tree_over(int begin, int n, int c) {
    if (n == 1) return leaves[begin][c];
    const int left = (n + 1) / 2;
    return tree_over(begin, left, c) + tree_over(begin + left, n - left, c);
}

// Sums leaves [begin, begin + n) into `sum`, `run` at a time, with no more than the promised
// buffers.
static void stack_sum(float *sum, int begin, int n, int run) {
    Tree tree = {.count = COUNT};
    const int buffers = tree_buffers(n);
    for (int i = 0; i < buffers; i++) tree.buffer[i] = floats_new(COUNT);
    tree_begin(&tree, n);
    for (int i = 0; i < n; i += run) {
        const Vectors v = {leaves[begin + i], COUNT, TYPE_F32, (int)min_i64(run, n - i)};
        tree_push(&tree, &v, NULL, NULL);
    }
    stream_wait(NULL);
    memcpy(sum, tree_sum(&tree), COUNT * sizeof(float));
    for (int i = 0; i < buffers; i++) device_free(tree.buffer[i]);
}

static void test_stack_is_the_tree(void **state) {
    (void)state;
    float got[COUNT], want[COUNT], serial[COUNT] = {0};
    int differs = 0;
    for (int n = 1; n <= LEAVES_MAX; n++) {
        for (int c = 0; c < COUNT; c++) {
            want[c] = tree_over(0, n, c);
            serial[c] += leaves[n - 1][c];
        }
        for (int run = 1; run <= n; run += 1 + run / 2) {
            stack_sum(got, 0, n, run);
            check_equal("sum", got, want, COUNT);
        }
        differs += memcmp(serial, want, sizeof(want)) != 0;
    }
    check_that(differs > LEAVES_MAX / 2, "the order shows in %d of %d sums only", differs,
               LEAVES_MAX);
    check_that(tree_buffers(1) == 1 && tree_buffers(3) == 1 && tree_buffers(8) == 3 &&
                   tree_buffers(1000) == 9,
               "buffers");
}

static void test_replicas_build_the_same_tree(void **state) {
    (void)state;
    for (int n = 1; n <= LEAVES_MAX; n++) {
        float want[COUNT], *pieces = floats_new(8 * COUNT);
        stack_sum(want, 0, n, 1);
        for (int replicas = 1; replicas <= 8; replicas *= 2) {
            if (n % replicas != 0) continue;
            for (int g = 0; g < replicas; g++) {
                stack_sum(pieces + g * COUNT, g * (n / replicas), n / replicas, 3);
            }
            tree_add_pieces(pieces, COUNT, replicas, COUNT, NULL);
            check_equal("sum over replicas", pieces, want, COUNT);
        }
        device_free(pieces);
    }
}

// A stack higher than any tree's, and then one sum: 20 vectors wait before the last of them merges
// with all; the uppermost are added first.
static void test_high_stack(void **state) {
    (void)state;
    enum { VECTORS = 20, LENGTH = 64 };
    float *const x = floats_new((VECTORS + 1) * LENGTH), *sum[VECTORS + 1], want[LENGTH];
    rng_normal(x, (VECTORS + 1) * LENGTH, 9, RNG_TEST, 0, 0);
    for (int i = 0; i <= VECTORS; i++) sum[i] = floats_new(LENGTH);
    memcpy(sum[0], x + VECTORS * LENGTH, sizeof(want));  // There before.
    for (int c = 0; c < LENGTH; c++) {
        want[c] = x[(VECTORS - 1) * LENGTH + c];
        for (int i = VECTORS - 2; i >= 0; i--) want[c] += x[i * LENGTH + c];
        want[c] += x[VECTORS * LENGTH + c];
    }
    const uint8_t merges[VECTORS] = {[VECTORS - 1] = VECTORS};
    const Vectors v = {x, LENGTH, TYPE_F32, VECTORS};
    const int height = vector_sum_stack(sum, 1, &v, merges, LENGTH, NULL);
    stream_wait(NULL);
    check_that(height == 1, "%d sums are left", height);
    check_equal("sum", sum[0], want, LENGTH);
    for (int i = 0; i <= VECTORS; i++) device_free(sum[i]);
    device_free(x);
}

// Parts of a leaf are added one by one first; leaves of 1, 2, 3, ... parts, in bf16, where rows are
// multiples of 16 bytes and where they are not.
static void test_leaves_in_parts(void **state) {
    (void)state;
    enum { PARTS = 55, LEAVES = 10, ROOM = 2600 };
    uint16_t *const part = device_allocate_shared("parts", PARTS * ROOM * 2);
    float x[ROOM];
    for (int i = 0; i < PARTS; i++) {
        rng_normal(x, ROOM, 8, RNG_TEST, (uint64_t)i, 0);
        for (int c = 0; c < ROOM; c++) part[i * ROOM + c] = float_to_bf16(x[c]);
    }
    bool ends[PARTS] = {false};
    for (int leaf = 0, i = 0; leaf < LEAVES; leaf++) ends[(i += leaf + 1) - 1] = true;
    Tree tree = {0};
    const int buffers = tree_buffers(LEAVES) + 1;
    for (int i = 0; i < buffers; i++) tree.buffer[i] = floats_new(ROOM);
    float(*const whole)[ROOM] = (float(*)[ROOM])floats_new(LEAVES * ROOM);
    const int64_t strides[] = {ROOM, ROOM - 1};
    for (int s = 0; s < 2; s++) {
        const int64_t stride = tree.count = strides[s];
        for (int leaf = 0, i = 0; leaf < LEAVES; leaf++) {
            for (int c = 0; c < stride; c++) {
                whole[leaf][c] = bf16_to_float(part[i * stride + c]);
                for (int j = 1; j <= leaf; j++) {
                    whole[leaf][c] += bf16_to_float(part[(i + j) * stride + c]);
                }
            }
            i += leaf + 1;
        }
        tree_begin(&tree, LEAVES);
        tree_push(&tree, &(Vectors){part, stride, TYPE_BF16, 3}, ends, NULL);
        tree_push(&tree, &(Vectors){part, stride, TYPE_BF16, 0}, ends, NULL);
        tree_push(&tree, &(Vectors){part + 3 * stride, stride, TYPE_BF16, PARTS - 3}, ends + 3,
                  NULL);
        stream_wait(NULL);
        Tree leaf_tree = {.count = stride};
        for (int i = 0; i < buffers - 1; i++) leaf_tree.buffer[i] = floats_new(ROOM);
        tree_begin(&leaf_tree, LEAVES);
        for (int i = 0; i < LEAVES; i++) {
            tree_push(&leaf_tree, &(Vectors){whole[i], 0, TYPE_F32, 1}, NULL, NULL);
        }
        stream_wait(NULL);
        check_equal("sum", tree_sum(&tree), tree_sum(&leaf_tree), stride);
        for (int i = 0; i < buffers - 1; i++) device_free(leaf_tree.buffer[i]);
    }
    for (int i = 0; i < buffers; i++) device_free(tree.buffer[i]);
    free_all(part, whole);
}

static void test_narrow_leaves(void **state) {
    (void)state;
    Tree tree = {.count = COUNT};
    float *buffer = floats_new(COUNT), want[COUNT];
    uint16_t *narrow = device_allocate_shared("narrow", 2 * COUNT * sizeof(*narrow));
    for (int c = 0; c < COUNT; c++) {
        for (int i = 0; i < 2; i++) narrow[i * COUNT + c] = float_to_bf16(leaves[i][c]);
        want[c] = bf16_to_float(narrow[c]) + bf16_to_float(narrow[COUNT + c]);
    }
    tree.buffer[0] = buffer;
    for (int step = 0; step < 2; step++) {  // A tree serves step after step.
        tree_begin(&tree, 2);
        tree_push(&tree, &(Vectors){narrow, COUNT, TYPE_BF16, 2}, NULL, NULL);
        check_equal("sum", tree_sum(&tree), want, COUNT);
    }
    free_all(buffer, narrow);
}

int main(void) {
    check_device(0);
    fill();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_stack_is_the_tree),
        cmocka_unit_test(test_replicas_build_the_same_tree),
        cmocka_unit_test(test_high_stack),
        cmocka_unit_test(test_leaves_in_parts),
        cmocka_unit_test(test_narrow_leaves),
    };
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    device_free(leaves);
    return failed;
}
