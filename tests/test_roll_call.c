// Roll call: what ranks say, those without a word first, alike ranks together; who speaks, and at
// once where all have answered; answers taken back; a folder that cannot be made.
// ranks: 1
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "base/files.h"
#include "base/roll_call.h"
#include "tests/check.h"

enum { RANKS = 12, TEXT = 512 };

static char folder[512];

// What rank `rank` of RANKS hears at once, and whether it speaks.
static bool answer(char *text, int rank, const char *line) {
    return roll_call(text, TEXT, &(RollCall){folder, rank, RANKS, NULL}, line, 0);
}

static void test_answers(void **state) {
    (void)state;
    char text[TEXT];
    check_path(folder, "hang");
    check_that(answer(text, 2, "in a sum"), "the only one does not speak");
    check_contains(text, "no word from ranks 0 to 1, 3 to 11 within 0 s; rank 2: in a sum");
    for (int rank = RANKS - 1; rank > 0; rank--) {
        if (rank == 5 || rank == 7 || rank == 8) continue;
        const bool speaks = answer(text, rank, rank == 6 ? "out of any wait" : "in a sum");
        check_that(speaks == (rank <= 2), "rank %d: %d", rank, speaks);
    }
    check_contains(text,
                   "no word from ranks 0, 5, 7 to 8 within 0 s; "
                   "ranks 1 to 4, 9 to 11: in a sum; rank 6: out of any wait");
    check_that(!answer(text, 2, "in a sum"), "rank 2 speaks, too");
    for (int rank = RANKS - 1; rank >= 0; rank--) {
        char line[32];
        snprintf(line, sizeof(line), "in sum %d", rank / 2);
        answer(text, rank, line);
    }
    check_contains(text,
                   "ranks 0 to 1: in sum 0; ranks 2 to 3: in sum 1; ranks 4 to 5: in sum 2; "
                   "ranks 6 to 7: in sum 3; and others");
    for (int rank = 0; rank < RANKS - 1; rank++)
        roll_call_end(&(RollCall){folder, rank, RANKS, NULL});
    check_that(answer(text, RANKS - 1, "alone"), "the last one does not speak");
    check_contains(text, "no word from ranks 0 to 10 within 0 s; rank 11: alone");
    char little[24];
    roll_call(little, sizeof(little), &(RollCall){folder, RANKS - 1, RANKS, NULL}, "alone", 0);
    check_that(strcmp(little, "no word from ranks 0 to") == 0, "cut short: '%s'", little);
}

static void *answer_beside(void *text) {
    static bool speaks;
    speaks = roll_call(text, TEXT, &(RollCall){folder, 1, 2, NULL}, "in a sum", 600);
    return &speaks;
}

// Who has heard all waits no longer: this test would be over its time.
static void test_at_once(void **state) {
    (void)state;
    char text[2][TEXT];
    void *speaks = NULL;
    pthread_t thread;
    check_path(folder, "two");
    check_that(pthread_create(&thread, NULL, answer_beside, text[1]) == 0, "no thread");
    check_that(roll_call(text[0], TEXT, &(RollCall){folder, 0, 2, NULL}, "in a sum", 600),
               "rank 0");
    pthread_join(thread, &speaks);
    check_that(!*(bool *)speaks, "rank 1 speaks, too");
    check_contains(text[0], "ranks 0 to 1: in a sum");
    check_contains(text[1], "a rank before this one answers");
}

// Nor who nobody wants to know of.
static void test_left(void **state) {
    (void)state;
    char text[TEXT];
    const bool left = true;
    check_path(folder, "left");
    check_that(!roll_call(text, TEXT, &(RollCall){folder, 0, 2, &left}, "in a sum", 600), "speaks");
}

static void test_no_folder(void **state) {
    (void)state;
    Error error;
    char text[TEXT], file[512];
    check_path(file, "file");
    check_that(file_write(file, "x", 1, &error), "%s", error.text);
    snprintf(folder, sizeof(folder), "%.400s/hang", file);
    check_that(answer(text, 4, "in a sum"), "nobody speaks");
    check_contains(text, file);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_answers),
        cmocka_unit_test(test_at_once),
        cmocka_unit_test(test_left),
        cmocka_unit_test(test_no_folder),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
