// Fully sharded data parallelism (DESIGN, section 5). Every rank owns one slice of each unit's fp32
// master weights. A unit is gathered in compute precision just before it is used, and what a pack
// adds to its gradient (the leaf) is exchanged right after, so whole units are held two at a time.
// The model knows nothing of it. The sum over packs has the same bits on any number of ranks where
// mesh->invariant holds (tree.h).
//
// One step; all ranks make the collective calls in the same order, also those without a pack:
//
//     fsdp_begin_step(f, packs);
//     for (int round = 0; round < mesh_rounds(mesh, packs); round++) {
//         forward, for each unit:  fsdp_fetch(f, unit + 1);
//                                  const real *weights = fsdp_wait(f, unit);  ... run ...
//                                  fsdp_release(f, unit);
//         backward, last unit first: the same with fsdp_fetch(f, unit - 1), and
//                                  Gradient leaf = fsdp_leaf(f, unit);  ... run, write ...
//                                  fsdp_reduce(f, unit, round);
//     }
//     fsdp_end_step(f);
//     ... read fsdp_gradient, update fsdp_master, and fsdp_rounded or fsdp_invalidate ...
#ifndef PARALLEL_FSDP_H
#define PARALLEL_FSDP_H

#include "base/gradient.h"
#include "base/param.h"
#include "base/vector.h"
#include "parallel/mesh.h"

typedef struct {
    Type wire;  // What leaves are stored and travel in: parallel.reduce.
    // false: a unit stays gathered until the weights change, as it does where a shard is whole: in
    // bf16 rounded, in fp32 it is the slice itself.
    bool reshard_after_forward;
    int packs_max;  // The largest number of packs of any step.
} FsdpConfig;

// Bytes of this rank by purpose; `total` includes the gaps of alignment.
typedef struct {
    int64_t master;    // fp32 weights of the owned slices.
    int64_t slots;     // Units in compute precision: gathered, or all where shards are whole.
    int64_t leaf;      // Two units' gradients of one pack, in the wire type.
    int64_t exchange;  // One unit's leaves, received.
    int64_t stack;     // fp32 sums of the owned slices.
    int64_t total;
} FsdpBytes;

typedef struct Fsdp Fsdp;

// All memory at once. Table and mesh must outlive it. Masters start at zero. Local.
Fsdp *fsdp_create(const ParamTable *table, const Mesh *mesh, const FsdpConfig *config);
void fsdp_free(Fsdp *f);

// What fsdp_create would take, by the same lines. The mesh may come from mesh_shape; the first rank
// of a shard group has the largest slices. Local.
FsdpBytes fsdp_plan(const ParamTable *table, const Mesh *mesh, const FsdpConfig *config);
FsdpBytes fsdp_bytes(const Fsdp *f);

// The slice of `unit` that this rank owns is elements [begin, end) of the unit's buffer. Local.
int64_t fsdp_slice_begin(const Fsdp *f, int unit);
int64_t fsdp_slice_end(const Fsdp *f, int unit);
float *fsdp_master(Fsdp *f, int unit);  // [end - begin]

// Which shards are gathered from now on: slices[unit] of [end - begin] each, cut as the masters are
// (the EMA), or NULL for the masters; the caller keeps the array. Implies fsdp_invalidate. Local,
// but all ranks must do the same.
void fsdp_source(Fsdp *f, float *const *slices);

// Starts to gather `unit` into a slot; when a slot still holds it, there is nothing to do. At most
// two units are held at a time (any number without reshard). fsdp_wait returns the unit's buffer,
// [elements], once it is there for the compute stream. Each fetch wants one release. fsdp_fetch:
// collective over mesh->shard; the others: local.
void fsdp_fetch(Fsdp *f, int unit);
const real *fsdp_wait(Fsdp *f, int unit);
void fsdp_release(Fsdp *f, int unit);

// The weights have changed: what the slots hold is stale. No unit may be held. Local.
void fsdp_invalidate(Fsdp *f);

// Where a slot holds all of `unit` rounded, and no other rank has a part: [elements]. Who changes
// the masters may write them there, too, in the compute stream, and needs no fsdp_invalidate. NULL:
// there is no such place. Local.
real *fsdp_rounded(Fsdp *f, int unit);

// A step of `packs` packs begins. Local.
void fsdp_begin_step(Fsdp *f, int packs);

// Where this rank puts what its pack of this round gives to the gradient of `unit`: [elements] of
// the wire type, to be written (=), every tensor of the table whole; the gaps are zero already.
// fsdp_reduce comes before the next fsdp_leaf. Local.
Gradient fsdp_leaf(Fsdp *f, int unit);

// Exchanges slices of the leaf inside the shard group and adds what came in the order of the tree;
// in the last round, the replicas' sums, too. The next leaf may be written meanwhile. Ranks without
// a pack in this round (mesh_pack is -1) call it without fsdp_leaf. Each unit once per round, in
// one order on all ranks. Collective over mesh->shard, in the last round over mesh->replica.
void fsdp_reduce(Fsdp *f, int unit, int round);

// Behind the last round. For the compute stream, fsdp_gradient is the sum over all packs for the
// owned slice from now on, the same on all replicas. Local.
void fsdp_end_step(Fsdp *f);
float *fsdp_gradient(Fsdp *f, int unit);  // [end - begin], until the next fsdp_begin_step.

// sum = the squares of fsdp_gradient of all units, after fsdp_end_step; replicas hold the same
// slices, so only the first has them, the others 0. Waits for the compute stream, once. Local.
void fsdp_square_sum(Fsdp *f, ExactSum *sum);

// out [elements], on the host, = the whole of `unit`, each rank giving its slice, in fp32; takes
// device memory for it (the gradients of `kintoun forward`, tests). Collective over mesh->shard.
void fsdp_gather(Fsdp *f, float *out, int unit, const float *slice);

#endif
