// What tests on several ranks share: the world, verdicts that all ranks share, the device.
#ifndef TESTS_RANKS_H
#define TESTS_RANKS_H

#include "parallel/comm.h"
#include "tests/check.h"

static Comm *world;

static inline bool all_agree(bool mine) {
    int64_t all = mine;
    comm_all_reduce_min(world, &all, 1);
    return all == 1;
}

// Starts MPI and takes the device; from now on every check_* is collective. All ranks of a test run
// on one machine.
static inline void ranks_start(int *argc, char ***argv) {
    world = comm_start(argc, argv);
    check_setup(comm_rank(world), all_agree);
    check_device(comm_rank(world));
}

#endif
