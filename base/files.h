// Files that appear whole: a temporary name, fsync, rename, fsync of the folder. And what reading
// and writing at offsets needs so that short calls, signals and errors end in one place. Local;
// errors name the path and the system's reason.
#ifndef BASE_FILES_H
#define BASE_FILES_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

enum { PATH_BYTES_MAX = 1024 };

// Joins folder and name with a '/'. False when that is longer than PATH_BYTES_MAX - 1.
bool path_join(char path[PATH_BYTES_MAX], const char *folder, const char *name, Error *error);

// The whole file as malloc'd memory with a NUL behind it; the caller frees. *bytes (may be NULL)
// does not count the NUL. Refuses more than bytes_max.
char *file_read(const char *path, int64_t bytes_max, int64_t *bytes, Error *error);

// Replaces or creates `path` whole and durably: readers see the old bytes or the new ones, never a
// part.
bool file_write(const char *path, const void *data, int64_t bytes, Error *error);

// The same without the rename: creates or truncates, writes, fsyncs. For files in a folder that
// appears whole.
bool file_write_in_place(const char *path, const void *data, int64_t bytes, Error *error);

// Exactly `bytes` bytes at `offset`; `path` is for the message. The end of the file is an error.
bool file_read_at(int fd, void *data, int64_t bytes, int64_t offset, const char *path,
                  Error *error);
bool file_write_at(int fd, const void *data, int64_t bytes, int64_t offset, const char *path,
                   Error *error);

// Size of the regular file in bytes; -1 and the reason where there is none.
int64_t file_size(const char *path, Error *error);

// Whether anything of that name exists.
bool path_exists(const char *path);

// Creates the folder and its parents where they are missing, durably.
bool folder_create(const char *path, Error *error);

// Makes the names in a folder durable.
bool folder_sync(const char *path, Error *error);

// Removes the folder and all below it, or a file; what does not exist is removed already.
bool folder_remove(const char *path, Error *error);

// Names in the folder without "." and "..", sorted by bytes; *count of them. NULL with the reason
// on error. Free with folder_list_free.
char **folder_list(const char *path, int *count, Error *error);
void folder_list_free(char **names, int count);

#endif
