// The mesh: rank = data_index * sequence + sequence_index. The ranks of one sequence group hold
// slices of one pack. Parameters are sharded over groups of `shard` consecutive ranks and
// replicated across the groups (hybrid shard). Both divide the world; neither has to divide the
// other. DESIGN, sections 2 and 5.
#ifndef PARALLEL_MESH_H
#define PARALLEL_MESH_H

#include "base/error.h"
#include "parallel/comm.h"

typedef struct {
    int sequence;  // Ranks that split one pack (Ulysses).
    int shard;     // Ranks that share one copy of the parameters; 0 chooses all of the world.
} MeshConfig;

typedef struct {
    Comm *world;
    Comm *sequence;  // The ranks of this rank's sequence group.
    Comm *shard;     // The ranks of this rank's shard group: gathers of parameters.
    Comm *exchange;  // The same ranks: exchanges of gradients beside the gathers, and of files.
    Comm *replica;   // The ranks that own the same slice, one per shard group.
    int rank, size;
    int sequence_index, sequences;  // Place in the sequence group, and its size.
    int data_index,
        data_size;            // Number of the sequence group ("data rank"), and how many there are.
    int shard_index, shards;  // Place in the shard group, and its size.
    int replica_index, replicas;  // Number of the shard group, and how many there are: G.
    bool
        invariant;  // `sequence` divides `shard`: the sum over packs does not depend on the layout.
} Mesh;

// Checks the layout against every stage's number of packs, in words for a user: does it divide, is
// G legal (a power of two that divides the packs; the nearest legal shard is named), are there
// enough packs. Local.
void mesh_check(const MeshConfig *config, int ranks, const int *packs, int stages,
                Problems *problems);

// Fills the numbers and leaves the communicators NULL: what planning needs. Local.
void mesh_shape(Mesh *mesh, const MeshConfig *config, int rank, int ranks);

// mesh_shape and the communicators, connected. The layout must have passed mesh_check. Collective
// over `world`.
void mesh_init(Mesh *mesh, Comm *world, const MeshConfig *config);
void mesh_free(Mesh *mesh);

// A step of `packs` packs runs in mesh_rounds rounds; in round r this rank's sequence group runs
// pack mesh_pack (-1: none; it still takes part in every exchange). Local; a pure function of the
// mesh.
int mesh_rounds(const Mesh *mesh, int packs);
int mesh_pack(const Mesh *mesh, int packs, int round);

// The same for any shard group member: which pack and sequence index rank `shard_rank` of this
// rank's shard group holds in `round` (pack -1: none).
int mesh_pack_of(const Mesh *mesh, int packs, int round, int shard_rank, int *sequence_index);

// How many packs leave something in this rank's shard group: the leaves of its tree. Local.
int mesh_leaves(const Mesh *mesh, int packs);

#endif
