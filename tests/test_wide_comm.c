// Messages beyond 2^31 bytes, gathers beyond 2^32, and a unit of as many in FSDP: the same calls
// are small everywhere, and in full size on a GPU with enough free memory for both ranks.
//   test_wide_comm WORDS       with slices of so many floats anywhere
// ranks: 2
// backends: all
// precision: fp32 bf16
// seconds: 120
#include <inttypes.h>
#include <stdlib.h>

#include "base/param.h"
#include "base/rng.h"
#include "parallel/fsdp.h"
#include "tests/ranks.h"

// What is sent and stored is a pattern of PERIOD elements, no divisor of a power of two, over and
// over; a phase says where in it an array begins. PLACES of LOOK elements are looked at.
enum { PERIOD = 262147, PLACES = 17, LOOK = 512, PHASE = 1001, FLOAT = (int)sizeof(float) };

static struct {
    float *floats;    // [PERIOD]
    uint16_t *bf16s;  // The same, rounded.
    char *seen;       // [LOOK] floats
} pattern;

static void pattern_create(void) {
    pattern.floats = device_allocate_shared("pattern", PERIOD * FLOAT);
    pattern.bf16s = device_allocate_shared("pattern", PERIOD * (int64_t)sizeof(uint16_t));
    pattern.seen = device_allocate_shared("pattern", LOOK * FLOAT);
    rng_normal(pattern.floats, PERIOD, 3, RNG_TEST, 1, 0);
    for (int i = 0; i < PERIOD; i++) pattern.bf16s[i] = float_to_bf16(pattern.floats[i]);
}

// x [n] of `type` = the pattern from `phase` on.
static void repeat(void *x, Type type, int64_t n, int64_t phase) {
    const char *from = type == TYPE_F32 ? (const char *)pattern.floats : (char *)pattern.bf16s;
    const int64_t size = type_size(type);
    for (int64_t i = 0, at = phase % PERIOD; i < n; at = 0) {
        const int64_t count = min_i64(PERIOD - at, n - i);
        device_copy((char *)x + i * size, from + at * size, count * size, NULL);
        i += count;
    }
}

// Element i of such an array.
static float element(Type type, int64_t phase, int64_t i) {
    const int64_t at = (phase + i) % PERIOD;
    return type == TYPE_F32 ? pattern.floats[at] : bf16_to_float(pattern.bf16s[at]);
}

// Collective. Fails unless x [n] of `type` is the pattern from `phase` on, plus that from `second`
// on where it is not negative.
static void check_pattern(const char *name, const void *x, Type type, int64_t n, int64_t phase,
                          int64_t second) {
    const int64_t size = type_size(type);
    int64_t wrong = -1;
    for (int place = 0; place < PLACES; place++) {
        const int64_t first = (n - LOOK) / (PLACES - 1) * place + (n - LOOK) % (PLACES - 1);
        device_copy(pattern.seen, (const char *)x + first * size, LOOK * size, NULL);
        stream_wait(NULL);
        for (int64_t i = first; i < first + LOOK; i++) {
            const Type stored = second < 0 ? type : TYPE_BF16;
            float want = element(stored, phase, i), got;
            if (second >= 0) want += element(stored, second, i);
            if (type == TYPE_F32) {
                memcpy(&got, pattern.seen + (i - first) * FLOAT, sizeof(got));
            } else {
                uint16_t bits;
                memcpy(&bits, pattern.seen + (i - first) * size, sizeof(bits));
                got = bf16_to_float(bits);
            }
            if (got != want && wrong < 0) wrong = i;
        }
    }
    check_that(wrong < 0, "%s: element %" PRId64 " of %" PRId64 " is wrong", name, wrong, n);
}

// Equal slices, and others.
static void test_gather(void **state) {
    const int64_t words = *(const int64_t *)*state;
    float *all = device_allocate("all", (2 * words + PHASE) * FLOAT);
    const int mine = comm_rank(world);
    for (int odd = 0; odd < 2; odd++) {
        const int64_t cut = words + odd * PHASE, begin[] = {0, cut, 2 * words + odd};
        const int64_t offsets[] = {0, cut * FLOAT, begin[2] * FLOAT};
        repeat(all + begin[mine], TYPE_F32, begin[mine + 1] - begin[mine], PHASE * mine);
        comm_all_gather_slices(world, all, offsets, NULL);
        for (int r = 0; r < 2; r++) {
            check_pattern("gathered", all + begin[r], TYPE_F32, begin[r + 1] - begin[r], PHASE * r,
                          -1);
        }
        device_zero(all, (2 * words + PHASE) * FLOAT, NULL);
    }
    device_free(all);
}

