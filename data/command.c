#include "data/command.h"

#include <stdio.h>
#include <string.h>

#include "base/die.h"
#include "data/catalogue.h"
#include "data/config.h"
#include "data/import.h"
#include "data/info.h"

static const char usage[] =
    "kintoun data info DIR           what a data set holds\n"
    "kintoun data verify DIR         reads every byte, checks every hash and sample\n"
    "kintoun data catalogue DIR      makes catalogue.bin, which training needs\n"
    "kintoun data import OUT IN...   WebDataset tars and folders of safetensors or npy into a new "
    "OUT\n";

// Problems on stderr, one per line, then how many there are.
static void print_problems(const Problems *problems, const char *folder) {
    for (int i = 0; i < problems->count && i < PROBLEMS_MAX; i++) {
        fprintf(stderr, "%s\n", problems->text[i]);
    }
    fprintf(stderr, "%s: %d bad place%s\n", folder, problems->count,
            problems->count == 1 ? "" : "s");
}

static int info(const char *folder) {
    Error error;
    if (data_info(stdout, folder, &error)) return EXIT_DONE;
    fprintf(stderr, "%s\n", error.text);
    return EXIT_FAILED;
}

static int verify(const char *folder) {
    Problems problems = {.count = 0};
    int64_t good;
    const bool ok = data_verify(&good, folder, &problems);
    if (!ok) print_problems(&problems, folder);
    printf("%s: %lld samples are good\n", folder, (long long)good);
    return ok ? EXIT_DONE : EXIT_FAILED;
}

static int catalogue(const char *folder) {
    Problems problems = {.count = 0};
    if (!catalogue_build(folder, &problems)) {
        print_problems(&problems, folder);
        fprintf(stderr, "no catalogue was written\n");
        return EXIT_FAILED;
    }
    return info(folder);
}

static int import(const char *out, char *const inputs[], int count) {
    Problems problems = {.count = 0};
    ImportCounts counts;
    if (!data_import(&counts, out, inputs, count, &problems)) {
        print_problems(&problems, out);
        fprintf(stderr, "no data set was made\n");
        return EXIT_FAILED;
    }
    printf("%s: %lld samples imported, %lld files of other kinds passed over\n", out,
           (long long)counts.samples, (long long)counts.passed_over);
    if (counts.left_out > 0) {
        printf(
            "%lld numbers of JSON files, '%s' the first, are no qualities: those are at most %d, "
            "of the first sample, with names below %d bytes\n",
            (long long)counts.left_out, counts.first_left_out, QUALITIES_MAX, QUALITY_NAME_MAX);
    }
    if (counts.mended > 0) {
        printf("%lld captions are not in UTF-8: '?' stands for what is not\n",
               (long long)counts.mended);
    }
    return info(out);
}

int data_command(int argc, char **argv) {
    static const struct {
        const char *name;
        int (*run)(const char *folder);
    } commands[] = {{"info", info}, {"verify", verify}, {"catalogue", catalogue}};
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--help") == 0 || (i == 1 && strcmp(argv[i], "help") == 0)) {
            fputs(usage, stdout);
            return EXIT_DONE;
        }
    }
    for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
        if (argc == 3 && strcmp(argv[1], commands[i].name) == 0) return commands[i].run(argv[2]);
    }
    if (argc >= 4 && strcmp(argv[1], "import") == 0) return import(argv[2], argv + 3, argc - 3);
    fprintf(stderr, "data: %s\n%s", argc < 2 ? "what to do is missing" : "not understood", usage);
    return EXIT_CONFIG;
}
