// The files of other people's data sets as samples see them: members of a tar (WebDataset) or files
// of a folder, in order. The key of a member is its path up to the first dot of its name, the rest
// is the extension; members with one key that follow each other are one sample.
//
// Tars: POSIX and GNU headers, long names of both, sizes in octal or base 256, pax path and size.
// Read as a stream. Folders: the regular files in it, sorted by name.
#ifndef DATA_MEMBERS_H
#define DATA_MEMBERS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

enum { MEMBER_NAME_MAX = 1024 };

typedef struct {
    char name[MEMBER_NAME_MAX];
    int64_t key_bytes;      // name[0 .. key_bytes) is the key.
    const char *extension;  // Behind the dot, in `name`.
    char *data;             // malloc'd, a zero byte behind it; the caller frees. NULL: not wanted.
    int64_t bytes;          // Of data.
} Member;

typedef struct Members Members;

// A folder, or a file that must be a tar. NULL and the reason when it cannot be opened. Members of
// extensions that are not `wanted` come without their data, of which no more than a piece is ever
// in memory.
Members *members_open(const char *path, bool (*wanted)(const char *extension), Error *error);
void members_close(Members *members);

// The next member that has a key and an extension; others (folders, links, names in
// __underscores__) are passed over. 1: there is one, 0: the end, -1: an error.
int members_next(Member *out, Members *members, Error *error);

#endif
