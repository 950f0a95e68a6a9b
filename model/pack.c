#include "model/pack.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/device.h"
#include "base/die.h"
#include "base/real.h"
#include "parallel/ulysses.h"

static void *room(int64_t count, int64_t size) {
    void *memory = calloc((size_t)max_i64(count, 1), (size_t)size);
    CHECK(memory != NULL, "no memory for %" PRId64 " x %" PRId64 " bytes", count, size);
    return memory;
}

// A block of T tokens and `count` segments: the turns, which are read 16 bytes at a time, then the
// integers.
static int64_t block_bytes(int64_t T, int64_t count, int64_t D) {
    return 4 * (T * D + 3 * (count + 1) + T);
}

static void lay_out(PackBind *b, int64_t count, int64_t D) {
    b->host_rope = (float *)b->host;
    b->pack_start = (int32_t *)b->host + b->T * D;
    b->token_start = b->pack_start + count + 1;
    b->text_start = b->token_start + count + 1;
    b->host_segment = b->text_start + count + 1;
    b->rope = (float *)b->device;
    b->pack_start_device = (int32_t *)b->device + b->T * D;
    b->token_start_device = b->pack_start_device + count + 1;
    b->text_start_device = b->token_start_device + count + 1;
    b->segment = b->text_start_device + count + 1;
}

void pack_create(PackBind *bind, int64_t tokens_max, int64_t segments_max, int64_t D) {
    const int64_t bytes = block_bytes(tokens_max, segments_max, D);
    *bind =
        (PackBind){.host = host_allocate("pack", bytes), .device = device_allocate("pack", bytes)};
}

void pack_free(PackBind *bind) {
    host_free(bind->host);
    device_free(bind->device);
    *bind = (PackBind){0};
}

// Turns of one axis: for each position half its width of pairs (cos, sin).
typedef struct {
    float *turn;
    int64_t floats;  // Of one position.
} AxisTable;

static void fill_axis(AxisTable *table, const Rope *rope, int64_t width, int64_t positions) {
    table->floats = width;
    for (int64_t i = 0; i < width / 2; i++) {
        const double frequency = pow(rope->theta, -2.0 * (double)i / (double)width);
        for (int64_t p = 0; p < positions; p++) {
            const double angle = (double)p * frequency;
            table->turn[p * width + 2 * i] = (float)cos(angle);
            table->turn[p * width + 2 * i + 1] = (float)sin(angle);
        }
    }
}

// Tables of t, h and w for all segments.
static void fill_axes(AxisTable axes[3], const Segment *segments, int64_t count, PatchSize patch,
                      const Rope *rope) {
    const int64_t s = 2 * (3 * rope->D / 16), width[3] = {rope->D - 2 * s, s, s};
    int64_t most[3] = {0, 0, 0};
    for (int64_t i = 0; i < count; i++) {
        most[0] = max_i64(most[0], segments[i].shape.F / patch.t);
        most[1] = max_i64(most[1], segments[i].shape.H / patch.h);
        most[2] = max_i64(most[2], segments[i].shape.W / patch.w);
    }
    for (int axis = 0; axis < 3; axis++) {
        axes[axis].turn = room(most[axis] * width[axis], sizeof(float));
        fill_axis(&axes[axis], rope, width[axis], most[axis]);
    }
}

// Tokens [first, first + count) of a segment, from `out` on: D / 2 pairs for each.
static void segment_turns(float *out, const AxisTable axes[3], const Segment *segment,
                          PatchSize patch, int64_t first, int64_t count) {
    const int64_t rows = segment->shape.H / patch.h, cols = segment->shape.W / patch.w;
    for (int64_t token = first; token < first + count; token++) {
        const int64_t place[3] = {token / (rows * cols), token / cols % rows, token % cols};
        for (int axis = 0; axis < 3; axis++) {
            const int64_t floats = axes[axis].floats;
            memcpy(out, axes[axis].turn + place[axis] * floats, (size_t)floats * sizeof(*out));
            out += floats;
        }
    }
}

void pack_bind(PackBind *bind, const Segment *segments, int64_t count, PatchSize patch,
               const Rope *rope, int index, int slices) {
    bind->segments = count;
    bind->P = 0;
    for (int64_t s = 0; s < count; s++) bind->P += latent_tokens(segments[s].shape, patch);
    const int64_t begin = ulysses_token_cut(bind->P, index, slices);
    const int64_t end = ulysses_token_cut(bind->P, index + 1, slices);
    bind->first = begin;
    bind->T = end - begin;
    lay_out(bind, count, rope->D);
    bind->pack_start[0] = 0;
    for (int64_t s = 0; s < count; s++) {
        const int64_t tokens = latent_tokens(segments[s].shape, patch);
        bind->pack_start[s + 1] = bind->pack_start[s] + (int32_t)tokens;
    }
    AxisTable axes[3];
    fill_axes(axes, segments, count, patch, rope);
    bind->S = bind->X = bind->segment_first = bind->text_first = 0;
    for (int64_t s = 0; s < count; s++) {
        const int64_t from = max_i64(begin, bind->pack_start[s]);
        const int64_t to = min_i64(end, bind->pack_start[s + 1]);
        CHECK(segments[s].text > 0, "segment %" PRId64 " has no text token", s);
        if (from >= to) {
            if (bind->S > 0) continue;
            bind->segment_first++;
            bind->text_first += segments[s].text;
            continue;
        }
        for (int64_t t = from; t < to; t++) bind->host_segment[t - begin] = (int32_t)bind->S;
        segment_turns(bind->host_rope + (from - begin) * rope->D, axes, &segments[s], patch,
                      from - bind->pack_start[s], to - from);
        bind->token_start[bind->S] = (int32_t)(from - begin);
        bind->text_start[bind->S] = (int32_t)bind->X;
        bind->X += segments[s].text;
        bind->S++;
    }
    bind->token_start[bind->S] = (int32_t)bind->T;
    bind->text_start[bind->S] = (int32_t)bind->X;
    for (int axis = 0; axis < 3; axis++) free(axes[axis].turn);
    device_copy(bind->device, bind->host, block_bytes(bind->T, count, rope->D), NULL);
}

MemoryBytes pack_bytes(int64_t tokens_max, int64_t segments_max, int64_t D) {
    const int64_t bytes = block_bytes(tokens_max, segments_max, D);
    return (MemoryBytes){.device = bytes, .host = bytes};
}
