// The demo's stand-in for a video VAE: a fixed linear transform between gray pixels and latents
// that loses nothing, so that latents are computed in advance and samples decoded without any
// weights.
//
// Space: each block of 4 x 4 pixels becomes its 16 orthonormal DCT-II coefficients. With the
// model's patch of 1 x 2 x 2 a token then holds 8 x 8 pixels. Time: as a causal video VAE has it,
// the first frame stands alone and the others go in pairs: orthonormal Haar, low = (a + b) / sqrt 2
// and high = (a - b) / sqrt 2. The first frame counts as a pair of equal ones, low = sqrt 2 a and
// high = 0, so that low bands look alike everywhere. Channel = band * 16 + v * 4 + u; band 0 low, 1
// high; v, u the vertical and horizontal frequency. Last, each channel's mean over the data
// set is taken off, and all are divided by one number, so that the low band has a mean square of 1.
//
// Why one number: with a deviation of 1 in every channel, fine texture weighs as much as the shape,
// and all frequencies leave the noise at the same time. Measured with configs/demo.yaml's model:
// after 58,000 images garments were clear with one number, and broken into blocks after 77,000 with
// one deviation for each channel.
//
// Why pairs and not groups of four: the high bands of images are zero, and a model must spend
// effort to carry the noise of those channels to its output. With pairs they are half of the
// channels, with groups of four they would be three quarters, and images are most of what the demo
// learns from.
#ifndef DATA_DEMO_CODEC_H
#define DATA_DEMO_CODEC_H

#include <stdint.h>

#include "base/media.h"

enum {
    CODEC_BLOCK = 4,   // Pixels of a latent cell, each way.
    CODEC_STRIDE = 2,  // Frames of pixels in a latent frame, but for the first.
    CODEC_BAND = CODEC_BLOCK * CODEC_BLOCK,
    CODEC_CHANNELS = CODEC_STRIDE * CODEC_BAND,
};

typedef struct {
    float mean[CODEC_CHANNELS], std[CODEC_CHANNELS];
} Codec;

// Means 0, deviations 1: the orthonormal transform itself.
void codec_init(Codec *codec);

// The latent of `frames` pictures of height x width pixels. Dies unless frames is odd, and height
// and width are multiples of 4.
LatentShape codec_shape(int64_t frames, int64_t height, int64_t width);

static inline int64_t codec_frames(LatentShape s) {
    return 1 + (int64_t)CODEC_STRIDE * (s.F - 1);
}

static inline int64_t codec_pixels(LatentShape s) {
    return codec_frames(s) * (s.H * CODEC_BLOCK) * (s.W * CODEC_BLOCK);
}

// latent [C, F, H, W] from pixels [1 + 2 (F - 1), 4 H, 4 W], -1 black to 1 white.
void codec_encode(float *latent, const Codec *codec, const float *pixels, LatentShape s);

// The inverse, to rounding. A sampled latent's first frame may have high bands: they are left out.
// Values are not clipped to [-1, 1].
void codec_decode(float *pixels, const Codec *codec, const float *latent, LatentShape s);

// Sums from which the deviations follow. Low bands count every latent, high bands only frames after
// the first, where they are not zero by construction.
typedef struct {
    double sum[CODEC_CHANNELS], squares[CODEC_CHANNELS], count[CODEC_CHANNELS];
} CodecStatistics;

// Adds a latent that was encoded with codec_init's codec.
void codec_statistics_add(CodecStatistics *statistics, const float *latent, LatentShape s);

// Means of high bands are taken as 0, so that a still picture stays exactly zero there. A deviation
// below 0.001 (of a data set of black pictures) becomes 0.001.
void codec_statistics_finish(Codec *codec, const CodecStatistics *statistics);

#endif
