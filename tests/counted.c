// Loaded before a program of the CPU backend (LD_PRELOAD), counts what it makes by its own calls:
// memory of the device, and primitives of oneDNN. As the emulator does for CUDA, it leaves lines
// "COUNT WHAT" in EMULATOR_COUNTS.RANK at the end.
#define _GNU_SOURCE  // RTLD_NEXT, dl_iterate_phdr
#include <dlfcn.h>
#include <link.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct {
    uintptr_t begin, end;
} Range;

static atomic_long memory, primitives;

// The program comes first.
static int find_program(struct dl_phdr_info *info, size_t size, void *range) {
    (void)size;
    Range *const program = range;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *const part = &info->dlpi_phdr[i];
        if (part->p_type != PT_LOAD || !(part->p_flags & PF_X)) continue;
        program->begin = info->dlpi_addr + part->p_vaddr;
        program->end = program->begin + part->p_memsz;
    }
    return 1;
}

// oneDNN and others take memory by the same call.
int posix_memalign(void **result, size_t alignment, size_t bytes) {
    int (*real)(void **, size_t, size_t) = NULL;
    const uintptr_t caller = (uintptr_t)__builtin_return_address(0);
    Range program = {0, 0};
    *(void **)&real = dlsym(RTLD_NEXT, "posix_memalign");
    dl_iterate_phdr(find_program, &program);
    if (caller >= program.begin && caller < program.end) memory++;
    return real(result, alignment, bytes);
}

int dnnl_primitive_create(void *primitive, const void *describe) {
    int (*real)(void *, const void *) = NULL;
    *(void **)&real = dlsym(RTLD_NEXT, "dnnl_primitive_create");
    primitives++;
    return real(primitive, describe);
}

__attribute__((destructor)) static void write_counts(void) {
    const char *const prefix = getenv("EMULATOR_COUNTS"), *rank = getenv("OMPI_COMM_WORLD_RANK");
    char path[4096];
    if (prefix == NULL || rank == NULL) return;  // mpirun, or another program.
    snprintf(path, sizeof(path), "%s.%s", prefix, rank);
    FILE *const file = fopen(path, "w");
    if (file == NULL) return;
    fprintf(file, "%ld device memory\n%ld primitive of oneDNN\n", memory, primitives);
    fclose(file);
}
