// Event files: the bytes are those that TensorBoard's own protobuf classes give
// (tests/golden/tfevents.py), each start has a file of its own, and failed writes are told.
// ranks: 1
#include <dirent.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/files.h"
#include "tests/check.h"
#include "train/tfevents.h"

static const char golden[] =
    "1800000000000000a37f4b2209000000000000f03f1a0d627261696e2e4576656e743a3286bf577a"
    "1b000000000000001a0d9e1309000000000000004010ac022a0d0a0b0a046c6f7373150000003fdfc52b60"
    "2100000000000000017becf609000000000000084010012a140a120a03696d67220b0801100218032203504e47befe"
    "993b"
    "2a00000000000000ae8d91f50900000000000010402a1f0a1d0a03636667420c0807120412020801420268694a080a"
    "060a0474657874a1d8bad6";

// The event files of a folder, each read whole; returns their number.
static int read_events(const char *folder, char *files[8], int64_t bytes[8]) {
    Error error;
    int count;
    char **names = folder_list(folder, &count, &error);
    check_that(names != NULL && count <= 8, "%s: %d files", folder, count);
    for (int i = 0; i < count; i++) {
        char path[PATH_BYTES_MAX];
        check_that(strncmp(names[i], "events.out.tfevents.", 20) == 0, "%s", names[i]);
        check_that(path_join(path, folder, names[i], &error), "%s", error.text);
        files[i] = file_read(path, 1 << 20, &bytes[i], &error);
        check_that(files[i] != NULL, "%s", error.text);
    }
    folder_list_free(names, count);
    return count;
}

static void test_golden_bytes(void **state) {
    (void)state;
    Error error;
    char folder[512], hex[1024] = "";
    check_that(folder_create(check_path(folder, "golden"), &error), "%s", error.text);
    EventFile *events = events_create(folder, 1.0, &error);
    check_that(events != NULL, "%s", error.text);
    events_scalar(events, 2.0, 300, "loss", 0.5f);
    events_image(events, 3.0, 1, "img", (const uint8_t *)"PNG", 3, 2, 1, 3);
    events_text(events, 4.0, 0, "cfg", "hi");
    check_that(events_flush(events, &error), "%s", error.text);
    char *files[8];
    int64_t bytes[8];
    check_that(read_events(folder, files, bytes) == 1, "one file");
    for (int64_t i = 0; i < bytes[0]; i++) {
        snprintf(hex + 2 * i, 3, "%02x", (unsigned)(uint8_t)files[0][i]);
    }
    check_that(strcmp(hex, golden) == 0, "got\n%s, want\n%s", hex, golden);
    check_that(events_close(events, &error), "%s", error.text);
    free(files[0]);
}

static void test_file_of_its_own(void **state) {
    (void)state;
    Error error;
    char folder[512];
    check_that(folder_create(check_path(folder, "two"), &error), "%s", error.text);
    EventFile *first = events_create(folder, 1700000000.5, &error);
    EventFile *second = events_create(folder, 1700000000.9, &error);
    check_that(first != NULL && second != NULL, "%s", error.text);
    events_scalar(second, 1700000001.0, 1, "loss", 1.0f);
    check_that(events_close(first, &error) && events_close(second, &error), "%s", error.text);
    char *files[8];
    int64_t bytes[8];
    check_that(read_events(folder, files, bytes) == 2, "two files");
    check_that(bytes[0] == 40 && bytes[1] > 40, "%lld and %lld bytes", (long long)bytes[0],
               (long long)bytes[1]);
    free(files[0]);
    free(files[1]);
}

static void test_errors(void **state) {
    (void)state;
    Error error;
    char folder[512];
    check_that(events_create(check_path(folder, "missing"), 1.0, &error) == NULL, "no folder");
    check_contains(error.text, "No such file");
    check_that(events_close(NULL, &error), "closing nothing is fine");

    // A disk that is full, by a limit on the size of files.
    check_that(folder_create(check_path(folder, "full"), &error), "%s", error.text);
    EventFile *events = events_create(folder, 1.0, &error);
    struct rlimit old, none;
    check_that(getrlimit(RLIMIT_FSIZE, &old) == 0, "getrlimit");
    none = old;
    none.rlim_cur = 100;
    signal(SIGXFSZ, SIG_IGN);
    check_that(setrlimit(RLIMIT_FSIZE, &none) == 0, "setrlimit");
    for (int i = 0; i < 1000; i++) events_scalar(events, 1.0, i, "loss", 1.0f);
    const bool flushed = events_flush(events, &error);
    const bool closed = events_close(events, NULL);
    check_that(setrlimit(RLIMIT_FSIZE, &old) == 0, "setrlimit");
    check_that(!flushed && !closed, "writing over the limit was not noticed");
    check_contains(error.text, "cannot write");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden_bytes),
        cmocka_unit_test(test_file_of_its_own),
        cmocka_unit_test(test_errors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
