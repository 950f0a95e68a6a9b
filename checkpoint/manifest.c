#include "checkpoint/manifest.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/checksum.h"
#include "base/die.h"
#include "base/files.h"
#include "base/real.h"

static const char FORMAT[] = "kintoun checkpoint";

enum { LAST_LINE = 16 };              // "crc32c 0123abcd\n"
#define BYTES_MAX ((int64_t)1 << 50)  // Of one file.

static void last_line(char line[LAST_LINE + 1], const char *text, int64_t bytes) {
    snprintf(line, LAST_LINE + 1, "crc32c %08" PRIx32 "\n", crc32c(0, text, bytes));
}

char *manifest_text(const Layout *layout, const uint32_t *crc, int64_t step, int64_t *bytes) {
    json_t *files = json_array();
    for (int f = 0; f < layout->count; f++) {
        const LayoutFile *file = &layout->files[f];
        const int64_t blocks = div_up(file->bytes, CHECKPOINT_BLOCK);
        char *hex = malloc((size_t)blocks * 8 + 1);
        CHECK(hex != NULL, "no memory for %" PRId64 " checksums", blocks);
        for (int64_t b = 0; b < blocks; b++) {
            snprintf(hex + b * 8, 9, "%08" PRIx32, crc[file->first_block + b]);
        }
        json_array_append_new(files, json_pack("{ss sI ss}", "path", file->path, "bytes",
                                               (json_int_t)file->bytes, "crc32c", hex));
        free(hex);
    }
    json_t *root = json_pack("{ss si sI si so}", "format", FORMAT, "version", MANIFEST_VERSION,
                             "step", (json_int_t)step, "block", CHECKPOINT_BLOCK, "files", files);
    char *json = json_dumps(root, JSON_INDENT(1));
    json_decref(root);
    CHECK(json != NULL, "no memory for the MANIFEST");
    const int64_t length = (int64_t)strlen(json) + 1;
    char *text = realloc(json, (size_t)length + LAST_LINE + 1);
    CHECK(text != NULL, "no memory for the MANIFEST");
    text[length - 1] = '\n';
    last_line(text + length, text, length);
    *bytes = length + LAST_LINE;
    return text;
}

// A path stays inside the folder and occurs once.
static bool path_is_good(const Layout *layout, const char *path) {
    return path[0] != '\0' && path[0] != '/' && strlen(path) < CHECKPOINT_PATH_MAX &&
           strstr(path, "..") == NULL && layout_find(layout, path) < 0;
}

// Eight lower-case digits.
static bool parse_crc(uint32_t *crc, const char *hex) {
    char digits[9] = "", *end;
    memcpy(digits, hex, 8);
    if (strspn(digits, "0123456789abcdef") != 8) return false;
    *crc = (uint32_t)strtoul(digits, &end, 16);
    return true;
}

static bool parse_file(Manifest *manifest, const json_t *entry, Error *error) {
    Layout *layout = &manifest->layout;
    const char *path = json_string_value(json_object_get(entry, "path"));
    const char *hex = json_string_value(json_object_get(entry, "crc32c"));
    const int64_t bytes = json_integer_value(json_object_get(entry, "bytes"));
    if (path == NULL || !path_is_good(layout, path)) {
        return error_set(error, "MANIFEST: file %d has no legal path", layout->count);
    }
    const int64_t blocks = bytes < 0 || bytes > BYTES_MAX ? 0 : div_up(bytes, CHECKPOINT_BLOCK);
    if (blocks == 0 || hex == NULL || (int64_t)strlen(hex) != blocks * 8) {
        return error_set(error, "MANIFEST: %s: size and checksums do not fit each other", path);
    }
    const int64_t first = layout->blocks;
    layout_add_file(layout, path, bytes);
    manifest->crc = realloc(manifest->crc, (size_t)layout->blocks * sizeof(*manifest->crc));
    CHECK(manifest->crc != NULL, "no memory for %" PRId64 " checksums", layout->blocks);
    for (int64_t b = 0; b < blocks; b++) {
        if (!parse_crc(&manifest->crc[first + b], hex + b * 8)) {
            return error_set(error, "MANIFEST: %s: checksum %" PRId64 " is not a number", path, b);
        }
    }
    return true;
}

