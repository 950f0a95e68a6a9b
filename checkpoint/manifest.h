// The MANIFEST of a checkpoint: step, every file's path and size and the CRC-32C of each of its
// blocks, as JSON, then a last line with the CRC-32C of all before it. Written last; a folder
// without a good one is no checkpoint. It says nothing of times, hosts or ranks. Local.
#ifndef CHECKPOINT_MANIFEST_H
#define CHECKPOINT_MANIFEST_H

#include "checkpoint/layout.h"

enum {
    MANIFEST_VERSION = 1,
    MANIFEST_BYTES_MAX = 1 << 28,
};

typedef struct {
    int64_t step;
    Layout layout;  // Files with path and size; heads and tensors come from the files.
    uint32_t *crc;  // [layout.blocks]
} Manifest;

// The text for the files of `layout` with the checksums crc [layout->blocks], malloc'd; *bytes of
// it.
char *manifest_text(const Layout *layout, const uint32_t *crc, int64_t step, int64_t *bytes);

typedef enum {
    VERDICT_GOOD,
    VERDICT_CORRUPT,       // Try an older checkpoint.
    VERDICT_INCOMPATIBLE,  // Intact, but not for this program or model: stop.
    VERDICT_UNREADABLE,    // The system could not read it, which says nothing of what it holds.
} Verdict;

// Reads such a text, trusting nothing. `table` (may be NULL) goes into the layout. After GOOD free
// it with manifest_free.
Verdict manifest_parse(Manifest *manifest, const char *text, int64_t bytes, const ParamTable *table,
                       Error *error);
void manifest_free(Manifest *manifest);

// Compares a block's bytes with its checksum; the message names file and byte range.
bool manifest_check_block(const Manifest *manifest, int64_t block, const void *data, Error *error);

// Reads and compares a block of the checkpoint in `folder`: `data` has room for CHECKPOINT_BLOCK
// bytes.
bool manifest_read_block(const Manifest *manifest, const char *folder, int64_t block, char *data,
                         Error *error);

// The first `bytes` bytes of a file or all of it if it is shorter, checked and malloc'd, up to the
// end of their last block; *got of them and a NUL. NULL with the reason.
char *manifest_read_start(const Manifest *manifest, const char *folder, int file, int64_t bytes,
                          int64_t *got, Error *error);

// Compares the sizes of all files in `folder`.
bool manifest_check_sizes(const Manifest *manifest, const char *folder, Error *error);

#endif
