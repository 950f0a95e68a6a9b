#include "data/demo/text.h"

#include <ctype.h>
#include <string.h>

#include "base/real.h"
#include "base/rng.h"

// Never change: models trained on other vectors would read other words.
static const uint64_t text_seed = 1;
static const char *const end_of_text = "</s>";
static const float place_scale = 0.25f;

static void encode_word(float *token, const char *word, int64_t length, int place) {
    float code[TEXT_WIDTH];
    rng_normal(token, TEXT_WIDTH, text_seed, RNG_TEXT, hash_bytes(word, length), 0);
    rng_normal(code, TEXT_WIDTH, text_seed, RNG_TEXT, (uint64_t)place, 0);
    for (int i = 0; i < TEXT_WIDTH; i++) {
        token[i] = bf16_to_float(float_to_bf16(token[i] + place_scale * code[i]));
    }
}

int text_encode(float tokens[TEXT_TOKENS_MAX * TEXT_WIDTH], const char *caption, Error *error) {
    int count = 0;
    const char *next = caption;
    while (*(next += strspn(next, " \t\r\n")) != '\0') {
        const size_t length = strcspn(next, " \t\r\n");
        char word[64] = {0};
        if (count == TEXT_TOKENS_MAX - 1 || length > sizeof(word)) {
            error_set(error,
                      "caption '%.200s' has more than %d words or a word of more than %zu letters",
                      caption, TEXT_TOKENS_MAX - 1, sizeof(word));
            return -1;
        }
        for (size_t i = 0; i < length; i++) word[i] = (char)tolower((unsigned char)next[i]);
        encode_word(tokens + count * TEXT_WIDTH, word, (int64_t)length, count);
        count++;
        next += length;
    }
    if (count == 0) return 0;
    encode_word(tokens + count * TEXT_WIDTH, end_of_text, (int64_t)strlen(end_of_text), count);
    return count + 1;
}
