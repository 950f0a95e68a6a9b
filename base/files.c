#include "base/files.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/die.h"

// "path: what: the system's reason".
static bool refuse(Error *error, const char *path, const char *what) {
    return error_set(error, "%s: %s: %s", path, what, strerror(errno));
}

bool path_join(char path[PATH_BYTES_MAX], const char *folder, const char *name, Error *error) {
    const int length = snprintf(path, PATH_BYTES_MAX, "%s/%s", folder, name);
    if (length >= 0 && length < PATH_BYTES_MAX) return true;
    return error_set(error, "%s/%s: path longer than %d bytes", folder, name, PATH_BYTES_MAX - 1);
}

bool file_read_at(int fd, void *data, int64_t bytes, int64_t offset, const char *path,
                  Error *error) {
    char *to = data;
    while (bytes > 0) {
        const ssize_t got = pread(fd, to, (size_t)bytes, offset);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return refuse(error, path, "cannot read");
        if (got == 0) {
            return error_set(error, "%s: ends at byte %" PRId64 ", %" PRId64 " bytes early", path,
                             offset, bytes);
        }
        to += got;
        offset += got;
        bytes -= got;
    }
    return true;
}

bool file_write_at(int fd, const void *data, int64_t bytes, int64_t offset, const char *path,
                   Error *error) {
    const char *from = data;
    while (bytes > 0) {
        const ssize_t put = pwrite(fd, from, (size_t)bytes, offset);
        if (put < 0 && errno == EINTR) continue;
        if (put < 0) {
            return error_set(error, "%s: cannot write %" PRId64 " bytes at %" PRId64 ": %s", path,
                             bytes, offset, strerror(errno));
        }
        from += put;
        offset += put;
        bytes -= put;
    }
    return true;
}

int64_t file_size(const char *path, Error *error) {
    struct stat status;
    if (stat(path, &status) != 0) {
        refuse(error, path, "cannot find");
        return -1;
    }
    if (!S_ISREG(status.st_mode)) {
        error_set(error, "%s: not a regular file", path);
        return -1;
    }
    return status.st_size;
}

bool path_exists(const char *path) {
    struct stat status;
    return lstat(path, &status) == 0;
}

char *file_read(const char *path, int64_t bytes_max, int64_t *bytes, Error *error) {
    const int64_t size = file_size(path, error);
    if (size < 0) return NULL;
    if (size > bytes_max) {
        error_set(error, "%s: %" PRId64 " bytes, more than the %" PRId64 " allowed", path, size,
                  bytes_max);
        return NULL;
    }
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        refuse(error, path, "cannot open");
        return NULL;
    }
    char *data = malloc((size_t)size + 1);
    CHECK(data != NULL, "no memory for %" PRId64 " bytes of %s", size, path);
    const bool ok = file_read_at(fd, data, size, 0, path, error);
    close(fd);
    if (!ok) {
        free(data);
        return NULL;
    }
    data[size] = '\0';
    if (bytes != NULL) *bytes = size;
    return data;
}

bool file_write_in_place(const char *path, const void *data, int64_t bytes, Error *error) {
    const int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0) return refuse(error, path, "cannot create");
    bool ok = file_write_at(fd, data, bytes, 0, path, error);
    if (ok && fsync(fd) != 0) ok = refuse(error, path, "cannot fsync");
    // NFS tells some write errors only here.
    if (close(fd) != 0 && ok) ok = refuse(error, path, "cannot close");
    return ok;
}

// The folder that holds `path`.
static void parent_of(char parent[PATH_BYTES_MAX], const char *path) {
    snprintf(parent, PATH_BYTES_MAX, "%s", path);
    size_t length = strlen(parent);
    while (length > 1 && parent[length - 1] == '/') parent[--length] = '\0';
    char *slash = strrchr(parent, '/');
    if (slash == NULL) {
        snprintf(parent, PATH_BYTES_MAX, ".");
    } else if (slash == parent) {
        parent[1] = '\0';
    } else {
        *slash = '\0';
    }
}

