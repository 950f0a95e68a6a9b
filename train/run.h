// The command `train`: reads the settings, sets up or resumes the run, steps until it is done or
// told to leave.
#ifndef TRAIN_RUN_H
#define TRAIN_RUN_H

// Under mpirun, srun or alone. argv[0] is "train". Returns the exit code (die.h).
int train_command(int argc, char **argv);

#endif
