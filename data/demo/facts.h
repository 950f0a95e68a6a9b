// What holds for a whole demo data set, kept beside its index.json as dataset.json:
//     {"version": 1, "source": "fashion-mnist" | "shapes", "seed": N, "classes": [names],
//      "latent": {"codec": "dct4-haar2", "channels": 32, "applied": true, "mean": [C], "std": [C]},
//      "pixels": {"channels": 1, "block": 4, "stride": 2},
//      "text": {"encoder": "hashed-words-end", "width": 64, "tokens_max": 16}}
// "applied" says that latents are stored normalised.
#ifndef DATA_DEMO_FACTS_H
#define DATA_DEMO_FACTS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "data/demo/codec.h"

enum { DEMO_CLASSES = 10, DEMO_NAME_MAX = 32 };

typedef struct {
    char source[DEMO_NAME_MAX];
    char classes[DEMO_CLASSES][DEMO_NAME_MAX];  // As captions have them: "an ankle boot".
    uint64_t seed;
    Codec codec;
} DemoFacts;

bool demo_facts_write(const DemoFacts *facts, const char *folder, Error *error);

// False and a reason when folder/dataset.json is missing, malformed, or of a data set that this
// codec and text encoder did not make.
bool demo_facts_read(DemoFacts *facts, const char *folder, Error *error);

#endif
