#!/bin/sh
# Makes a stand-in for libcuda.so.1, with which cuDNN builds plans on a machine that has no driver.
#   sh tests/cudnn/driver.sh STUB FOLDER
# STUB is the toolkit's stubs/libcuda.so, whose symbols it defines. The device stays absent (cuInit
# and the runtime's door, cuGetExportTable, fail); loading of what NVRTC compiled succeeds, and the
# kernels' names go to stderr with KERNELS=1.
stub=$1 folder=$2
{
    cat <<'C'
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
enum { NO_DEVICE = 34, NOT_FOUND = 500 };
static char thing[64];
static int named(void **out, const char *name) {
    *out = thing;
    if (getenv("KERNELS") != NULL) fprintf(stderr, "kernel %s\n", name);
    return 0;
}
static int given(void **out) {
    *out = thing;
    return 0;
}
int cuInit(unsigned flags) { return (void)flags, NO_DEVICE; }
int cuGetExportTable(void) { return NO_DEVICE; }
int cuDriverGetVersion(int *version) { return *version = 13000, NO_DEVICE; }
int cuDeviceGetCount(int *count) { return *count = 1, 0; }
int cuDeviceGet(int *device) { return *device = 0, 0; }
int cuCtxGetCurrent(void **context) { return given(context); }
int cuLibraryLoadData(void **library) { return given(library); }
int cuLibraryGetKernel(void **kernel, void *from, const char *name) {
    return (void)from, named(kernel, name);
}
int cuLibraryGetModule(void **module) { return given(module); }
int cuKernelGetFunction(void **function) { return given(function); }
int cuModuleLoadData(void **module) { return given(module); }
int cuModuleLoadDataEx(void **module) { return given(module); }
int cuModuleGetFunction(void **function, void *from, const char *name) {
    return (void)from, named(function, name);
}
int cuModuleGetGlobal_v2(void **address, size_t *bytes) {
    if (bytes != NULL) *bytes = sizeof(thing);
    return address != NULL ? given(address) : 0;
}
int cuGetErrorString(int error, const char **text) { return (void)error, *text = "stand-in", 0; }
int cuGetErrorName(int error, const char **text) { return (void)error, *text = "stand-in", 0; }
int cuGetProcAddress_v2(const char *name, void **address, int version, unsigned long long flags,
                        int *found) {
    char longer[256];
    snprintf(longer, sizeof(longer), "%s_v2", name);
    *address = dlsym(RTLD_DEFAULT, name);
    if (*address == NULL) *address = dlsym(RTLD_DEFAULT, longer);
    if (found != NULL) *found = *address == NULL;
    return (void)version, (void)flags, *address != NULL ? 0 : NOT_FOUND;
}
int cuGetProcAddress(const char *name, void **address, int version, unsigned long long flags) {
    return cuGetProcAddress_v2(name, address, version, flags, NULL);
}
C
} >"$folder/libcuda.c"
# All others do nothing and succeed.
nm -D --defined-only "$stub" | awk '$3 ~ /^cu/ { print $3 }' | sort -u |
    while read -r name; do
        grep -q "^int $name(" "$folder/libcuda.c" || echo "int $name(void) { return 0; }"
    done >"$folder/rest.c"
cat "$folder/rest.c" >>"$folder/libcuda.c"
gcc -shared -fPIC -w -Wl,-soname,libcuda.so.1 -o "$folder/libcuda.so.1" "$folder/libcuda.c" -ldl
