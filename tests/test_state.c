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
    const TrainConfig never = {.spike = 0, .spike_window = 8};
    check_that(!state_is_spike(&run, &never, 1e9), "0 means never");
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
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        check_that(!state_from_text(&back, planner, bad[i][0], &error), "accepted %s", bad[i][0]);
        check_contains(error.text, bad[i][1]);
    }
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
        cmocka_unit_test(test_there_and_back),
    };
    return cmocka_run_group_tests(tests, plan_data, NULL);
}
