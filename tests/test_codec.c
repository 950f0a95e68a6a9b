// The demo's codec gives every picture back, is the transform that its header states, and keeps
// still pictures out of the high bands; the text encoder's tokens follow from words and places.
// ranks: 1
#include <math.h>
#include <stdlib.h>

#include "base/rng.h"
#include "data/demo/codec.h"
#include "data/demo/text.h"
#include "tests/check.h"

static float *floats(int64_t count) {
    float *values = calloc((size_t)count, sizeof(float));
    check_that(values != NULL, "no memory for %lld floats", (long long)count);
    return values;
}

static float *random_pixels(LatentShape s, uint64_t position) {
    float *pixels = floats(codec_pixels(s));
    for (int64_t i = 0; i < codec_pixels(s); i++) {
        pixels[i] = (float)(2.0 * rng_uniform(1, RNG_TEST, position, (uint64_t)i) - 1.0);
    }
    return pixels;
}

static const int64_t sizes[][3] = {{1, 4, 4}, {1, 32, 32}, {3, 8, 12}, {9, 32, 48}, {17, 48, 32}};
enum { SIZES = sizeof(sizes) / sizeof(sizes[0]) };

static void test_inverse(void **state) {
    (void)state;
    Codec codec;
    for (int c = 0; c < CODEC_CHANNELS; c++) {
        codec.mean[c] = c < CODEC_BAND ? 0.1f * (float)(c - 3) : 0.0f;
        codec.std[c] = 0.05f + 0.1f * (float)c;
    }
    for (int k = 0; k < SIZES; k++) {
        const LatentShape s = codec_shape(sizes[k][0], sizes[k][1], sizes[k][2]);
        check_that(codec_frames(s) == sizes[k][0], "%lld frames", (long long)codec_frames(s));
        float *pixels = random_pixels(s, (uint64_t)k), *latent = floats(latent_elements(s));
        float *back = floats(codec_pixels(s));
        codec_encode(latent, &codec, pixels, s);
        codec_decode(back, &codec, latent, s);
        check_close("pixels", back, pixels, codec_pixels(s), 3e-6);
        free(pixels);
        free(latent);
        free(back);
    }
}

// The coefficient (v, u) of the block at cell (y, x), straight from the definition.
static double coefficient(const float *frame, int64_t width, int64_t y, int64_t x, int v, int u) {
    const double pi = acos(-1.0);
    double sum = 0.0;
    for (int j = 0; j < 4; j++) {
        for (int i = 0; i < 4; i++) {
            sum += frame[(4 * y + j) * width + 4 * x + i] * cos(pi * (2 * j + 1) * v / 8) *
                   cos(pi * (2 * i + 1) * u / 8);
        }
    }
    return sum * (v == 0 ? 0.5 : sqrt(0.5)) * (u == 0 ? 0.5 : sqrt(0.5));
}

static void test_definition(void **state) {
    (void)state;
    const LatentShape s = codec_shape(5, 8, 12);
    Codec codec;
    codec_init(&codec);
    float *pixels = random_pixels(s, 7), *latent = floats(latent_elements(s));
    float *want = floats(latent_elements(s));
    codec_encode(latent, &codec, pixels, s);
    for (int64_t i = 0; i < latent_elements(s); i++) {
        const int64_t x = i % s.W, y = i / s.W % s.H, f = i / (s.W * s.H) % s.F;
        const int64_t c = i / (s.W * s.H * s.F), k = c % 16;
        const float *b = pixels + 2 * f * 8 * 12, *a = f == 0 ? b : b - 8 * 12;
        const double first = coefficient(a, 12, y, x, (int)k / 4, (int)k % 4);
        const double second = coefficient(b, 12, y, x, (int)k / 4, (int)k % 4);
        want[i] = (float)((c < 16 ? first + second : first - second) * sqrt(0.5));
    }
    check_close("latent", latent, want, latent_elements(s), 2e-6);
    free(pixels);
    free(latent);
    free(want);
}

static void test_still(void **state) {
    (void)state;
    const LatentShape s = codec_shape(9, 16, 16);
    Codec codec;
    codec_init(&codec);
    float *pixels = random_pixels(s, 9), *latent = floats(latent_elements(s));
    for (int64_t i = 256; i < codec_pixels(s); i++) pixels[i] = pixels[i - 256];
    codec_encode(latent, &codec, pixels, s);
    const int64_t channel = (int64_t)s.F * s.H * s.W, plane = (int64_t)s.H * s.W;
    for (int64_t i = 0; i < 16 * channel; i++) {
        const int64_t first = i / channel * channel + i % plane;
        check_that(latent[i] == latent[first], "low band differs at %lld", (long long)i);
        check_that(latent[i + 16 * channel] == 0.0f, "high band at %lld", (long long)i);
    }
    // A sampled latent may have something in the first frame's high bands: decoding leaves it out.
    float *want = floats(codec_pixels(s)), *got = floats(codec_pixels(s));
    codec_decode(want, &codec, latent, s);
    for (int c = 16; c < 32; c++) latent[c * channel] = 5.0f;
    codec_decode(got, &codec, latent, s);
    check_equal("pixels", got, want, codec_pixels(s));
    free(pixels);
    free(latent);
    free(want);
    free(got);
}

