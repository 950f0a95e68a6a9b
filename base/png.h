// Pictures: gray or RGB bytes, drawn upon, written as PNG and, several of them, as animated PNG
// (https://wiki.mozilla.org/APNG_Specification). Local; writing replaces a file whole.
#ifndef BASE_PNG_H
#define BASE_PNG_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

typedef struct {
    int width, height, channels;  // 1 gray, 3 RGB.
    uint8_t *pixels;              // [height, width, channels], the top row first.
} Picture;

typedef struct {
    uint8_t r, g, b;  // A gray picture takes r.
} Colour;

// A picture filled with one colour. Dies when there is no memory for it.
Picture picture_create(int width, int height, int channels, Colour colour);
void picture_free(Picture *picture);

// ---- drawing; what lies outside of the picture is left out
void picture_dot(Picture *picture, int x, int y, Colour colour);
void picture_rectangle(Picture *picture, int x, int y, int width, int height, Colour colour);
void picture_line(Picture *picture, int x0, int y0, int x1, int y1, Colour colour);

// Text in a 5 x 7 font (ASCII; other bytes become '?'), each dot `scale` x `scale` pixels, the
// upper left corner at (x, y). A letter is TEXT_ADVANCE * scale wide with its gap.
enum { TEXT_ADVANCE = 6, TEXT_HEIGHT = 9 };
void picture_text(Picture *picture, int x, int y, const char *text, int scale, Colour colour);

// Gray values [height, width] of -1 (black) to 1 (white) with the upper left corner at (x, y), each
// `scale` x `scale` pixels. Values beyond are clipped, NaN is black.
void picture_values(Picture *picture, int x, int y, const float *values, int height, int width,
                    int scale);

// One cell of a grid: gray values as above, and a label (NULL: none) under them.
typedef struct {
    const float *values;  // NULL: an empty cell.
    int height, width;
    const char *label;
} GridCell;

// Cells in rows of `columns`, one pixel apart, each as large as the largest; enlarged `scale`
// times. Room for labels is there when any cell has one; a label runs on under cells that have
// none, and is cut where that is too short.
Picture picture_grid(const GridCell *cells, int count, int columns, int scale);

// ---- files
// The bytes of a PNG file, to be freed by the caller.
uint8_t *png_encode(const Picture *picture, int64_t *bytes);

// Writes under a temporary name, then renames. False and a reason when that cannot be.
bool png_write(const char *path, const Picture *picture, Error *error);

// Frames of equal size, each shown for `milliseconds`, again and again. One frame is a plain PNG.
bool apng_write(const char *path, const Picture *frames, int count, int milliseconds, Error *error);

#endif
