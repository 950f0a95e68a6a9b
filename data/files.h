// Files of a data set: read whole or in part, and published so that half a file is never seen.
#ifndef DATA_FILES_H
#define DATA_FILES_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

enum { FILE_PATH_MAX = 1024 };

// folder/name. Dies when that is longer than FILE_PATH_MAX, which the settings exclude.
void file_path(char out[FILE_PATH_MAX], const char *folder, const char *name);

// Reads up to `bytes` bytes from `offset` on; returns how many there were, -1 and the reason after
// an I/O error (a missing file is one). *file_bytes, when not NULL, gets the size of the file.
int64_t file_read_at(void *out, const char *path, int64_t offset, int64_t bytes,
                     int64_t *file_bytes, Error *error);

// A whole file of at most bytes_max bytes in memory of malloc, a zero byte behind it. NULL and the
// reason when it cannot be read.
char *file_read(int64_t *bytes, const char *path, int64_t bytes_max, Error *error);

typedef struct {
    const void *data;
    int64_t bytes;
} FilePart;

// Writes the parts under a temporary name, fsyncs, renames, fsyncs the folder.
bool file_publish(const char *path, const FilePart parts[], int count, Error *error);

// Makes the folder and those above it.
bool folder_make(const char *path, Error *error);

#endif
