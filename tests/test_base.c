// base: Philox gives Random123's numbers and any element on its own, normals are normal, CRC-32C
// and bf16 give the published values, an arena hands out what it measured, problems count on.
// `test_base die|check|arena|abort` die on purpose for tests/test_die.sh.
// ranks: 1
// precision: fp32 bf16
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/arena.h"
#include "base/checksum.h"
#include "base/device.h"
#include "base/die.h"
#include "base/error.h"
#include "base/philox.h"
#include "base/rng.h"
#include "tests/check.h"

// Known answers: Random123 1.14, kat_vectors, philox4x32 10.
static void test_philox_known_answers(void **state) {
    (void)state;
    static const struct {
        uint32_t counter[4], key[2], want[4];
    } cases[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
         {0xffffffff, 0xffffffff},
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        uint32_t out[4];
        philox(out, cases[i].counter, cases[i].key);
        check_equal("philox", out, cases[i].want, 4);
    }
}

static void test_elements_stand_alone(void **state) {
    (void)state;
    enum { N = 1003 };
    static float all[N], part[N];
    rng_normal(all, N, 7, RNG_TEST, 3, 0);
    for (int64_t first = 0; first < N; first += 97) {
        const int64_t count = N - first < 100 ? N - first : 100;
        rng_normal(part, count, 7, RNG_TEST, 3, (uint64_t)first);
        check_equal("normals from the middle", part, all + first, count);
    }
    uint32_t bits[8], other[8];
    for (uint64_t i = 0; i < 8; i++) {
        bits[i] = rng_bits(7, RNG_TEST, 3, i);
        other[i] = rng_bits(7, RNG_TEST, 4, i);
    }
    check_that(memcmp(bits, other, sizeof(bits)) != 0, "two positions with the same numbers");
    const double u = rng_uniform(7, RNG_TEST, 3, 1);
    const uint64_t joined = (uint64_t)bits[2] << 32 | bits[3];
    check_that(u == (double)(joined >> 11) * 0x1p-53, "uniform %.17g", u);
}

// Moments of 2^20 normals, each within five standard errors, formula against libm in double, and
// the bits: those of any compiler, processor and backend.
static void test_normals(void **state) {
    (void)state;
    enum { N = 1 << 20 };
    float *const x = malloc(N * sizeof(float));
    CHECK(x != NULL, "no memory");
    rng_normal(x, N, 1, RNG_TEST, 0, 0);
    double sums[4] = {0}, worst = 0;
    for (int64_t i = 0; i < N; i++) {
        const double v = (double)x[i];
        sums[0] += v;
        sums[1] += v * v;
        sums[2] += v * v * v;
        sums[3] += v * v * v * v;
    }
    const uint64_t hash = hash_bytes(x, 65536 * (int64_t)sizeof(*x));
    check_that(hash == 0x9cff35b50006a117, "normals hash to %016" PRIx64, hash);
    const double n = N;
    check_that(fabs(sums[0] / n) < 5 * sqrt(1 / n), "mean %g", sums[0] / n);
    check_that(fabs(sums[1] / n - 1) < 5 * sqrt(2 / n), "variance %g", sums[1] / n);
    check_that(fabs(sums[2] / n) < 5 * sqrt(15 / n), "third moment %g", sums[2] / n);
    check_that(fabs(sums[3] / n - 3) < 5 * sqrt(96 / n), "fourth moment %g", sums[3] / n);
    for (uint64_t i = 0; i < 10000; i += 2) {
        const double u1 = (rng_bits(1, RNG_TEST, 0, i) + 0.5) * 0x1p-32;
        const double u2 = (rng_bits(1, RNG_TEST, 0, i + 1) >> 8) * 0x1p-24;
        const double radius = sqrt(-2 * log(u1)), turn = 2 * acos(-1.0) * u2;
        worst = fmax(worst, fabs(radius * cos(turn) - (double)x[i]));
        worst = fmax(worst, fabs(radius * sin(turn) - (double)x[i + 1]));
    }
    check_that(worst < 3e-6, "Box-Muller differs by %g", worst);
    free(x);
}