bool file_write(const char *path, const void *data, int64_t bytes, Error *error) {
    char temporary[PATH_BYTES_MAX], parent[PATH_BYTES_MAX];
    const int length = snprintf(temporary, sizeof(temporary), "%s.tmp-%ld", path, (long)getpid());
    if (length >= PATH_BYTES_MAX) return error_set(error, "%s: path too long", path);
    bool ok = file_write_in_place(temporary, data, bytes, error);
    if (ok && rename(temporary, path) != 0) ok = refuse(error, path, "cannot rename to this name");
    if (!ok) {
        unlink(temporary);
        return false;
    }
    parent_of(parent, path);
    return folder_sync(parent, error);
}

bool folder_sync(const char *path, Error *error) {
    const int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return refuse(error, path, "cannot open the folder");
    // Some file systems have no fsync for folders and say EINVAL.
    const bool ok = fsync(fd) == 0 || errno == EINVAL;
    if (!ok) refuse(error, path, "cannot fsync the folder");
    close(fd);
    return ok;
}

bool folder_create(const char *path, Error *error) {
    struct stat status;
    if (stat(path, &status) == 0) {
        if (S_ISDIR(status.st_mode)) return true;
        return error_set(error, "%s: exists and is not a folder", path);
    }
    char parent[PATH_BYTES_MAX];
    if (strlen(path) == 0 || strlen(path) >= PATH_BYTES_MAX) {
        return error_set(error, "'%.80s...': a path has 1 to %d bytes", path, PATH_BYTES_MAX - 1);
    }
    parent_of(parent, path);
    if (!folder_create(parent, error)) return false;
    if (mkdir(path, 0777) != 0 && errno != EEXIST) {
        return refuse(error, path, "cannot create the folder");
    }
    return folder_sync(parent, error);
}

bool folder_remove(const char *path, Error *error) {
    struct stat status;
    if (lstat(path, &status) != 0) {
        return errno == ENOENT ? true : refuse(error, path, "cannot find");
    }
    if (!S_ISDIR(status.st_mode)) {
        return unlink(path) == 0 || errno == ENOENT ? true : refuse(error, path, "cannot remove");
    }
    int count = 0;
    char **names = folder_list(path, &count, error);
    if (names == NULL) return false;
    bool ok = true;
    for (int i = 0; i < count && ok; i++) {
        char child[PATH_BYTES_MAX];
        ok = path_join(child, path, names[i], error) && folder_remove(child, error);
    }
    folder_list_free(names, count);
    if (!ok) return false;
    return rmdir(path) == 0 ? true : refuse(error, path, "cannot remove the folder");
}

static int compare_names(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

char **folder_list(const char *path, int *count, Error *error) {
    DIR *folder = opendir(path);
    if (folder == NULL) {
        refuse(error, path, "cannot open the folder");
        return NULL;
    }
    int capacity = 16, used = 0;
    char **names = malloc((size_t)capacity * sizeof(*names));
    CHECK(names != NULL, "no memory for the names in %s", path);
    errno = 0;
    for (const struct dirent *entry; (entry = readdir(folder)) != NULL; errno = 0) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
        if (used == capacity) {
            capacity *= 2;
            names = realloc(names, (size_t)capacity * sizeof(*names));
            CHECK(names != NULL, "no memory for %d names in %s", capacity, path);
        }
        names[used] = strdup(entry->d_name);
        CHECK(names[used] != NULL, "no memory for a name in %s", path);
        used++;
    }
    const bool failed = errno != 0;
    if (failed) refuse(error, path, "cannot list the folder");
    closedir(folder);
    if (failed) {
        folder_list_free(names, used);
        return NULL;
    }
    qsort(names, (size_t)used, sizeof(*names), compare_names);
    *count = used;
    return names;
}

void folder_list_free(char **names, int count) {
    if (names == NULL) return;
    for (int i = 0; i < count; i++) free(names[i]);
    free(names);
}
