// Pictures: what is written is what libpng reads back, frame for frame of an animation too; grids
// and letters lie where they should; failed writes are told and leave nothing behind.
// ranks: 1
#include <math.h>
#include <png.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <zlib.h>

#include "base/files.h"
#include "base/png.h"
#include "tests/check.h"

static const Colour black = {0, 0, 0}, white = {255, 255, 255};

static Picture pattern(int width, int height, int channels, int seed) {
    Picture picture = picture_create(width, height, channels, black);
    for (int64_t i = 0; i < (int64_t)width * height * channels; i++) {
        picture.pixels[i] = (uint8_t)(31 * i + 7 * seed + (i >> 3));
    }
    return picture;
}

// Decodes with libpng and compares.
static void check_png(const uint8_t *file, int64_t bytes, const Picture *want) {
    png_image image = {.version = PNG_IMAGE_VERSION};
    check_that(png_image_begin_read_from_memory(&image, file, (size_t)bytes), "%s", image.message);
    check_that((int)image.width == want->width && (int)image.height == want->height, "%u x %u",
               image.width, image.height);
    image.format = want->channels == 1 ? PNG_FORMAT_GRAY : PNG_FORMAT_RGB;
    uint8_t *pixels = malloc(PNG_IMAGE_SIZE(image));
    check_that(png_image_finish_read(&image, NULL, pixels, 0, NULL), "%s", image.message);
    check_equal("pixels", pixels, want->pixels, want->width * want->height * want->channels);
    free(pixels);
}

static void test_png(void **state) {
    (void)state;
    static const int sizes[][3] = {{1, 1, 1}, {17, 9, 1}, {640, 33, 3}, {3, 2, 3}};
    Error error;
    char path[512];
    check_path(path, "a.png");
    for (int k = 0; k < 4; k++) {
        Picture picture = pattern(sizes[k][0], sizes[k][1], sizes[k][2], k);
        int64_t bytes;
        uint8_t *memory = png_encode(&picture, &bytes);
        check_png(memory, bytes, &picture);
        free(memory);
        check_that(png_write(path, &picture, &error), "%s", error.text);
        char *file = file_read(path, 1 << 24, &bytes, &error);
        check_that(file != NULL, "%s", error.text);
        check_png((uint8_t *)file, bytes, &picture);
        free(file);
        picture_free(&picture);
    }
}

static uint32_t u32(const uint8_t *in) {
    return (uint32_t)in[0] << 24 | (uint32_t)in[1] << 16 | (uint32_t)in[2] << 8 | in[3];
}

static void append_chunk(uint8_t *out, int64_t *used, const char *type, const uint8_t *body,
                         uint32_t length) {
    const uint8_t head[4] = {(uint8_t)(length >> 24), (uint8_t)(length >> 16),
                             (uint8_t)(length >> 8), (uint8_t)length};
    memcpy(out + *used, head, 4);
    memcpy(out + *used + 4, type, 4);
    if (length > 0) memcpy(out + *used + 8, body, length);
    const uint32_t crc = (uint32_t)crc32(0, out + *used + 4, length + 4);
    for (int i = 0; i < 4; i++) out[*used + 8 + length + i] = (uint8_t)(crc >> (24 - 8 * i));
    *used += 12 + length;
}

// Walks the chunks of an animation, checks each CRC and the order, and puts the data of each frame
// into a plain PNG of its own, which libpng reads.
static void check_animation(const uint8_t *file, int64_t bytes, const Picture *frames, int count,
                            int milliseconds) {
    uint8_t *plain = malloc((size_t)bytes + 4096);
    int64_t used = 0, start = 0;
    uint32_t sequence = 0, declared = 0;
    int frame = -1;
    memcpy(plain, file, 8);
    used = 8;
    for (int64_t at = 8; at < bytes;) {
        const uint32_t length = u32(file + at);
        const uint8_t *type = file + at + 4, *body = file + at + 8;
        check_that(u32(body + length) == (uint32_t)crc32(0, type, length + 4), "CRC at %lld",
                   (long long)at);
        const bool end = memcmp(type, "IEND", 4) == 0, control = memcmp(type, "fcTL", 4) == 0;
        if (memcmp(type, "IHDR", 4) == 0) {
            append_chunk(plain, &used, "IHDR", body, length);
            start = used;
        } else if (memcmp(type, "acTL", 4) == 0) {
            declared = u32(body);
            check_that(frame == -1 && u32(body + 4) == 0, "acTL comes first and plays for ever");
        } else if (memcmp(type, "IDAT", 4) == 0) {
            check_that(frame == 0, "IDAT of frame %d", frame);
            append_chunk(plain, &used, "IDAT", body, length);
        } else if (memcmp(type, "fdAT", 4) == 0) {
            check_that(frame > 0 && u32(body) == sequence++, "fdAT of frame %d", frame);
            append_chunk(plain, &used, "IDAT", body + 4, length - 4);
        }
        if (control || end) {
            if (frame >= 0) {
                append_chunk(plain, &used, "IEND", NULL, 0);
                check_png(plain, used, &frames[frame]);
            }
            used = start;
            frame++;
        }
        if (control) {
            check_that(u32(body) == sequence++ && (int)u32(body + 4) == frames[0].width &&
                           (int)u32(body + 8) == frames[0].height,
                       "fcTL of frame %d", frame);
            check_that(u32(body + 20) == ((uint32_t)milliseconds << 16 | 1000), "its delay");
        }
        at += 12 + (int64_t)length;
    }
    check_that(frame == count && (int)declared == count, "%d of %d frames", frame, count);
    free(plain);
}

