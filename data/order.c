#include "data/order.h"

#include <stdlib.h>

#include "base/die.h"
#include "base/real.h"
#include "base/rng.h"

enum { ROUNDS = 8 };

int64_t order_permute(int64_t x, int64_t n, uint64_t key) {
    int half = 1;
    while (half < 31 && ((int64_t)1 << (2 * half)) < n) half++;
    const uint64_t mask = ((uint64_t)1 << half) - 1;
    uint64_t value = (uint64_t)x;
    do {
        uint64_t left = value >> half, right = value & mask;
        for (uint64_t round = 0; round < ROUNDS; round++) {
            const uint64_t next = left ^ (rng_bits(key, RNG_ORDER, right, round) & mask);
            left = right;
            right = next;
        }
        value = left << half | right;
    } while (value >= (uint64_t)n);
    return (int64_t)value;
}

void order_init(Order *order, const uint32_t *rows, const int64_t *starts, int64_t shards,
                int64_t window, uint64_t seed, int stage, int source, int medium) {
    const uint64_t numbers[4] = {seed, (uint64_t)stage, (uint64_t)source, (uint64_t)medium};
    *order = (Order){.rows = rows,
                     .count = starts[shards],
                     .shards = shards,
                     .starts = starts,
                     .window = window,
                     .key = hash_bytes(numbers, sizeof(numbers)),
                     .epoch = -1};
    order->shard = malloc((size_t)max_i64(shards, 1) * sizeof(int64_t));
    order->first = malloc((size_t)(shards + 1) * sizeof(int64_t));
    CHECK(order->shard != NULL && order->first != NULL, "no memory for the order of %lld shards",
          (long long)shards);
    CHECK(window > 0, "a window of %lld shards", (long long)window);
}

void order_free(Order *order) {
    free(order->shard);
    free(order->first);
    *order = (Order){0};
}

// What keys one permutation: of the shards (which -1), or inside window `which`.
static uint64_t subkey(const Order *order, int64_t which) {
    const uint64_t numbers[3] = {order->key, (uint64_t)order->epoch, (uint64_t)which};
    return hash_bytes(numbers, sizeof(numbers));
}

static void lay_out(Order *order, int64_t epoch) {
    order->epoch = epoch;
    const uint64_t key = subkey(order, -1);
    order->first[0] = 0;
    for (int64_t i = 0; i < order->shards; i++) {
        const int64_t shard = order_permute(i, order->shards, key);
        order->shard[i] = shard;
        order->first[i + 1] = order->first[i] + order->starts[shard + 1] - order->starts[shard];
    }
}

// The last i of [low, high) with first[i] <= place.
static int64_t search(const int64_t *first, int64_t low, int64_t high, int64_t place) {
    while (high - low > 1) {
        const int64_t middle = low + (high - low) / 2;
        if (first[middle] <= place) {
            low = middle;
        } else {
            high = middle;
        }
    }
    return low;
}

uint32_t order_row(Order *order, int64_t epoch, int64_t place) {
    CHECK(place >= 0 && place < order->count, "place %lld of %lld", (long long)place,
          (long long)order->count);
    if (order->epoch != epoch) lay_out(order, epoch);
    const int64_t *first = order->first;
    const int64_t window = search(first, 0, order->shards, place) / order->window;
    const int64_t begin = window * order->window;
    const int64_t end = min_i64(begin + order->window, order->shards);
    const int64_t moved =
        first[begin] +
        order_permute(place - first[begin], first[end] - first[begin], subkey(order, window));
    const int64_t i = search(first, begin, end, moved);
    return order->rows[order->starts[order->shard[i]] + moved - first[i]];
}
