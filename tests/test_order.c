// order: every epoch is a permutation of the rows, another one each time; shards come up together
// in windows; the order is a function of its key, epoch and place alone.
// ranks: 1
#include <stdio.h>
#include <stdlib.h>

#include "base/rng.h"
#include "data/order.h"
#include "tests/check.h"

static void test_permute_is_a_bijection(void **state) {
    (void)state;
    const int64_t sizes[] = {1, 2, 3, 4, 5, 7, 16, 17, 1000, 4096, 60000};
    for (size_t k = 0; k < sizeof(sizes) / sizeof(sizes[0]); k++) {
        const int64_t n = sizes[k];
        uint8_t *seen = calloc((size_t)n, 1);
        for (int64_t x = 0; x < n; x++) {
            const int64_t y = order_permute(x, n, 42 + (uint64_t)k);
            check_that(y >= 0 && y < n && !seen[y], "%lld of %lld went to %lld", (long long)x,
                       (long long)n, (long long)y);
            seen[y] = 1;
        }
        free(seen);
    }
}

// All 120 orders of five appear, and each about as often as it should.
static void test_permute_reaches_all(void **state) {
    (void)state;
    enum { KEYS = 24000 };
    int counts[3125] = {0}, orders = 0, most = 0;
    for (uint64_t key = 0; key < KEYS; key++) {
        int id = 0;
        for (int64_t x = 0; x < 5; x++) {
            id = 5 * id + (int)order_permute(x, 5, hash_bytes(&key, 8));
        }
        orders += counts[id]++ == 0;
        if (counts[id] > most) most = counts[id];
    }
    check_that(orders == 120, "%d orders", orders);
    check_that(most < 2 * KEYS / 120, "one order %d times of %d", most, KEYS);
}

// Neighbours stay neighbours, and places stay, no more often than by chance.
static void test_permute_mixes(void **state) {
    (void)state;
    const int64_t n = 60000;
    int fixed = 0, near = 0;
    int64_t before = -2;
    for (int64_t x = 0; x < n; x++) {
        const int64_t y = order_permute(x, n, 7);
        fixed += x == y;
        near += y == before + 1;
        before = y;
    }
    check_that(fixed < 8 && near < 8, "%d fixed, %d neighbours", fixed, near);
}

enum { SHARDS = 23, ROWS_MAX = 400 };

// Rows 10, 12, 14, ...: shard s has 1 + 5 s % 17 of them.
static int64_t make_rows(uint32_t *rows, int64_t *starts) {
    int64_t count = 0;
    for (int64_t s = 0; s < SHARDS; s++) {
        starts[s] = count;
        for (int64_t i = 0; i < 1 + 5 * s % 17; i++, count++)
            rows[count] = (uint32_t)(10 + 2 * count);
    }
    starts[SHARDS] = count;
    return count;
}

static int64_t shard_of(const int64_t *starts, uint32_t row) {
    int64_t s = 0;
    while (starts[s + 1] <= ((int64_t)row - 10) / 2) s++;
    return s;
}

static void test_epochs(void **state) {
    (void)state;
    uint32_t rows[ROWS_MAX], first[ROWS_MAX];
    int64_t starts[SHARDS + 1];
    const int64_t count = make_rows(rows, starts);
    for (int64_t window = 1; window <= 32; window = window * 2 + 1) {
        Order order;
        order_init(&order, rows, starts, SHARDS, window, 5, 1, 0, 1);
        check_that(order.count == count, "count");
        for (int64_t epoch = 0; epoch < 5; epoch++) {
            bool seen[2 * ROWS_MAX + 10] = {false};
            int64_t same = 0, open[SHARDS] = {0};
            for (int64_t place = 0; place < count; place++) {
                const uint32_t row = order_row(&order, epoch, place);
                check_that(row >= 10 && row < 10 + 2 * count && row % 2 == 0 && !seen[row],
                           "epoch %lld: row %u", (long long)epoch, row);
                seen[row] = true;
                open[shard_of(starts, row)]++;
                int64_t begun = 0;  // Shards that are begun and not finished.
                for (int64_t s = 0; s < SHARDS; s++) {
                    begun += open[s] > 0 && open[s] < starts[s + 1] - starts[s];
                }
                check_that(begun <= window, "%lld shards open in windows of %lld", (long long)begun,
                           (long long)window);
                if (epoch == 0) first[place] = row;
                same += epoch > 0 && first[place] == row;
            }
            check_that(same < count / 4, "epoch %lld repeats %lld places", (long long)epoch,
                       (long long)same);
        }
        order_free(&order);
    }
}

// Whatever was asked before: another place, another epoch.
static void test_pure(void **state) {
    (void)state;
    uint32_t rows[ROWS_MAX];
    int64_t starts[SHARDS + 1];
    const int64_t count = make_rows(rows, starts);
    Order a, b, other[4];
    order_init(&a, rows, starts, SHARDS, 4, 5, 1, 0, 1);
    order_init(&b, rows, starts, SHARDS, 4, 5, 1, 0, 1);
    order_init(&other[0], rows, starts, SHARDS, 4, 6, 1, 0, 1);
    order_init(&other[1], rows, starts, SHARDS, 4, 5, 2, 0, 1);
    order_init(&other[2], rows, starts, SHARDS, 4, 5, 1, 1, 1);
    order_init(&other[3], rows, starts, SHARDS, 4, 5, 1, 0, 0);
    int64_t same[4] = {0};
    for (int64_t k = 0; k < 2 * count; k++) {
        const int64_t epoch = k * 7 % 3, place = k * 31 % count;
        const uint32_t row = order_row(&a, epoch, place);
        order_row(&b, epoch + 1, (place + 5) % count);
        check_that(order_row(&b, epoch, place) == row, "place %lld", (long long)place);
        for (int i = 0; i < 4; i++) same[i] += order_row(&other[i], epoch, place) == row;
    }
    for (int i = 0; i < 4; i++) {
        check_that(same[i] < count / 4, "key %d makes no difference: %lld", i, (long long)same[i]);
        order_free(&other[i]);
    }
    order_free(&a);
    order_free(&b);
}

// Written down once: another order would make resumed runs differ.
static void test_never_changes(void **state) {
    (void)state;
    const int64_t want[8] = {41, 45, 11, 95, 53, 4, 7, 36};
    int64_t got[8];
    for (int64_t x = 0; x < 8; x++) got[x] = order_permute(x, 100, 1);
    check_equal("order_permute(x, 100, 1)", got, want, 8);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_permute_is_a_bijection),
        cmocka_unit_test(test_permute_reaches_all),
        cmocka_unit_test(test_permute_mixes),
        cmocka_unit_test(test_epochs),
        cmocka_unit_test(test_pure),
        cmocka_unit_test(test_never_changes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
