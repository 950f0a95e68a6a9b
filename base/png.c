#include "base/png.h"

#include <png.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "base/die.h"
#include "base/files.h"
#include "base/font.h"

Picture picture_create(int width, int height, int channels, Colour colour) {
    CHECK(width > 0 && height > 0 && (channels == 1 || channels == 3), "a picture of %d x %d x %d",
          width, height, channels);
    Picture picture = {width, height, channels,
                       malloc((size_t)width * (size_t)height * (size_t)channels)};
    CHECK(picture.pixels != NULL, "no memory for a picture of %d x %d", width, height);
    picture_rectangle(&picture, 0, 0, width, height, colour);
    return picture;
}

void picture_free(Picture *picture) {
    free(picture->pixels);
    *picture = (Picture){0};
}

void picture_dot(Picture *picture, int x, int y, Colour colour) {
    if (x < 0 || y < 0 || x >= picture->width || y >= picture->height) return;
    const int64_t i = ((int64_t)y * picture->width + x) * picture->channels;
    picture->pixels[i] = colour.r;
    if (picture->channels == 1) return;
    picture->pixels[i + 1] = colour.g;
    picture->pixels[i + 2] = colour.b;
}

void picture_rectangle(Picture *picture, int x, int y, int width, int height, Colour colour) {
    for (int j = y; j < y + height; j++) {
        for (int i = x; i < x + width; i++) picture_dot(picture, i, j, colour);
    }
}

// Bresenham's.
void picture_line(Picture *picture, int x0, int y0, int x1, int y1, Colour colour) {
    const int dx = abs(x1 - x0), dy = -abs(y1 - y0);
    const int sx = x0 < x1 ? 1 : -1, sy = y0 < y1 ? 1 : -1;
    int error = dx + dy;
    for (;;) {
        picture_dot(picture, x0, y0, colour);
        if (x0 == x1 && y0 == y1) return;
        const int twice = 2 * error;
        if (twice >= dy) {
            error += dy;
            x0 += sx;
        }
        if (twice <= dx) {
            error += dx;
            y0 += sy;
        }
    }
}

void picture_text(Picture *picture, int x, int y, const char *text, int scale, Colour colour) {
    for (; *text != '\0'; text++, x += TEXT_ADVANCE * scale) {
        const uint8_t *rows = font_letter(*text);
        const int top = y + font_drop(*text) * scale;
        for (int j = 0; j < FONT_HEIGHT; j++) {
            for (int i = 0; i < FONT_WIDTH; i++) {
                if (!(rows[j] >> (FONT_WIDTH - 1 - i) & 1)) continue;
                picture_rectangle(picture, x + i * scale, top + j * scale, scale, scale, colour);
            }
        }
    }
}

static Colour gray(float value) {
    const float level = (value + 1.0f) * 127.5f;
    const uint8_t byte = (uint8_t)(level > 255.0f ? 255.0f : level > 0.0f ? level + 0.5f : 0.0f);
    return (Colour){byte, byte, byte};
}

void picture_values(Picture *picture, int x, int y, const float *values, int height, int width,
                    int scale) {
    for (int j = 0; j < height; j++) {
        for (int i = 0; i < width; i++) {
            picture_rectangle(picture, x + i * scale, y + j * scale, scale, scale,
                              gray(values[(int64_t)j * width + i]));
        }
    }
}

Picture picture_grid(const GridCell *cells, int count, int columns, int scale) {
    CHECK(count > 0 && columns > 0 && scale > 0, "a grid of %d cells in %d columns, scale %d",
          count, columns, scale);
    int height = 1, width = 1, label = 0;
    for (int i = 0; i < count; i++) {
        if (cells[i].label != NULL) label = TEXT_HEIGHT + 3;
        if (cells[i].values == NULL) continue;
        height = cells[i].height > height ? cells[i].height : height;
        width = cells[i].width > width ? cells[i].width : width;
    }
    const int step_x = width * scale + 1, step_y = height * scale + label + 1;
    const int rows = (count + columns - 1) / columns;
    Picture grid = picture_create(columns * step_x + 1, rows * step_y + 1, 1, (Colour){96, 96, 96});
    for (int i = 0; i < count; i++) {
        const int x = 1 + i % columns * step_x, y = 1 + i / columns * step_y;
        picture_rectangle(&grid, x, y, step_x - 1, step_y - 1, (Colour){32, 32, 32});
        if (cells[i].values != NULL) {
            picture_values(&grid, x, y, cells[i].values, cells[i].height, cells[i].width, scale);
        }
    }
    for (int i = 0; i < count; i++) {
        if (cells[i].label == NULL) continue;
        const int x = 1 + i % columns * step_x, y = 1 + i / columns * step_y;
        int cell_span = 1;  // A label may run on under cells that have none.
        while ((i + cell_span) % columns != 0 && i + cell_span < count &&
               cells[i + cell_span].label == NULL) {
            cell_span++;
        }
        char text[128];
        snprintf(text, sizeof(text), "%s", cells[i].label);
        const size_t fits = (size_t)((cell_span * step_x - 1) / TEXT_ADVANCE);
        if (fits < sizeof(text)) text[fits] = '\0';
        picture_text(&grid, x + 1, y + height * scale + 1, text, 1, (Colour){224, 224, 224});
    }
    return grid;
}

