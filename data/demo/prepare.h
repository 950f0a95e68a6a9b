// Makes the demo's data: pictures and videos of sprites (sprites.h, scene.h) as latents (codec.h)
// with the tokens of their captions (text.h), in MDS shards with zstd, facts.h's dataset.json and a
// catalogue beside them. Latents and texts are stored as bfloat16. Everything follows from one
// seed.
//
// demo:  OUT/images  40,000 of 32x32, 32x40, 40x32 pixels, then 8,000 of 48x48, 48x64, 64x48
//        OUT/videos  the same sizes, 12,000 and then 4,000, of 9 frames
// tiny:  OUT/mixed   600 images and videos of 16 to 32 pixels and 1 to 9 frames in 8 or more shards
//        OUT/images  160 images. Of drawn shapes; for tests.
// A stage takes the low or the next resolution by its limits on height and width.
#ifndef DATA_DEMO_PREPARE_H
#define DATA_DEMO_PREPARE_H

#include <stdbool.h>

#include "base/error.h"

typedef enum { DEMO_FULL, DEMO_TINY } DemoSize;

// Where Debian's package dataset-fashion-mnist puts it.
#define DEMO_SPRITES_FOLDER "/usr/share/datasets/fashion-mnist"

// Makes `folder`, under the name folder.unfinished until it is whole; a rest of that name is
// removed first. A folder that is finished, of this size, is left alone. `sprites` is the folder of
// Fashion-MNIST's files; without any there (and for tiny) shapes are drawn. What was done is said
// on stdout. False and a reason: other things in `folder`, wrong files of Fashion-MNIST, a disk
// that is full or may not be written.
bool demo_prepare(const char *folder, const char *sprites, DemoSize size, Error *error);

// kintoun data demo OUT [--tiny] [--from FOLDER]. argv[0] is "demo". Returns the exit code: 0; 1
// when the data cannot be made; 78 when the command line is wrong.
int demo_command(int argc, char **argv);

#endif
