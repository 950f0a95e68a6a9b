#include "train/traffic.h"

// Tensors that move around self-attention in one block: there, back in the backward, and again
// where they are recomputed.
static double movements(const Program *block) {
    double tensors = 0;
    for (int c = 0; c < block->calls; c++) {
        const Call *call = &block->call[c];
        if (call->op != OP_TOKENS_TO_HEADS && call->op != OP_HEADS_TO_TOKENS) continue;
        const double moved = call->op == OP_TOKENS_TO_HEADS ? 3 : 1;  // q, k, v; what comes out.
        tensors += moved * (block->plan.recompute[c] ? 3.0 : 2.0);
    }
    return tensors;
}

// Elements that one rank gives to the gathers of one step. There are two slots: each pass finds the
// two units that the pass before ended with still there. Without resharding every unit is gathered
// once.
static double given(const ParamTable *table, int shards, bool reshard, int rounds) {
    double all = 0, front = 0, back = 0;
    for (int unit = 0; unit < table->units; unit++) {
        const double most = (double)slice_most(table->unit_elements[unit], shards);
        all += most;
        if (unit < 2) front += most;
        if (unit >= table->units - 2) back += most;
    }
    if (!reshard) return all;
    return all + rounds * (all - back) + (rounds - 1) * (all - front);
}

// Elements of sums that replicas send: for each slice of each unit, every rank that owns it sends
// every other a piece that is to be summed, and then a piece that is.
static double between_replicas(const ParamTable *table, const Mesh *mesh) {
    double pieces = 0;
    for (int unit = 0; unit < table->units; unit++) {
        const int64_t elements = table->unit_elements[unit];
        for (int i = 0; i < mesh->shards; i++) {
            const int64_t begin = slice_cut(elements, i, mesh->shards);
            const int64_t end = slice_cut(elements, i + 1, mesh->shards);
            pieces += (double)slice_most(end - begin, mesh->replicas);
        }
    }
    return 2 * pieces * mesh->replicas * (mesh->replicas - 1);
}

Traffic traffic_of_step(const Model *model, const FsdpConfig *sharding, int packs, double tokens) {
    const Mesh *mesh = model->mesh;
    const ParamTable *table = &model->params;
    const double real_size = (double)type_size(REAL_TYPE), n = mesh->sequences;
    double elements = 0;
    for (int unit = 0; unit < table->units; unit++) {
        elements += (double)table->unit_elements[unit];
    }
    // A unit's slices go to all others of the shard group; a leaf is cut into slices for them.
    const double others = mesh->shards - 1;
    return (Traffic){
        .gathers =
            given(table, mesh->shards, sharding->reshard_after_forward, mesh_rounds(mesh, packs)) *
            real_size * others * mesh->size,
        .leaves = elements * (double)type_size(sharding->wire) * others / mesh->shards * packs * n,
        .replicas = between_replicas(table, mesh) * (double)sizeof(float),
        .attention = tokens * (double)model_width(&model->config) * real_size * (n - 1) / n *
                     movements(&model->block) * (double)model->config.layers};
}
