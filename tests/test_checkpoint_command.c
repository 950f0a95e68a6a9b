// kintoun checkpoint ls|verify|diff|digest: what they print and their exit codes, on good and bad
// folders.
// ranks: 1
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/files.h"
#include "checkpoint/command.h"
#include "checkpoint/steps.h"
#include "parallel/comm.h"
#include "tests/checkpoint_case.h"
#include "tests/ranks.h"

typedef struct {
    int status;
    char *text;  // What it printed, stdout and stderr.
} Result;

// Runs `checkpoint ARGUMENT ...`; the arguments end with NULL.
static Result run(const char *const *arguments) {
    char *argv[8] = {"checkpoint"}, path[512], memory[7][600];
    int argc = 1;
    for (; arguments[argc - 1] != NULL; argc++) {
        snprintf(memory[argc - 1], sizeof(memory[0]), "%s", arguments[argc - 1]);
        argv[argc] = memory[argc - 1];
    }
    check_path(path, "printed");
    fflush(stdout);
    const int out = dup(1), err = dup(2), fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0666);
    CHECK(out >= 0 && err >= 0 && fd >= 0 && dup2(fd, 1) == 1 && dup2(fd, 2) == 2, "dup");
    Result result = {.status = checkpoint_command(argc, argv)};
    fflush(stdout);
    CHECK(dup2(out, 1) == 1 && dup2(err, 2) == 2, "dup");
    close(out);
    close(err);
    close(fd);
    result.text = file_read(path, 1 << 20, NULL, NULL);
    CHECK(result.text != NULL, "%s", path);
    return result;
}

#define expect(want_status, part, ...)                                                         \
    do {                                                                                       \
        const Result result = run((const char *const[]){__VA_ARGS__, NULL});                   \
        check_that(result.status == (want_status), "exit %d: %s", result.status, result.text); \
        check_contains(result.text, part);                                                     \
        free(result.text);                                                                     \
    } while (0)

static void test_command_line(void **state) {
    (void)state;
    expect(0, "usage: kintoun checkpoint ACTION", "--help");
    expect(0, "usage: kintoun checkpoint ls", "ls", "--help");
    expect(0, "usage: kintoun checkpoint verify", "verify", "--help");
    expect(0, "usage: kintoun checkpoint diff", "diff", "--help");
    expect(0, "usage: kintoun checkpoint digest", "digest", "--help");
    expect(78, "'remove' is no action", "remove");
    expect(78, "'' is no action", "");
    expect(78, "0 folders given", "ls");
    expect(78, "1 folders given", "diff", "a");
    expect(78, "unknown option '--all'", "ls", "--all");
    expect(1, "/nowhere: neither a checkpoint", "ls", "/nowhere");
    expect(1, "/nowhere", "diff", "/nowhere", "/nowhere");
    expect(1, "/nowhere", "digest", "/nowhere");
}

// The last line of what `digest` prints for a folder, up to the first space.
static void digest(char text[33], const char *folder) {
    const Result result = run((const char *const[]){"digest", folder, NULL});
    check_that(result.status == 0, "%s", result.text);
    const char *last = strstr(result.text, "  all of ");
    CHECK(last != NULL && last - result.text >= 32, "%s", result.text);
    snprintf(text, 33, "%s", last - 32);
    free(result.text);
}

static void change(const char *folder, const char *name, int64_t at) {
    char path[PATH_BYTES_MAX];
    int64_t bytes;
    CHECK(path_join(path, folder, name, NULL), "path");
    char *data = file_read(path, INT64_MAX, &bytes, NULL);
    CHECK(data != NULL && at < bytes, "%s", path);
    data[at] ^= 64;
    CHECK(file_write(path, data, bytes, NULL), "%s", path);
    free(data);
}

static void test_on_checkpoints(void **state) {
    (void)state;
    char a[512], b[512], one[600], two[600], other[600];
    uint64_t generation;
    Error error = {""};
    Case c = case_start(world, 1, false);
    check_path(a, "a");
    check_path(b, "b");
    snprintf(one, sizeof(one), "%s/checkpoints/step-00000001", a);
    snprintf(two, sizeof(two), "%s/checkpoints/step-00000002", a);
    snprintf(other, sizeof(other), "%s/checkpoints/step-00000001", b);
    check_that(checkpoint_claim(a, world, &generation, &error), "%s", error.text);
    expect(0, "no checkpoints", "ls", a);
    for (int step = 1; step <= 2; step++) {
        check_that(case_save(&c, a, step, generation, 0, &error), "%s", error.text);
    }
    check_that(checkpoint_claim(b, world, &generation, &error), "%s", error.text);
    check_that(case_save(&c, b, 1, generation, 3000, &error), "%s", error.text);

    expect(0, "step-00000002  step 2  7 files", "ls", a);
    expect(0, "step 1, 7 files, ", "verify", a, b);
    expect(0, "28 tensors are the same, 0 differences", "diff", one, other);
    expect(1, "exp_avg_sq/blocks.0.attn1.q_proj.weight: 1320 of 1320 elements differ, by at most",
           "diff", one, two);
    expect(1, "state.json.step: 1 | 2", "diff", one, two);
    char first[33], again[33];
    digest(first, one);
    digest(again, one);
    check_that(strcmp(first, again) == 0, "%s is not %s", first, again);
    digest(again, other);
    check_that(strcmp(first, again) != 0, "other files have the same digest");

    change(one, "transformer/diffusion_pytorch_model.safetensors", 5000);
    expect(1, "step-00000001: transformer/diffusion_pytorch_model.safetensors: bytes 0 to ",
           "verify", a);
    expect(1, ", 1 fault\n", "verify", one);
    expect(0, "step-00000001  step 1", "ls", one);
    expect(1, "transformer/blocks.0.attn1.q_proj.weight: 1 of 1320 elements differ", "diff", one,
           other);
    digest(again, one);
    check_that(strcmp(first, again) != 0, "a changed byte has the same digest");
    change(two, "MANIFEST", 30);
    expect(1, "refused: MANIFEST: its own checksum", "ls", a);
    expect(1, "MANIFEST: its own checksum", "verify", two);
    change(one, "state.json", 0);
    expect(1, "state.json:1: ", "diff", one, one);
    char path[700];
    snprintf(path, sizeof(path), "%s/transformer/notes.txt", other);
    check_that(file_write(path, "x", 1, &error), "%s", error.text);
    expect(0, "notes.txt: not in the MANIFEST", "verify", b);
    check_that(step_set_aside(a, 2, "refused", &error), "%s", error.text);
    expect(0, "refused-step-00000002  set aside", "ls", a);
    // A pipe is not waited for.
    snprintf(path, sizeof(path), "%s/transformer/x.safetensors", other);
    check_that(mkfifo(path, 0600) == 0, "%s cannot be made", path);
    expect(1, "x.safetensors: neither a file nor a folder", "digest", other);
    expect(1, "x.safetensors: not a regular file", "diff", other, other);
    case_stop(&c);
}

int main(int argc, char **argv) {
    ranks_start(&argc, &argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_command_line),
        cmocka_unit_test(test_on_checkpoints),
    };
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    comm_stop(world);
    return failed;
}
