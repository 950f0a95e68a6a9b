// FSDP: on every layout that the ranks allow, gathered weights are the masters rounded, and the sum
// of the packs' gradients is bit for bit the tree that the design defines; with whole sequence
// groups inside a shard group it does not depend on the layout at all. Steps repeat, wires differ,
// units are smaller than a block; gaps stay zero; memory is what was planned.
// ranks: 1 2 3 4
// backends: all
// device: 1 2 4
// precision: fp32 bf16
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "base/vector.h"
#include "parallel/fsdp.h"
#include "parallel/tree.h"
#include "tests/ranks.h"

enum { UNITS = 4, PACKS_MAX = 12, SEQUENCE_MAX = 4, ELEMENTS = 128 + 5056 + 3072 + 9984 };

static ParamTable table;
static int64_t unit_start[UNITS + 1];  // In an array of all units.
// Shared with the device.
static float (*leaves)[SEQUENCE_MAX][ELEMENTS];  // [PACKS_MAX]
static float (*sums)[ELEMENTS];                  // [PACKS_MAX] Where expected sums are built.
static real (*forward)[ELEMENTS], (*backward)[ELEMENTS];  // [PACKS_MAX] Weights seen in each round.
static float *slice;                                      // [ELEMENTS]

static void fill(void) {
    const char *const names[UNITS][2] = {{"stem"}, {"block.0", "more"}, {"block.1"}, {"head"}};
    const int64_t counts[UNITS][2] = {{100}, {1990, 2950}, {3072}, {9984}};
    for (int u = 0; u < UNITS; u++) {
        param_unit_begin(&table);
        for (int i = 0; i < 2 && counts[u][i] > 0; i++) {
            param_add(&table, names[u][i], 1, &counts[u][i], INIT_NORMAL, true);
        }
        unit_start[u + 1] = unit_start[u] + table.unit_elements[u];
    }
    const int64_t bytes = ELEMENTS * (int64_t)sizeof(float);
    leaves = device_allocate_shared("leaves", PACKS_MAX * SEQUENCE_MAX * bytes);
    sums = device_allocate_shared("sums", PACKS_MAX * bytes);
    forward = device_allocate_shared("seen", PACKS_MAX * (int64_t)sizeof(*forward));
    backward = device_allocate_shared("seen", PACKS_MAX * (int64_t)sizeof(*backward));
    slice = device_allocate("slice", bytes);
    for (int pack = 0; pack < PACKS_MAX; pack++) {
        for (int i = 0; i < SEQUENCE_MAX; i++) {
            for (int row = 0; row < table.count; row++) {  // Nothing writes the gaps.
                const Param *p = &table.rows[row];
                rng_normal(leaves[pack][i] + unit_start[p->unit] + p->offset, p->count, 3, RNG_TEST,
                           (uint64_t)(pack * 16 + i), (uint64_t)(unit_start[p->unit] + p->offset));
            }
        }
    }
}

// Adds a leaf as the wire carries it.
static void add_leaf(float *sum, int pack, int sequence_index, Type wire) {
    for (int64_t e = 0; e < ELEMENTS; e++) {
        const float x = leaves[pack][sequence_index][e];
        sum[e] += wire == TYPE_BF16 ? bf16_to_float(float_to_bf16(x)) : x;
    }
}

// The sum where the layout does not matter: leaves of a pack one by one, the tree over packs.
static const float *expected_invariant(int packs, int sequence, Type wire) {
    memset(sums, 0, PACKS_MAX * sizeof(*sums));
    for (int pack = 0; pack < packs; pack++) {
        for (int i = 0; i < sequence; i++) add_leaf(sums[pack], pack, i, wire);
    }
    tree_add_pieces(sums[0], ELEMENTS, packs, ELEMENTS, NULL);
    stream_wait(NULL);
    return sums[0];
}

