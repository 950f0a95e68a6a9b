// What the emulator's parts share: its lock, random numbers, errors, names of functions.
#include "tests/emulator/emulator.h"

#include <cxxabi.h>
#include <elf.h>
#include <fcntl.h>
#include <link.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <map>
#include <string>

namespace emulator {

// One for the program.
static struct {
    std::recursive_mutex lock;
    bool started;
    uint64_t seed, random;
    enum { UP, DOWN, RANDOM } order;
    cudaError_t error;
    int64_t rank;
} state;
static std::map<std::string, int64_t> &counts = *new std::map<std::string, int64_t>();

std::recursive_mutex &lock() {
    return state.lock;
}

static int64_t environment(const char *name, int64_t otherwise) {
    const char *text = getenv(name);
    return text != NULL && *text != '\0' ? strtoll(text, NULL, 10) : otherwise;
}

// One line "COUNT WHAT" for each.
static void write_counts() {
    const char *prefix = getenv("EMULATOR_COUNTS");
    if (prefix == NULL || *prefix == '\0') return;
    const std::string path = std::string(prefix) + "." + std::to_string(state.rank);
    FILE *file = fopen(path.c_str(), "w");
    if (file == NULL) return;
    for (const auto &i : counts) fprintf(file, "%ld %s\n", i.second, i.first.c_str());
    fclose(file);
}

static void at_end(int status, void *) {
    write_counts();
    if (status == 0 || status == 77) return;
    fprintf(stderr, "emulator: this was EMULATOR_SEED=%lu EMULATOR_ORDER=%s\n", state.seed,
            state.order == state.UP     ? "up"
            : state.order == state.DOWN ? "down"
                                        : "random");
}

static void start() {
    if (state.started) return;
    state.started = true;
    const char *order = getenv("EMULATOR_ORDER");
    const std::string name = order != NULL && *order != '\0' ? order : "random";
    if (name != "up" && name != "down" && name != "random") {
        DIE("EMULATOR_ORDER=%s is none of up, down, random", order);
    }
    state.order = name == "up" ? state.UP : name == "down" ? state.DOWN : state.RANDOM;
    state.seed = (uint64_t)environment("EMULATOR_SEED", 1);
    // Ranks differ from each other; rank 0 is like a program alone.
    state.rank = environment("OMPI_COMM_WORLD_RANK", environment("PMI_RANK", 0));
    state.random = (state.seed << 16) + (uint64_t)state.rank;
    on_exit(at_end, NULL);
}

// SplitMix64.
uint32_t random_below(uint32_t n) {
    start();
    uint64_t z = state.random += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return (uint32_t)(((z ^ z >> 31) >> 32) * n >> 32);
}

bool downwards() {
    start();
    return state.order == state.DOWN || (state.order == state.RANDOM && random_below(2) == 1);
}

void count(const char *what) {
    const std::lock_guard<std::recursive_mutex> guard(lock());
    start();
    counts[what]++;
}

cudaError_t report(cudaError_t error) {
    if (error != cudaSuccess) state.error = error;
    return error;
}

// The symbol of the program's file that holds `address`, an address in the file.
static const char *find_symbol(const char *file, uint64_t address) {
    const Elf64_Ehdr *head = (const Elf64_Ehdr *)file;
    const Elf64_Shdr *sections = (const Elf64_Shdr *)(file + head->e_shoff);
    for (int i = 0; i < head->e_shnum; i++) {
        if (sections[i].sh_type != SHT_SYMTAB) continue;
        const Elf64_Sym *symbols = (const Elf64_Sym *)(file + sections[i].sh_offset);
        const char *names = file + sections[sections[i].sh_link].sh_offset;
        for (uint64_t s = 0; s < sections[i].sh_size / sizeof(*symbols); s++) {
            if (ELF64_ST_TYPE(symbols[s].st_info) != STT_FUNC) continue;
            if (address - symbols[s].st_value < symbols[s].st_size) {
                return names + symbols[s].st_name;
            }
        }
    }
    return NULL;
}

static int find_base(struct dl_phdr_info *info, size_t, void *base) {
    *(uint64_t *)base = info->dlpi_addr;
    return 1;
}

const char *function_name(const void *function) {
    static char text[256];
    snprintf(text, sizeof(text), "%p", function);
    uint64_t base = 0;
    struct stat facts;
    dl_iterate_phdr(find_base, &base);
    const int fd = open("/proc/self/exe", O_RDONLY);
    if (fd < 0 || fstat(fd, &facts) != 0) return text;
    void *file = mmap(NULL, (size_t)facts.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    close(fd);
    if (file == MAP_FAILED) return text;
    const char *symbol = find_symbol((const char *)file, (uint64_t)function - base);
    if (symbol != NULL) {
        int status = 0;
        char *plain = abi::__cxa_demangle(symbol, NULL, NULL, &status);
        snprintf(text, sizeof(text), "%s", status == 0 ? plain : symbol);
        free(plain);
    }
    munmap(file, (size_t)facts.st_size);
    return text;
}

void fault(const char *format, ...) {
    char what[512], where[512] = "";
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(what, sizeof(what), format, arguments);
    va_end(arguments);
    if (running() != NULL) {
        snprintf(where, sizeof(where), " in block (%u, %u, %u), thread (%u, %u, %u) of kernel %s",
                 blockIdx.x, blockIdx.y, blockIdx.z, threadIdx.x, threadIdx.y, threadIdx.z,
                 function_name(running()->kernel));
    }
    DIE("%s%s", what, where);
}

}  // namespace emulator

cudaError_t cudaGetLastError() {
    const std::lock_guard<std::recursive_mutex> guard(emulator::lock());
    const cudaError_t error = emulator::state.error;
    emulator::state.error = cudaSuccess;
    return error;
}

cudaError_t cudaPeekAtLastError() {
    return emulator::state.error;
}
