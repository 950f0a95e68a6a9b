// Which bytes a checkpoint's folder holds: a pure function of the parameter table, a size limit and
// the texts, so that any number of ranks writes the same files. DESIGN, section 7.
//
//     transformer/      config.json, diffusion_pytorch_model-0000i-of-0000N.safetensors and its
//                       index.json; one file is diffusion_pytorch_model.safetensors without
//                       index, as diffusers has it
//     transformer_ema/  the same for the moving average
//     optimizer/        exp_avg-0000i-of-0000N.safetensors, exp_avg_sq-0000i-of-0000N.safetensors
//     state.json
//
// A safetensors file has the tensors in the order of the table, fp32, without gaps, data from a
// multiple of 4 KiB on. All files laid end to end, each cut into blocks of 1 MiB (the last one
// short), give the blocks of the checkpoint, numbered from 0: the unit of checksums, writing and
// reading. Local.
#ifndef CHECKPOINT_LAYOUT_H
#define CHECKPOINT_LAYOUT_H

#include <stdint.h>

#include "base/error.h"
#include "base/param.h"

enum {
    CHECKPOINT_BLOCK = 1 << 20,   // Bytes under one checksum.
    CHECKPOINT_ALIGNMENT = 4096,  // Of the first tensor in its file.
    CHECKPOINT_PATH_MAX = 128,
};
#define CHECKPOINT_FILE_BYTES ((int64_t)4 << 30)  // Where files are cut, unless a test says less.

// What is kept of every parameter.
typedef enum {
    CLASS_WEIGHTS,     // Master weights.
    CLASS_EMA,         // Their moving average.
    CLASS_EXP_AVG,     // Adam's first moment.
    CLASS_EXP_AVG_SQ,  // Adam's second moment.
    CLASS_COUNT,       // Also: a file without tensors.
} CheckpointClass;

// "transformer", "transformer_ema", "exp_avg", "exp_avg_sq".
const char *class_name(CheckpointClass class);

// A tensor's bytes in its file.
typedef struct {
    int row;             // Of the parameter table.
    int64_t begin, end;  // Counted from the start of the file.
} LayoutExtent;

typedef struct {
    char path[CHECKPOINT_PATH_MAX];  // Inside the checkpoint's folder.
    CheckpointClass class;
    int64_t bytes;
    int64_t first_block;  // Number of its first block; it has div_up(bytes, CHECKPOINT_BLOCK).
    char *head;           // What comes before the tensors: the header, or all of a text.
    int64_t head_bytes;
    LayoutExtent *extents;  // [extent_count] In the order of their bytes.
    int extent_count;
} LayoutFile;

typedef struct {
    const ParamTable *table;
    LayoutFile *files;
    int count;
    int64_t blocks;
} Layout;

// The layout to save with. `config` and `state` are the texts of config.json and state.json; a file
// holds at most file_bytes_max bytes of tensors, or one tensor.
void layout_build(Layout *layout, const ParamTable *table, int64_t file_bytes_max,
                  const char *config, const char *state);

// The layout of what is on disk, piece by piece: first the files in order ...
void layout_add_file(Layout *layout, const char *path, int64_t bytes);

// ... then the head of each file (malloc'd, now the layout's). False where it is no legal header of
// such a file (corrupt); tensors that are not the table's, or are of another shape, go to
// `problems`.
bool layout_set_head(Layout *layout, int file, char *head, int64_t head_bytes, Problems *problems,
                     Error *error);

// Names every tensor of the table that a class lacks. After the last head.
void layout_check_complete(const Layout *layout, Problems *problems);

void layout_free(Layout *layout);

// Where a block is: returns its file, *offset in the file and *bytes (at most CHECKPOINT_BLOCK).
int layout_block(const Layout *layout, int64_t block, int64_t *offset, int64_t *bytes);

// The file called `path`, or -1.
int layout_find(const Layout *layout, const char *path);

#endif
