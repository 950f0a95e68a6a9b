// The commands of data sets.
//
//     kintoun data info DIR          what is in it: shards, samples, shapes, texts, hashes, facts
//     kintoun data verify DIR        reads every byte, checks every hash and sample
//     kintoun data catalogue DIR     makes catalogue.bin, which training needs
//     kintoun data import OUT IN...  WebDataset tars, folders of safetensors or npy become MDS
#ifndef DATA_COMMAND_H
#define DATA_COMMAND_H

// argv[0] is "data", argv[1] "info", "verify", "catalogue" or "import"; --help anywhere prints all
// four. Prints to stdout, problems to stderr. Returns the exit code: 0, 1 when the data is bad or
// cannot be read, 78 when the command line is.
int data_command(int argc, char **argv);

#endif
