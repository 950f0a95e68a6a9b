// The demo's stand-in for a text encoder: a token per word, a fixed random vector of unit variance
// that follows from the word's hash, plus a small fixed code of its place. Words that are the same
// look the same, others are as good as orthogonal; what they mean is for the model to learn. A last
// token ends the text, as T5 has it. It matters: a softmax over a single key is 1 wherever the
// query is, and the queries of cross-attention (which RoPE turns) are how a token learns its place.
// With "trousers" as one token the demo drew trousers in pieces, in wrong places.
#ifndef DATA_DEMO_TEXT_H
#define DATA_DEMO_TEXT_H

#include <stdint.h>

#include "base/error.h"

enum { TEXT_WIDTH = 64, TEXT_TOKENS_MAX = 16 };

// tokens [L, TEXT_WIDTH] of a caption, L its words and the end (between blanks, ASCII letters made
// small). Values are exact in bfloat16, so storing them as such changes nothing. Returns L, 0 for
// an empty caption; -1 and a reason when there are more than TEXT_TOKENS_MAX words.
int text_encode(float tokens[TEXT_TOKENS_MAX * TEXT_WIDTH], const char *caption, Error *error);

#endif