static void test_checksum(void **state) {
    (void)state;
    const char *const text = "123456789";
    check_that(crc32c(0, text, 9) == 0xe3069283u, "%08x", (unsigned)crc32c(0, text, 9));
    for (int cut = 0; cut <= 9; cut++) {
        const uint32_t crc = crc32c(crc32c(0, text, cut), text + cut, 9 - cut);
        check_that(crc == 0xe3069283u, "cut at %d: %08x", cut, (unsigned)crc);
    }
    static const char zeros[32];  // RFC 3720, B.4.
    check_that(crc32c(0, zeros, 32) == 0x8a9136aau, "%08x", (unsigned)crc32c(0, zeros, 32));
}

static void test_bf16(void **state) {
    (void)state;
    const float in[] = {1.0f, 1.00390625f, 1.01171875f, -1.00390625f, 3.4e38f, 1e-40f, 0.0f};
    const uint16_t want[] = {0x3f80, 0x3f80, 0x3f82, 0xbf80, 0x7f80, 0x0001, 0};
    for (size_t i = 0; i < sizeof(want) / sizeof(want[0]); i++) {
        const uint16_t got = float_to_bf16(in[i]);
        check_equal("bf16", &got, &want[i], 1);
    }
    check_that(isnan(bf16_to_float(float_to_bf16(NAN))), "NaN is lost");
    for (uint32_t bits = 0; bits < 65536; bits++) {  // Every bf16 survives.
        const float value = bf16_to_float((uint16_t)bits);
        const bool same = float_to_bf16(value) == bits;
        if (!same && !isnan(value)) check_that(false, "%04x changes", (unsigned)bits);
    }
    check_that(to_float(to_real(1.5f)) == 1.5f, "real");
}

static void test_arena(void **state) {
    (void)state;
    Arena arena = {.name = "test"};
    char *parts[3] = {NULL};
    for (int pass = 0; pass < 2; pass++) {
        parts[0] = arena_take(&arena, 1);
        parts[1] = arena_take(&arena, 256);
        parts[2] = arena_take(&arena, 1000);
        if (pass == 0) check_that(parts[2] == NULL && arena.used == 512 + 1000, "measuring");
        if (pass == 0) arena_commit(&arena);
    }
    check_that(arena.used == arena.size && parts[1] == parts[0] + 256, "second pass");
    check_that(parts[2] == parts[0] + 512 && (uintptr_t)parts[0] % 256 == 0, "places");
    check_that(parts[2][999] == 0, "not zeroed");
    arena_free(&arena);
    check_that(arena.memory == NULL && arena.size == 0, "not freed");
}

static void test_problems_count_on(void **state) {
    (void)state;
    static Problems problems;
    for (int i = 0; i < PROBLEMS_MAX + 5; i++) problems_add(&problems, "problem %d", i);
    check_that(problems.count == PROBLEMS_MAX + 5, "%d", problems.count);
    check_that(strcmp(problems.text[PROBLEMS_MAX - 1], "problem 63") == 0, "the last one kept");
    Error error;
    check_that(!error_set(&error, "%s: %d", "a", 3) && strcmp(error.text, "a: 3") == 0, "error");
    check_that(!error_set(NULL, "nobody listens"), "error without a place");
}

static void abort_with(int status) {
    fprintf(stderr, "abort_job(%d)\n", status);
    _exit(status);
}

static void die_on_purpose(const char *how) {
    if (strcmp(how, "die") == 0) DIE("loss %g at step %d", (double)NAN, 1042);
    if (strcmp(how, "check") == 0) CHECK(1 > 2, "heads = %d must be positive", -3);
    if (strcmp(how, "abort") == 0) {
        die_setup(2, 4, abort_with);
        DIE("%0*d", 5000, 7);  // Longer than the line can be.
    }
    Arena arena = {.name = "optimizer"};
    arena_take(&arena, 100);
    arena_commit(&arena);
    arena_take(&arena, 101);
}

int main(int argc, char **argv) {
    if (argc > 1) die_on_purpose(argv[1]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_philox_known_answers),
        cmocka_unit_test(test_elements_stand_alone),
        cmocka_unit_test(test_normals),
        cmocka_unit_test(test_checksum),
        cmocka_unit_test(test_bf16),
        cmocka_unit_test(test_arena),
        cmocka_unit_test(test_problems_count_on),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