// The sum where shard groups cut sequence groups: a tree per group, the groups in order.
static const float *expected_of_layout(const MeshConfig *config, int packs, Type wire) {
    static float total[ELEMENTS];
    Mesh mesh;
    mesh_shape(&mesh, config, 0, comm_size(world));
    for (int g = 0; g < mesh.replicas; g++) {
        mesh_shape(&mesh, config, g * mesh.shards, comm_size(world));
        memset(sums, 0, PACKS_MAX * sizeof(*sums));
        int n = 0, last = -1;
        for (int round = 0; round < mesh_rounds(&mesh, packs); round++) {
            for (int i = 0; i < mesh.shards; i++) {
                int sequence_index = 0;
                const int pack = mesh_pack_of(&mesh, packs, round, i, &sequence_index);
                if (pack < 0) continue;
                n += pack != last;
                last = pack;
                add_leaf(sums[n - 1], pack, sequence_index, wire);
            }
        }
        tree_add_pieces(sums[0], ELEMENTS, n, ELEMENTS, NULL);
        stream_wait(NULL);
        for (int64_t e = 0; e < ELEMENTS; e++) total[e] = sums[0][e] + (g > 0 ? total[e] : 0);
    }
    return total;
}

// Whether what was seen of a unit's weights, [elements], is its initial values times `factor`,
// rounded.
static bool weights_right(const real *seen, int unit, float factor) {
    static float want[ELEMENTS];
    const int64_t elements = table.unit_elements[unit];
    param_init(want, &table, unit, 0, elements, 1);
    bool right = true;
    for (int64_t e = 0; e < elements; e++) right = right && seen[e] == to_real(factor * want[e]);
    return right;
}

// Reads the slot as an op would: later, in the order of the compute stream.
static void see(real *seen, const real *weights, int unit) {
    device_copy(seen, weights, table.unit_elements[unit] * (int64_t)sizeof(real), NULL);
}

// One step as the training loop has it, which waits for nothing. Returns whether all weights were
// right.
static bool run_step(Fsdp *f, const Mesh *mesh, int packs, float factor) {
    const int rounds = mesh_rounds(mesh, packs);
    fsdp_begin_step(f, packs);
    for (int round = 0; round < rounds; round++) {
        const int pack = mesh_pack(mesh, packs, round);
        fsdp_fetch(f, 0);
        for (int u = 0; u < UNITS; u++) {
            if (u + 1 < UNITS) fsdp_fetch(f, u + 1);
            see(forward[round] + unit_start[u], fsdp_wait(f, u), u);
            fsdp_release(f, u);
        }
        fsdp_fetch(f, UNITS - 1);
        for (int u = UNITS - 1; u >= 0; u--) {
            if (u > 0) fsdp_fetch(f, u - 1);
            see(backward[round] + unit_start[u], fsdp_wait(f, u), u);
            if (pack >= 0) {
                const float *x = leaves[pack][mesh->sequence_index] + unit_start[u];
                const Gradient leaf = fsdp_leaf(f, u);
                for (int row = 0; row < table.count; row++) {
                    const Param *p = &table.rows[row];
                    if (p->unit != u) continue;
                    vector_round(gradient_from(leaf, p->offset).at, leaf.type, x + p->offset,
                                 p->count, NULL);
                }
            }
            fsdp_reduce(f, u, round);
            fsdp_release(f, u);
        }
    }
    fsdp_end_step(f);
    stream_wait(NULL);
    bool right = true;
    for (int u = 0; u < UNITS; u++) {
        const int64_t bytes = table.unit_elements[u] * (int64_t)sizeof(real);
        const real *first = forward[0] + unit_start[u];
        right = right && weights_right(first, u, factor);
        for (int round = 0; round < rounds; round++) {
            right = right && memcmp(forward[round] + unit_start[u], first, (size_t)bytes) == 0;
            right = right && memcmp(backward[round] + unit_start[u], first, (size_t)bytes) == 0;
        }
    }
    return right;
}

// The whole gradient, unit after unit, read in the compute stream as the optimizer does.
static const float *whole_gradient(Fsdp *f) {
    static float all[ELEMENTS];
    for (int u = 0; u < UNITS; u++) {
        const int64_t count = fsdp_slice_end(f, u) - fsdp_slice_begin(f, u);
        device_copy(slice, fsdp_gradient(f, u), count * (int64_t)sizeof(float), NULL);
        fsdp_gather(f, all + unit_start[u], u, slice);
    }
    return all;
}

