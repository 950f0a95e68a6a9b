#include <stddef.h>
#include <string.h>

#include "model/ops/flow.h"

void patchify(float *out, const float *latent, LatentShape shape, PatchSize patch, int64_t first,
              int64_t count) {
    for (int64_t token = first; token < first + count; token++) {
        for (int32_t c = 0; c < shape.C; c++) {
            for (int32_t i = 0; i < patch.t; i++) {
                for (int32_t j = 0; j < patch.h; j++) {
                    memcpy(out, latent + patch_run(shape, patch, (int32_t)token, c, i, j),
                           (size_t)patch.w * sizeof(float));
                    out += patch.w;
                }
            }
        }
    }
}

void unpatchify(float *latent, const float *tokens, LatentShape shape, PatchSize patch,
                int64_t first, int64_t count) {
    for (int64_t token = first; token < first + count; token++) {
        for (int32_t c = 0; c < shape.C; c++) {
            for (int32_t i = 0; i < patch.t; i++) {
                for (int32_t j = 0; j < patch.h; j++) {
                    memcpy(latent + patch_run(shape, patch, (int32_t)token, c, i, j), tokens,
                           (size_t)patch.w * sizeof(float));
                    tokens += patch.w;
                }
            }
        }
    }
}
