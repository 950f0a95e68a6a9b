// The mesh: for every legal layout of up to 12 ranks each pack runs exactly once on every rank of
// one sequence group, in the order that the sum wants; illegal layouts are refused in words that
// help; the communicators join the ranks that they should.
// ranks: 1 2 3 4
// backends: all
// device: 2
#include <stdlib.h>
#include <string.h>

#include "parallel/mesh.h"
#include "tests/ranks.h"

// Whether the packs of a step are run as the header says; one layout, seen by every rank.
static bool packs_run_once(const MeshConfig *config, int ranks, int packs) {
    int runs[64] = {0};
    bool right = true;
    int rounds = -1;
    for (int rank = 0; rank < ranks; rank++) {
        Mesh mesh;
        mesh_shape(&mesh, config, rank, ranks);
        const int mine = mesh_rounds(&mesh, packs);
        right = right && (rounds < 0 || rounds == mine) && mesh.world == NULL;
        rounds = mine;
        int last = -1, leaves = 0;
        for (int round = 0; round < rounds; round++) {
            const int pack = mesh_pack(&mesh, packs, round);
            right = right && pack >= -1 && pack < packs;
            if (pack >= 0 && right) runs[pack]++;
            for (int i = 0; i < mesh.shards; i++) {
                int index = -1;
                const int other = mesh_pack_of(&mesh, packs, round, i, &index);
                right = right && (other < 0 || other >= last);  // In increasing order.
                leaves += other > last;
                last = other < 0 ? last : other;
                right = right &&
                        (i != mesh.shard_index || (other == pack && index == mesh.sequence_index));
                // A replica of an invariant layout has its own run of packs.
                const int per = packs / mesh.replicas;
                right =
                    right && (!mesh.invariant || other < 0 || other / per == mesh.replica_index);
            }
        }
        right = right && leaves == mesh_leaves(&mesh, packs);
        right = right && (!mesh.invariant || leaves == packs / mesh.replicas);
    }
    for (int pack = 0; pack < packs; pack++) right = right && runs[pack] == config->sequence;
    return right;
}

static void test_every_layout(void **state) {
    (void)state;
    int legal = 0;
    for (int ranks = 1; ranks <= 12; ranks++) {
        for (int sequence = 1; sequence <= ranks; sequence++) {
            for (int shard = 0; shard <= ranks; shard++) {
                for (int packs = 1; packs <= 24; packs++) {
                    const MeshConfig config = {.sequence = sequence, .shard = shard};
                    static Problems problems;
                    problems.count = 0;
                    mesh_check(&config, ranks, &packs, 1, &problems);
                    if (problems.count > 0) continue;
                    legal++;
                    if (!packs_run_once(&config, ranks, packs)) {
                        check_that(false, "%d ranks, sequence %d, shard %d, %d packs", ranks,
                                   sequence, shard, packs);
                    }
                }
            }
        }
    }
    check_that(legal > 500, "%d legal layouts", legal);
}

static void test_round_robin(void **state) {
    (void)state;
    // 8 ranks, 2 replicas of 4, sequence groups of 2: replica 1 has packs 6 to 11.
    const MeshConfig config = {.sequence = 2, .shard = 4};
    const int want[8][3] = {{0, 2, 4},  {0, 2, 4},  {1, 3, 5},  {1, 3, 5},
                            {6, 8, 10}, {6, 8, 10}, {7, 9, 11}, {7, 9, 11}};
    for (int rank = 0; rank < 8; rank++) {
        Mesh mesh;
        mesh_shape(&mesh, &config, rank, 8);
        check_that(mesh_rounds(&mesh, 12) == 3, "%d rounds", mesh_rounds(&mesh, 12));
        for (int round = 0; round < 3; round++) {
            const int pack = mesh_pack(&mesh, 12, round);
            check_that(pack == want[rank][round], "rank %d round %d: pack %d", rank, round, pack);
        }
    }
    // shard 3 is cut across sequence groups: round robin over all of them.
    const MeshConfig across = {.sequence = 2, .shard = 3};
    Mesh mesh;
    mesh_shape(&mesh, &across, 5, 6);
    check_that(!mesh.invariant && mesh_rounds(&mesh, 4) == 2, "%d rounds", mesh_rounds(&mesh, 4));
    check_that(mesh_pack(&mesh, 4, 0) == 2 && mesh_pack(&mesh, 4, 1) == -1, "packs of rank 5");
    check_that(mesh_leaves(&mesh, 4) == 2, "%d leaves", mesh_leaves(&mesh, 4));
}

