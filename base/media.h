// A sample's latent as the model sees it, and what surrounds it; the words of data, model and
// train.
#ifndef BASE_MEDIA_H
#define BASE_MEDIA_H

#include <stdint.h>

enum { LENGTHS_MAX = 32 };  // Numbers of tokens that samples often have, and kernels are made for.

typedef enum { MEDIUM_IMAGE, MEDIUM_VIDEO, MEDIUM_COUNT } Medium;

// A latent's size: channels, frames (1 for an image), height, width.
typedef struct {
    int32_t C, F, H, W;
} LatentShape;

// A patch: frames, height, width of latent that one token holds.
typedef struct {
    int32_t t, h, w;
} PatchSize;

static inline int64_t latent_elements(LatentShape s) {
    return (int64_t)s.C * s.F * s.H * s.W;
}

// Tokens of a latent; its sizes must be multiples of the patch.
static inline int64_t latent_tokens(LatentShape s, PatchSize p) {
    return (int64_t)(s.F / p.t) * (s.H / p.h) * (s.W / p.w);
}

#endif
