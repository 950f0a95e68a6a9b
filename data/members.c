#include "data/members.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/die.h"
#include "base/files.h"
#include "base/real.h"

enum { RECORD = 512, HEADER_BYTES_MAX = 1 << 20 };
#define MEMBER_BYTES_MAX ((int64_t)1 << 32)

struct Members {
    char path[PATH_BYTES_MAX];
    bool (*wanted)(const char *extension);
    FILE *tar;  // NULL: a folder.
    int64_t offset;
    char **names;  // Of the folder.
    int count, next;
};

Members *members_open(const char *path, bool (*wanted)(const char *extension), Error *error) {
    struct stat status;
    if (strlen(path) >= PATH_BYTES_MAX - MEMBER_NAME_MAX / 2 || stat(path, &status) != 0) {
        error_set(error, "%s: cannot be read: %s", path, strerror(errno));
        return NULL;
    }
    Members *members = calloc(1, sizeof(*members));
    CHECK(members != NULL, "no memory for %s", path);
    snprintf(members->path, sizeof(members->path), "%s", path);
    members->wanted = wanted;
    if (S_ISDIR(status.st_mode)) {
        members->names = folder_list(path, &members->count, error);
    } else {
        members->tar = fopen(path, "rb");
        if (members->tar == NULL)
            error_set(error, "%s: cannot be opened: %s", path, strerror(errno));
    }
    if (members->names != NULL || members->tar != NULL) return members;
    free(members);
    return NULL;
}

void members_close(Members *members) {
    if (members == NULL) return;
    if (members->names != NULL) folder_list_free(members->names, members->count);
    if (members->tar != NULL) fclose(members->tar);
    free(members);
}

// Splits the name; false for what is not part of a sample.
static bool split(Member *member) {
    const char *base = strrchr(member->name, '/');
    base = base == NULL ? member->name : base + 1;
    const char *dot = strchr(base, '.');
    if (dot == NULL || dot[1] == 0 || base[0] == '.') return false;
    const char *hidden = strstr(member->name, "__");  // __name__/ and __name__, WebDataset's own.
    if (hidden == member->name && strstr(hidden + 2, "__") != NULL) return false;
    member->key_bytes = dot - member->name;
    member->extension = dot + 1;
    return true;
}

static int next_file(Member *out, Members *members, Error *error) {
    while (members->next < members->count) {
        const char *name = members->names[members->next++];
        char path[PATH_BYTES_MAX];
        struct stat status;
        snprintf(out->name, sizeof(out->name), "%s", name);
        if (!split(out)) continue;
        if (!path_join(path, members->path, name, error)) return -1;
        if (stat(path, &status) == 0 && S_ISDIR(status.st_mode)) continue;
        if (!members->wanted(out->extension)) return 1;
        out->data = file_read(path, MEMBER_BYTES_MAX, &out->bytes, error);
        return out->data == NULL ? -1 : 1;
    }
    return 0;
}

// ---- tar

// What the headers before a member said about it.
typedef struct {
    char name[MEMBER_NAME_MAX];  // Empty: nothing.
    int64_t bytes;               // -1: nothing.
} Override;

static int bad(const Members *members, Error *error, const char *what) {
    error_set(error, "%s: byte %lld: %s", members->path, (long long)members->offset, what);
    return -1;
}

// An octal field ended by NUL or space, or base 256 where the first bit is set; -1 when neither.
static int64_t number(const uint8_t *field, int length) {
    int64_t value = 0;
    if (field[0] & 0x80) {
        for (int i = 1; i < length; i++) {
            if (value > INT64_MAX >> 9) return -1;
            value = value << 8 | field[i];
        }
        return value;
    }
    int i = 0;
    while (i < length && field[i] == ' ') i++;
    for (; i < length && field[i] != 0 && field[i] != ' '; i++) {
        if (field[i] < '0' || field[i] > '7') return -1;
        value = value << 3 | (field[i] - '0');
    }
    return value;
}

static bool checksum_holds(const uint8_t *record) {
    int64_t sum = 0;
    for (int i = 0; i < RECORD; i++) sum += i >= 148 && i < 156 ? ' ' : record[i];
    return number(record + 148, 8) == sum;
}

// The data of a member with its padding. NULL and the reason when the file ends before.
static char *read_data(Members *members, int64_t bytes, Error *error) {
    const int64_t padded = (bytes + RECORD - 1) / RECORD * RECORD;
    char *data = NULL;
    int64_t room = 0, got = 0;
    while (got < padded || data == NULL) {  // No more memory than there is data.
        room = min_i64(padded, max_i64(2 * room, 1 << 20));
        data = realloc(data, (size_t)room + 1);
        CHECK(data != NULL, "no memory for a member of %lld bytes", (long long)bytes);
        const size_t part = (size_t)(room - got);
        if (fread(data + got, 1, part, members->tar) != part) {
            bad(members, error, "the tar ends inside of a member");
            free(data);
            return NULL;
        }
        got = room;
    }
    members->offset += padded;
    data[bytes] = 0;
    return data;
}

