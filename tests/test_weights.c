// Initial weights agree with an independent implementation (numpy): Philox, the hash of names, the
// distributions. Golden files of large models build on it.
// ranks: 1
#include <math.h>

#include "base/param.h"
#include "tests/op_check.h"

static void test_weights(void **state) {
    (void)state;
    const struct {
        const char *name;
        int dims;
        int64_t shape[2];
        Init init;
    } rows[] = {{"blocks.3.attn1.q_proj.weight", 2, {33, 70}, INIT_XAVIER},
                {"time_embedder.linear_1.weight", 2, {64, 257}, INIT_NORMAL},
                {"blocks.0.norm2.weight", 1, {70}, INIT_ONE},
                {"proj_out.weight", 2, {12, 64}, INIT_ZERO}};
    Golden g = golden_open("tests/golden/weights.safetensors", "");
    for (int i = 0; i < 4; i++) {
        ParamTable table = {0};
        Error error;
        param_unit_begin(&table);
        param_add(&table, rows[i].name, rows[i].dims, rows[i].shape, rows[i].init, true);
        const int64_t count = table.rows[0].count;
        float *got = floats_new(count);
        float *want = safetensors_load(&g.file, rows[i].name, NULL, &error);
        check_that(want != NULL, "%s", error.text);
        param_init(got, &table, 0, 0, count, ((uint64_t)1 << 40) + 5);
        if (rows[i].init == INIT_NORMAL) {  // Polynomials in float here.
            check_close(rows[i].name, got, want, count, 1e-6);
        } else {
            check_equal(rows[i].name, got, want, count);
        }
        device_free(got);
        free(want);
        param_free(&table);
    }
    safetensors_close(&g.file);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_weights)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
