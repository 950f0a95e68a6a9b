// What tests on several ranks share: the world, verdicts that all ranks share, the device.
#ifndef TESTS_RANKS_H
#define TESTS_RANKS_H

#include "base/die.h"
#include "parallel/comm.h"
#include "tests/check.h"

static Comm *world;

static inline bool all_agree(bool mine) {
    int64_t all = mine;
    comm_all_reduce_min(world, &all, 1);
    return all == 1;
}

// Starts MPI, takes the device, which ranks may share, and connects the world for data; from now on
// every check_* is collective. All ranks of a test run on one machine.
static inline void ranks_start(int *argc, char ***argv) {
    world = comm_start(argc, argv);
    check_setup(comm_rank(world), all_agree);
    check_device(comm_rank(world));
    Error error;
    CHECK(comm_device_start(world, true, &error) == EXIT_DONE, "%s", error.text);
    comm_connect(world, COMM_GATHERS | COMM_EXCHANGES);
}

#endif