// ---- files

uint8_t *png_encode(const Picture *picture, int64_t *bytes) {
    png_image image = {.version = PNG_IMAGE_VERSION,
                       .width = (png_uint_32)picture->width,
                       .height = (png_uint_32)picture->height,
                       .format = picture->channels == 1 ? PNG_FORMAT_GRAY : PNG_FORMAT_RGB};
    png_alloc_size_t size = PNG_IMAGE_PNG_SIZE_MAX(image);
    uint8_t *file = malloc(size);
    CHECK(file != NULL, "no memory for a PNG of %d x %d", picture->width, picture->height);
    const int ok = png_image_write_to_memory(&image, file, &size, 0, picture->pixels, 0, NULL);
    CHECK(ok, "libpng: %s", image.message);
    *bytes = (int64_t)size;
    return file;
}

// A file in memory.
typedef struct {
    uint8_t *data;
    size_t bytes, room;
} Output;

static void put(Output *out, const void *data, size_t bytes) {
    if (out->bytes + bytes > out->room) {
        out->room = 2 * (out->bytes + bytes);
        out->data = realloc(out->data, out->room);
        CHECK(out->data != NULL, "no memory for a PNG of %zu bytes", out->room);
    }
    if (bytes > 0) memcpy(out->data + out->bytes, data, bytes);
    out->bytes += bytes;
}

static void put_u32(uint8_t *out, uint32_t x) {
    for (int i = 0; i < 4; i++) out[i] = (uint8_t)(x >> (24 - 8 * i));
}

static uint32_t get_u32(const uint8_t *in) {
    return (uint32_t)in[0] << 24 | (uint32_t)in[1] << 16 | (uint32_t)in[2] << 8 | in[3];
}

// A chunk: length, type, body (a head of `head_bytes`, then the rest), CRC-32 of all but the
// length.
static void put_chunk(Output *out, const char *type, const uint8_t *head, uint32_t head_bytes,
                      const uint8_t *rest, uint32_t rest_bytes) {
    uint8_t start[8], end[4];
    put_u32(start, head_bytes + rest_bytes);
    memcpy(start + 4, type, 4);
    uLong crc = crc32(0, start + 4, 4);
    if (head_bytes > 0) crc = crc32(crc, head, head_bytes);
    if (rest_bytes > 0) crc = crc32(crc, rest, rest_bytes);
    put_u32(end, (uint32_t)crc);
    put(out, start, sizeof(start));
    put(out, head, head_bytes);
    put(out, rest, rest_bytes);
    put(out, end, sizeof(end));
}

bool png_write(const char *path, const Picture *picture, Error *error) {
    return apng_write(path, picture, 1, 0, error);
}

// fcTL: sequence number, width, height, offsets 0, the delay as a fraction of a second, dispose 0
// (leave), blend 0 (replace).
static void put_frame_control(Output *out, uint32_t sequence, const Picture *frame,
                              int milliseconds) {
    uint8_t body[26] = {0};
    put_u32(body, sequence);
    put_u32(body + 4, (uint32_t)frame->width);
    put_u32(body + 8, (uint32_t)frame->height);
    put_u32(body + 20, (uint32_t)milliseconds << 16 | 1000u);
    put_chunk(out, "fcTL", body, sizeof(body), NULL, 0);
}

bool apng_write(const char *path, const Picture *frames, int count, int milliseconds,
                Error *error) {
    CHECK(count > 0 && milliseconds >= 0 && milliseconds < 65536, "%d frames of %d ms", count,
          milliseconds);
    Output out = {0};
    uint32_t sequence = 0;
    for (int i = 0; i < count; i++) {
        CHECK(frames[i].width == frames[0].width && frames[i].height == frames[0].height &&
                  frames[i].channels == frames[0].channels,
              "%s: frame %d has another size", path, i);
        int64_t bytes;
        uint8_t *png = png_encode(&frames[i], &bytes);
        if (i == 0) put(&out, png, 8);  // The signature.
        bool controlled = count == 1;
        for (int64_t at = 8; at + 12 <= bytes;) {
            const uint32_t length = get_u32(png + at);
            const char *type = (const char *)png + at + 4;
            const uint8_t *body = png + at + 8;
            const bool data = memcmp(type, "IDAT", 4) == 0;
            if (data && !controlled) {
                uint8_t head[8] = {0};  // acTL: the number of frames, played for ever.
                put_u32(head, (uint32_t)count);
                if (i == 0) put_chunk(&out, "acTL", head, sizeof(head), NULL, 0);
                put_frame_control(&out, sequence++, &frames[i], milliseconds);
                controlled = true;
            }
            uint8_t number[4];  // What fdAT has and IDAT has not.
            put_u32(number, sequence);
            const bool last = memcmp(type, "IEND", 4) == 0;
            if (i > 0 && data) {
                put_chunk(&out, "fdAT", number, sizeof(number), body, length);
                sequence++;
            } else if (last ? i == count - 1 : i == 0) {
                put_chunk(&out, type, NULL, 0, body, length);
            }
            at += 12 + (int64_t)length;
        }
        free(png);
    }
    const bool ok = file_write(path, out.data, (int64_t)out.bytes, error);
    free(out.data);
    return ok;
}
