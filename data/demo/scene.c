#include "data/demo/scene.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>

#include "base/die.h"
#include "data/demo/sprites.h"

static const char *const direction_names[DIRECTIONS] = {"left", "right", "up", "down"};
static const char *const speed_names[SPEEDS] = {"slowly", "quickly"};

ScenePlace scene_place(const Scene *scene, int64_t frame, int64_t frames, int64_t height,
                       int64_t width) {
    static const double x_signs[DIRECTIONS] = {-1, 1, 0, 0}, y_signs[DIRECTIONS] = {0, 0, -1, 1};
    const bool video = scene->medium == MEDIUM_VIDEO;
    const double unit = (double)(height < width ? height : width) / 32.0;
    const double side = (video ? 20.0 : 28.0) * unit;
    const double per_frame = !video ? 0.0 : unit * (scene->speed == SLOWLY ? 0.5 : 1.4);
    const double travel = per_frame * (double)(frames - 1);
    const double room_x = (double)width - side, room_y = (double)height - side;
    const double dx = x_signs[scene->direction], dy = y_signs[scene->direction];
    CHECK(travel <= (dx != 0.0 ? room_x : room_y), "%" PRId64 " frames carry it off the canvas",
          frames);
    // Where it may be in mid time, so that start and end lie on the canvas; the jitter takes the
    // middle third of the room, or what of it there is.
    const double free_x = room_x - fabs(dx) * travel, free_y = room_y - fabs(dy) * travel;
    const double wander = video ? 4.0 * unit : 0.0;
    const double middle_x = 0.5 * room_x + (scene->jitter_x - 0.5) * fmin(free_x, wander);
    const double middle_y = 0.5 * room_y + (scene->jitter_y - 0.5) * fmin(free_y, wander);
    const double moved = per_frame * ((double)frame - 0.5 * (double)(frames - 1));
    return (ScenePlace){middle_x + dx * moved, middle_y + dy * moved, side};
}

// weights [length, 28]: the share of each sprite pixel in each canvas pixel along one axis, for a
// sprite of `side` canvas pixels from `corner` on. A canvas pixel averages the stretch of sprite
// that it covers, and at least one sprite pixel: area averaging when the sprite is made smaller,
// linear interpolation when it is made larger, at any fraction of a pixel.
static void axis_weights(float *weights, int64_t length, double corner, double side) {
    const double scale = SPRITE_SIDE / side, reach = 0.5 * fmax(scale, 1.0);
    for (int64_t i = 0; i < length; i++) {
        const double centre = ((double)i + 0.5 - corner) * scale;
        for (int j = 0; j < SPRITE_SIDE; j++) {
            const double overlap = fmin(centre + reach, j + 1.0) - fmax(centre - reach, j);
            weights[i * SPRITE_SIDE + j] = (float)(fmax(overlap, 0.0) / (2.0 * reach));
        }
    }
}

static void draw_frame(float *pixels, const uint8_t *sprite, ScenePlace place, int64_t height,
                       int64_t width) {
    float rows[SCENE_SIDE_MAX * SPRITE_SIDE], columns[SCENE_SIDE_MAX * SPRITE_SIDE];
    axis_weights(rows, height, place.y, place.side);
    axis_weights(columns, width, place.x, place.side);
    for (int64_t y = 0; y < height; y++) {
        float line[SPRITE_SIDE] = {0};
        for (int j = 0; j < SPRITE_SIDE; j++) {
            const float weight = rows[y * SPRITE_SIDE + j];
            if (weight == 0.0f) continue;
            for (int i = 0; i < SPRITE_SIDE; i++) line[i] += weight * sprite[j * SPRITE_SIDE + i];
        }
        for (int64_t x = 0; x < width; x++) {
            float sum = 0.0f;
            for (int i = 0; i < SPRITE_SIDE; i++) sum += columns[x * SPRITE_SIDE + i] * line[i];
            pixels[y * width + x] = sum / 127.5f - 1.0f;
        }
    }
}

void scene_draw(float *pixels, const Scene *scene, const uint8_t *sprite, int64_t frames,
                int64_t height, int64_t width) {
    CHECK(height <= SCENE_SIDE_MAX && width <= SCENE_SIDE_MAX, "a canvas of %" PRId64 " x %" PRId64,
          height, width);
    for (int64_t f = 0; f < frames; f++) {
        draw_frame(pixels + f * height * width, sprite,
                   scene_place(scene, f, frames, height, width), height, width);
    }
}

void scene_caption(char out[CAPTION_MAX], const Scene *scene, const char *name) {
    if (scene->medium == MEDIUM_IMAGE) {
        snprintf(out, CAPTION_MAX, "%s", name);
    } else {
        snprintf(out, CAPTION_MAX, "%s moving %s %s", name, direction_names[scene->direction],
                 speed_names[scene->speed]);
    }
}
