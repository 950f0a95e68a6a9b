#include "data/demo/sprites.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "base/die.h"
#include "base/files.h"
#include "base/rng.h"

static const char *const garments[DEMO_CLASSES] = {
    "a t-shirt", "trousers", "a pullover", "a dress", "a coat",
    "a sandal",  "a shirt",  "a sneaker",  "a bag",   "an ankle boot",
};

static const char *const shapes[DEMO_CLASSES] = {
    "a disc",    "a square", "a triangle", "a ring", "a cross",
    "a diamond", "a frame",  "a bar",      "a moon", "a star",
};

// ---- Fashion-MNIST

static bool read_exactly(gzFile file, void *out, int64_t bytes, const char *path, Error *error) {
    errno = 0;
    const int got = gzread(file, out, (unsigned)bytes);
    if (got == bytes) return true;
    int code;
    const char *reason = gzerror(file, &code);
    if (code == Z_ERRNO) reason = strerror(errno);
    return error_set(error, "%s: %s; install the package again", path,
                     code == Z_OK || code == Z_BUF_ERROR ? "ends too early" : reason);
}

static int64_t big_endian(const uint8_t *in) {
    return (int64_t)in[0] << 24 | (int64_t)in[1] << 16 | (int64_t)in[2] << 8 | in[3];
}

// The bytes of a gzipped IDX file: 0, 0, 8 (unsigned bytes), the number of dimensions, the
// dimensions (u32, big-endian; all but the first as `item` says), the values. NULL and a reason.
static uint8_t *idx_read(int64_t *count, const char *path, const int64_t *item, int item_dims,
                         Error *error) {
    gzFile file = gzopen(path, "rb");
    if (file == NULL) {
        error_set(error, "cannot read %s: %s", path, strerror(errno));
        return NULL;
    }
    uint8_t head[4 + 4 * 4];
    uint8_t *values = NULL, more;
    int64_t size = 1;
    bool ok = read_exactly(file, head, 8 + 4 * item_dims, path, error);
    if (ok && (head[0] != 0 || head[1] != 0 || head[2] != 8 || head[3] != 1 + item_dims)) {
        ok = error_set(error,
                       "%s: starts with %02x %02x %02x %02x, IDX bytes of %d dims with "
                       "00 00 08 %02x",
                       path, head[0], head[1], head[2], head[3], 1 + item_dims, 1 + item_dims);
    }
    for (int i = 0; ok && i < item_dims; i++) {
        const int64_t dim = big_endian(head + 8 + 4 * i);
        size *= item[i];
        if (dim == item[i]) continue;
        ok = error_set(error, "%s: dimension %d is %" PRId64 ", not %" PRId64, path, 1 + i, dim,
                       item[i]);
    }
    *count = big_endian(head + 4);
    if (ok && (*count < 1 || *count > 1000000)) {
        ok = error_set(error, "%s: %" PRId64 " items; 1 to 1000000 can be", path, *count);
    }
    if (ok) {
        values = malloc((size_t)(*count * size));
        CHECK(values != NULL, "no memory for %s", path);
        ok = read_exactly(file, values, *count * size, path, error);
    }
    // The end must come here; reading over it also checks the CRC-32 of gzip.
    const int got = ok ? gzread(file, &more, 1) : 0;
    if (got > 0) ok = error_set(error, "%s: goes on after the last item", path);
    if (got < 0) {
        ok = error_set(error, "%s: %s; install the package again", path, gzerror(file, &(int){0}));
    }
    if (gzclose(file) != Z_OK && ok) {
        ok = error_set(error, "%s: ends too early; install the package again", path);
    }
    if (ok) return values;
    free(values);
    return NULL;
}

