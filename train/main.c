// kintoun: trains image-and-video diffusion transformers. This file only finds the command.
#include <stdio.h>
#include <string.h>

#include "base/die.h"
#include "checkpoint/command.h"
#include "data/command.h"
#include "data/demo/prepare.h"
#include "train/commands.h"
#include "train/run.h"

static const char *const HELP =
    "kintoun COMMAND ...          (kintoun COMMAND --help says more)\n"
    "  train CONFIG [key=value]   train; resumes by itself; alone or under mpirun, srun\n"
    "  sample CHECKPOINT          images and videos from a checkpoint's EMA weights\n"
    "  plan CONFIG --ranks N      memory, FLOPs and tokens of a run, without running it\n"
    "  forward MODEL              one forward (and backward) on given tensors\n"
    "  checkpoint ls|verify|diff|digest\n"
    "  data info|verify|import|catalogue|demo\n"
    "Exit codes: 0 done, 1 failed, 75 saved and wants to go on, 78 the configuration is wrong.\n";

static int data_or_demo(int argc, char **argv) {
    if (argc > 1 && strcmp(argv[1], "demo") == 0) return demo_command(argc - 1, argv + 1);
    return data_command(argc, argv);
}

int main(int argc, char **argv) {
    static const struct {
        const char *name;
        int (*run)(int argc, char **argv);
    } commands[] = {
        {"train", train_command},     {"sample", sample_command},         {"plan", plan_command},
        {"forward", forward_command}, {"checkpoint", checkpoint_command}, {"data", data_or_demo}};
    if (argc < 2 || strcmp(argv[1], "--help") == 0) {
        printf("%s", HELP);
        return argc < 2 ? EXIT_CONFIG : EXIT_DONE;
    }
    for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
        if (strcmp(argv[1], commands[i].name) == 0) return commands[i].run(argc - 1, argv + 1);
    }
    fprintf(stderr, "kintoun: unknown command '%s'; kintoun --help lists all\n", argv[1]);
    return EXIT_CONFIG;
}
