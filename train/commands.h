// The commands besides `train`. argv[0] is the command's name; they return the exit code (die.h).
#ifndef TRAIN_COMMANDS_H
#define TRAIN_COMMANDS_H

int sample_command(int argc, char **argv);   // sample_command.c
int plan_command(int argc, char **argv);     // plan_command.c
int forward_command(int argc, char **argv);  // forward_command.c

#endif