static Verdict parse_root(Manifest *manifest, const json_t *root, Error *error) {
    const char *format = json_string_value(json_object_get(root, "format"));
    const int64_t version = json_integer_value(json_object_get(root, "version"));
    if (format == NULL || strcmp(format, FORMAT) != 0 || version < 1) {
        error_set(error, "MANIFEST: not one of a kintoun checkpoint");
        return VERDICT_CORRUPT;
    }
    if (version > MANIFEST_VERSION) {
        error_set(error,
                  "MANIFEST: version %" PRId64 ", this program knows up to %d; use a newer one",
                  version, MANIFEST_VERSION);
        return VERDICT_INCOMPATIBLE;
    }
    const json_t *step = json_object_get(root, "step"), *files = json_object_get(root, "files");
    manifest->step = json_integer_value(step);
    if (!json_is_integer(step) || manifest->step < 0 || !json_is_array(files) ||
        json_integer_value(json_object_get(root, "block")) != CHECKPOINT_BLOCK) {
        error_set(error, "MANIFEST: lacks step, files or a block size of %d", CHECKPOINT_BLOCK);
        return VERDICT_CORRUPT;
    }
    for (size_t i = 0; i < json_array_size(files); i++) {
        if (!parse_file(manifest, json_array_get(files, i), error)) return VERDICT_CORRUPT;
    }
    return VERDICT_GOOD;
}

Verdict manifest_parse(Manifest *manifest, const char *text, int64_t bytes, const ParamTable *table,
                       Error *error) {
    *manifest = (Manifest){.layout = {.table = table}};
    char line[LAST_LINE + 1] = "";
    const int64_t length = bytes - LAST_LINE;
    if (length > 0) last_line(line, text, length);
    if (length <= 0 || memcmp(text + length, line, LAST_LINE) != 0) {
        error_set(error, "MANIFEST: its own checksum does not fit (truncated or changed)");
        return VERDICT_CORRUPT;
    }
    json_error_t reason;
    json_t *root = json_loadb(text, (size_t)length, JSON_REJECT_DUPLICATES, &reason);
    if (root == NULL) {
        error_set(error, "MANIFEST: line %d: %s", reason.line, reason.text);
        return VERDICT_CORRUPT;
    }
    const Verdict verdict = parse_root(manifest, root, error);
    json_decref(root);
    if (verdict != VERDICT_GOOD) manifest_free(manifest);
    return verdict;
}

void manifest_free(Manifest *manifest) {
    layout_free(&manifest->layout);
    free(manifest->crc);
    *manifest = (Manifest){0};
}

bool manifest_check_block(const Manifest *manifest, int64_t block, const void *data, Error *error) {
    int64_t offset, bytes;
    const int file = layout_block(&manifest->layout, block, &offset, &bytes);
    const uint32_t found = crc32c(0, data, bytes), want = manifest->crc[block];
    if (found == want) return true;
    return error_set(error,
                     "%s: bytes %" PRId64 " to %" PRId64 ": CRC-32C %08" PRIx32
                     ", MANIFEST has %08" PRIx32,
                     manifest->layout.files[file].path, offset, offset + bytes, found, want);
}

bool manifest_read_block(const Manifest *manifest, const char *folder, int64_t block, char *data,
                         Error *error) {
    int64_t offset, bytes;
    const int f = layout_block(&manifest->layout, block, &offset, &bytes);
    char path[PATH_BYTES_MAX];
    if (!path_join(path, folder, manifest->layout.files[f].path, error)) return false;
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return error_set(error, "%s: cannot open: %s", path, strerror(errno));
    const bool ok = file_read_at(fd, data, bytes, offset, path, error);
    close(fd);
    return ok && manifest_check_block(manifest, block, data, error);
}

char *manifest_read_start(const Manifest *manifest, const char *folder, int file, int64_t bytes,
                          int64_t *got, Error *error) {
    const LayoutFile *f = &manifest->layout.files[file];
    const int64_t blocks = div_up(min_i64(bytes, f->bytes), CHECKPOINT_BLOCK);
    char *data = malloc((size_t)(blocks * CHECKPOINT_BLOCK) + 1);
    CHECK(data != NULL, "no memory for %" PRId64 " blocks of %s", blocks, f->path);
    for (int64_t b = 0; b < blocks; b++) {
        if (!manifest_read_block(manifest, folder, f->first_block + b, data + b * CHECKPOINT_BLOCK,
                                 error)) {
            free(data);
            return NULL;
        }
    }
    *got = min_i64(f->bytes, blocks * CHECKPOINT_BLOCK);
    data[*got] = '\0';
    return data;
}

bool manifest_check_sizes(const Manifest *manifest, const char *folder, Error *error) {
    for (int f = 0; f < manifest->layout.count; f++) {
        const LayoutFile *file = &manifest->layout.files[f];
        char path[PATH_BYTES_MAX];
        if (!path_join(path, folder, file->path, error)) return false;
        const int64_t bytes = file_size(path, error);
        if (bytes < 0) return false;
        if (bytes != file->bytes) {
            return error_set(error, "%s: %" PRId64 " bytes, MANIFEST has %" PRId64, file->path,
                             bytes, file->bytes);
        }
    }
    return true;
}
