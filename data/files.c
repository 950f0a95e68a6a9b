#include "data/files.h"

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

int64_t file_read_at(void *out, const char *path, int64_t offset, int64_t bytes,
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

char *file_read(int64_t *bytes, const char *path, int64_t bytes_max, Error *error) {
    struct stat status;
    if (stat(path, &status) != 0) {
        error_set(error, "%s: cannot be read: %s", path, strerror(errno));
        return NULL;
    }
    if (!S_ISREG(status.st_mode) || status.st_size > bytes_max) {
        error_set(error, "%s: not a file of at most %lld bytes", path, (long long)bytes_max);
        return NULL;
    }
    char *text = malloc((size_t)status.st_size + 1);
    CHECK(text != NULL, "no memory for %s", path);
    *bytes = file_read_at(text, path, 0, status.st_size, NULL, error);
    if (*bytes < 0) {
        free(text);
        return NULL;
    }
    text[*bytes] = 0;
    return text;
}

static bool write_parts(int fd, const FilePart parts[], int count) {
    for (int i = 0; i < count; i++) {
        int64_t done = 0;
        while (done < parts[i].bytes) {
            const ssize_t n =
                write(fd, (const char *)parts[i].data + done, (size_t)(parts[i].bytes - done));
            if (n < 0 && errno == EINTR) continue;
            if (n < 0) return false;
            done += n;
        }
    }
    return fsync(fd) == 0;
}

static bool folder_sync(const char *path) {
    char folder[FILE_PATH_MAX];
    snprintf(folder, sizeof(folder), "%s", path);
    char *slash = strrchr(folder, '/');
    if (slash == NULL) {
        snprintf(folder, sizeof(folder), ".");
    } else {
        slash[slash == folder] = 0;
    }
    const int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return false;
    const bool ok = fsync(fd) == 0;
    close(fd);
    return ok;
}

bool file_publish(const char *path, const FilePart parts[], int count, Error *error) {
    char temporary[FILE_PATH_MAX + 32];
    snprintf(temporary, sizeof(temporary), "%s.tmp-%ld", path, (long)getpid());
    const int fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0) return error_set(error, "%s: cannot be made: %s", temporary, strerror(errno));
    bool ok = write_parts(fd, parts, count);
    ok = close(fd) == 0 && ok;
    ok = ok && rename(temporary, path) == 0 && folder_sync(path);
    if (ok) return true;
    error_set(error, "%s: cannot be written: %s", path, strerror(errno));
    unlink(temporary);
    return false;
}

bool folder_make(const char *path, Error *error) {
    char part[FILE_PATH_MAX];
    const int length = snprintf(part, sizeof(part), "%s", path);
    if (length <= 0 || length >= FILE_PATH_MAX) return error_set(error, "%s: bad path", path);
    for (int i = 1; i <= length; i++) {
        if (part[i] != '/' && part[i] != 0) continue;
        const char kept = part[i];
        part[i] = 0;
        if (mkdir(part, 0777) != 0 && errno != EEXIST) {
            return error_set(error, "%s: cannot be made: %s", part, strerror(errno));
        }
        part[i] = kept;
    }
    struct stat status;
    if (stat(path, &status) != 0 || !S_ISDIR(status.st_mode)) {
        return error_set(error, "%s: not a folder", path);
    }
    return true;
}
