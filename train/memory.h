// What a run takes of memory, and what is chosen by it: recomputation and layout.
#ifndef TRAIN_MEMORY_H
#define TRAIN_MEMORY_H

#include "model/model.h"
#include "train/config.h"

// What a rank needs, in bytes, by purpose; `data` is what the loader takes of the host. Sampling
// and saving take theirs for a while, one after the other. `total` is what has to fit into what
// device_memory_free says: of the device, and on the CPU of the host, too. Local: works with
// mesh_shape, and without any data.
typedef struct {
    FsdpBytes fsdp;
    ModelBytes model;
    MemoryBytes batch, sampling, saving;
    int64_t optimizer, data, host, total;
} MemoryPlan;
MemoryPlan memory_plan(Model *model, const Mesh *mesh, const Config *config, int64_t data,
                       Recompute recompute);

// The largest pack of any stage.
ModelBounds stage_bounds(const Config *config);

// The policy that `model.recompute` means: `auto` is the least that fits into `available` bytes.
Recompute choose_recompute(Model *model, const Mesh *mesh, const Config *config, int64_t data,
                           int64_t available);

// The layout that the settings mean. parallel.shard = 0: the smallest multiple of a node's ranks
// that is legal and whose plan fits into `available` bytes a rank, else all ranks. Local; the same
// on all ranks.
MeshConfig choose_layout(const Config *config, int ranks, int node, int64_t data,
                         int64_t available);

// Adds what speaks against the layout that is set (mesh_check).
void check_layout(const Config *config, int ranks, Problems *problems);

// What the settings say about sharding.
FsdpConfig fsdp_settings(const Config *config);

// Work coefficients for the planner of the data, in FLOPs.
ModelNeeds model_needs(const ModelConfig *config);

#endif
