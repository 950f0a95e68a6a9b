// Taking devices: each thing that can be missing has a message that says what to do, every rank
// gets it, and ranks meet on one GPU only where they may. What is missing is played by the
// emulator; elsewhere only the start itself is shown.
// ranks: 1 2 3
// backends: all
#include <stdlib.h>

#include "tests/ranks.h"

static bool emulated(void) {
    char text[256];
    device_describe(text, sizeof(text));
    return strstr(text, "emulator") != NULL;
}

static void test_starts(void **state) {
    (void)state;
    char text[256] = "";
    device_describe(text, sizeof(text));
    check_that(strlen(text) > 0, "no description");
    const bool cuda = strcmp(device_backend(), "cuda") == 0;
    check_that(cuda == (device_identity() >= 0), "a GPU has a number, a processor has none");
    check_that(cuda == (strstr(text, "sm_") != NULL), "description '%s'", text);
    check_that(device_memory_free(1) > 0, "no memory");
}

// device_start fails with a text that has both parts.
static void check_refused(const char *name, const char *value, const char *part,
                          const char *remedy) {
    Error error = {""};
    setenv(name, value, 1);
    const bool ok = device_start(0, &error);
    unsetenv(name);
    check_that(!ok, "started with %s=%s", name, value);
    check_contains(error.text, part);
    check_contains(error.text, remedy);
}

static void test_says_what_is_missing(void **state) {
    (void)state;
    if (!emulated()) skip();
    check_refused("EMULATOR_DEVICES", "0", "no GPU", "CUDA_VISIBLE_DEVICES");
    check_refused("EMULATOR_DRIVER", "0", "no NVIDIA driver", "run.device=cpu");
    check_refused("EMULATOR_DRIVER", "11080", "it knows CUDA 11.8, this build needs CUDA 13.0",
                  "update the driver");
    check_refused("EMULATOR_CAPABILITY", "7", "compute capability 7.0", "needs 8.0");
}

// One rank's trouble is all ranks' trouble.
static void test_all_refuse_with_one(void **state) {
    (void)state;
    Error error = {""};
    const int last = comm_size(world) - 1;
    if (!emulated() || last == 0) skip();
    if (comm_rank(world) == last) setenv("EMULATOR_DRIVER", "0", 1);
    const int status = comm_device_start(world, true, &error);
    unsetenv("EMULATOR_DRIVER");
    check_that(status == EXIT_FAILED, "status %d without rank %d", status, last);
    check_contains(error.text, last == 1 ? "rank 1: no NVIDIA" : "rank 2: no NVIDIA");
}

static void test_old_nccl(void **state) {
    (void)state;
    Error error = {""};
    const int last = comm_size(world) - 1;
    if (!emulated()) skip();
    if (comm_rank(world) == last) setenv("EMULATOR_NCCL_VERSION", "22105", 1);
    const int status = comm_device_start(world, true, &error);
    unsetenv("EMULATOR_NCCL_VERSION");
    check_that(status == EXIT_FAILED, "status %d with NCCL 2.21.5", status);
    check_contains(error.text, "NCCL 2.21.5 was loaded, and 2.28 or newer is needed");
}

static void test_too_few_devices(void **state) {
    (void)state;
    Error error = {""};
    const int size = comm_size(world);
    if (!emulated() || size == 1) skip();
    setenv("EMULATOR_DEVICES", size == 2 ? "1" : "2", 1);
    const int alone = comm_device_start(world, false, &error);
    check_that(alone == EXIT_CONFIG, "status %d of %d ranks", alone, size);
    check_contains(error.text, size == 2
                                   ? "2 ranks on this node but 1 GPU; start at most 1 rank"
                                   : "3 ranks on this node but 2 GPUs; start at most 2 ranks");
    check_contains(error.text, "run.share_gpu=true");
    const int together = comm_device_start(world, true, &error);
    check_that(together == EXIT_DONE, "%s", error.text);
    const int64_t mine = device_memory_free(size);
    device_shared_by(1);
    const int64_t all = device_memory_free(size);
    check_that(all / mine == (comm_rank(world) == 1 && size == 3 ? 1 : 2), "%lld of %lld free",
               (long long)mine, (long long)all);
    unsetenv("EMULATOR_DEVICES");
    const int apart = comm_device_start(world, false, &error);
    check_that(apart == EXIT_DONE, "%s", error.text);
}

int main(int argc, char **argv) {
    ranks_start(&argc, &argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_starts),
        cmocka_unit_test(test_says_what_is_missing),
        cmocka_unit_test(test_all_refuse_with_one),
        cmocka_unit_test(test_old_nccl),
        cmocka_unit_test(test_too_few_devices),
    };
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    comm_stop(world);
    return failed;
}
