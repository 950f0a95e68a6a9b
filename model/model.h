// A whole model: its units recorded, planned and run one after the other, with sharded parameters.
// The model knows nothing of how they are sharded: it fetches the next unit while the present one
// runs.
#ifndef MODEL_MODEL_H
#define MODEL_MODEL_H

#include "base/arena.h"
#include "model/goku.h"
#include "model/model_config.h"
#include "model/offload.h"
#include "model/program.h"
#include "parallel/fsdp.h"

// The largest pack of any stage.
typedef struct {
    int64_t tokens, text, segments;
} ModelBounds;

// Bytes of this rank by purpose.
typedef struct {
    int64_t inputs;    // Tokens, text, times, output and their gradients; block inputs.
    int64_t kept;      // What is kept from forward to backward inside the units.
    int64_t work;      // Values of the unit that runs.
    int64_t products;  // Scratch of the matrix products.
    int64_t total;     // With the gaps of alignment.
    int64_t host;      // Block inputs that wait in the host's memory (model.offload).
} ModelBytes;

typedef struct {
    ModelConfig config;
    const Mesh *mesh;
    ParamTable params;
    int units;  // Stem, blocks, head.
    Program stem, block, head;
    UnitValues stem_values, block_values, head_values;
    ModelBounds bounds;
    int64_t bound[ROWS_KINDS];
    // Tokens that many segments will have, 0: none; the caller may say between model_record and
    // model_allocate. No memory depends on them.
    int64_t lengths[LENGTHS_MAX];
    ModelBytes bytes;
    Arena arena;
    // Filled by the caller before model_forward; rows as in the bound pack, T of this rank.
    real *patches;  // [T, E] x_t, E = elements of a token.
    float *time;    // [S]
    real *text;     // [X, text width]
    real *out;      // [T, E] The velocity, by model_forward.
    real *dout;     // [T, E] Its gradient, filled by the caller before model_backward.
    // Inside.
    real *x;  // [layers + 1][T, C] Inputs of the blocks and of the head; NULL where offloaded.
    Offload offload;
    real *dx;
    real *cond;  // [S, C]
    float *dcond;
    char *kept, *work;
    OpTimes *op_times;  // NULL: not measured.
} Model;

// Records the model: the parameter table and the programs. The mesh (mesh_shape is enough) and must
// outlive it. Local.
void model_record(Model *model, const ModelConfig *config, const Mesh *mesh);

// Model FLOPs of a forward. Local.
Cost model_cost(const Model *model);

// Decides memory for packs up to `bounds` and says what it takes; model_allocate takes it. Local.
void model_plan(Model *model, Recompute recompute, ModelBounds bounds);
void model_allocate(Model *model);
void model_free(Model *model);

// Runs all units on the bound pack; NULL: this rank has no pack and only takes part in the gathers.
// Collective over the shard and sequence groups.
void model_forward(Model *model, Fsdp *fsdp, const PackBind *bind, Stream stream);

// Writes the gradients of all parameters as this pack's leaves of `round`. After model_forward of
// the same pack. Collective over the shard and sequence groups.
void model_backward(Model *model, Fsdp *fsdp, const PackBind *bind, int round, Stream stream);

// config.json of the checkpoint's transformer folder, in diffusers' keys. The caller frees it.
char *model_config_json(const ModelConfig *config);

// Reads such a text. False with a reason where it is not a model that kintoun knows.
bool model_config_parse(ModelConfig *config, const char *json, Error *error);

#endif
