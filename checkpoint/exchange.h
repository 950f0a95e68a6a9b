// Moving bytes between the ranks that own slices of the parameters and the ranks that write or read
// blocks of files. Writer number w = replica * shards + index has the w-th long run of blocks and
// works through it window by window; in every round each rank has one window, and the pieces of all
// windows travel in one all-to-all inside the shard group. When restoring, the replicas then share
// what each of them has read, so that a byte is read once per job. Memory is bounded by the window;
// see exchange_init.
#ifndef CHECKPOINT_EXCHANGE_H
#define CHECKPOINT_EXCHANGE_H

#include "checkpoint/layout.h"
#include "parallel/comm.h"

// Where the state lives: each rank of `shard` owns elements [slice_cut(index), slice_cut(index +
// 1)) of every unit, and the ranks of `replica` own the same ones.
typedef struct {
    const ParamTable *table;
    Comm *world, *shard, *replica;
    float *const
        *slice[CLASS_COUNT];  // [class][unit] Device memory; gaps between tensors are zero.
    int64_t window_bytes;  // Of all ranks' windows together; 0: 64 MiB. At least a block per rank
                           // is used.
} CheckpointShards;

typedef enum { EXCHANGE_SAVE, EXCHANGE_RESTORE } ExchangeKind;

typedef struct {
    const Layout *layout;
    const CheckpointShards *shards;
    ExchangeKind kind;
    int index, size;        // Place in the shard group, and its size.
    int replica, replicas;  // Place among the replicas, and how many there are.
    int64_t window_blocks, rounds;
    int64_t *near_offsets;  // [size + 1] Pieces of this rank's window, by owner.
    int64_t *far_offsets;   // [size + 1] This rank's pieces in the windows of its group, by writer.
    int64_t *replica_offsets;       // [replicas + 1] The same of every replica.
    int64_t near_bytes, far_bytes;  // The most of any round.
    char *near, *far;               // Device memory for these.
    char *window;  // Host: window_blocks blocks, each at a multiple of CHECKPOINT_BLOCK.
} Exchange;

// Everything but the memory, from numbers alone: place `index` of `size` in the shard group,
// `replica` of `replicas`. Local; exchange_free afterwards.
void exchange_shape(Exchange *exchange, ExchangeKind kind, const Layout *layout, int index,
                    int size, int replica, int replicas, int64_t window_bytes);

// A rank holds its window, as much again for the pieces of it, and the pieces that it owns in the
// windows of one round: near 64 MiB, more where several windows fall into one rank's slices. Local.
void exchange_init(Exchange *exchange, ExchangeKind kind, const Layout *layout,
                   const CheckpointShards *shards);
void exchange_free(Exchange *exchange);

// Blocks [*first, *end) that this rank writes or reads in `round`; may be none. Local.
void exchange_blocks(const Exchange *exchange, int64_t round, int64_t *first, int64_t *end);

// Saving: fills the window with the tensors' bytes from the slices. Heads are left to the caller.
// Collective over the shard group.
void exchange_gather(Exchange *exchange, int64_t round);

// Restoring: fills the slices from the windows. Collective over the shard group and the replicas.
void exchange_scatter(Exchange *exchange, int64_t round);

#endif
