#include "data/demo/codec.h"

#include <inttypes.h>
#include <math.h>

#include "base/die.h"

// Row k of the orthonormal DCT-II of four samples: c_k cos(pi (2 x + 1) k / 8), c_0 = 1/2, else
// 1/sqrt 2.
static const float dct[CODEC_BLOCK][CODEC_BLOCK] = {
    {0.5f, 0.5f, 0.5f, 0.5f},
    {0.653281482f, 0.270598050f, -0.270598050f, -0.653281482f},
    {0.5f, -0.5f, -0.5f, 0.5f},
    {0.270598050f, -0.653281482f, 0.653281482f, -0.270598050f},
};

static const float sqrt_half = 0.707106781f;

void codec_init(Codec *codec) {
    for (int c = 0; c < CODEC_CHANNELS; c++) {
        codec->mean[c] = 0.0f;
        codec->std[c] = 1.0f;
    }
}

LatentShape codec_shape(int64_t frames, int64_t height, int64_t width) {
    CHECK(frames > 0 && (frames - 1) % CODEC_STRIDE == 0,
          "%" PRId64 " frames: must be 1 + a multiple of %d", frames, CODEC_STRIDE);
    CHECK(height > 0 && width > 0 && height % CODEC_BLOCK == 0 && width % CODEC_BLOCK == 0,
          "%" PRId64 " x %" PRId64 " pixels: must be multiples of %d", height, width, CODEC_BLOCK);
    return (LatentShape){CODEC_CHANNELS, (int32_t)(1 + (frames - 1) / CODEC_STRIDE),
                         (int32_t)(height / CODEC_BLOCK), (int32_t)(width / CODEC_BLOCK)};
}

// out [16] = the DCT of the block whose first pixel is `pixels`, rows `row` apart.
static void block_forward(float *out, const float *pixels, int64_t row) {
    float half[CODEC_BLOCK][CODEC_BLOCK];  // [y][u]
    for (int y = 0; y < CODEC_BLOCK; y++) {
        for (int u = 0; u < CODEC_BLOCK; u++) {
            float sum = 0.0f;
            for (int x = 0; x < CODEC_BLOCK; x++) sum += dct[u][x] * pixels[y * row + x];
            half[y][u] = sum;
        }
    }
    for (int v = 0; v < CODEC_BLOCK; v++) {
        for (int u = 0; u < CODEC_BLOCK; u++) {
            float sum = 0.0f;
            for (int y = 0; y < CODEC_BLOCK; y++) sum += dct[v][y] * half[y][u];
            out[v * CODEC_BLOCK + u] = sum;
        }
    }
}

static void block_inverse(float *pixels, const float *in, int64_t row) {
    float half[CODEC_BLOCK][CODEC_BLOCK];  // [y][u]
    for (int y = 0; y < CODEC_BLOCK; y++) {
        for (int u = 0; u < CODEC_BLOCK; u++) {
            float sum = 0.0f;
            for (int v = 0; v < CODEC_BLOCK; v++) sum += dct[v][y] * in[v * CODEC_BLOCK + u];
            half[y][u] = sum;
        }
    }
    for (int y = 0; y < CODEC_BLOCK; y++) {
        for (int x = 0; x < CODEC_BLOCK; x++) {
            float sum = 0.0f;
            for (int u = 0; u < CODEC_BLOCK; u++) sum += dct[u][x] * half[y][u];
            pixels[y * row + x] = sum;
        }
    }
}

void codec_encode(float *latent, const Codec *codec, const float *pixels, LatentShape s) {
    const int64_t row = (int64_t)s.W * CODEC_BLOCK, frame = (int64_t)s.H * CODEC_BLOCK * row;
    const int64_t plane = (int64_t)s.H * s.W, channel = s.F * plane;
    for (int64_t f = 0; f < s.F; f++) {
        const float *b = pixels + f * CODEC_STRIDE * frame;
        const float *a = f == 0 ? b : b - frame;
        for (int64_t i = 0; i < plane; i++) {
            const int64_t at = i / s.W * CODEC_BLOCK * row + i % s.W * CODEC_BLOCK;
            float first[CODEC_BAND], second[CODEC_BAND];
            block_forward(first, a + at, row);
            block_forward(second, b + at, row);
            float *out = latent + f * plane + i;
            for (int k = 0; k < CODEC_BAND; k++) {
                const int high = k + CODEC_BAND;
                const float sum = (first[k] + second[k]) * sqrt_half;
                const float difference = (first[k] - second[k]) * sqrt_half;
                out[k * channel] = (sum - codec->mean[k]) / codec->std[k];
                out[high * channel] = (difference - codec->mean[high]) / codec->std[high];
            }
        }
    }
}

void codec_decode(float *pixels, const Codec *codec, const float *latent, LatentShape s) {
    const int64_t row = (int64_t)s.W * CODEC_BLOCK, frame = (int64_t)s.H * CODEC_BLOCK * row;
    const int64_t plane = (int64_t)s.H * s.W, channel = s.F * plane;
    for (int64_t f = 0; f < s.F; f++) {
        float *b = pixels + f * CODEC_STRIDE * frame;
        for (int64_t i = 0; i < plane; i++) {
            const int64_t at = i / s.W * CODEC_BLOCK * row + i % s.W * CODEC_BLOCK;
            const float *in = latent + f * plane + i;
            float first[CODEC_BAND], second[CODEC_BAND];
            for (int k = 0; k < CODEC_BAND; k++) {
                const int high = k + CODEC_BAND;
                const float low = in[k * channel] * codec->std[k] + codec->mean[k];
                const float difference =
                    f == 0 ? 0.0f : in[high * channel] * codec->std[high] + codec->mean[high];
                first[k] = (low + difference) * sqrt_half;
                second[k] = (low - difference) * sqrt_half;
            }
            if (f > 0) block_inverse(b - frame + at, first, row);
            block_inverse(b + at, second, row);
        }
    }
}

void codec_statistics_add(CodecStatistics *statistics, const float *latent, LatentShape s) {
    const int64_t plane = (int64_t)s.H * s.W, channel = s.F * plane;
    for (int c = 0; c < CODEC_CHANNELS; c++) {
        const int64_t begin = c < CODEC_BAND ? 0 : plane;  // High bands: not the first frame's.
        double sum = 0.0, squares = 0.0;
        for (int64_t i = begin; i < channel; i++) {
            const double x = latent[c * channel + i];
            sum += x;
            squares += x * x;
        }
        statistics->sum[c] += sum;
        statistics->squares[c] += squares;
        statistics->count[c] += (double)(channel - begin);
    }
}

void codec_statistics_finish(Codec *codec, const CodecStatistics *statistics) {
    double variance = 0.0;
    for (int c = 0; c < CODEC_BAND; c++) {
        const double count = fmax(statistics->count[c], 1.0), mean = statistics->sum[c] / count;
        variance += fmax(statistics->squares[c] / count - mean * mean, 0.0) / CODEC_BAND;
        codec->mean[c] = (float)mean;
        codec->mean[CODEC_BAND + c] = 0.0f;
    }
    for (int c = 0; c < CODEC_CHANNELS; c++) codec->std[c] = (float)fmax(sqrt(variance), 1e-3);
}
