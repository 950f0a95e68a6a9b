// The settings `model.*`: one architecture and its sizes.
#ifndef MODEL_MODEL_CONFIG_H
#define MODEL_MODEL_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/media.h"

typedef enum { ARCHITECTURE_GOKU } Architecture;

typedef struct {
    int architecture;
    int64_t layers, heads, head_dim;
    int64_t in_channels;  // Of the latent.
    int64_t patch, patch_t;
    int64_t text_width;  // Of the text tokens: the blocks' k and v take it as it comes.
    double mlp_ratio;
    double rope_theta;
    double time_factor;  // t in [0, 1] is multiplied by it before the sinusoid.
    bool offload;        // Block inputs wait for the backward in the host's memory.
    int recompute;       // `none|cheap|linear|block|auto`, in this order.
    bool deterministic;  // run.deterministic: gradients are the same bits in every run.
} ModelConfig;

enum { RECOMPUTE_AUTO = 4 };

static inline int64_t model_width(const ModelConfig *config) {
    return config->heads * config->head_dim;
}

static inline PatchSize model_patch(const ModelConfig *config) {
    return (PatchSize){(int32_t)config->patch_t, (int32_t)config->patch, (int32_t)config->patch};
}

// Elements of one token: C pt ph pw.
static inline int64_t model_token_elements(const ModelConfig *config) {
    return config->in_channels * config->patch_t * config->patch * config->patch;
}

// Adds what the ops cannot compute: widths that are no multiples of 8 or above their limits. Names
// are written behind `where`: "model." or "config.json: ".
void model_config_check(const ModelConfig *config, const char *where, Problems *problems);

#endif
