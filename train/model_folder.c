#include "train/model_folder.h"

#include <stdlib.h>

#include "base/die.h"
#include "base/files.h"
#include "checkpoint/weights.h"

bool model_folder_config(ModelConfig *config, const char *folder, Error *error) {
    char path[PATH_BYTES_MAX];
    Error reason;
    if (!path_join(path, folder, "config.json", error)) return false;
    char *text = file_read(path, 1 << 20, NULL, &reason);
    if (text == NULL) {
        return error_set(error,
                         "%s; a model is a folder with config.json and safetensors, like "
                         "RUN/checkpoints/step-.../transformer_ema",
                         reason.text);
    }
    const bool ok = model_config_parse(config, text, &reason);
    free(text);
    return ok || error_set(error, "%s: %s", folder, reason.text);
}

int model_folder_load(Fsdp *fsdp, const Model *model, const char *folder, Problems *problems,
                      Error *error) {
    const Mesh *mesh = model->mesh;
    float **masters = calloc((size_t)model->units, sizeof(*masters));
    CHECK(masters != NULL, "no memory for %d units", model->units);
    for (int unit = 0; unit < model->units; unit++) masters[unit] = fsdp_master(fsdp, unit);
    const Verdict verdict =
        checkpoint_load_weights(masters, folder, &model->params, mesh->shard_index, mesh->shards,
                                mesh->world, problems, error);
    free(masters);
    fsdp_invalidate(fsdp);
    return verdict == VERDICT_GOOD           ? EXIT_DONE
           : verdict == VERDICT_INCOMPATIBLE ? EXIT_CONFIG
                                             : EXIT_FAILED;
}
