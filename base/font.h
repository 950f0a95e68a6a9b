// A small bitmap font for labels in pictures: printable ASCII in 5 x 7 dots.
#ifndef BASE_FONT_H
#define BASE_FONT_H

#include <stdint.h>

enum { FONT_WIDTH = 5, FONT_HEIGHT = 7, FONT_DROP = 2 };

// The dots of a letter, rows from the top; bit 4 of a row is its leftmost dot. Letters outside of
// ' ' to '~' look like '?'.
const uint8_t *font_letter(char letter);

// Dots by which a letter lies lower than the others: FONT_DROP for g, p, q, y, else 0.
int font_drop(char letter);

#endif