static void check_message(int sequence, int shard, int ranks, int packs0, int packs1,
                          const char *want) {
    const MeshConfig config = {.sequence = sequence, .shard = shard};
    static Problems problems;
    problems.count = 0;
    mesh_check(&config, ranks, (const int[]){packs0, packs1}, 2, &problems);
    if (want == NULL) {
        check_that(problems.count == 0, "refused: %s", problems.text[0]);
    } else {
        check_that(problems.count == 1, "%d problems, want '%s'", problems.count, want);
        check_contains(problems.text[0], want);
    }
}

static void test_messages(void **state) {
    (void)state;
    check_message(3, 0, 8, 8, 8,
                  "parallel.sequence = 3 must divide the number of ranks, 8; the "
                  "nearest that does is 2");
    check_message(0, 0, 8, 8, 8, "parallel.sequence = 0");
    check_message(16, 0, 8, 8, 8, "the nearest that does is 8");
    check_message(1, 3, 8, 8, 8,
                  "parallel.shard = 3 must divide the number of ranks, 8; the "
                  "nearest legal one is 4");
    check_message(1, -2, 8, 8, 8, "parallel.shard = -2");
    check_message(1, 99, 8, 8, 8, "the nearest legal one is 8");
    // Three replicas; four of which only two divide the packs of stage 1.
    check_message(1, 2, 6, 12, 12, "the nearest legal shard is 3");
    check_message(1, 1, 4, 8, 6, "parallel.shard = 1 makes 4 copies of the parameters on 4 ranks");
    check_message(1, 1, 4, 8, 6, "the nearest legal shard is 2");
    check_message(1, 4, 8, 9, 9, "the nearest legal shard is 8");
    // Too few packs.
    check_message(1, 0, 8, 12, 7, "stage 1 has 7 packs for 8 sequence groups");
    check_message(1, 0, 8, 12, 7, "at most 7 ranks");
    check_message(2, 0, 16, 5, 7, "at most 10 ranks");
    check_message(1, 2, 16, 12, 12, "at most 8 ranks");  // 4 replicas of 2 divide 12 packs.
    check_message(1, 2, 8, 12, 12, NULL);
    check_message(2, 1, 6, 3, 3, NULL);  // Any number of replicas where nothing is invariant.
    check_message(1, 0, 7, 7, 9, NULL);
}

// The sum of `value` over comm.
static int64_t sum_over(Comm *comm, int64_t value) {
    comm_all_reduce_sum(comm, &value, 1);
    return value;
}

static void test_communicators(void **state) {
    (void)state;
    const int ranks = comm_size(world), rank = comm_rank(world);
    for (int sequence = 1; sequence <= ranks; sequence++) {
        for (int shard = 0; shard <= ranks; shard++) {
            if (ranks % sequence != 0 || (shard > 0 && ranks % shard != 0)) continue;
            const MeshConfig config = {.sequence = sequence, .shard = shard};
            Mesh mesh;
            mesh_init(&mesh, world, &config);
            const int s = shard == 0 ? ranks : shard;
            int64_t want[3] = {0};
            for (int r = 0; r < ranks; r++) {
                const int64_t bit = (int64_t)1 << r;
                want[0] += r / sequence == rank / sequence ? bit : 0;
                want[1] += r / s == rank / s ? bit : 0;
                want[2] += r % s == rank % s ? bit : 0;
            }
            const int64_t mine = (int64_t)1 << rank;
            const int64_t got[3] = {sum_over(mesh.sequence, mine), sum_over(mesh.shard, mine),
                                    sum_over(mesh.replica, mine)};
            check_equal("members", got, want, 3);
            check_that(comm_rank(mesh.sequence) == mesh.sequence_index &&
                           comm_rank(mesh.shard) == mesh.shard_index &&
                           comm_rank(mesh.replica) == mesh.replica_index &&
                           comm_size(mesh.replica) == mesh.replicas,
                       "places");
            mesh_free(&mesh);
        }
    }
}

int main(int argc, char **argv) {
    ranks_start(&argc, &argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_layout),
        cmocka_unit_test(test_round_robin),
        cmocka_unit_test(test_messages),
        cmocka_unit_test(test_communicators),
    };
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    comm_stop(world);
    return failed;
}
