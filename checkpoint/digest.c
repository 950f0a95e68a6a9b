#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/die.h"
#include "base/files.h"
#include "checkpoint/command.h"

enum { CHUNK = 1 << 20 };

static void digest_text(char text[33], XXH128_hash_t hash) {
    snprintf(text, 33, "%016" PRIx64 "%016" PRIx64, hash.high64, hash.low64);
}

static bool digest_file(char text[33], const char *path, Error *error) {
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return error_set(error, "%s: cannot open: %s", path, strerror(errno));
    XXH3_state_t *hash = XXH3_createState();
    char *chunk = malloc(CHUNK);
    CHECK(hash != NULL && chunk != NULL, "no memory to read %s", path);
    XXH3_128bits_reset(hash);
    ssize_t got;
    while ((got = read(fd, chunk, CHUNK)) > 0 || (got < 0 && errno == EINTR)) {
        if (got > 0) XXH3_128bits_update(hash, chunk, (size_t)got);
    }
    if (got < 0) error_set(error, "%s: cannot read: %s", path, strerror(errno));
    digest_text(text, XXH3_128bits_digest(hash));
    XXH3_freeState(hash);
    free(chunk);
    close(fd);
    return got == 0;
}

// Prints "digest  path" for every file below folder/inner, in the order of names, and adds the
// lines to `total`.
static bool digest_below(const char *folder, const char *inner, XXH3_state_t *total, Error *error) {
    char path[PATH_BYTES_MAX];
    int count = 0;
    bool ok = path_join(path, folder, inner, error);
    char **names = ok ? folder_list(path, &count, error) : NULL;
    ok = names != NULL;
    for (int i = 0; ok && i < count; i++) {
        char below[PATH_BYTES_MAX], line[PATH_BYTES_MAX + 40], text[33];
        struct stat status;
        const int length =
            snprintf(below, sizeof(below), "%s%s%s", inner, inner[0] == '\0' ? "" : "/", names[i]);
        if (length >= PATH_BYTES_MAX) ok = error_set(error, "%s: path too long", folder);
        ok = ok && path_join(path, folder, below, error);
        const bool there = ok && stat(path, &status) == 0;
        if (there && S_ISDIR(status.st_mode)) {
            ok = digest_below(folder, below, total, error);
        } else if (there && !S_ISREG(status.st_mode)) {  // A pipe would be waited for.
            ok = error_set(error, "%s: neither a file nor a folder", path);
        } else if (ok && (ok = digest_file(text, path, error))) {
            const int bytes = snprintf(line, sizeof(line), "%s  %s\n", text, below);
            XXH3_128bits_update(total, line, (size_t)bytes);
            fputs(line, stdout);
        }
    }
    folder_list_free(names, count);
    return ok;
}

int checkpoint_digest(const char *folder) {
    XXH3_state_t *total = XXH3_createState();
    CHECK(total != NULL, "no memory");
    XXH3_128bits_reset(total);
    Error error = {""};
    const bool ok = digest_below(folder, "", total, &error);
    char text[33];
    digest_text(text, XXH3_128bits_digest(total));
    XXH3_freeState(total);
    if (ok) {
        printf("%s  all of %s\n", text, folder);
        return EXIT_DONE;
    }
    fprintf(stderr, "kintoun checkpoint digest: %s\n", error.text);
    return EXIT_FAILED;
}
