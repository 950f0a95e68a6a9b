// Which cores a process may keep busy.
#ifndef BASE_CORES_H
#define BASE_CORES_H

// What a quota of processor time leaves (Linux control groups; containers have them): the least of
// this process's group and those above it, rounded up to whole cores, or 0 where there is none. Of
// version 1 a container's own. `root` is where the system's files are: "" but for tests. Local.
int cores_quota(const char *root);

// Where this thread may run on every core of the machine (nobody has bound it), it and those that
// it starts stay on the cores that are near the device at `bus` from now on: "0000:1b:00.0", in
// capitals, too, as CUDA writes it. `root` as above. Local.
void cores_stay_near(const char *root, const char *bus);

#endif
