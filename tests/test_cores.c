// Quotas of processor time, read from made files: both versions of control groups, groups above,
// containers, none. Staying on the cores near a device, of made files, too: those who are bound and
// those who are not.
// ranks: 1
#include <omp.h>
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

// The value of a line of /proc/self/status.
static void read_status(char value[512], const char *key) {
    char line[1024];
    FILE *status = fopen("/proc/self/status", "r");
    check_that(status != NULL, "no /proc/self/status");
    value[0] = '\0';
    while (fgets(line, sizeof(line), status) != NULL) {
        if (strncmp(line, key, strlen(key)) == 0) sscanf(line + strlen(key), " %500s", value);
    }
    fclose(status);
}

// The cores that are left, with `list` near the device and `online` in the machine.
static void check_near(const char *want, const char *list, const char *online, const char *what) {
    char got[512];
    put("/sys/devices/system/cpu/online", online);
    put("/sys/bus/pci/devices/0000:1b:00.0/local_cpulist", list);
    cores_stay_near(root, "0000:1B:00.0");
    read_status(got, "Cpus_allowed_list:");
    check_that(strcmp(got, want) == 0, "%s: cores %s, want %s", what, got, want);
}

static void test_near(void **state) {
    (void)state;
    char all[512], first[512], last[512];
    const int cores = omp_get_num_procs();
    check_path(root, "near");
    read_status(all, "Cpus_allowed_list:");
    snprintf(first, sizeof(first), "%.*s", (int)strspn(all, "0123456789"), all);
    const char *end = all + strlen(all);
    while (end > all && end[-1] != '-' && end[-1] != ',') end--;
    snprintf(last, sizeof(last), "%s", end);
    cores_stay_near(root, "0000:1b:00.0");  // No files.
    check_near(all, "", all, "none near");
    check_near(all, "\n", all, "an empty line");
    check_near(all, "many\n", all, "no list");
    check_near(all, "1023\n", all, "one that is not there");
    check_near(all, all, all, "all near");
    check_near(all, first, "0-1022", "bound");
    check_that(omp_get_num_procs() == cores, "other cores");
    char list[1100];
    snprintf(list, sizeof(list), "%s,1020-1023\n", last);
    check_near(last, list, all, "one near");
    check_that(omp_get_num_procs() == 1, "%d cores", omp_get_num_procs());
    check_near(last, first, all, "bound by now");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_version_2),
        cmocka_unit_test(test_version_1),
        cmocka_unit_test(test_near),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
