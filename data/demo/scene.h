// Pictures and videos of one sprite on a black canvas, and the captions that name what happens.
#ifndef DATA_DEMO_SCENE_H
#define DATA_DEMO_SCENE_H

#include <stdint.h>

#include "base/media.h"

enum { SCENE_SIDE_MAX = 256, CAPTION_MAX = 96 };

typedef enum { MOVE_LEFT, MOVE_RIGHT, MOVE_UP, MOVE_DOWN, DIRECTIONS } Direction;
typedef enum { SLOWLY, QUICKLY, SPEEDS } Speed;

// How a scene was drawn. Lengths are in pixels, of frames as large as the short side says.
typedef struct {
    Medium medium;
    Direction direction;
    Speed speed;
    double jitter_x, jitter_y;  // In [0, 1): where around the centre.
} Scene;

// pixels [frames, height, width] of -1 (black) to 1. With m = min(height, width): in an image
// (frames = 1) the sprite is 28/32 m large; in a video 20/32 m, and its centre moves by m/64
// (slowly) or 1.4 m/32 (quickly) per frame along the direction, passing the canvas' centre, but for
// the jitter, in mid time. It never leaves the canvas: dies when the frames are too many for that
// (more than 9).
void scene_draw(float *pixels, const Scene *scene, const uint8_t *sprite, int64_t frames,
                int64_t height, int64_t width);

// The sprite's corner (x, y) in frame `frame` of a video, and its side.
typedef struct {
    double x, y, side;
} ScenePlace;
ScenePlace scene_place(const Scene *scene, int64_t frame, int64_t frames, int64_t height,
                       int64_t width);

// "an ankle boot", or "an ankle boot moving left slowly".
void scene_caption(char out[CAPTION_MAX], const Scene *scene, const char *name);

#endif
