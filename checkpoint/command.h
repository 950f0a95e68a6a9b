// kintoun checkpoint ls|verify|diff|digest: looking at checkpoints without a run. One process.
#ifndef CHECKPOINT_COMMAND_H
#define CHECKPOINT_COMMAND_H

// argv[0] is "checkpoint", argv[1] the action, then its arguments; --help of each prints the
// manual. Results go to stdout, complaints to stderr. Returns the exit code: 0 all is well (diff:
// the same), 1 something is corrupt, differs or cannot be read, 78 the command line is wrong.
int checkpoint_command(int argc, char **argv);

// The parts: one checkpoint folder each. Same exit codes.
int checkpoint_diff(const char *a, const char *b);
int checkpoint_digest(const char *folder);

#endif
