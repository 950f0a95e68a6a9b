// The parameter table: where rows lie, how units are cut, and initial values that do not depend on
// the cut and have the distribution that the header promises.
// ranks: 1
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/param.h"
#include "tests/check.h"

static void fill(ParamTable *table) {
    *table = (ParamTable){0};
    param_unit_begin(table);
    param_add(table, "stem.weight", 2, (const int64_t[]){300, 100}, INIT_XAVIER, true);
    param_add(table, "stem.bias", 1, (const int64_t[]){300}, INIT_ZERO, false);
    param_unit_begin(table);
    param_add(table, "norm.weight", 1, (const int64_t[]){70}, INIT_ONE, false);
    param_add(table, "time.weight", 2, (const int64_t[]){257, 33}, INIT_NORMAL, true);
    param_add(table, "last", 4, (const int64_t[]){2, 3, 1, 2}, INIT_NORMAL, true);
}

static void test_rows_and_offsets(void **state) {
    (void)state;
    ParamTable table;
    fill(&table);
    check_that(table.units == 2 && table.count == 5, "%d units, %d rows", table.units, table.count);
    const int64_t offsets[] = {0, 30016, 0, 128, 8640}, want[] = {0, 0, 1, 1, 1};
    for (int i = 0; i < 5; i++) {
        check_that(table.rows[i].offset == offsets[i] && table.rows[i].unit == want[i],
                   "%s at %lld", table.rows[i].name, (long long)table.rows[i].offset);
    }
    const int64_t elements[] = {30336, 8704};
    check_equal("elements", table.unit_elements, elements, 2);
    check_that(param_total(&table) == 30000 + 300 + 70 + 8481 + 12, "total");
    check_that(param_find(&table, "time.weight") == 3 && param_find(&table, "time") == -1, "find");
    check_that(param_unit_first(&table, 0) == 0 && param_unit_first(&table, 1) == 2 &&
                   param_unit_first(&table, 2) == 5,
               "first rows");
    check_that(table.rows[0].decay && !table.rows[1].decay, "decay");
    param_free(&table);
    check_that(table.rows == NULL && table.units == 0, "freed");
}

static void test_cuts(void **state) {
    (void)state;
    bool right = true;
    const int64_t sizes[] = {0, 64, 1024, 1088, 5000, 40960, 1000000};
    for (int k = 0; k < 7; k++) {
        for (int n = 1; n <= 9; n++) {
            right = right && slice_cut(sizes[k], 0, n) == 0;
            right = right && slice_cut(sizes[k], n, n) == sizes[k];
            for (int i = 0; i < n; i++) {
                const int64_t begin = slice_cut(sizes[k], i, n);
                const int64_t end = slice_cut(sizes[k], i + 1, n);
                right = right && begin <= end && (begin % SLICE_BLOCK == 0 || begin == sizes[k]);
                right = right && end - begin <= (sizes[k] / SLICE_BLOCK / n + 2) * SLICE_BLOCK;
            }
        }
    }
    check_that(right, "cuts");
}

// Mean and standard deviation of count values, and the largest magnitude.
static void moments(double out[3], const float *x, int64_t count) {
    double sum = 0, squares = 0, most = 0;
    for (int64_t i = 0; i < count; i++) {
        sum += (double)x[i];
        squares += (double)x[i] * (double)x[i];
        most = fmax(most, fabs((double)x[i]));
    }
    out[0] = sum / (double)count;
    out[1] = sqrt(squares / (double)count - out[0] * out[0]);
    out[2] = most;
}

static void test_initial_values(void **state) {
    (void)state;
    ParamTable table;
    fill(&table);
    for (int unit = 0; unit < 2; unit++) {
        const int64_t elements = table.unit_elements[unit];
        float *whole = malloc((size_t)elements * sizeof(float));
        float *parts = malloc((size_t)elements * sizeof(float));
        param_init(whole, &table, unit, 0, elements, 42);
        for (int n = 2; n <= 7; n++) {
            memset(parts, 0xff, (size_t)elements * sizeof(float));
            for (int i = 0; i < n; i++) {
                const int64_t begin = slice_cut(elements, i, n);
                param_init(parts + begin, &table, unit, begin, slice_cut(elements, i + 1, n), 42);
            }
            check_equal("slices", parts, whole, elements);
        }
        param_init(parts, &table, unit, 0, elements, 43);
        check_that(memcmp(parts, whole, (size_t)elements * sizeof(float)) != 0, "seed ignored");
        double m[3];
        if (unit == 0) {
            const double limit = sqrt(6.0 / 400);
            moments(m, whole, 30000);
            check_that(fabs(m[0]) < 0.002 && fabs(m[1] - limit / sqrt(3)) < 0.001 &&
                           m[2] <= limit && m[2] > 0.99 * limit,
                       "Xavier: mean %g, deviation %g, largest %g", m[0], m[1], m[2]);
            moments(m, whole + 30000, elements - 30000);
            check_that(m[2] == 0, "bias and gaps");
        } else {
            moments(m, whole, 70);
            check_that(m[0] == 1 && m[1] == 0, "ones");
            moments(m, whole + 70, 128 - 70);
            check_that(m[2] == 0, "gap");
            moments(m, whole + 128, 8481);
            check_that(fabs(m[0]) < 0.001 && fabs(m[1] - 0.02) < 0.001 && m[2] < 0.12,
                       "normal: mean %g, deviation %g, largest %g", m[0], m[1], m[2]);
        }
        free(whole);
        free(parts);
    }
    param_free(&table);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows_and_offsets),
        cmocka_unit_test(test_cuts),
        cmocka_unit_test(test_initial_values),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
