// The watchdog's line where ranks cannot be asked as usual: storage hangs, or the rank that should
// speak does not; a wait that ends while ranks are asked takes the answer back. Each in a process
// of its own, side by side, for they wait for half a minute. Runs as a whole: test_run_hang.sh.
// ranks: 1
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/die.h"
#include "base/files.h"
#include "base/roll_call.h"
#include "base/watchdog.h"
#include "tests/check.h"

enum { CASES = 3, DONE_WELL = 42 };

static const char *const names[CASES] = {"storage", "silent", "back"};

static void path_in(char path[512], int number, const char *file) {
    check_path(path, "%s%s", names[number], file);
}

// Rank 1 of 2 waits in a collective, for longer than its watchdog likes.
static void wait_in_vain(const char *folder) {
    watchdog_roll_call(folder, 1, 2);
    watchdog_start(0.5, NULL);
    watchdog_collective("sum", "world", 7);
}

static void run_case(int number, const char *folder) {
    Error error;
    char path[512];
    CHECK(folder_create(folder, &error), "%s", error.text);
    if (number == 0) {  // What writes to a pipe that nobody reads hangs, as dead storage does.
        path_in(path, number, "/rank-00001.tmp-");
        snprintf(path + strlen(path), 16, "%ld", (long)getpid());
        CHECK(mkfifo(path, 0600) == 0, "no pipe %s", path);
    } else if (number == 1) {
        roll_call(path, sizeof(path), &(RollCall){folder, 0, 2, NULL}, "in a sum", 0);
    }
    wait_in_vain(folder);
    path_in(path, number, "/rank-00001");
    while (number < 2 || !path_exists(path)) clock_sleep(0.05);
    watchdog_done();
    while (path_exists(path)) {  // Goes on working, and is not asked again.
        watchdog_device();
        watchdog_done();
        clock_sleep(0.05);
    }
    watchdog_stop();
    _exit(DONE_WELL);
}

static void test_lines(void **state) {
    (void)state;
    pid_t child[CASES];
    char path[512], *text[CASES];
    for (int i = 0; i < CASES; i++) {
        path_in(path, i, ".log");
        child[i] = fork();
        check_that(child[i] >= 0, "no process");
        if (child[i] > 0) continue;
        const int log = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
        if (log < 0 || dup2(log, STDERR_FILENO) < 0) _exit(1);
        path_in(path, i, "");
        run_case(i, path);
    }
    for (int i = 0; i < CASES; i++) {
        Error error;
        int status = 0;
        path_in(path, i, ".log");
        check_that(waitpid(child[i], &status, 0) == child[i], "lost");
        text[i] = file_read(path, 1 << 16, NULL, &error);
        check_that(text[i] != NULL, "%s", error.text);
        const int want = i == 2 ? DONE_WELL : EXIT_FAILED;
        check_that(WIFEXITED(status) && WEXITSTATUS(status) == want, "%s: status %d: %s", names[i],
                   status, text[i]);
    }
    check_contains(text[0], "in sum #7 of world for 0.5 seconds (run.hang_minutes): ");
    check_contains(text[0], "storage does not answer; the run resumes");
    check_contains(text[1], "a rank before this one answers, and should tell more");
    check_that(text[2][0] == '\0', "who came back says %s", text[2]);
    for (int i = 0; i < CASES; i++) free(text[i]);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_lines)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
