// ./kintoun: runs the build that fits this machine and the settings run.device and run.precision,
// build/DEVICE-PRECISION/kintoun beside this program, with the same arguments; those two settings
// stay behind where the command has none (all but train and plan). It reads nothing else and leaves
// every complaint about the settings to the program that it starts.
#include <errno.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
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

static void build_path(char path[PATH_BYTES], const char *folder, bool cuda, bool bf16) {
    snprintf(path, PATH_BYTES, "%.4000s/build/%s-%s/kintoun", folder, cuda ? "cuda" : "cpu",
             bf16 ? "bf16" : "fp32");
}

// Whether there is a build for CUDA, in either precision.
static bool has_cuda_build(const char *folder) {
    char path[PATH_BYTES];
    for (int bf16 = 0; bf16 < 2; bf16++) {
        build_path(path, folder, true, bf16 != 0);
        if (access(path, X_OK) == 0) return true;
    }
    return false;
}

// What launch/find-cuda left in build/cuda.mk behind "WORD :=" when this was built; or `otherwise`.
static const char *found_for_cuda(const char *folder, const char *word, const char *otherwise) {
    static char line[PATH_BYTES];
    snprintf(line, sizeof(line), "%.4000s/build/cuda.mk", folder);
    FILE *const file = fopen(line, "r");
    while (file != NULL && fgets(line, sizeof(line), file) != NULL) {
        const size_t length = strlen(word);
        if (strncmp(line, word, length) != 0 || strncmp(line + length, " :=", 3) != 0) continue;
        line[strcspn(line, "\n")] = '\0';
        fclose(file);
        return line + length + 3;
    }
    if (file != NULL) fclose(file);
    return otherwise;
}

static int refuse_cuda(const char *folder, bool has_cuda) {
    if (!has_cuda) {
        return refuse("run.device = cuda, but this was built without it, missing:",
                      found_for_cuda(folder, "CUDA_MISSING",
                                     " the programs in build/cuda-*, which make builds"),
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

// Asks the dynamic linker for the libraries that the program would not get, as ldd does: " NAME"
// for each. It would name only the first, and not where it looked.
static void find_lost(char *lost, size_t size, const char *program) {
    char line[PATH_BYTES];
    int ends[2];
    *lost = '\0';
    CHECK(pipe(ends) == 0, "no pipe: %s", strerror(errno));
    const pid_t child = fork();
    CHECK(child >= 0, "no process: %s", strerror(errno));
    if (child == 0) {
        dup2(ends[1], STDOUT_FILENO);
        close(ends[0]);
        close(ends[1]);
        setenv("LD_TRACE_LOADED_OBJECTS", "1", 1);
        execl(program, program, (char *)NULL);
        _exit(EXIT_FAILED);
    }
    close(ends[1]);
    FILE *const lines = fdopen(ends[0], "r");
    while (lines != NULL && fgets(line, sizeof(line), lines) != NULL) {
        char *const end = strstr(line, " => not found");
        const size_t used = strlen(lost);
        if (end == NULL) continue;
        *end = '\0';
        snprintf(lost + used, size - used, " %s", line + strspn(line, " \t"));
    }
    if (lines != NULL) fclose(lines);
    waitpid(child, NULL, 0);
}

// A failure of this node, not of the settings.
static int refuse_lost(const char *lost, const char *folder) {
    fprintf(stderr,
            "kintoun: libraries of the CUDA program are missing:%s, looked for in LD_LIBRARY_PATH, "
            "where make found them (%s ) and in the system's folders; install them, add their "
            "folder to LD_LIBRARY_PATH, or set run.device=cpu\n",
            lost, found_for_cuda(folder, "CUDA_FOLDERS", ""));
    return EXIT_FAILED;
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
    char path[PATH_BYTES], build[PATH_BYTES], lost[1024] = "";
    const ssize_t length = readlink("/proc/self/exe", path, sizeof(path) - 1);
    CHECK(length > 0 && length < PATH_BYTES - 64, "cannot tell where this program is");
    path[length] = '\0';
    *strrchr(path, '/') = '\0';

    const Choice choice = read_choice(argc, argv);
    const bool has_cuda = has_cuda_build(path);
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
    build_path(build, path, cuda, bf16);
    if (cuda) find_lost(lost, sizeof(lost), build);
    if (lost[0] != '\0') return refuse_lost(lost, path);
    if (choice.understood && !has_settings(argc, argv)) drop_choice(argv);
    execv(build, argv);
    return refuse("cannot start ", build, errno == ENOENT ? "run make" : strerror(errno));
}