static void test_apng(void **state) {
    (void)state;
    Error error;
    char path[512];
    check_path(path, "a.apng");
    for (int channels = 1; channels <= 3; channels += 2) {
        Picture frames[5];
        for (int i = 0; i < 5; i++) frames[i] = pattern(123, 77, channels, i);
        check_that(apng_write(path, frames, 5, 125, &error), "%s", error.text);
        int64_t bytes;
        char *file = file_read(path, 1 << 24, &bytes, &error);
        check_png((uint8_t *)file, bytes, &frames[0]);  // As readers see it that know no animation.
        check_animation((uint8_t *)file, bytes, frames, 5, 125);
        free(file);
        for (int i = 0; i < 5; i++) picture_free(&frames[i]);
    }
}

static uint8_t at(const Picture *picture, int x, int y) {
    return picture->pixels[y * picture->width + x];
}

static void test_grid(void **state) {
    (void)state;
    const float values[6] = {-1.0f, 0.0f, 1.0f, -7.0f, 7.0f, NAN};
    const GridCell cells[3] = {
        {values, 2, 3, "a label that is too long"}, {values, 1, 2, NULL}, {NULL, 0, 0, NULL}};
    Picture grid = picture_grid(cells, 3, 2, 4);
    check_that(grid.width == 2 * 13 + 1 && grid.height == 2 * (8 + TEXT_HEIGHT + 3 + 1) + 1,
               "%d x %d", grid.width, grid.height);
    const uint8_t want[6] = {0, 128, 255, 0, 255, 0};
    for (int i = 0; i < 6; i++) {
        const int x = 1 + i % 3 * 4, y = 1 + i / 3 * 4;
        check_that(at(&grid, x, y) == want[i] && at(&grid, x + 3, y + 3) == want[i], "value %d", i);
    }
    check_that(at(&grid, 0, 0) == 96 && at(&grid, 13, 5) == 96, "the lines between cells");
    check_that(at(&grid, 14, 1) == 0 && at(&grid, 14 + 4, 1) == 128, "the second cell");
    check_that(at(&grid, 14, 5) == 32 && at(&grid, 5, 25) == 32, "cells without values");
    int bright = 0;  // Of the label two letters fit.
    for (int i = 0; i < grid.width * grid.height; i++) bright += grid.pixels[i] == 224;
    check_that(bright > 8 && bright < 40, "%d dots of letters", bright);
    picture_free(&grid);
}

static void test_text_and_lines(void **state) {
    (void)state;
    static const char want[7][8] = {"01110", "00100", "00100", "00100", "00100", "00100", "01110"};
    Picture picture = picture_create(20, 22, 1, black);
    picture_text(&picture, 2, 3, "I", 2, white);
    for (int y = 0; y < 22; y++) {
        for (int x = 0; x < 20; x++) {
            const bool inside = x >= 2 && x < 12 && y >= 3 && y < 17;
            const bool dot = inside && want[(y - 3) / 2][(x - 2) / 2] == '1';
            check_that(at(&picture, x, y) == (dot ? 255 : 0), "dot at %d, %d", x, y);
        }
    }
    // What lies outside is left out; unknown letters are drawn as '?'.
    picture_text(&picture, -8, -8, "gpqy\x01\xff~", 3, white);
    picture_text(&picture, 18, 20, "clipped", 1, white);
    picture_rectangle(&picture, 15, 15, 100, 100, white);
    picture_line(&picture, -5, 30, 40, -10, white);
    picture_dot(&picture, 20, 5, white);
    picture_line(&picture, 3, 1, 3, 1, white);
    check_that(at(&picture, 3, 1) == 255, "a line of one dot");
    picture_free(&picture);
}

static void test_errors(void **state) {
    (void)state;
    Error error;
    char path[512], folder[512];
    Picture picture = pattern(300, 300, 3, 0);
    check_that(!png_write(check_path(path, "missing/a.png"), &picture, &error), "no folder");
    check_contains(error.text, "missing/a.png");

    // A disk that is full, by a limit on the size of files.
    check_that(folder_create(check_path(folder, "full"), &error), "%s", error.text);
    struct rlimit old, none;
    check_that(getrlimit(RLIMIT_FSIZE, &old) == 0, "getrlimit");
    none = old;
    none.rlim_cur = 1000;
    signal(SIGXFSZ, SIG_IGN);
    check_that(setrlimit(RLIMIT_FSIZE, &none) == 0, "setrlimit");
    const bool written = png_write(check_path(path, "full/a.png"), &picture, &error);
    check_that(setrlimit(RLIMIT_FSIZE, &old) == 0, "setrlimit");
    check_that(!written, "writing over the limit was not noticed");
    int count;
    char **names = folder_list(folder, &count, &error);
    check_that(names != NULL && count == 0, "%d files are left behind", count);
    folder_list_free(names, count);
    picture_free(&picture);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_png),    cmocka_unit_test(test_apng),
        cmocka_unit_test(test_grid),   cmocka_unit_test(test_text_and_lines),
        cmocka_unit_test(test_errors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