// Reads over the data of a member.
static bool skip_data(Members *members, int64_t bytes, Error *error) {
    char piece[64 * RECORD];
    int64_t left = (bytes + RECORD - 1) / RECORD * RECORD;
    members->offset += left;
    while (left > 0) {
        const size_t part = left < (int64_t)sizeof(piece) ? (size_t)left : sizeof(piece);
        if (fread(piece, 1, part, members->tar) != part) {
            bad(members, error, "the tar ends inside of a member");
            return false;
        }
        left -= (int64_t)part;
    }
    return true;
}

// False for a name that is too long, or has a NUL inside.
static bool keep_name(Override *override, const char *name, int64_t bytes) {
    if (bytes < 1 || bytes >= MEMBER_NAME_MAX || memchr(name, 0, (size_t)bytes) != NULL) {
        return false;
    }
    memcpy(override->name, name, (size_t)bytes);
    override->name[bytes] = 0;
    return true;
}

// "LENGTH key=value\n" lines of a pax header: path and size.
static bool read_pax(Override *override, const char *data, int64_t bytes) {
    for (const char *at = data; at < data + bytes;) {
        char *space, *digits;
        const long length = strtol(at, &space, 10);
        if (*at < '0' || *at > '9' || length < 5 || length > data + bytes - at || *space != ' ' ||
            at[length - 1] != '\n') {
            return false;
        }
        const char *key = space + 1, *end = at + length - 1;
        if (strncmp(key, "path=", 5) == 0) {
            if (!keep_name(override, key + 5, end - key - 5)) return false;
        } else if (strncmp(key, "size=", 5) == 0) {
            override->bytes = strtoll(key + 5, &digits, 10);
            if (override->bytes < 0 || digits == key + 5 || digits != end) return false;
        }
        at += length;
    }
    return true;
}

static void read_name(char *out, const uint8_t *record) {
    const bool posix = memcmp(record + 257, "ustar\0", 6) == 0 && record[345] != 0;
    snprintf(out, MEMBER_NAME_MAX, "%.*s%s%.100s", posix ? 155 : 0, (const char *)record + 345,
             posix ? "/" : "", (const char *)record);
}

// Takes one header and its data. 1: a regular file in `out`; 0: something else; 2: the end; -1:
// error.
static int read_record(Member *out, Override *override, Members *members, Error *error) {
    uint8_t record[RECORD];
    static const uint8_t zero[RECORD];
    const size_t got = fread(record, 1, RECORD, members->tar);
    const bool announced = override->name[0] != 0 || override->bytes >= 0;
    if (got == 0 && members->offset > 0 && !announced) return 2;
    if (got != RECORD) return bad(members, error, "not a tar, or cut in a header");
    if (memcmp(record, zero, RECORD) == 0) return 2;
    if (!checksum_holds(record)) return bad(members, error, "not a tar header: wrong checksum");
    members->offset += RECORD;
    int64_t bytes = number(record + 124, 12);
    const char type = (char)record[156];
    const bool file = type == '0' || type == 0 || type == '7';
    if (file && override->bytes >= 0) bytes = override->bytes;
    if (type == 'S') return bad(members, error, "a sparse file; make the tar without --sparse");
    const bool header = type == 'x' || type == 'L';
    if (bytes < 0 || bytes > (header ? HEADER_BYTES_MAX : MEMBER_BYTES_MAX)) {
        return bad(members, error, "a member's size");
    }
    if (header) {
        char *data = read_data(members, bytes, error);
        if (data == NULL) return -1;
        const bool good = type == 'x' ? read_pax(override, data, bytes)
                                      : keep_name(override, data, (int64_t)strlen(data));
        free(data);
        return good ? 0 : bad(members, error, "a header of a long name or size");
    }
    if (override->name[0] != 0) {
        memcpy(out->name, override->name, sizeof(out->name));
    } else {
        read_name(out->name, record);
    }
    *override = (Override){.bytes = -1};
    const bool member = file && split(out);
    if (!member || !members->wanted(out->extension)) {
        return skip_data(members, bytes, error) ? member : -1;
    }
    out->data = read_data(members, bytes, error);
    out->bytes = bytes;
    return out->data == NULL ? -1 : 1;
}

int members_next(Member *out, Members *members, Error *error) {
    *out = (Member){.key_bytes = 0};
    if (members->tar == NULL) return next_file(out, members, error);
    Override override = {.bytes = -1};
    for (;;) {
        const int result = read_record(out, &override, members, error);
        if (result == 2) return 0;
        if (result != 0) return result;
    }
}