// The squares of all ranks' slices, against those of the whole gradient.
static void check_square_sum(Fsdp *f, const float *gradient) {
    ExactSum sum;
    fsdp_square_sum(f, &sum);
    comm_all_reduce_sum(world, sum.limb, EXACT_LIMBS + 1);
    double want = 0;
    for (int64_t e = 0; e < ELEMENTS; e++) want += (double)gradient[e] * (double)gradient[e];
    check_that(sum.bad == 0 && fabs(exact_value(&sum) / want - 1) < 1e-12,
               "squares %.17g, want %.17g", exact_value(&sum), want);
}

// As the optimizer would, between steps; it writes rounded weights, too, where there are any.
static void set_masters(Fsdp *f, float factor, bool rounds) {
    static float start[ELEMENTS];
    bool stale = false;
    for (int u = 0; u < UNITS; u++) {
        const int64_t begin = fsdp_slice_begin(f, u), end = fsdp_slice_end(f, u);
        param_init(start, &table, u, begin, end, 1);
        for (int64_t e = 0; e < end - begin; e++) start[e] *= factor;
        device_copy(fsdp_master(f, u), start, (end - begin) * (int64_t)sizeof(float), NULL);
        real *const rounded = rounds ? fsdp_rounded(f, u) : NULL;
        if (rounded != NULL) vector_round(rounded, REAL_TYPE, fsdp_master(f, u), end - begin, NULL);
        stale = stale || rounded == NULL;
    }
    if (stale) fsdp_invalidate(f);
}

static void run_layout(const MeshConfig *config, Type wire, bool reshard) {
    Mesh mesh;
    mesh_init(&mesh, world, config);
    const FsdpConfig fsdp = {
        .wire = wire, .reshard_after_forward = reshard, .packs_max = PACKS_MAX};
    Fsdp *f = fsdp_create(&table, &mesh, &fsdp);
    const int all_packs[] = {12, 4, 8, 5, 7, 8};
    float factor = 1;
    for (int step = 0; step < 6; step++) {
        const int packs = all_packs[step];
        static Problems problems;
        problems.count = 0;
        mesh_check(config, comm_size(world), &packs, 1, &problems);
        if (problems.count > 0) continue;
        set_masters(f, factor, reshard);
        const int64_t before = comm_collectives(mesh.shard) + comm_collectives(mesh.exchange);
        const bool right = run_step(f, &mesh, packs, factor);
        const int64_t calls =
            comm_collectives(mesh.shard) + comm_collectives(mesh.exchange) - before;
        check_that(right, "sequence %d, shard %d, %d packs: wrong weights", config->sequence,
                   config->shard, packs);
        const int rounds = mesh_rounds(&mesh, packs);
        // Per round: a reduction of each unit; gathers of all in the forward, of all but the last
        // two in the backward (they are still there), as again in the next forward; or once.
        const int once = reshard ? UNITS + UNITS - 2 + (rounds - 1) * 2 * (UNITS - 2) : UNITS;
        const int64_t want_calls = mesh.shards == 1 ? 0 : once + rounds * UNITS;
        check_that(calls == want_calls, "%lld collectives in the shard group, want %lld",
                   (long long)calls, (long long)want_calls);
        const float *want = mesh.invariant ? expected_invariant(packs, config->sequence, wire)
                                           : expected_of_layout(config, packs, wire);
        check_equal("gradient", whole_gradient(f), want, ELEMENTS);
        check_square_sum(f, want);
        factor *= -1.5f;
    }
    fsdp_free(f);
    mesh_free(&mesh);
}

static void test_every_layout(void **state) {
    (void)state;
    const int ranks = comm_size(world);
    int layouts = 0;
    for (int sequence = 1; sequence <= ranks; sequence++) {
        for (int shard = 1; shard <= ranks; shard++) {
            if (ranks % sequence != 0 || ranks % shard != 0) continue;
            const MeshConfig config = {.sequence = sequence, .shard = shard};
            run_layout(&config, TYPE_F32, true);
            run_layout(&config, TYPE_BF16, false);
            layouts++;
        }
    }
    const int want[] = {0, 1, 4, 4, 9};
    check_that(layouts == want[ranks], "%d layouts", layouts);
}

