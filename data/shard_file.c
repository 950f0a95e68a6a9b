#include "data/shard_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/die.h"

void file_path(char out[FILE_PATH_MAX], const char *folder, const char *name) {
    const int length = snprintf(out, FILE_PATH_MAX, "%s/%s", folder, name);
    CHECK(length > 0 && length < FILE_PATH_MAX, "path too long: %s/%s", folder, name);
}

static int64_t read_all(int fd, void *out, int64_t offset, int64_t bytes) {
    int64_t done = 0;
    while (done < bytes) {
        const ssize_t n = pread(fd, (char *)out + done, (size_t)(bytes - done), offset + done);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return -1;
        if (n == 0) break;
        done += n;
    }
    return done;
}

int64_t file_read_part(void *out, const char *path, int64_t offset, int64_t bytes,
                       int64_t *file_bytes, Error *error) {
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        error_set(error, "%s: cannot be opened: %s", path, strerror(errno));
        return -1;
    }
    struct stat status;
    int64_t done = -1;
    if (fstat(fd, &status) == 0) done = read_all(fd, out, offset, bytes);
    if (done < 0) {
        error_set(error, "%s: cannot be read at byte %lld: %s", path, (long long)offset,
                  strerror(errno));
    } else if (done < bytes && status.st_size >= offset + bytes) {
        error_set(error, "%s: the file system returned %lld of %lld bytes at byte %lld", path,
                  (long long)done, (long long)bytes, (long long)offset);
        done = -1;
    } else if (file_bytes != NULL) {
        *file_bytes = status.st_size;
    }
    close(fd);
    return done;
}