SpritesStatus sprites_read(Sprites *sprites, const char *folder, Error *error) {
    char images[PATH_BYTES_MAX], labels[PATH_BYTES_MAX];
    if (!path_join(images, folder, "train-images-idx3-ubyte.gz", error) ||
        !path_join(labels, folder, "train-labels-idx1-ubyte.gz", error)) {
        return SPRITES_WRONG;
    }
    if (!path_exists(images) && !path_exists(labels)) {
        error_set(error, "no Fashion-MNIST in %s", folder);
        return SPRITES_ABSENT;
    }
    int64_t label_count = 0;
    Sprites out = {.classes = garments, .source = "fashion-mnist"};
    out.pixels =
        idx_read(&out.count, images, (const int64_t[]){SPRITE_SIDE, SPRITE_SIDE}, 2, error);
    if (out.pixels != NULL) out.labels = idx_read(&label_count, labels, NULL, 0, error);
    bool ok = out.labels != NULL;
    if (ok && label_count != out.count) {
        ok = error_set(error, "%s: %" PRId64 " labels for %" PRId64 " images", labels, label_count,
                       out.count);
    }
    for (int64_t i = 0; ok && i < out.count; i++) {
        if (out.labels[i] < DEMO_CLASSES) continue;
        ok = error_set(error, "%s: label %" PRId64 " is %d, of %d classes", labels, i,
                       out.labels[i], DEMO_CLASSES);
    }
    if (!ok) {
        sprites_free(&out);
        return SPRITES_WRONG;
    }
    *sprites = out;
    return SPRITES_READ;
}

// ---- shapes

// Whether a point is inside of a shape about as large as [-1, 1] x [-1, 1]; v points down.
static bool inside(int shape, double u, double v) {
    const double r = sqrt(u * u + v * v), square = fmax(fabs(u), fabs(v));
    switch (shape) {
        case 0:
            return r < 1.0;
        case 1:
            return square < 0.85;
        case 2:
            return v < 0.8 && fabs(u) < 0.55 * (v + 0.9);
        case 3:
            return r > 0.6 && r < 1.0;
        case 4:
            return square < 1.0 && fmin(fabs(u), fabs(v)) < 0.3;
        case 5:
            return fabs(u) + fabs(v) < 1.0;
        case 6:
            return square > 0.5 && square < 0.9;
        case 7:
            return fabs(u) < 1.0 && fabs(v) < 0.35;
        case 8:
            return r < 1.0 && (u - 0.5) * (u - 0.5) + v * v > 0.6;
        default:
            return r < 0.65 + 0.35 * cos(5.0 * atan2(u, -v));
    }
}

void sprites_draw(Sprites *sprites, int64_t count, uint64_t seed) {
    enum { FINE = 4 };  // Points per pixel, each way.
    *sprites = (Sprites){.count = count, .classes = shapes, .source = "shapes"};
    sprites->pixels = malloc((size_t)(count * SPRITE_PIXELS));
    sprites->labels = malloc((size_t)count);
    CHECK(sprites->pixels != NULL && sprites->labels != NULL, "no memory for %" PRId64 " shapes",
          count);
    for (int64_t i = 0; i < count; i++) {
        double draw[6];
        for (uint64_t k = 0; k < 6; k++) draw[k] = rng_uniform(seed, RNG_DEMO, (uint64_t)i, k);
        const int shape = (int)(draw[0] * DEMO_CLASSES);
        const double wide = 9.0 + 3.5 * draw[1], high = 9.0 + 3.5 * draw[2];
        const double x0 = 13.0 + 2.0 * draw[3], y0 = 13.0 + 2.0 * draw[4];
        const double bright = 150.0 + 105.0 * draw[5];
        sprites->labels[i] = (uint8_t)shape;
        for (int p = 0; p < SPRITE_PIXELS; p++) {
            int hits = 0;
            for (int k = 0; k < FINE * FINE; k++) {
                const double x = p % SPRITE_SIDE + (k % FINE + 0.5) / FINE;
                const double y = p / SPRITE_SIDE + ((k / FINE) + 0.5) / FINE;
                hits += inside(shape, (x - x0) / wide, (y - y0) / high);
            }
            sprites->pixels[i * SPRITE_PIXELS + p] = (uint8_t)lrint(bright * hits / (FINE * FINE));
        }
    }
}

void sprites_free(Sprites *sprites) {
    free(sprites->pixels);
    free(sprites->labels);
    *sprites = (Sprites){0};
}
