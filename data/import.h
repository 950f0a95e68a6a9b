// Turns other people's latents into our data sets: WebDataset tars and folders whose samples are
//
//     KEY.latent.npy, KEY.text.npy         float16 or float32 arrays, or
//     KEY.safetensors                      tensors with 'latent' or 'vae', and with 'text',
//                                          'embed' or 't5' in their names; also as two files,
//                                          KEY.latent.safetensors and KEY.text.safetensors
//     KEY.txt                              the caption
//     KEY.json                             caption (or prompt, text), id, fps, width, height,
//                                          num_frames, media_type; the other numbers of the first
//                                          sample become qualities, at most QUALITIES_MAX
//
// Latents are [C, F, H, W] or [C, H, W], texts [L, width]; a leading 1 is taken off. Pickles (.pt,
// .pth, .pkl, .pickle, .meta) are refused, since reading them would run code; files of other kinds
// (pictures, videos) are passed over and counted.
#ifndef DATA_IMPORT_H
#define DATA_IMPORT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

typedef struct {
    int64_t samples;      // Written.
    int64_t passed_over;  // Files of kinds that are not read.
    int64_t left_out;     // Numbers in the JSON that no quality holds, and the first one's name.
    char first_left_out[64];
    int64_t mended;  // Captions with bytes that are no UTF-8: each is a '?' now.
} ImportCounts;

// Writes MDS zstd shards, index.json and catalogue.bin into `out`. False when there is any problem;
// then `out` has no index.
bool data_import(ImportCounts *counts, const char *out, char *const inputs[], int input_count,
                 Problems *problems);

#endif
