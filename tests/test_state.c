// state.json: there and back; what does not fit is refused; the spike rule is median + k * MAD over
// a full window.
// ranks: 1
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "tests/check.h"
#include "tests/plan_maker.h"
#include "train/state.h"

static void test_spikes(void **state) {
    (void)state;
    static RunState run;
    const TrainConfig config = {.spike = 4, .spike_window = 8};
    const double norms[] = {100, 3, 1, 2, 4, 5, 3, 3, 2};  // The first one leaves the window.
    for (int i = 0; i < 9; i++) {
        check_that(i >= 8 || !state_is_spike(&run, &config, 1e9), "a spike before 8 norms");
        state_add_norm(&run, &config, norms[i]);
    }
    // Sorted 1 2 2 3 3 3 4 5: median 3; distances 0 0 0 1 1 1 2 2: MAD 1.
    check_that(!state_is_spike(&run, &config, 7), "3 + 4 * 1 is no spike");
    check_that(state_is_spike(&run, &config, 7.001), "more is one");
    state_restart_norms(&run);
    check_that(!state_is_spike(&run, &config, 1e9), "a spike in an empty window");
    const TrainConfig never = {.spike = 0, .spike_window = 8};
    check_that(!state_is_spike(&run, &never, 1e9), "0 means never");
}

// A window of another size than the ring was made with is filled anew before anything is a spike.
static void test_other_window(void **state) {
    (void)state;
    const TrainConfig narrow = {.spike = 4, .spike_window = 8};
    const TrainConfig wide = {.spike = 4, .spike_window = 16};
    for (int direction = 0; direction < 2; direction++) {
        static RunState run;
        const TrainConfig *before = direction == 0 ? &narrow : &wide;
        const TrainConfig *after = direction == 0 ? &wide : &narrow;
        run = (RunState){0};
        for (int i = 0; i < 40; i++) state_add_norm(&run, before, 1 + i % 3);
        check_that(state_is_spike(&run, before, 1e9), "no spike in a full window");
        for (int64_t i = 0; i < after->spike_window; i++) {
            check_that(!state_is_spike(&run, after, 1e9), "a spike after %lld norms", (long long)i);
            state_add_norm(&run, after, 1);
        }
        check_that(state_is_spike(&run, after, 1e9), "no spike in the new window");
    }
    static RunState young;  // A ring that is not full yet goes on in a wider window.
    for (int i = 0; i < 5; i++) state_add_norm(&young, &narrow, 1);
    for (int i = 0; i < 11; i++) state_add_norm(&young, &wide, 1);
    check_that(state_is_spike(&young, &wide, 2), "16 norms do not fill the window");
}

static void test_there_and_back(void **state) {
    (void)state;
    Planner *planner = plan_open_default();
    static RunState run, back;
    static Config config;
    config.train.spike_window = 16;
    state_init(&run, planner);
    state_init(&back, planner);
    StepPlan *plan = step_plan_create(planner);
    for (int i = 0; i < 33; i++) {
        plan_step(plan, planner, &run.cursor);
        state_add_norm(&run, &config.train, 1 / (i + 3.0));
    }
    run.step = 33;
    run.updates = 31;
    run.skipped = 2;
    run.corrupt = 5;
    char *text = state_to_text(&run, planner, &config);
    Error error;
    check_that(state_from_text(&back, planner, text, &error), "%s", error.text);
    char *again = state_to_text(&back, planner, &config);
    check_that(strcmp(text, again) == 0, "%s\nbecame\n%s", text, again);
    check_that(back.step == 33 && back.updates == 31 && back.corrupt == 5, "numbers lost");

    const char *const bad[][2] = {
        {"{", "state.json:"},
        {"{\"step\": 3}", "updates"},
        {"{\"step\": 1, \"updates\": 2, \"cursor\": {}, \"spike\": {\"count\": 0, \"norms\": []}, "
         "\"faults\": {\"skipped\": 0, \"skipped_in_row\": 0, \"corrupt\": 0}}",
         "make no sense"},
        {"{\"step\": 2, \"updates\": 2, \"cursor\": {}, \"spike\": {\"count\": 1, \"norms\": "
         "[1, 2]}, \"faults\": {\"skipped\": 0, \"skipped_in_row\": 0, \"corrupt\": 0}}",
         "2 norms of 1 make no sense"},
        {"{\"step\": 2, \"updates\": 2, \"cursor\": {}, \"spike\": {\"count\": 9, \"norms\": "
         "[]}, \"faults\": {\"skipped\": 0, \"skipped_in_row\": 0, \"corrupt\": 0}}",
         "0 norms of 9 make no sense"},
        {"{\"step\": 2, \"updates\": 2, \"cursor\": {}, \"spike\": {\"count\": "
         "9223372036854775807, \"norms\": [1]}, \"faults\": {\"skipped\": 0, \"skipped_in_row\": "
         "0, "
         "\"corrupt\": 0}}",
         "1 norms of 9223372036854775807 make no sense"},
        {"{\"step\": 2, \"updates\": 2, \"cursor\": {}, \"spike\": {\"count\": 0, \"norms\": "
         "[]}, \"faults\": {\"skipped\": 0, \"skipped_in_row\": 0, \"corrupt\": -1}}",
         "-1 corrupt samples in 2 steps make no sense"},
        {"{\"step\": 2, \"updates\": 2, \"cursor\": {}, \"spike\": {\"count\": 1, \"norms\": "
         "[\"x\"]}, \"faults\": {\"skipped\": 0, \"skipped_in_row\": 0, \"corrupt\": 0}}",
         "norm 0 is no number"},
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        check_that(!state_from_text(&back, planner, bad[i][0], &error), "accepted %s", bad[i][0]);
        check_contains(error.text, bad[i][1]);
    }
    memcpy(strstr(again, "\"step\": 33"), "\"step\": 34", 10);  // The state's, not the cursor's.
    check_that(!state_from_text(&back, planner, again, &error), "two steps");
    check_contains(error.text, "step 34, but its cursor is at step 33");
    free(text);
    free(again);
    step_plan_free(plan);
    state_free(&run);
    state_free(&back);
    planner_free(planner);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_spikes),
        cmocka_unit_test(test_other_window),
        cmocka_unit_test(test_there_and_back),
    };
    return cmocka_run_group_tests(tests, plan_data, NULL);
}
