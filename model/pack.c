#include "model/pack.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/die.h"
#include "base/real.h"
#include "parallel/ulysses.h"

static void *room(int64_t count, int64_t size) {
    void *memory = calloc((size_t)max_i64(count, 1), (size_t)size);
    CHECK(memory != NULL, "no memory for %" PRId64 " x %" PRId64 " bytes", count, size);
    return memory;
}

void pack_create(PackBind *bind, int64_t tokens_max, int64_t segments_max, int64_t D) {
    *bind = (PackBind){.segment = room(tokens_max, sizeof(int32_t)),
                       .pack_start = room(segments_max + 1, sizeof(int32_t)),
                       .token_start = room(segments_max + 1, sizeof(int32_t)),
                       .text_start = room(segments_max + 1, sizeof(int32_t)),
                       .rope = room(tokens_max * D, sizeof(float))};
}

void pack_free(PackBind *bind) {
    free(bind->segment);
    free(bind->pack_start);
    free(bind->token_start);
    free(bind->text_start);
    free(bind->rope);
    *bind = (PackBind){0};
}

// The turns of one token at (t, h, w): D / 2 pairs of (cos, sin).
static void turns(float *out, const Rope *rope, const int64_t place[3]) {
    const int64_t s = 2 * (3 * rope->D / 16), width[3] = {rope->D - 2 * s, s, s};
    for (int axis = 0; axis < 3; axis++) {
        for (int64_t i = 0; i < width[axis] / 2; i++) {
            const double frequency = pow(rope->theta, -2.0 * (double)i / (double)width[axis]);
            const double angle = (double)place[axis] * frequency;
            *out++ = (float)cos(angle);
            *out++ = (float)sin(angle);
        }
    }
}

// Tokens [first, first + count) of a segment, from `out` on.
static void segment_turns(float *out, const Segment *segment, PatchSize patch, const Rope *rope,
                          int64_t first, int64_t count) {
    const int64_t rows = segment->shape.H / patch.h, cols = segment->shape.W / patch.w;
    for (int64_t i = 0; i < count; i++) {
        const int64_t token = first + i;
        const int64_t place[3] = {token / (rows * cols), token / cols % rows, token % cols};
        turns(out + i * rope->D, rope, place);
    }
}

void pack_bind(PackBind *bind, const Segment *segments, int64_t count, PatchSize patch,
               const Rope *rope, int index, int slices) {
    bind->segments = count;
    bind->P = 0;
    for (int64_t s = 0; s < count; s++) {
        bind->pack_start[s] = (int32_t)bind->P;
        bind->P += latent_tokens(segments[s].shape, patch);
    }
    bind->pack_start[count] = (int32_t)bind->P;
    const int64_t begin = ulysses_token_cut(bind->P, index, slices);
    const int64_t end = ulysses_token_cut(bind->P, index + 1, slices);
    bind->first = begin;
    bind->T = end - begin;
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
        for (int64_t t = from; t < to; t++) bind->segment[t - begin] = (int32_t)bind->S;
        segment_turns(bind->rope + (from - begin) * rope->D, &segments[s], patch, rope,
                      from - bind->pack_start[s], to - from);
        bind->token_start[bind->S] = (int32_t)(from - begin);
        bind->text_start[bind->S] = (int32_t)bind->X;
        bind->X += segments[s].text;
        bind->S++;
    }
    bind->token_start[bind->S] = (int32_t)bind->T;
    bind->text_start[bind->S] = (int32_t)bind->X;
}
