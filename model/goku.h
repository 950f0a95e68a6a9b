// Goku (arXiv 2502.04896): a DiT with full attention over image and video tokens, text by
// cross-attention.
#ifndef MODEL_GOKU_H
#define MODEL_GOKU_H

#include "model/model_config.h"
#include "model/program.h"

// The values by which units hang together, numbered as recorded.
typedef struct {
    Value x, cond, text, time;  // Inputs (NO_VALUE where a unit has none).
    Value out_x, out_cond;      // Outputs.
} UnitValues;

// Each starts a unit of parameters and records it. x [tokens, .], cond [segments, C], text [text,
// width].
UnitValues goku_stem(Program *p, const ModelConfig *config, ParamTable *params, const Mesh *mesh);
UnitValues goku_block(Program *p, const ModelConfig *config, ParamTable *params, const Mesh *mesh,
                      int block);
UnitValues goku_head(Program *p, const ModelConfig *config, ParamTable *params, const Mesh *mesh);

#endif
