#define _GNU_SOURCE  // sched_setaffinity
#include "base/cores.h"

#include <ctype.h>
#include <math.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>

#include "base/files.h"

// A quota and its period in microseconds: both from one file, as version 2 has them, or from two.
static double cores_of(const char *folder, const char *first, const char *second) {
    char path[PATH_BYTES_MAX];
    long long number[2] = {0, 0};  // "max" and -1 are no quota.
    const char *const names[2] = {first, second};
    int read = 0;
    for (int i = 0; i < 2 && names[i] != NULL; i++) {
        if (snprintf(path, sizeof(path), "%s/%s", folder, names[i]) >= (int)sizeof(path)) break;
        FILE *file = fopen(path, "r");
        if (file == NULL) break;
        for (int end = second == NULL ? 2 : i + 1; read < end; read++) {
            if (fscanf(file, "%lld", &number[read]) != 1) break;
        }
        fclose(file);
    }
    const bool limited = read == 2 && number[0] > 0 && number[1] > 0;
    return limited ? (double)number[0] / (double)number[1] : INFINITY;
}

// The least of this process's group and those above it, by version 2. A container may see its own
// group as the top.
static double least_cores(const char *root) {
    char group[PATH_BYTES_MAX] = "", folder[3 * PATH_BYTES_MAX];
    snprintf(folder, sizeof(folder), "%s/proc/self/cgroup", root);
    FILE *file = fopen(folder, "r");
    if (file == NULL) return INFINITY;
    while (group[0] == '\0' && fgets(group, sizeof(group), file) != NULL) {
        if (strncmp(group, "0::/", 4) != 0) group[0] = '\0';
    }
    fclose(file);
    group[strcspn(group, "\n")] = '\0';
    double least = INFINITY;
    for (char *end = strrchr(group, '/'); end != NULL; end = strrchr(group, '/')) {
        snprintf(folder, sizeof(folder), "%s/sys/fs/cgroup%s", root, group + 3);
        least = fmin(least, cores_of(folder, "cpu.max", NULL));
        *end = '\0';
    }
    snprintf(folder, sizeof(folder), "%s/sys/fs/cgroup", root);
    return fmin(least, cores_of(folder, "cpu.max", NULL));
}

int cores_quota(const char *root) {
    char folder[PATH_BYTES_MAX];
    snprintf(folder, sizeof(folder), "%s/sys/fs/cgroup/cpu", root);  // Version 1, in a container.
    const double cores =
        fmin(least_cores(root), cores_of(folder, "cpu.cfs_quota_us", "cpu.cfs_period_us"));
    return cores < 1e6 ? (int)ceil(cores) : 0;
}

// Reads "0-27,56-83".
static bool read_set(cpu_set_t *set, const char *root, const char *name) {
    char path[2 * PATH_BYTES_MAX];
    unsigned first, last;
    int end = ',';
    CPU_ZERO(set);
    snprintf(path, sizeof(path), "%s%s", root, name);
    FILE *file = fopen(path, "r");
    if (file == NULL) return false;
    while (end == ',' && fscanf(file, "%u", &first) == 1) {
        last = first;
        end = getc(file);
        if (end == '-' && fscanf(file, "%u", &last) == 1) end = getc(file);
        for (unsigned i = first; i <= last && i < CPU_SETSIZE; i++) CPU_SET(i, set);
    }
    fclose(file);
    return CPU_COUNT(set) > 0;
}

void cores_stay_near(const char *root, const char *bus) {
    char name[128] = "/sys/bus/pci/devices/";
    const size_t used = strlen(name);
    snprintf(name + used, sizeof(name) - used, "%.64s/local_cpulist", bus);
    for (char *c = name + used; *c != '\0'; c++) *c = (char)tolower(*c);
    cpu_set_t all, near, may;
    if (!read_set(&all, root, "/sys/devices/system/cpu/online")) return;
    if (!read_set(&near, root, name)) return;
    if (sched_getaffinity(0, sizeof(may), &may) != 0 || !CPU_EQUAL(&may, &all)) return;
    CPU_AND(&near, &near, &may);
    if (CPU_COUNT(&near) > 0) sched_setaffinity(0, sizeof(near), &near);
}
