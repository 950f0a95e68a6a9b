// The command line of a command: options `--name VALUE`, each a row of a settings table, so that
// types, ranges, defaults and messages are those of settings.h. A FLAG row takes no value.
#ifndef TRAIN_OPTIONS_H
#define TRAIN_OPTIONS_H

#include "base/settings.h"

enum { OPTIONS_WORDS_MAX = 256 };

// What is no option: in the order given.
typedef struct {
    const char *word[OPTIONS_WORDS_MAX];
    int count;
} Words;

// Whether --help is among the arguments.
bool options_help(int argc, char **argv);

// Fills the struct at `base` from argv[1..argc) by `table` and collects the other words. False with
// all problems. Local.
bool options_parse(void *base, const Setting *table, int argc, char **argv, Words *words,
                   Problems *problems);

#endif