static void test_statistics(void **state) {
    (void)state;
    CodecStatistics statistics = {{0}, {0}, {0}}, again = {{0}, {0}, {0}};
    Codec plain, codec;
    codec_init(&plain);
    for (int pass = 0; pass < 2; pass++) {
        for (int k = 0; k < SIZES; k++) {
            const LatentShape s = codec_shape(sizes[k][0], sizes[k][1], sizes[k][2]);
            float *pixels = random_pixels(s, (uint64_t)k), *latent = floats(latent_elements(s));
            codec_encode(latent, pass == 0 ? &plain : &codec, pixels, s);
            codec_statistics_add(pass == 0 ? &statistics : &again, latent, s);
            free(pixels);
            free(latent);
        }
        if (pass == 0) codec_statistics_finish(&codec, &statistics);
    }
    double variance = 0.0;
    for (int c = 0; c < CODEC_CHANNELS; c++) {
        const double mean = again.sum[c] / again.count[c];
        check_that(fabs(mean) < (c < 16 ? 1e-5 : 0.1), "channel %d: mean %g", c, mean);
        check_that(codec.std[c] == codec.std[0], "channel %d: std %g", c, codec.std[c]);
        check_that(c < 16 || codec.mean[c] == 0.0f, "channel %d: mean %g", c, codec.mean[c]);
        if (c < 16) variance += (again.squares[c] / again.count[c] - mean * mean) / 16;
    }
    check_that(fabs(variance - 1.0) < 1e-4, "variance %g", variance);
    // Images alone say nothing of high bands: no division by zero.
    CodecStatistics nothing = {{0}, {0}, {0}};
    codec_statistics_finish(&codec, &nothing);
    for (int c = 0; c < CODEC_CHANNELS; c++) {
        check_that(codec.std[c] > 0.0f, "channel %d: std %g", c, codec.std[c]);
    }
}

static void test_text(void **state) {
    (void)state;
    enum { W = TEXT_WIDTH };
    float a[TEXT_TOKENS_MAX * W], b[TEXT_TOKENS_MAX * W];
    check_that(text_encode(a, "an ankle boot moving left slowly", NULL) == 7, "6 words, end");
    check_that(text_encode(b, "  An ANKLE\tboot moving right\n", NULL) == 6, "5 words, end");
    check_equal("the first four words", a, b, 4 * W);
    double squares = 0.0, cross = 0.0, moved = 0.0;
    for (int i = 0; i < W; i++) cross += a[4 * W + i] * b[4 * W + i] / W;  // left, right
    for (int i = 0; i < 6 * W; i++) squares += a[i] * a[i] / (6 * W);
    check_that(fabs(cross) < 0.4, "left and right are alike: %g", cross);
    check_that(fabs(squares - 1.06) < 0.25, "mean square %g", squares);
    check_that(text_encode(b, "boot", NULL) == 2, "not one word and the end");
    for (int i = 0; i < W; i++) moved += (a[2 * W + i] - b[i]) * (a[2 * W + i] - b[i]) / W;
    check_that(moved > 0.01 && moved < 0.4, "the place changes a word by %g", moved);
    for (int i = 0; i < 6 * W; i++) {
        check_that(bf16_to_float(float_to_bf16(a[i])) == a[i], "%g is no bfloat16", a[i]);
    }
    // Models are trained on these very vectors.
    const float want[4] = {-0.99609375f, -0.149414062f, 0.200195312f, 0.439453125f};
    check_close("boot", b, want, 4, 0.01);
    check_that(text_encode(a, "", NULL) == 0 && text_encode(a, " \n", NULL) == 0, "blanks");
}

static void test_text_errors(void **state) {
    (void)state;
    float tokens[TEXT_TOKENS_MAX * TEXT_WIDTH];
    Error error;
    check_that(text_encode(tokens, "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15", &error) == 16, "16");
    check_that(text_encode(tokens, "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16", &error) == -1,
               "17 words are too many");
    check_contains(error.text, "more than 15 words");
    char word[100] = {0};
    memset(word, 'a', 65);
    check_that(text_encode(tokens, word, &error) == -1, "65 letters are too many");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_inverse), cmocka_unit_test(test_definition),
        cmocka_unit_test(test_still),   cmocka_unit_test(test_statistics),
        cmocka_unit_test(test_text),    cmocka_unit_test(test_text_errors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
