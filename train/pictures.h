// Captions that become samples, and samples that become pictures: what the grids of a run and
// `kintoun sample` share. Local.
#ifndef TRAIN_PICTURES_H
#define TRAIN_PICTURES_H

#include "data/demo/codec.h"
#include "train/config.h"
#include "train/sampler.h"

// One row of a grid: samples of one caption and size.
typedef struct {
    char caption[CAPTION_MAX];  // "": nothing is said.
    LatentShape shape;
    int64_t samples;
    float *text;  // [text_length, text width], malloc'd; NULL: no text.
    int64_t text_length;
} PictureRow;

typedef struct {
    PictureRow *rows;
    int row_count;
    SampleRequest *requests;  // [count] Those of a row next to each other.
    int count;
    float *latents;
} Pictures;

// Encodes the caption by the demo's text encoder. False with a reason: too many words, a model of
// another text width.
bool picture_row_encode(PictureRow *row, int64_t text_width, Error *error);

// Takes the rows over, with their texts. Sample number n of all has the noise of position n.
void pictures_create(Pictures *pictures, const PictureRow *rows, int row_count);
void pictures_free(Pictures *pictures);

// What pictures_write makes.
typedef struct {
    bool images, videos;  // FOLDER/images.png, FOLDER/videos.png (animated).
} PicturesMade;

// Decodes the sampled latents and writes all images together, all videos together, and
// CAPTION.png for each row, each pixel `scale` x `scale`.
bool pictures_write(PicturesMade *made, const Pictures *pictures, const Codec *codec, int64_t scale,
                    const char *folder, Error *error);

#endif
