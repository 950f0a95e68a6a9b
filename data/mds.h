// MDS v2, the shard format of MosaicML streaming: a folder with index.json and shards, each raw or
// one zstd frame. Reading checks everything before it is used: the index, names that lead out of
// the folder, sizes, hashes, offsets, lengths. Pickled columns are refused, since reading them
// would run code. Every integer of the format is little-endian, as this machine must be.
//
//     raw shard:  u32 n | u32 offset[n + 1] | JSON of the columns | sample 0 | sample 1 | ...
//     sample:     u32 length of each column of variable size | the values of all columns
//     columns are sorted by name
#ifndef DATA_MDS_H
#define DATA_MDS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

enum { MDS_COLUMNS_MAX = 48, MDS_NAME_MAX = 64, MDS_DIMS_MAX = 8 };

// `encoding` is MDS's: "str", "bytes", "json", "int", "int8" .. "uint64", "float16" .. "float64",
// "ndarray", "ndarray:DTYPE", "ndarray:DTYPE:2,3", "jpeg", ...
typedef struct {
    char name[MDS_NAME_MAX];
    char encoding[MDS_NAME_MAX];
    int64_t size;  // Bytes of a value; -1: varies. Set by mds_*, not by the user of the writer.
} MdsColumn;

// One value as it lies in a shard: the bytes of its encoding, not aligned.
typedef struct {
    const void *data;
    int64_t bytes;
} MdsValue;

// ---- writing

typedef enum { MDS_PLAIN, MDS_ZSTD } MdsCompression;

typedef struct MdsWriter MdsWriter;

// Starts a data set in `folder`, which is made if it is missing and must not hold an index.json.
// A shard is closed before it would exceed `size_limit` bytes (below 2^32), so a larger sample lies
// alone in its shard. NULL and a reason when that cannot be.
MdsWriter *mds_writer_create(const char *folder, const MdsColumn columns[], int column_count,
                             MdsCompression compression, int64_t size_limit, Error *error);

// Appends one sample: values[i] belongs to columns[i] as given to mds_writer_create (any order).
bool mds_writer_add(MdsWriter *writer, const MdsValue values[], Error *error);

// Writes the last shard and index.json (temporary name, fsync, rename). The writer is freed, also
// after an error; without a close the folder has no index and is no data set.
bool mds_writer_close(MdsWriter *writer, Error *error);

// Frees a writer without finishing. NULL is fine.
void mds_writer_abandon(MdsWriter *writer);

// ---- values

// The value of an "ndarray:int64" column with one dimension: count <= MDS_DIMS_MAX numbers into
// out[MDS_SHAPE_BYTES]; returns its bytes.
enum { MDS_SHAPE_BYTES = 2 + 8 * MDS_DIMS_MAX };
int64_t mds_encode_shape(uint8_t *out, const int64_t *numbers, int count);

typedef struct {
    char type[8];  // "u8", "i8", "u16", "i16", "f16", "u32", "i32", "f32", "u64", "i64", "f64"
    int item_bytes;
    int dims;
    int64_t shape[MDS_DIMS_MAX];
    int64_t count;     // Product of shape.
    const void *data;  // Not aligned.
} MdsArray;

// Reads a value of any "ndarray..." encoding; false and the reason when its bytes do not fit
// together.
bool mds_decode_array(MdsArray *out, const char *encoding, MdsValue value, Error *error);

// Reads a number of any scalar encoding ("int", "uint8", "float64", ..., "str_int", "str_float").
bool mds_decode_number(double *out, const char *encoding, MdsValue value, Error *error);

// Bytes of a value of this encoding; -1: varies; -2: not an encoding that may be read.
int64_t mds_encoding_size(const char *encoding);

// ---- reading

typedef struct {
    char *name;  // Relative to the folder; NULL: there is no such file.
    int64_t bytes;
    bool has_xxh3, has_xxh64;
    uint64_t xxh3, xxh64;
    char *unverified;  // Names of the other hashes, "sha1 md5"; NULL: none.
} MdsFile;

typedef struct {
    MdsFile raw, zip;  // zip.name != NULL: the shard is kept compressed.
    int64_t samples;
    const MdsColumn *columns;  // [column_count], sorted by name; shared by shards that agree.
    int column_count;
} MdsShard;

typedef struct {
    char *folder;
    uint64_t hash;  // XXH3 of index.json.
    MdsShard *shards;
    int64_t shard_count, sample_count;
    int64_t raw_bytes_max, zip_bytes_max;  // Of the largest shard.
    MdsColumn **column_sets;               // What shards' `columns` point into.
    int64_t column_set_count;
} MdsIndex;

// What went wrong decides who is to blame: bytes (every peer sees the same), or the file system.
typedef enum { MDS_OK, MDS_CORRUPT, MDS_IO } MdsStatus;

// Reads and checks index.json. NULL and a reason when it is missing, malformed, of another version.
MdsIndex *mds_index_open(const char *folder, Error *error);
void mds_index_free(MdsIndex *index);

// Room for the largest shard as raw and, compressed, as zip; the caller frees both. False and the
// reason where there is not as much memory as index.json asks for.
bool mds_index_room(uint8_t **raw, uint8_t **zip, const MdsIndex *index, Error *error);

// Brings shard `shard` into raw [shards[shard].raw.bytes] and verifies the hashes that it can;
// `zip` is room for the largest compressed shard (zip_bytes_max), unused when there is none. Whole,
// short, or wrong bytes: MDS_CORRUPT. A file that is missing or cannot be read: MDS_IO.
MdsStatus mds_shard_load(uint8_t *raw, uint8_t *zip, const MdsIndex *index, int64_t shard,
                         Error *error);

// Checks the table of a loaded shard: count, ascending offsets, end.
bool mds_shard_check(const MdsShard *shard, const uint8_t *raw, Error *error);

// The bytes of sample `i` of a shard that mds_shard_check accepted.
MdsValue mds_sample(const MdsShard *shard, const uint8_t *raw, int64_t i);

// Splits a sample into values[column_count], in the order of shard->columns.
bool mds_sample_split(MdsValue values[], const MdsShard *shard, MdsValue sample, Error *error);

// Index of a column by name, -1 when there is none.
int mds_column_find(const MdsShard *shard, const char *name);

#endif
