// The catalogue of a data set: one fixed-size row per sample, made once from the shards and kept
// beside index.json as catalogue.bin. It is all that the planner reads. A row holds the XXH3 of its
// sample's bytes, by which every later read is judged.
//
// The file is the header below, then rows [count]; it appears whole (temporary name, fsync,
// rename), is mapped read-only, and is refused when it is short, has wrong checksums, another
// version, or was made from another index.json or dataset.json.
//
// dataset.json is optional. Of it data/ reads {"latent": {"mean": [C], "std": [C], "applied":
// bool}}: latents that are stored without normalisation ("applied": false) are normalised by the
// loader, (x - mean[c]) / std[c]. Without it latents are used as they are stored.
#ifndef DATA_CATALOGUE_H
#define DATA_CATALOGUE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/media.h"
#include "data/config.h"
#include "data/mds.h"

enum { CATALOGUE_VERSION = 1, CATALOGUE_CHANNELS_MAX = 64 };

typedef struct {
    uint64_t hash;    // XXH3 of the sample's bytes.
    uint64_t offset;  // In the raw shard.
    uint32_t bytes;
    uint32_t shard, index;  // Which shard of index.json, which sample of it.
    uint32_t medium;
    LatentShape shape;
    uint32_t text_length, text_width;
    float fps;
    float qualities[QUALITIES_MAX];  // NaN: unknown.
    uint32_t zero;
} CatalogueRow;

typedef struct {
    char magic[8];
    uint32_t version, header_bytes, row_bytes, quality_count;
    int64_t count;
    uint64_t index_hash, dataset_hash;  // XXH3 of index.json and dataset.json; 0: there is none.
    char qualities[QUALITIES_MAX][QUALITY_NAME_MAX];
    uint32_t channels;  // > 0: latents are normalised by these when they are read.
    float mean[CATALOGUE_CHANNELS_MAX], std[CATALOGUE_CHANNELS_MAX];
    uint32_t zero, rows_crc, header_crc;  // CRC-32C of the rows, and of the header before this.
} CatalogueHeader;

typedef struct {
    const CatalogueHeader *header;  // The mapping starts here.
    const CatalogueRow *rows;       // [count], in the order of shards and samples.
    int64_t count;
    int64_t mapped_bytes;
    MdsIndex *index;
} Catalogue;

// Reads every shard of `folder` (each hash and sample is checked) and writes catalogue.bin.
// Problems name every bad place; nothing is written when there is one.
bool catalogue_build(const char *folder, Problems *problems);

// Maps the catalogue and opens the index of `folder`. NULL and the reason when it is refused.
Catalogue *catalogue_open(const char *folder, Error *error);
void catalogue_close(Catalogue *catalogue);

// What a change of data changes: the catalogue's checksums in one number.
uint64_t catalogue_checksum(const Catalogue *catalogue);

// ---- filters

// Why a row does not take part in a stage. Each row counts once, with the first reason that holds.
typedef enum {
    ROW_PASSES,
    ROW_CHANNELS,    // Not the model's.
    ROW_TEXT_WIDTH,  // Not the model's.
    ROW_PATCH,       // Not a multiple of the patch.
    ROW_FRAMES,      // Outside of the stage's limits, as are the next two.
    ROW_HEIGHT,
    ROW_WIDTH,
    ROW_QUALITY,
    ROW_TEXT_LONG,  // Never fits: more text than stage.text_tokens,
    ROW_TOKENS,     // or more tokens than stage.tokens.
    ROW_SHARE,      // A medium that the stage draws none of.
    ROW_HELD_OUT,
    ROW_VERDICTS,
} RowVerdict;

extern const char *const row_verdict_names[ROW_VERDICTS];

// quality_index[i]: which of the catalogue's qualities filters[i] means (catalogue_quality).
RowVerdict row_judge(const CatalogueRow *row, const StageData *stage, const ModelNeeds *needs,
                     const int quality_index[QUALITIES_MAX]);

// Index of a quality by name, QUALITIES_MAX for "fps", -1 when there is none.
int catalogue_quality(const Catalogue *catalogue, const char *name);

#endif
