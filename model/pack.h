// One pack as the ops see it: how many rows of each kind there are, where segments begin, where
// each token is.
#ifndef MODEL_PACK_H
#define MODEL_PACK_H

#include <stdint.h>

#include "base/arena.h"
#include "base/media.h"

// A sample of a pack, in the pack's order.
typedef struct {
    LatentShape shape;
    int64_t text;  // Text tokens, at least 1.
} Segment;

// The part of a pack that one rank holds: tokens [first, first + T) of the pack's P. Under sequence
// parallelism a rank's slice touches segments [segment_first, segment_first + S), and has their
// text and times.
typedef struct {
    int64_t T, P, X,
        S;  // Tokens here, tokens of the pack, text tokens here, segments touched here.
    int64_t first;
    int64_t segment_first, segments;  // `segments`: of the whole pack.
    int64_t text_first;               // Of the pack's text tokens.
    // On the host.
    int32_t *pack_start;    // [segments + 1] Where each segment's tokens begin in the pack.
    int32_t *token_start;   // [S + 1] Where each touched segment's tokens begin here.
    int32_t *text_start;    // [S + 1] Where its text begins here.
    int32_t *host_segment;  // [T] Segment of each token, from 0 for the first one touched.
    float *host_rope;       // [T, D / 2, 2] cos and sin of each pair's turn.
    // The same on the device, for the ops.
    int32_t *pack_start_device, *token_start_device, *text_start_device;
    int32_t *segment;
    float *rope;
    // All of it lies in one block on the host (pinned) and in one on the device.
    char *host, *device;
} PackBind;

// Rotary positions: the head's D split over (t, h, w) as D - 2 s, s, s with s = 2 floor(3 D / 16);
// pairs interleaved; frequency theta^(-2 i / axis width); integer positions within the sample.
// DESIGN, section 4.
typedef struct {
    int64_t D;
    double theta;
} Rope;

// Room for packs of at most this many tokens here and segments.
void pack_create(PackBind *bind, int64_t tokens_max, int64_t segments_max, int64_t D);
void pack_free(PackBind *bind);

// What pack_create takes: as much of the device as, on its way there, of the host.
MemoryBytes pack_bytes(int64_t tokens_max, int64_t segments_max, int64_t D);

// Binds slice `index` of `slices` of a pack of `count` segments; one copy to the device on the
// compute stream, which does not wait for it: before the next pack_bind of the same PackBind the
// compute stream must be past this one's.
void pack_bind(PackBind *bind, const Segment *segments, int64_t count, PatchSize patch,
               const Rope *rope, int index, int slices);

#endif
