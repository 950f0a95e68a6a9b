// ./kintoun: runs the build that fits this machine and the settings run.device and run.precision,
// build/DEVICE-PRECISION/kintoun beside this program, with the same arguments; those two settings
// stay behind where the command has none (all but train and plan). It reads nothing else and leaves
// every complaint about the settings to the program that it starts.
#include <errno.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/die.h"
#include "base/settings.h"

enum { PATH_BYTES = 4096, OVERRIDES_MAX = 64 };
typedef enum { DEVICE_AUTO, DEVICE_CUDA, DEVICE_CPU } Device;
typedef enum { PRECISION_AUTO, PRECISION_BF16, PRECISION_FP32 } Precision;

typedef struct {
    int device, precision;
    bool understood;  // All of what was read.
} Choice;

static const Setting table[] = {
    {"run.device", SETTING_CHOICE, offsetof(Choice, device), "auto", .choices = "auto|cuda|cpu",
     .help = "what to run on"},
    {"run.precision", SETTING_CHOICE, offsetof(Choice, precision), "auto",
     .choices = "auto|bf16|fp32", .help = "of weights and activations"},
    {.key = NULL}};

static int refuse(const char *what, const char *detail, const char *remedy) {
    fprintf(stderr, "kintoun: %s%s; %s\n", what, detail, remedy);
    return EXIT_CONFIG;
}

// What launch/find-cuda missed when this was built, as it left it in build/cuda.mk.
static const char *missing_for_cuda(const char *folder) {
    static char line[256];
    static const char word[] = "CUDA_MISSING :=";
    snprintf(line, sizeof(line), "%.200s/build/cuda.mk", folder);
    FILE *const file = fopen(line, "r");
    while (file != NULL && fgets(line, sizeof(line), file) != NULL) {
        if (strncmp(line, word, strlen(word)) != 0) continue;
        line[strcspn(line, "\n")] = '\0';
        fclose(file);
        return line + strlen(word);
    }
    if (file != NULL) fclose(file);
    return " the programs in build/cuda-*, which make builds";
}

static int refuse_cuda(const char *folder, bool has_cuda) {
    if (!has_cuda) {
        return refuse(
            "run.device = cuda, but this was built without it, missing:", missing_for_cuda(folder),
            "install that and run make again, or set run.device=cpu");
    }
    return refuse("run.device = cuda, but there is no GPU here (/dev/nvidia*)", "",
                  "set run.device=cpu");
}

static bool has_gpu(void) {
    glob_t found;
    const bool any = glob("/dev/nvidia[0-9]*", 0, NULL, &found) == 0 && found.gl_pathc > 0;
    globfree(&found);
    return any;
}

static bool multiplies_bf16(void) {
#ifdef __x86_64__
    return __builtin_cpu_supports("avx512bf16") != 0;
#else
    return false;
#endif
}

// Whether the command reads a config and settings.
static bool has_settings(int argc, char **argv) {
    return argc > 2 && (strcmp(argv[1], "train") == 0 || strcmp(argv[1], "plan") == 0);
}

// The settings of the config, and of the command line.
static Choice read_choice(int argc, char **argv) {
    static char text[1 << 20];
    static Problems problems;  // Others report them, and better.
    const char *overrides[OVERRIDES_MAX];
    int count = 0;
    size_t bytes = 0;
    for (int i = 2; i < argc; i++) {
        const bool wanted = strncmp(argv[i], "run.", 4) == 0;
        if (wanted && count < OVERRIDES_MAX) overrides[count++] = argv[i];
    }
    FILE *const file = has_settings(argc, argv) ? fopen(argv[2], "r") : NULL;
    if (file != NULL) {
        bytes = fread(text, 1, sizeof(text), file);
        fclose(file);
    }
    Choice choice;
    settings_parse(&choice, table, text, (int64_t)bytes, "", overrides, count, &problems);
    choice.understood = problems.count == 0;
    return choice;
}

// Takes what chose the build out of the words that the program gets.
static void drop_choice(char **argv) {
    char **kept = argv;
    for (; *argv != NULL; argv++) {
        bool chose = false;
        for (const Setting *s = table; s->key != NULL; s++) {
            const size_t length = strlen(s->key);
            chose = chose || (strncmp(*argv, s->key, length) == 0 && (*argv)[length] == '=');
        }
        if (!chose) *kept++ = *argv;
    }
    *kept = NULL;
}

int main(int argc, char **argv) {
    char path[PATH_BYTES], build[PATH_BYTES];
    const ssize_t length = readlink("/proc/self/exe", path, sizeof(path) - 1);
    CHECK(length > 0 && length < PATH_BYTES - 64, "cannot tell where this program is");
    path[length] = '\0';
    *strrchr(path, '/') = '\0';

    const Choice choice = read_choice(argc, argv);
    snprintf(build, sizeof(build), "%.4000s/build/cuda-fp32/kintoun", path);
    const bool has_cuda = access(build, X_OK) == 0;
    const bool cuda =
        choice.device == DEVICE_CUDA || (choice.device != DEVICE_CPU && has_cuda && has_gpu());
    const bool plans = argc > 1 && strcmp(argv[1], "plan") == 0;  // For elsewhere, perhaps.
    if (cuda && (!has_cuda || (!plans && !has_gpu()))) return refuse_cuda(path, has_cuda);
    const bool native = cuda || multiplies_bf16();
    if (choice.precision == PRECISION_BF16 && !native) {
        return refuse("run.precision = bf16, but this processor has no bf16 products (AVX512-BF16)",
                      "", "set run.precision=fp32");
    }
    const bool bf16 = choice.precision != PRECISION_FP32 && native;
    snprintf(build, sizeof(build), "%.4000s/build/%s-%s/kintoun", path, cuda ? "cuda" : "cpu",
             bf16 ? "bf16" : "fp32");
    if (choice.understood && !has_settings(argc, argv)) drop_choice(argv);
    execv(build, argv);
    return refuse("cannot start ", build, errno == ENOENT ? "run make" : strerror(errno));
}
