// Quotas of processor time, read from made files: both versions of control groups, groups above,
// containers, none.
// ranks: 1
#include <stdio.h>
#include <string.h>

#include "base/cores.h"
#include "base/files.h"
#include "tests/check.h"

static char root[512];

static void put(const char *name, const char *text) {
    Error error;
    char path[PATH_BYTES_MAX], folder[PATH_BYTES_MAX];
    snprintf(path, sizeof(path), "%s%s", root, name);
    snprintf(folder, sizeof(folder), "%s", path);
    *strrchr(folder, '/') = '\0';
    check_that(folder_create(folder, &error), "%s", error.text);
    check_that(file_write(path, text, (int64_t)strlen(text), &error), "%s", error.text);
}

static void check_quota(int want, const char *what) {
    const int got = cores_quota(root);
    check_that(got == want, "%s: %d cores, want %d", what, got, want);
}

static void test_version_2(void **state) {
    (void)state;
    check_path(root, "two");
    check_quota(0, "nothing");
    put("/proc/self/cgroup", "7:memory:/a\n0::/pods/one\n");
    check_quota(0, "no files");
    put("/sys/fs/cgroup/pods/one/cpu.max", "max 100000\n");
    check_quota(0, "max");
    put("/sys/fs/cgroup/pods/one/cpu.max", "250000 100000\n");
    check_quota(3, "two and a half");
    put("/sys/fs/cgroup/pods/cpu.max", "50000 50000\n");
    check_quota(1, "the group above");
    put("/sys/fs/cgroup/pods/cpu.max", "nothing\n");
    check_quota(3, "not a number");
    put("/sys/fs/cgroup/pods/cpu.max", "100000");
    check_quota(3, "no period");
    put("/sys/fs/cgroup/pods/cpu.max", "");
    check_quota(3, "an empty file");
    put("/proc/self/cgroup", "0::/\n");
    put("/sys/fs/cgroup/cpu.max", "400000 100000\n");
    check_quota(4, "a container");
}

static void test_version_1(void **state) {
    (void)state;
    check_path(root, "one");
    put("/proc/self/cgroup", "7:memory:/a\n4:cpuset:/x\n2:cpu:/a/b\n0::/\n");
    put("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n");
    put("/sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n");
    check_quota(0, "-1");
    put("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "550000\n");
    check_quota(6, "five and a half");
    put("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "");
    check_quota(0, "an empty file");
    put("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "550000\n");
    Error error;
    char path[PATH_BYTES_MAX];
    snprintf(path, sizeof(path), "%s/sys/fs/cgroup/cpu/cpu.cfs_period_us", root);
    check_that(folder_remove(path, &error), "%s", error.text);
    check_quota(0, "no period");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_version_2),
        cmocka_unit_test(test_version_1),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
