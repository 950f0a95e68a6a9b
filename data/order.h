// The order in which the rows of one (stage, source, medium) are drawn: each epoch is a permutation
// of them, a pure function of (key, epoch). Shards are permuted and cut into windows of `window`
// shards; inside a window the rows of all its shards are permuted together. So a shard is needed
// once per window, and memory is a few numbers per shard.
//
// Permutations are balanced Feistel networks (Luby and Rackoff, 1988) of eight rounds over the
// smallest even number of bits, the round function being Philox, walked in cycles until the value
// falls below n (Black and Rogaway, 2002). With four rounds one order of five rows came up three
// times as often as it should.
#ifndef DATA_ORDER_H
#define DATA_ORDER_H

#include <stdint.h>

// The place to which a permutation of [0, n) takes x < n. A bijection for every key and n >= 1.
int64_t order_permute(int64_t x, int64_t n, uint64_t key);

typedef struct {
    const uint32_t *rows;  // [count], the rows that pass, ascending. Not owned.
    int64_t count;
    int64_t shards;  // That have such rows.
    const int64_t
        *starts;  // [shards + 1]: shard s has rows[starts[s] .. starts[s + 1]). Not owned.
    int64_t window;
    uint64_t key;
    int64_t epoch;   // Which epoch the tables below are for; -1: none yet.
    int64_t *shard;  // [shards]: the shard at each place of the epoch's order.
    int64_t *first;  // [shards + 1]: rows before it.
} Order;

// The numbers behind the key: seed, stage, source, medium.
void order_init(Order *order, const uint32_t *rows, const int64_t *starts, int64_t shards,
                int64_t window, uint64_t seed, int stage, int source, int medium);
void order_free(Order *order);

// The row at `place` of [0, count) in `epoch`. The tables are made anew when the epoch changes.
uint32_t order_row(Order *order, int64_t epoch, int64_t place);

#endif
