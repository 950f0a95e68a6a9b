#include "data/command.h"

#include <stdio.h>
#include <string.h>

#include "base/die.h"
#include "data/catalogue.h"
#include "data/info.h"

static const char usage[] =
    "kintoun data info DIR           what a data set holds\n"
    "kintoun data verify DIR         reads every byte, checks every hash and sample\n"
    "kintoun data catalogue DIR      makes catalogue.bin, which training needs\n";

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
    static Problems problems;
    problems.count = 0;
    int64_t good;
    const bool ok = data_verify(&good, folder, &problems);
    if (!ok) print_problems(&problems, folder);
    printf("%s: %lld samples are good\n", folder, (long long)good);
    return ok ? EXIT_DONE : EXIT_FAILED;
}

static int catalogue(const char *folder) {
    static Problems problems;
    problems.count = 0;
    if (!catalogue_build(folder, &problems)) {
        print_problems(&problems, folder);
        fprintf(stderr, "no catalogue was written\n");
        return EXIT_FAILED;
    }
    return info(folder);
}

int data_command(int argc, char **argv) {
    static const struct {
        const char *name;
        int (*run)(const char *folder);
    } commands[] = {{"info", info}, {"verify", verify}, {"catalogue", catalogue}};
    if (argc == 1 && (strcmp(argv[0], "--help") == 0 || strcmp(argv[0], "help") == 0)) {
        fputs(usage, stdout);
        return EXIT_DONE;
    }
    for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
        if (argc == 2 && strcmp(argv[0], commands[i].name) == 0) return commands[i].run(argv[1]);
    }
    fprintf(stderr, "data: %s\n%s", argc < 1 ? "what to do is missing" : "not understood", usage);
    return EXIT_CONFIG;
}
