// A model from a transformer folder: config.json and safetensors, a checkpoint's or any that
// diffusers wrote. What `forward` and `sample` start from.
#ifndef TRAIN_MODEL_FOLDER_H
#define TRAIN_MODEL_FOLDER_H

#include "model/model.h"

// Reads folder/config.json. False with a reason. Local.
bool model_folder_config(ModelConfig *config, const char *folder, Error *error);

// Fills the fsdp's master weights. EXIT_DONE, or EXIT_CONFIG with the tensors that do not fit in
// `problems`, or EXIT_FAILED with `error`. Collective over the model's world.
int model_folder_load(Fsdp *fsdp, const Model *model, const char *folder, Problems *problems,
                      Error *error);

#endif
