// Where the segments of a class begin, as the kernel writes it for cuDNN, against a plain loop: in
// all classes, also with more segments than the batch takes, fewer, and none.
#include <stdio.h>
#include <string.h>

#include "base/die.h"
#include "base/rng.h"
#include "model/ops/cuda/attention_offsets.h"

enum { S_MAX = 700 };

static const int64_t stride[OFFSETS] = {3072, 512, 1536, 1024, 16};

static int32_t *lengths_new(int64_t S, uint64_t number, int64_t most) {
    int32_t *start = device_allocate_shared("starts", (S + 1) * (int64_t)sizeof(*start));
    for (int64_t s = 0; s < S; s++) {  // Mostly short; some of length 0.
        const double u = rng_uniform(5, RNG_TEST, number, (uint64_t)s);
        start[s + 1] = start[s] + (int32_t)(u * u * u * (double)most);
    }
    return start;
}

static void check_entries(const SegmentOffsets *o) {
    int64_t number = 0, e = 0, end[2] = {0, 0};
    for (int64_t s = 0; s < o->S; s++) {
        const int32_t queries = o->q_start[s + 1] - o->q_start[s];
        const int32_t keys = o->k_start[s + 1] - o->k_start[s];
        if (!in_class(&o->lengths, queries, keys)) continue;
        if (number++ < o->skip || e == o->batch) continue;
        CHECK(o->queries[e] == queries && o->keys[e] == keys, "lengths of entry %d", (int)e);
        for (int r = 0; r < OFFSETS; r++) {
            const int64_t first = o->row[r].of_keys ? o->k_start[s] : o->q_start[s];
            CHECK(o->row[r].start[e] == first * stride[r], "start of entry %d, row %d", (int)e, r);
        }
        end[0] = o->q_start[s + 1], end[1] = o->k_start[s + 1];
        e++;
    }
    for (; e <= o->batch; e++) {
        CHECK(e == o->batch || (o->queries[e] == 0 && o->keys[e] == 0), "entry %d is empty",
              (int)e);
        for (int r = 0; r < OFFSETS; r++) {
            CHECK(o->row[r].start[e] == end[o->row[r].of_keys] * stride[r],
                  "start of empty entry %d, row %d", (int)e, r);
        }
    }
}

int main(void) {
    Error error;
    CHECK(device_start(0, &error), "%s", error.text);
    const int64_t sizes[] = {1, 3, 255, 256, 257, S_MAX}, batches[] = {1, 7, 300, 1000};
    const LengthClass classes[] = {{.q_least = 1, .q_most = 256},
                                   {.q_least = 257, .q_most = 1024},
                                   {.q_least = 4097, .q_most = 16384},
                                   {.q_least = 1, .q_most = 5000, .many = true},
                                   {.q_least = 65537, .q_most = 262144}};
    int calls = 0;
    for (int i = 0; i < 6 * 4 * 5 * 3; i++) {
        const int64_t S = sizes[i % 6], batch = batches[i / 6 % 4], skip = i / 120 * 50;
        SegmentOffsets o = {.S = S, .batch = batch, .skip = skip, .lengths = classes[i / 24 % 5]};
        int32_t *q = lengths_new(S, (uint64_t)(2 * i), 5000);
        int32_t *k = lengths_new(S, (uint64_t)(2 * i + 1), 2000);
        const int64_t length_bytes = batch * (int64_t)sizeof(int32_t);
        const int64_t start_bytes = (batch + 1) * (int64_t)sizeof(int64_t);
        o.q_start = q, o.k_start = k;
        o.queries = device_allocate_shared("queries", length_bytes);
        o.keys = device_allocate_shared("keys", length_bytes);
        for (int r = 0; r < OFFSETS; r++) {
            o.row[r].start = device_allocate_shared("starts", start_bytes);
            memset(o.row[r].start, 0xff, (size_t)start_bytes);
            o.row[r].stride = stride[r];
            o.row[r].of_keys = r == 1 || r == 2;
        }
        attention_offsets(&o, NULL);
        stream_wait(NULL);
        check_entries(&o);
        calls++;
        for (int r = 0; r < OFFSETS; r++) device_free(o.row[r].start);
        device_free(o.queries);
        device_free(o.keys);
        device_free(q);
        device_free(k);
    }
    printf("offsets: %d calls are right\n", calls);
    return 0;
}
