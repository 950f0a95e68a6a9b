#include "parallel/mesh.h"

#include <stdlib.h>
#include <string.h>

#include "base/die.h"

static bool is_power_of_two(int n) {
    return n > 0 && (n & (n - 1)) == 0;
}

// Whether `shard` copies the parameters a legal number of times: where sequence groups lie inside
// shard groups, each replica's packs must be a node of the tree over all packs.
static bool replicas_fit(int sequence, int shard, int ranks, const int *packs, int stages) {
    if (ranks % shard != 0) return false;
    if (shard % sequence != 0) return true;
    const int replicas = ranks / shard;
    if (!is_power_of_two(replicas)) return false;
    for (int i = 0; i < stages; i++) {
        if (packs[i] % replicas != 0) return false;
    }
    return true;
}

// The shard nearest to `shard` (the larger of two) that is legal and holds whole sequence groups;
// all ranks always are.
static int nearest_shard(int sequence, int shard, int ranks, const int *packs, int stages) {
    int nearest = ranks;
    for (int i = ranks; i >= sequence; i--) {
        const bool fits = i % sequence == 0 && replicas_fit(sequence, i, ranks, packs, stages);
        if (fits && abs(i - shard) < abs(nearest - shard)) nearest = i;
    }
    return nearest;
}

// The largest number of ranks with a pack for every sequence group, keeping `shard` where that is
// possible.
static int most_ranks(int sequence, int shard, int ranks, const int *packs, int stages) {
    int fewest = packs[0];
    for (int i = 1; i < stages; i++) fewest = packs[i] < fewest ? packs[i] : fewest;
    const int most = fewest * sequence < ranks ? fewest * sequence : ranks;
    for (int i = most; i >= sequence; i--) {
        if (i % sequence == 0 && replicas_fit(sequence, shard, i, packs, stages)) return i;
    }
    return most;
}

void mesh_check(const MeshConfig *config, int ranks, const int *packs, int stages,
                Problems *problems) {
    const int sequence = config->sequence;
    const int shard = config->shard == 0 ? ranks : config->shard;
    if (sequence < 1 || ranks % sequence != 0) {
        int nearest = 1;
        for (int i = 1; i <= ranks; i++) {
            if (ranks % i == 0 && abs(i - sequence) < abs(nearest - sequence)) nearest = i;
        }
        problems_add(problems,
                     "parallel.sequence = %d must divide the number of ranks, %d; the nearest that "
                     "does is %d",
                     sequence, ranks, nearest);
        return;
    }
    for (int i = 0; i < stages; i++) {
        if (packs[i] >= ranks / sequence) continue;
        problems_add(
            problems,
            "stage %d has %d packs for %d sequence groups; every group needs one: use more "
            "packs or at most %d ranks",
            i, packs[i], ranks / sequence, most_ranks(sequence, shard, ranks, packs, stages));
        return;
    }
    const int nearest = nearest_shard(sequence, shard, ranks, packs, stages);
    if (shard < 1 || ranks % shard != 0) {
        problems_add(problems,
                     "parallel.shard = %d must divide the number of ranks, %d; the nearest legal "
                     "one is %d",
                     shard, ranks, nearest);
    } else if (!replicas_fit(sequence, shard, ranks, packs, stages)) {
        problems_add(problems,
                     "parallel.shard = %d makes %d copies of the parameters on %d ranks; their "
                     "number must be a power of two that divides the packs of every stage: the "
                     "nearest legal shard is %d",
                     shard, ranks / shard, ranks, nearest);
    }
}

void mesh_shape(Mesh *mesh, const MeshConfig *config, int rank, int ranks) {
    const int sequence = config->sequence;
    const int shard = config->shard == 0 ? ranks : config->shard;
    CHECK(sequence >= 1 && shard >= 1 && ranks % sequence == 0 && ranks % shard == 0,
          "sequence %d, shard %d on %d ranks: mesh_check comes first", sequence, shard, ranks);
    *mesh = (Mesh){
        .rank = rank,
        .size = ranks,
        .sequence_index = rank % sequence,
        .sequences = sequence,
        .data_index = rank / sequence,
        .data_size = ranks / sequence,
        .shard_index = rank % shard,
        .shards = shard,
        .replica_index = rank / shard,
        .replicas = ranks / shard,
        .invariant = shard % sequence == 0,
    };
}

void mesh_init(Mesh *mesh, Comm *world, const MeshConfig *config) {
    mesh_shape(mesh, config, comm_rank(world), comm_size(world));
    mesh->world = world;
    mesh->sequence = comm_split(world, mesh->data_index, mesh->rank, "sequence");
    mesh->shard = comm_split(world, mesh->replica_index, mesh->rank, "shard");
    mesh->exchange = comm_split(world, mesh->replica_index, mesh->rank, "exchange");
    mesh->replica = comm_split(world, mesh->shard_index, mesh->rank, "replica");
    comm_connect(mesh->sequence, COMM_GATHERS | COMM_EXCHANGES);
    comm_connect(mesh->shard, COMM_GATHERS);
    comm_connect(mesh->exchange, COMM_EXCHANGES);
    comm_connect(mesh->replica, COMM_GATHERS | COMM_EXCHANGES);
}

void mesh_free(Mesh *mesh) {
    comm_free(mesh->sequence);
    comm_free(mesh->shard);
    comm_free(mesh->exchange);
    comm_free(mesh->replica);
    *mesh = (Mesh){0};
}

// Sequence groups that share out one run of packs: those of a replica, or all of them.
static int groups_in_turn(const Mesh *mesh) {
    return mesh->invariant ? mesh->shards / mesh->sequences : mesh->data_size;
}

static int packs_in_turn(const Mesh *mesh, int packs) {
    return mesh->invariant ? packs / mesh->replicas : packs;
}

int mesh_rounds(const Mesh *mesh, int packs) {
    const int groups = groups_in_turn(mesh);
    return (packs_in_turn(mesh, packs) + groups - 1) / groups;
}

int mesh_pack_of(const Mesh *mesh, int packs, int round, int shard_rank, int *sequence_index) {
    const int rank = mesh->replica_index * mesh->shards + shard_rank;
    const int groups = groups_in_turn(mesh), in_turn = packs_in_turn(mesh, packs);
    const int local = round * groups + rank / mesh->sequences % groups;
    *sequence_index = rank % mesh->sequences;
    if (local >= in_turn) return -1;
    return mesh->invariant ? mesh->replica_index * in_turn + local : local;
}

int mesh_pack(const Mesh *mesh, int packs, int round) {
    int sequence_index = 0;
    return mesh_pack_of(mesh, packs, round, mesh->shard_index, &sequence_index);
}

int mesh_leaves(const Mesh *mesh, int packs) {
    int leaves = 0;
    for (int round = 0; round < mesh_rounds(mesh, packs); round++) {
        int last = -1, sequence_index = 0;
        for (int i = 0; i < mesh->shards; i++) {
            const int pack = mesh_pack_of(mesh, packs, round, i, &sequence_index);
            if (pack >= 0 && pack != last) leaves++;
            last = pack;
        }
    }
    return leaves;
}
