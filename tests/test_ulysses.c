// Ulysses: tokens to heads and back, with tokens and heads that do not divide by the ranks or are
// fewer than these, several tensors in one exchange, rows with gaps between them.
// ranks: 1 2 3 4
// backends: all
// device: 1 2 4
// precision: fp32 bf16
#include <stdlib.h>
#include <string.h>

#include "parallel/ulysses.h"
#include "tests/ranks.h"

enum { TENSORS = 3, GAP = 5, UNTOUCHED = 255 };

// Element d of a head of a token; exact in bf16.
static real value(int tensor, int64_t token, int64_t head, int64_t d) {
    return to_real((float)((token * 37 + head * 11 + d * 3 + tensor * 5) % 251));
}

// Shared with the device.
static real *filled(int64_t count) {
    real *x = device_allocate_shared("test", (count + 1) * (int64_t)sizeof(real));
    for (int64_t i = 0; i <= count; i++) x[i] = to_real(UNTOUCHED);
    return x;
}

// Writes tokens [t0, t1) and heads [h0, h1) of a tensor into rows of `stride`.
static void write_values(real *x, int tensor, int64_t t0, int64_t t1, int64_t h0, int64_t h1,
                         int64_t D, int64_t stride) {
    for (int64_t t = t0; t < t1; t++) {
        for (int64_t h = h0; h < h1; h++) {
            for (int64_t d = 0; d < D; d++) {
                x[(t - t0) * stride + (h - h0) * D + d] = value(tensor, t, h, d);
            }
        }
    }
}

// `count` tensors side by side in one exchange.
static void round_trip(int64_t P, int64_t H, int count) {
    const int n = comm_size(world), rank = comm_rank(world);
    const int64_t t0 = ulysses_token_cut(P, rank, n), T = ulysses_token_cut(P, rank + 1, n) - t0;
    const int64_t h0 = ulysses_head_cut(H, rank, n), h = ulysses_head_cut(H, rank + 1, n) - h0;
    const int64_t D = 4 + 2 * (H % 2), row = H * D + GAP, wide = count * h * D;
    real *tokens[TENSORS], *back[TENSORS];
    real *parts = filled(count * T * H * D), *again = filled(count * T * H * D);
    real *heads = filled(P * wide), *want = filled(P * wide);
    for (int k = 0; k < count; k++) {
        tokens[k] = filled(T * row);
        back[k] = filled(T * row);
        write_values(tokens[k], k, t0, t0 + T, 0, H, D, row);
        write_values(want + k * h * D, k, 0, P, h0, h0 + h, D, wide);
        ulysses_pack(parts, tokens[k], row, (PeerOrder){n, count, k}, T, H, D, NULL);
    }
    ulysses_tokens_to_heads(world, heads, parts, P, H, count * D, NULL);
    check_equal("heads", heads, want, P * wide + 1);
    ulysses_heads_to_tokens(world, again, heads, P, H, count * D, NULL);
    check_equal("parts", again, parts, count * T * H * D + 1);
    for (int k = 0; k < count; k++) {
        ulysses_unpack(back[k], row, again, (PeerOrder){n, count, k}, T, H, D, NULL);
        check_equal("tokens", back[k], tokens[k], T * row + 1);
        free_all(tokens[k], back[k]);
    }
    check_that(to_float(parts[count * T * H * D]) == UNTOUCHED, "P %lld, H %lld: wrote behind",
               (long long)P, (long long)H);
    free_all(parts, again, heads, want);
}

static void test_round_trips(void **state) {
    (void)state;
    const int64_t P[] = {0, 1, 2, 3, 7, 64, 1001}, H[] = {1, 2, 3, 4, 5, 28};
    for (int i = 0; i < 7; i++) {
        for (int j = 0; j < 6; j++) {
            round_trip(P[i], H[j], 1);
            round_trip(P[i], H[j], TENSORS);
        }
    }
}

static void check_heads(int64_t H, int n, const int64_t *want) {
    for (int i = 0; i < n; i++) {
        const int64_t heads = ulysses_head_cut(H, i + 1, n) - ulysses_head_cut(H, i, n);
        check_that(heads == want[i], "rank %d of %d has %lld of %lld heads", i, n, (long long)heads,
                   (long long)H);
    }
}

static void test_cuts(void **state) {
    (void)state;
    check_heads(28, 8, (const int64_t[]){4, 4, 4, 4, 3, 3, 3, 3});
    check_heads(4, 8, (const int64_t[]){1, 1, 1, 1, 0, 0, 0, 0});
    check_heads(16, 4, (const int64_t[]){4, 4, 4, 4});
    bool right = true;
    for (int n = 1; n <= 9; n++) {
        for (int64_t P = 0; P < 50; P++) {
            for (int64_t H = 1; H < 12; H++) {
                right = right && ulysses_token_cut(P, 0, n) == 0 && ulysses_head_cut(H, 0, n) == 0;
                right = right && ulysses_token_cut(P, n, n) == P && ulysses_head_cut(H, n, n) == H;
                for (int i = 0; i < n; i++) {
                    const int64_t T = ulysses_token_cut(P, i + 1, n) - ulysses_token_cut(P, i, n);
                    const int64_t h = ulysses_head_cut(H, i + 1, n) - ulysses_head_cut(H, i, n);
                    right = right && T >= P / n && T <= div_up(P, n) && h >= H / n;
                }
            }
        }
    }
    check_that(right, "cuts");
}

int main(int argc, char **argv) {
    ranks_start(&argc, &argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trips),
        cmocka_unit_test(test_cuts),
    };
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    comm_stop(world);
    return failed;
}