static void test_source(void **state) {
    (void)state;
    Mesh mesh;
    mesh_init(&mesh, world, &(MeshConfig){.sequence = 1, .shard = 0});
    const FsdpConfig config = {
        .wire = TYPE_F32, .reshard_after_forward = true, .packs_max = PACKS_MAX};
    Fsdp *f = fsdp_create(&table, &mesh, &config);
    float *slices[UNITS];
    set_masters(f, 3, true);
    for (int u = 0; u < UNITS; u++) {
        const int64_t bytes = (fsdp_slice_end(f, u) - fsdp_slice_begin(f, u)) * 4;
        slices[u] = device_allocate("other shards", bytes);
        device_copy(slices[u], fsdp_master(f, u), bytes, NULL);
    }
    set_masters(f, 1, true);
    for (int turn = 0; turn < 4; turn++) {
        fsdp_source(f, turn % 2 == 1 ? slices : NULL);
        for (int u = 0; u < UNITS; u++) {
            fsdp_fetch(f, u);
            see(forward[0], fsdp_wait(f, u), u);
            stream_wait(NULL);
            check_that(weights_right(forward[0], u, turn % 2 == 1 ? 3 : 1), "turn %d", turn);
            fsdp_release(f, u);
        }
    }
    for (int u = 0; u < UNITS; u++) device_free(slices[u]);
    fsdp_free(f);
    mesh_free(&mesh);
}

static void test_plan(void **state) {
    (void)state;
    const int ranks = comm_size(world);
    for (int shard = 1; shard <= ranks; shard++) {
        if (ranks % shard != 0) continue;
        Mesh mesh, planned;
        const MeshConfig config = {.sequence = 1, .shard = shard};
        mesh_init(&mesh, world, &config);
        mesh_shape(&planned, &config, comm_rank(world), ranks);
        const FsdpConfig fsdp = {
            .wire = TYPE_BF16, .reshard_after_forward = true, .packs_max = PACKS_MAX};
        Fsdp *f = fsdp_create(&table, &mesh, &fsdp);
        const FsdpBytes got = fsdp_bytes(f), plan = fsdp_plan(&table, &planned, &fsdp);
        check_equal("bytes", &got.master, &plan.master, sizeof(FsdpBytes) / sizeof(int64_t));
        int64_t owned = 0;
        for (int u = 0; u < UNITS; u++) owned += fsdp_slice_end(f, u) - fsdp_slice_begin(f, u);
        int buffers = 1;  // ceil(log2(packs / replicas)) + 1
        while (1 << (buffers - 1) < PACKS_MAX / mesh.replicas) buffers++;
        const int64_t gaps = 256 * UNITS;
        check_that(got.master >= owned * 4 && got.master <= owned * 4 + gaps, "masters: %lld bytes",
                   (long long)got.master);
        check_that(got.stack <= buffers * (owned * 4 + gaps), "stack: %lld bytes, %d buffers",
                   (long long)got.stack, buffers);
        // Two units; all where a shard is whole, but none in fp32, where the masters serve.
        int64_t held = 2 * (9984 + 1024 * ranks);
        if (shard == 1) held = REAL_TYPE == TYPE_F32 ? 0 : ELEMENTS + 1024 * UNITS;
        check_that(got.slots <= held * (int64_t)sizeof(real), "slots: %lld bytes",
                   (long long)got.slots);
        check_that(got.leaf <= 2 * 2 * (9984 + 256), "leaves: %lld bytes", (long long)got.leaf);
        // One unit's leaves received in the wire type, or the pieces of the replicas.
        check_that(got.exchange <= 4 * (9984 + 1024 * ranks) + 768, "exchange: %lld bytes",
                   (long long)got.exchange);
        check_that(got.total == got.master + got.slots + got.leaf + got.exchange + got.stack,
                   "total %lld", (long long)got.total);
        fsdp_free(f);
        mesh_free(&mesh);
    }
}

int main(int argc, char **argv) {
    ranks_start(&argc, &argv);
    fill();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_layout),
        cmocka_unit_test(test_source),
        cmocka_unit_test(test_plan),
    };
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    param_free(&table);
    free_all(leaves, sums, forward, backward, slice);
    comm_stop(world);
    return failed;
}
