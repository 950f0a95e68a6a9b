// The settings of data/: what the whole run reads, and what each stage takes of it. train/ nests
// these structs, fills them from its table of settings and hands them to planner_create, which
// checks whatever one row of a table cannot.
#ifndef DATA_CONFIG_H
#define DATA_CONFIG_H

#include <stdint.h>

#include "base/media.h"

enum { SOURCES_MAX = 8, STAGES_MAX = 16, QUALITIES_MAX = 8, QUALITY_NAME_MAX = 32 };

typedef struct {
    char path[512];  // The folder of index.json.
    double weight;   // Share among the sources that have rows of the drawn medium; 0 leaves it out.
} DataSource;

typedef struct {
    DataSource sources[SOURCES_MAX];
    int64_t source_count;
    int64_t holdout;      // Samples of each medium of each source kept for validation, never drawn.
    int64_t window;       // Shards that are mixed at a time, of each source and medium.
    int64_t cache_bytes;  // Decompressed shards kept in memory: room for two windows of each source
                          // and medium, or shards are decompressed again and again.
    int64_t ahead;        // Packs that the loader keeps ready ahead of need.
    int64_t corrupt_max;  // More corrupt samples than this end the run; train counts them.
} DataConfig;

// Keeps rows whose quality `name` lies in [min, max]. "fps" is always there; others are columns.
typedef struct {
    char name[QUALITY_NAME_MAX];
    double min, max;
} QualityFilter;

typedef struct {
    int64_t steps;                   // Of this stage.
    int64_t packs;                   // Per step.
    int64_t tokens;                  // Per pack, at most.
    int64_t segments;                // Samples per pack, at most.
    int64_t text_tokens;             // Per pack, at most; an empty text counts as one.
    double image_share;              // Of the samples drawn; the rest are videos.
    int64_t frames_min, frames_max;  // Of the latent, inclusive, as are the next four.
    int64_t height_min, height_max;
    int64_t width_min, width_max;
    QualityFilter filters[QUALITIES_MAX];
    int64_t filter_count;
} StageData;

// Model FLOPs of a sample of T tokens and L text tokens: tokens * T + tokens_squared * T^2 +
// tokens_text * T * L + text * L. In units of one's choice; packs are balanced by it.
typedef struct {
    int64_t tokens, tokens_squared, tokens_text, text;
} WorkCost;

// What the model asks of the data.
typedef struct {
    int32_t channels;  // Of the latent.
    PatchSize patch;
    int32_t text_width;  // Of a text token.
    WorkCost cost;
} ModelNeeds;

#endif
