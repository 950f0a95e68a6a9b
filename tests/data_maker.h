// Makes small data sets for the tests of data/: samples of many sizes whose values follow from
// their number alone, so that a test can say what any of them must hold.
#ifndef TESTS_DATA_MAKER_H
#define TESTS_DATA_MAKER_H

#include <stdio.h>
#include <stdlib.h>

#include "base/rng.h"
#include "data/catalogue.h"
#include "data/sample.h"
#include "data/shard_file.h"
#include "tests/check.h"

enum { MAKER_CHANNELS = 4, MAKER_TEXT_WIDTH = 8, MAKER_ELEMENTS_MAX = 4 * 5 * 12 * 12 };

typedef struct {
    int64_t first, count;  // Numbers of the samples.
    int video_every;       // Sample i is a video when i % video_every == 0; 0: none.
    MdsCompression compression;
    int64_t size_limit;
} Maker;

// Sample `i`, its latent in latent[MAKER_ELEMENTS_MAX] and its text in text[16 * MAKER_TEXT_WIDTH].
// Every 29th has a height that patches of 2 do not divide; every 5th has no text.
static inline Sample maker_sample(const Maker *maker, int64_t i, float *latent, float *text) {
    const uint64_t n = (uint64_t)i;
    const bool video = maker->video_every > 0 && i % maker->video_every == 0;
    Sample sample = {
        .medium = video ? MEDIUM_VIDEO : MEDIUM_IMAGE,
        .shape = {MAKER_CHANNELS, video ? 2 + (int32_t)(rng_bits(1, RNG_TEST, n, 0) % 4) : 1,
                  4 + 2 * (int32_t)(rng_bits(1, RNG_TEST, n, 1) % 5) - (i % 29 == 28),
                  4 + 2 * (int32_t)(rng_bits(1, RNG_TEST, n, 2) % 5)},
        .caption = "a caption",
        .caption_bytes = 9,
        .text_length = i % 5 == 4 ? 0 : 1 + (int64_t)(rng_bits(1, RNG_TEST, n, 3) % 9),
        .text_width = MAKER_TEXT_WIDTH,
        .width = 64,
        .height = 48,
        .num_frames = video ? 9 : 1,
        .fps = video ? 24 : 0,
        .qualities = {(double)(i % 10) / 10},
    };
    snprintf(sample.id, sizeof(sample.id), "sample-%lld", (long long)i);
    rng_normal(latent, latent_elements(sample.shape), 2, RNG_TEST, n, 0);
    rng_normal(text, sample.text_length * MAKER_TEXT_WIDTH, 3, RNG_TEST, n, 0);
    sample.latent = latent;
    sample.text = text;
    return sample;
}

// Writes the samples to `folder` (a quality 'aesthetic' with them), latents as bfloat16 and float32
// in turn.
static inline void maker_write(const Maker *maker, const char *folder) {
    Error error = {""};
    MdsWriter *writer = sample_writer_create(folder, (const char *const[]){"aesthetic"}, 1,
                                             maker->compression, maker->size_limit, &error);
    check_that(writer != NULL, "%s", error.text);
    static float latent[MAKER_ELEMENTS_MAX], text[16 * MAKER_TEXT_WIDTH];
    static uint16_t stored[MAKER_ELEMENTS_MAX];
    for (int64_t i = maker->first; i < maker->first + maker->count; i++) {
        Sample sample = maker_sample(maker, i, latent, text);
        if (i % 2 == 0) {
            stored_from_float(stored, STORED_BFLOAT16, latent, latent_elements(sample.shape));
            sample.latent = stored;
            sample.latent_type = STORED_BFLOAT16;
        }
        check_that(sample_write(writer, &sample, &error), "%s", error.text);
    }
    check_that(mds_writer_close(writer, &error), "%s", error.text);
}

// And with its catalogue.
static inline void maker_build(const Maker *maker, const char *folder) {
    static Problems problems;
    problems.count = 0;
    maker_write(maker, folder);
    check_that(catalogue_build(folder, &problems), "%s", problems.text[0]);
}

// Files as a test changes them: whole in memory, and back, without ceremony.
static inline uint8_t *maker_read(const char *path, int64_t *bytes) {
    Error error = {""};
    char *data = file_read(path, 1 << 28, bytes, &error);
    check_that(data != NULL, "%s", error.text);
    return (uint8_t *)data;
}

static inline void maker_overwrite(const char *path, const void *data, int64_t bytes) {
    FILE *file = fopen(path, "wb");
    check_that(file != NULL, "%s cannot be written", path);
    check_that(fwrite(data, 1, (size_t)bytes, file) == (size_t)bytes, "%s: short", path);
    fclose(file);
}

#endif
