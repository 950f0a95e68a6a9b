// A training sample as our data sets hold it: the columns of FastVideo's published schema, in MDS.
//
//     id, caption, media_type ("image" | "video")                      str
//     vae_latent_bytes, text_embedding_bytes                           bytes
//     vae_latent_shape [C, F, H, W], text_embedding_shape [L, width]   ndarray:int64
//     vae_latent_dtype, text_embedding_dtype                           str
//     width, height, num_frames (of the pixels)                        int
//     fps and any quality scores                                       float64
//
// dtype is float32, bfloat16 or float16. Latents may also come as one column `vae_latent` (and
// texts as `text_embedding`) of encoding ndarray:float32, ndarray:float16 or ndarray:uint16
// (bfloat16). Only id, the latent and the text are required; [C, H, W] is read as one frame, and a
// missing media_type follows from the frames.
#ifndef DATA_SAMPLE_H
#define DATA_SAMPLE_H

#include "base/media.h"
#include "data/config.h"
#include "data/mds.h"

typedef enum { STORED_FLOAT32, STORED_BFLOAT16, STORED_FLOAT16 } Stored;

enum { SAMPLE_ID_MAX = 128 };

typedef struct {
    char id[SAMPLE_ID_MAX];  // Cut off when it is longer.
    const char *caption;     // UTF-8; while reading not terminated: caption_bytes counts.
    int64_t caption_bytes;
    Medium medium;
    LatentShape shape;
    const void *latent;  // [C, F, H, W], not aligned while reading.
    Stored latent_type;
    int64_t text_length, text_width;  // Length 0 is legal.
    const void *text;                 // [L, width], not aligned while reading.
    Stored text_type;
    int64_t width, height, num_frames;
    double fps;  // 0: unknown or an image.
    double qualities[QUALITIES_MAX];
} Sample;

// A writer of such samples. qualities: names of extra float64 columns, in the order of
// Sample.qualities. Samples go in by sample_write; mds_writer_close ends it.
MdsWriter *sample_writer_create(const char *folder, const char *const qualities[],
                                int quality_count, MdsCompression compression, int64_t size_limit,
                                Error *error);

// Whether a latent and a text may be of this size.
bool sample_shape_is_legal(LatentShape shape, int64_t text_length, int64_t text_width);

// latent and text must already be stored as their types say. Non-finite values are refused, and
// an id or caption that is no UTF-8.
bool sample_write(MdsWriter *writer, const Sample *sample, Error *error);

// Which extra number columns a shard has, at most QUALITIES_MAX; returns their count.
int sample_qualities(char names[QUALITIES_MAX][QUALITY_NAME_MAX], const MdsShard *shard);

// Reads the sample with these bytes; its pointers lead into them. Qualities are in the order of
// `names` (NaN where the shard lacks one). False and the reason when it is not a sample of this
// form.
bool sample_read(Sample *out, const MdsShard *shard, MdsValue bytes, char names[][QUALITY_NAME_MAX],
                 int quality_count, Error *error);

int64_t stored_size(Stored type);
const char *stored_name(Stored type);

// Conversions of `count` elements; `stored` need not be aligned. To bfloat16 and float16 by
// rounding to nearest, ties to even.
void stored_from_float(void *stored, Stored type, const float *values, int64_t count);

// Returns false when a value is not finite (all are converted nevertheless).
bool stored_to_float(float *values, const void *stored, Stored type, int64_t count);
bool stored_is_finite(const void *stored, Stored type, int64_t count);

#endif
