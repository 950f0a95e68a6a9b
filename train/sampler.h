// Sampling: integrates dx/dt = v from noise (t = 0) to data (t = 1) by Euler's method with
// classifier-free guidance, v = v_0 + guidance (v_text - v_0), many samples at once in packs
// without padding, packs spread over the data ranks.
#ifndef TRAIN_SAMPLER_H
#define TRAIN_SAMPLER_H

#include "train/objective.h"

typedef struct {
    LatentShape shape;
    const float *text;  // [text_length, text width]; length 0: no text.
    int64_t text_length;
    uint64_t position;  // Keys the noise.
    float *latent;      // [C, F, H, W] The result, on every rank.
} SampleRequest;

typedef struct {
    int64_t steps;
    double guidance;  // 1: none.
    double shift;     // Of the times, as in training.
    uint64_t seed;
} SamplerConfig;

// False with a reason where the request is larger than a pack of `bounds` or no multiple of the
// patch. Local.
bool sampler_check(const SampleRequest *request, const SamplerConfig *config,
                   const ModelConfig *model, ModelBounds bounds, Error *error);

// What sampler_run takes for a while. Local.
MemoryBytes sampler_bytes(const Model *model);

// False where sampler_check is for any request. Uses the batch's buffers; the weights are those
// that the fsdp's source gives. Collective over the world.
bool sampler_run(SampleRequest *requests, int count, const SamplerConfig *config, Model *model,
                 Fsdp *fsdp, Batch *batch, Error *error);

#endif
