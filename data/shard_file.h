// Parts of the files of a data set. What is read or written whole goes through base/files.h.
#ifndef DATA_SHARD_FILE_H
#define DATA_SHARD_FILE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/files.h"

enum { FILE_PATH_MAX = PATH_BYTES_MAX };

// folder/name. Dies when that is longer than FILE_PATH_MAX, which the settings exclude.
void file_path(char out[FILE_PATH_MAX], const char *folder, const char *name);

// Reads up to `bytes` bytes from `offset` on; returns how many there were, -1 and the reason after
// an I/O error (a missing file is one). *file_bytes, when not NULL, gets the size of the file.
int64_t file_read_part(void *out, const char *path, int64_t offset, int64_t bytes,
                       int64_t *file_bytes, Error *error);

#endif
