// The things that the demo's pictures show, 28 x 28 gray pixels each: garments of Fashion-MNIST
// (Xiao et al., arXiv 1708.07747) or, where those files are not there, drawn shapes.
#ifndef DATA_DEMO_SPRITES_H
#define DATA_DEMO_SPRITES_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "data/demo/facts.h"

enum { SPRITE_SIDE = 28, SPRITE_PIXELS = SPRITE_SIDE * SPRITE_SIDE };

typedef struct {
    int64_t count;
    uint8_t *pixels;             // [count, 28, 28], 0 is the background.
    uint8_t *labels;             // [count], below DEMO_CLASSES.
    const char *const *classes;  // [DEMO_CLASSES], with their article.
    const char *source;          // "fashion-mnist" or "shapes".
} Sprites;

typedef enum { SPRITES_READ, SPRITES_ABSENT, SPRITES_WRONG } SpritesStatus;

// Reads train-images-idx3-ubyte.gz and train-labels-idx1-ubyte.gz of `folder`, as Debian's
// dataset-fashion-mnist has them. Absent: neither file is there. Wrong: anything else but two whole
// files that fit together; the reason says where. Only after SPRITES_READ there is what to free.
SpritesStatus sprites_read(Sprites *sprites, const char *folder, Error *error);

// `count` shapes of ten kinds, their size, place, and brightness drawn from `seed`.
void sprites_draw(Sprites *sprites, int64_t count, uint64_t seed);

void sprites_free(Sprites *sprites);

#endif
