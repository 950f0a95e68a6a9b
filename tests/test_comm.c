// Communicators: every rank knows the result of each collective without asking the others; sizes
// are uneven, zero, and larger than one message. `test_comm odd` and `test_comm counts` misuse them
// on purpose for tests/test_comm_check.sh.
// ranks: 1 2 3 4
// backends: all
// device: 1 2 4
#include <stdlib.h>
#include <string.h>

#include "parallel/comm.h"
#include "tests/ranks.h"

// Byte i of what `from` gives to `to`.
static uint8_t byte_of(int from, int to, int64_t i) {
    return (uint8_t)(31 * from + 17 * to + 7 * i + (i >> 12));
}

// Shared with the device.
static uint8_t *bytes_new(int64_t count) {
    uint8_t *bytes = device_allocate_shared("bytes", count + 1);
    memset(bytes, 0xee, (size_t)count + 1);
    return bytes;
}

static void check_part(const char *what, const uint8_t *got, int from, int to, int64_t count) {
    bool right = true;
    stream_wait(NULL);
    for (int64_t i = 0; i < count; i++) right = right && got[i] == byte_of(from, to, i);
    check_that(right, "%s: %lld bytes from %d to %d are wrong", what, (long long)count, from, to);
}

static void test_all_gather(void **state) {
    (void)state;
    enum { COUNT = 1000 };
    const int rank = comm_rank(world), size = comm_size(world);
    uint8_t *out = bytes_new(size * COUNT), *in = bytes_new(COUNT);
    for (int i = 0; i < COUNT; i++) in[i] = byte_of(rank, 0, i);
    comm_all_gather(world, out, in, COUNT, NULL);
    for (int r = 0; r < size; r++) check_part("all_gather", out + r * COUNT, r, 0, COUNT);
    comm_all_gather(world, out, in, 0, NULL);
    check_part("all_gather of nothing", out, 0, 0, COUNT);
    free_all(out, in);
}

static void gather_slices(int64_t scale, int64_t odd) {
    const int rank = comm_rank(world), size = comm_size(world);
    int64_t offsets[64] = {5};
    for (int r = 0; r < size; r++) {
        offsets[r + 1] = offsets[r] + (r % 3 == 1 ? 0 : r * scale + odd);
    }
    uint8_t *buffer = bytes_new(offsets[size]);
    for (int64_t i = 0; i < offsets[rank + 1] - offsets[rank]; i++) {
        buffer[offsets[rank] + i] = byte_of(rank, 0, i);
    }
    comm_all_gather_slices(world, buffer, offsets, NULL);
    for (int r = 0; r < size; r++) {
        check_part("slices", buffer + offsets[r], r, 0, offsets[r + 1] - offsets[r]);
    }
    check_that(buffer[4] == 0xee && buffer[offsets[size]] == 0xee, "wrote outside of the slices");
    device_free(buffer);
}

static void test_all_gather_slices(void **state) {
    (void)state;
    gather_slices(100, 3);
    gather_slices(1, 0);
    gather_slices(0, (1 << 24) + 12345);  // More than a message.
}

// Rank r sends (r * 3 + s * 5) % 4 * scale + odd bytes to rank s; for scale = odd = 0 nothing at
// all.
static void exchange_all(int64_t scale, int64_t odd) {
    const int rank = comm_rank(world), size = comm_size(world);
    int64_t send_offsets[64] = {0}, receive_offsets[64] = {0};
    for (int s = 0; s < size; s++) {
        send_offsets[s + 1] = send_offsets[s] + (rank * 3 + s * 5) % 4 * scale + odd;
        receive_offsets[s + 1] = receive_offsets[s] + (s * 3 + rank * 5) % 4 * scale + odd;
    }
    uint8_t *send = bytes_new(send_offsets[size]), *receive = bytes_new(receive_offsets[size]);
    for (int s = 0; s < size; s++) {
        for (int64_t i = 0; i < send_offsets[s + 1] - send_offsets[s]; i++) {
            send[send_offsets[s] + i] = byte_of(rank, s, i);
        }
    }
    comm_all_to_all(world, receive, receive_offsets, send, send_offsets, NULL);
    for (int s = 0; s < size; s++) {
        check_part("all_to_all", receive + receive_offsets[s], s, rank,
                   receive_offsets[s + 1] - receive_offsets[s]);
    }
    check_that(receive[receive_offsets[size]] == 0xee, "wrote behind the end");
    free_all(send, receive);
}

static void test_all_to_all(void **state) {
    (void)state;
    exchange_all(1000, 0);
    exchange_all(0, 0);
    exchange_all(0, 77);
    exchange_all(6 << 20, 3);  // Up to 18 MiB: more than a message, for some pairs only.
}

static void test_broadcast(void **state) {
    (void)state;
    const int64_t counts[] = {0, 1, 1000, (1 << 24) + 9};
    for (int root = 0; root < comm_size(world); root++) {
        for (int k = 0; k < 4; k++) {
            uint8_t *buffer = bytes_new(counts[k]);
            for (int64_t i = 0; comm_rank(world) == root && i < counts[k]; i++) {
                buffer[i] = byte_of(root, 9, i);
            }
            comm_broadcast(world, buffer, counts[k], root);
            check_part("broadcast", buffer, root, 9, counts[k]);
            device_free(buffer);
        }
    }
}

