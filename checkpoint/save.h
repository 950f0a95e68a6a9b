// Saving: all ranks write the blocks of the files in parallel into a folder of a temporary name;
// when all of it is durable and all ranks agree, the MANIFEST is written and the folder gets its
// final name. A failure on any rank is a failure on all: the temporary folder is removed, earlier
// checkpoints stay, training may go on. DESIGN, section 7; order of publishing: reference "commit
// protocols under crash".
#ifndef CHECKPOINT_SAVE_H
#define CHECKPOINT_SAVE_H

#include "base/arena.h"
#include "base/error.h"
#include "checkpoint/exchange.h"

// Claims the run folder for this start: writes a new random generation to
// RUN/checkpoints/.generation and removes what earlier starts left unfinished. Before a save is
// published its generation must still be the one there, so a zombie of an earlier start cannot
// publish. Once per start; collective over world.
bool checkpoint_claim(const char *run, Comm *world, uint64_t *generation, Error *error);

// The run folder's generation, 0: none. A start that is refused gives the run back to the one of
// before its claim, which may be at work. Local; rank 0 alone.
uint64_t checkpoint_generation(const char *run);
void checkpoint_unclaim(const char *run, uint64_t generation, uint64_t before);

// Whether a later start has claimed the run: with this one it would go back and forth. Collective
// over world.
bool checkpoint_taken(const char *run, Comm *world, uint64_t generation);

// Everything that a save needs, and nothing else is read: an asynchronous save points shards.slice
// at a copy and gives communicators of its own.
typedef struct {
    const char *run;  // The run's folder.
    int64_t step;
    uint64_t generation;     // From checkpoint_claim.
    int64_t file_bytes_max;  // Where files are cut; 0: CHECKPOINT_FILE_BYTES.
    const char *config;      // Text of config.json of both transformer folders.
    const char *state;       // Text of state.json: "version", "step" and "recipe" (restore.h).
    CheckpointShards shards;
} CheckpointSave;

// Writes and publishes RUN/checkpoints/step-N. Where that exists with the same bytes, nothing
// changes; one with other bytes is set aside as replaced-step-N. False with the same reason on
// every rank, naming the first that failed. Collective over world, shard and replica.
bool checkpoint_save(const CheckpointSave *save, Error *error);

// What saving or restoring takes for a while, whichever is more, on rank `index` of a shard group
// of `size`, in the first of `replicas`. Local.
MemoryBytes checkpoint_bytes(const ParamTable *table, int64_t file_bytes_max, int index, int size,
                             int replicas);

#endif