static void test_all_to_all(void **state) {
    const int64_t words = *(const int64_t *)*state;
    const int mine = comm_rank(world);
    float *send = device_allocate("send", 2 * words * FLOAT);
    float *receive = device_allocate("receive", 2 * words * FLOAT);
    const int64_t offsets[] = {0, words * FLOAT, 2 * words * FLOAT};
    for (int to = 0; to < 2; to++) {
        repeat(send + to * words, TYPE_F32, words, PHASE * (2 * mine + to));
    }
    comm_all_to_all(world, receive, offsets, send, offsets, NULL);
    for (int from = 0; from < 2; from++) {
        check_pattern("exchanged", receive + from * words, TYPE_F32, words,
                      PHASE * (2 * from + mine), -1);
    }
    free_all(send, receive);
}

// One unit of two matrices; both ranks have a pack.
static void test_fsdp(void **state) {
    const int64_t words = *(const int64_t *)*state, shape[] = {words / 64, 64};
    const FsdpConfig config = {TYPE_BF16, .reshard_after_forward = true, .packs_max = 2};
    ParamTable table = {0};
    Mesh mesh;
    param_unit_begin(&table);
    param_add(&table, "first", 2, shape, INIT_ZERO, true);
    param_add(&table, "second", 2, shape, INIT_ZERO, true);
    mesh_init(&mesh, world, &(MeshConfig){1, 0});
    Fsdp *f = fsdp_create(&table, &mesh, &config);
    const int64_t n = table.unit_elements[0], begin = fsdp_slice_begin(f, 0),
                  slice = fsdp_slice_end(f, 0) - begin;
    repeat(fsdp_master(f, 0), TYPE_F32, slice, begin);
    fsdp_invalidate(f);
    fsdp_begin_step(f, 2);
    fsdp_fetch(f, 0);
    check_pattern("weights", fsdp_wait(f, 0), REAL_TYPE, n, 0, -1);
    const Gradient leaf = fsdp_leaf(f, 0);
    repeat(leaf.at, TYPE_BF16, n, PHASE * mesh_pack(&mesh, 2, 0));
    fsdp_release(f, 0);
    fsdp_reduce(f, 0, 0);
    fsdp_end_step(f);
    check_pattern("gradient", fsdp_gradient(f, 0), TYPE_F32, slice, begin, begin + PHASE);
    fsdp_free(f);
    mesh_free(&mesh);
    param_free(&table);
}

static void test_skipped(void **state) {
    (void)state;
    skip();
}

// Floats of a slice in full size; 0 where this is no GPU, or too small a one for the ranks on it.
static int64_t wide_words(void) {
    char text[256];
    const int64_t words = ((int64_t)1 << 29) + (1 << 23);
    device_describe(text, sizeof(text));
    const bool gpu = strcmp(device_backend(), "cuda") == 0 && strstr(text, "emulator") == NULL;
    int64_t fits = gpu && device_memory_free(comm_size(world)) >= (int64_t)14 << 30;
    comm_all_reduce_min(world, &fits, 1);
    return fits ? words : 0;
}

int main(int argc, char **argv) {
    ranks_start(&argc, &argv);
    pattern_create();
    const int64_t few = 1 << 16;
    const int64_t words = argc > 1                 ? strtoll(argv[1], NULL, 10)
                          : REAL_TYPE == TYPE_BF16 ? wide_words()
                                                   : 0;
    const struct CMUnitTest tests[] = {
        {"gather", test_gather, NULL, NULL, (void *)&few},
        {"all_to_all", test_all_to_all, NULL, NULL, (void *)&few},
        {"fsdp", test_fsdp, NULL, NULL, (void *)&few},
        {"full size, in bf16 on a GPU with 14 GiB free per rank,", test_skipped, NULL, NULL, NULL},
        {"wide gather", test_gather, NULL, NULL, (void *)&words},
        {"wide all_to_all", test_all_to_all, NULL, NULL, (void *)&words},
        {"wide fsdp", test_fsdp, NULL, NULL, (void *)&words},
    };
    const int failed = words > 0 ? _cmocka_run_group_tests("full size", tests + 4, 3, NULL, NULL)
                                 : _cmocka_run_group_tests("small", tests, 4, NULL, NULL);
    free_all(pattern.floats, pattern.bf16s, pattern.seen);
    comm_stop(world);
    return failed;
}