static void test_all_reduce(void **state) {
    (void)state;
    enum { COUNT = 300 };
    const int rank = comm_rank(world), size = comm_size(world);
    int64_t sum[COUNT], max[COUNT], min[COUNT], want_sum[COUNT], want_max[COUNT], want_min[COUNT];
    for (int i = 0; i < COUNT; i++) {  // Rank r gives (r + 1) * (i - 100) * 10^12.
        const int64_t x = (i - 100) * 1000000000000;
        sum[i] = max[i] = min[i] = (rank + 1) * x;
        want_sum[i] = x * size * (size + 1) / 2;
        want_max[i] = x > 0 ? size * x : x;
        want_min[i] = x > 0 ? x : size * x;
    }
    comm_all_reduce_sum(world, sum, COUNT);
    comm_all_reduce_max(world, max, COUNT);
    comm_all_reduce_min(world, min, COUNT);
    check_equal("sum", sum, want_sum, COUNT);
    check_equal("max", max, want_max, COUNT);
    check_equal("min", min, want_min, COUNT);
}

static void test_split(void **state) {
    (void)state;
    const int rank = comm_rank(world), size = comm_size(world);
    Comm *half = comm_split(world, rank % 2, -rank, "half");  // Even and odd, last first.
    const int members = (size + 1 - rank % 2) / 2;
    check_that(comm_size(half) == members, "half has %d of %d", comm_size(half), members);
    check_that(comm_rank(half) == members - 1 - rank / 2, "rank %d of half", comm_rank(half));
    check_that(strcmp(comm_name(half), "half") == 0, "name %s", comm_name(half));
    int64_t sum = rank, want = 0;
    for (int r = rank % 2; r < size; r += 2) want += r;
    comm_all_reduce_sum(half, &sum, 1);
    check_equal("sum of half", &sum, &want, 1);
    check_that(comm_collectives(half) == 1, "%lld collectives", (long long)comm_collectives(half));
    comm_free(half);
    comm_free(NULL);

    Comm *node = comm_split_node(world, "node");  // Tests run on one machine.
    check_that(comm_size(node) == size && comm_rank(node) == rank, "node has %d ranks",
               comm_size(node));
    comm_free(node);
}

static void test_counters(void **state) {
    (void)state;
    const int size = comm_size(world);
    uint8_t *out = bytes_new(64 * 10), *in = bytes_new(10);
    const int64_t collectives = comm_collectives(world), bytes = comm_bytes(world);
    const double seconds = comm_seconds(world);
    comm_all_gather(world, out, in, 10, NULL);
    comm_barrier(world);
    const int64_t counted = comm_collectives(world) - collectives;
    const int64_t sent = comm_bytes(world) - bytes;
    const double spent = comm_seconds(world) - seconds;
    check_that(counted == 2, "%lld collectives", (long long)counted);
    check_that(sent == 10 * (size - 1), "sent %lld bytes", (long long)sent);
    check_that(spent >= 0 && spent < 60, "took %g s", spent);
    free_all(out, in);
}

// With COMM_CHECK=1 these must end in one line that names rank 1.
static void misuse(const char *how) {
    uint8_t *out = bytes_new(640), *in = bytes_new(64);
    Comm *data = comm_split(world, 0, comm_rank(world), "data");
    comm_connect(data, COMM_GATHERS | COMM_EXCHANGES);
    comm_all_gather(data, out, in, 10, NULL);
    if (strcmp(how, "odd") == 0) {
        if (comm_rank(world) == 1) comm_broadcast(data, out, 12, 0);
        comm_all_gather(data, out, in, 10, NULL);
    } else if (strcmp(how, "size") == 0) {
        comm_all_gather(data, out, in, comm_rank(world) == 1 ? 11 : 10, NULL);
    } else if (strcmp(how, "counts") == 0) {
        int64_t offsets[64] = {0};
        for (int i = 0; i < comm_size(world); i++) offsets[i + 1] = offsets[i] + 8;
        int64_t send_offsets[64];
        memcpy(send_offsets, offsets, sizeof(offsets));
        if (comm_rank(world) == 1) send_offsets[1] = 4;
        comm_all_to_all(data, out, offsets, in, send_offsets, NULL);
    }
}

static void test_scattered(void **state) {
    (void)state;
    static const struct {
        int want, ranks;
        int64_t nodes[6];
    } cases[] = {{-1, 1, {0}},          {-1, 6, {0, 0, 0, 3, 3, 3}}, {-1, 3, {0, 1, 2}},
                 {-1, 4, {0, 0, 0, 3}}, {2, 4, {0, 1, 0, 1}},        {4, 6, {0, 0, 2, 2, 0, 2}}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        const int got = comm_scattered(cases[i].nodes, cases[i].ranks);
        check_that(got == cases[i].want, "case %zu: %d, want %d", i, got, cases[i].want);
    }
}

int main(int argc, char **argv) {
    ranks_start(&argc, &argv);
    if (argc > 1) misuse(argv[1]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_gather), cmocka_unit_test(test_all_gather_slices),
        cmocka_unit_test(test_all_to_all), cmocka_unit_test(test_broadcast),
        cmocka_unit_test(test_all_reduce), cmocka_unit_test(test_split),
        cmocka_unit_test(test_counters),   cmocka_unit_test(test_scattered),
    };
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    comm_stop(world);
    return failed;
}
