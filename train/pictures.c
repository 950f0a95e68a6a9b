#include "train/pictures.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/die.h"
#include "base/files.h"
#include "base/png.h"
#include "data/demo/text.h"

enum { FRAME_MILLISECONDS = 160, CAPTION_FILE_MAX = 160 };

bool picture_row_encode(PictureRow *row, int64_t text_width, Error *error) {
    if (text_width != TEXT_WIDTH) {
        return error_set(error,
                         "caption '%s': the demo's text encoder makes tokens of %d channels, the "
                         "model takes %" PRId64,
                         row->caption, TEXT_WIDTH, text_width);
    }
    row->text = calloc(TEXT_TOKENS_MAX * TEXT_WIDTH, sizeof(float));
    CHECK(row->text != NULL, "no memory for a text");
    row->text_length = text_encode(row->text, row->caption, error);
    return row->text_length >= 0;
}

void pictures_create(Pictures *p, const PictureRow *rows, int row_count) {
    int64_t elements = 0, count = 0;
    for (int r = 0; r < row_count; r++) {
        count += rows[r].samples;
        elements += rows[r].samples * latent_elements(rows[r].shape);
    }
    *p = (Pictures){.rows = calloc((size_t)row_count + 1, sizeof(*rows)),
                    .row_count = row_count,
                    .requests = calloc((size_t)count + 1, sizeof(*p->requests)),
                    .latents = calloc((size_t)elements + 1, sizeof(float))};
    CHECK(p->rows != NULL && p->requests != NULL && p->latents != NULL,
          "no memory for %" PRId64 " samples", count);
    memcpy(p->rows, rows, (size_t)row_count * sizeof(*rows));
    float *latent = p->latents;
    for (int r = 0; r < row_count; r++) {
        for (int64_t i = 0; i < rows[r].samples; i++) {
            p->requests[p->count] = (SampleRequest){.shape = rows[r].shape,
                                                    .text = rows[r].text,
                                                    .text_length = rows[r].text_length,
                                                    .position = (uint64_t)p->count,
                                                    .latent = latent};
            latent += latent_elements(rows[r].shape);
            p->count++;
        }
    }
}

void pictures_free(Pictures *p) {
    for (int r = 0; r < p->row_count; r++) free(p->rows[r].text);
    free(p->rows);
    free(p->requests);
    free(p->latents);
    *p = (Pictures){0};
}

// Rows that are shown together.
typedef struct {
    const Pictures *pictures;
    float **pixels;     // [count] [frames, height, width]
    const bool *shown;  // [row_count]
    int64_t columns, scale;
} Sheet;

// Cells of all shown rows at `frame`; short videos stay at their last one. Returns how many.
static int cells_at(GridCell *cells, const Sheet *sheet, int frame) {
    const Pictures *p = sheet->pictures;
    int n = 0;
    for (int r = 0, first = 0; r < p->row_count; first += (int)p->rows[r++].samples) {
        const LatentShape s = p->rows[r].shape;
        const int height = s.H * CODEC_BLOCK, width = s.W * CODEC_BLOCK;
        const int frames = (int)codec_frames(s), f = frame < frames ? frame : frames - 1;
        for (int i = 0; i < sheet->columns && sheet->shown[r]; i++) {
            GridCell *cell = &cells[n++];
            *cell = (GridCell){.height = height, .width = width};
            if (i < p->rows[r].samples) {
                cell->values = sheet->pixels[first + i] + (int64_t)f * height * width;
            }
            if (i == 0 && p->rows[r].caption[0] != '\0') cell->label = p->rows[r].caption;
        }
    }
    return n;
}

// One file; animated where any sample has several frames.
static bool write_sheet(const char *folder, const char *name, Sheet *sheet, Error *error) {
    const Pictures *p = sheet->pictures;
    char path[PATH_BYTES_MAX];
    int frames = 1, rows = 0;
    sheet->columns = 0;
    for (int r = 0; r < p->row_count; r++) {
        if (!sheet->shown[r]) continue;
        const int n = (int)codec_frames(p->rows[r].shape);
        if (n > frames) frames = n;
        sheet->columns = max_i64(sheet->columns, p->rows[r].samples);
        rows++;
    }
    GridCell *cells = calloc((size_t)(rows * sheet->columns), sizeof(*cells));
    Picture *pictures = calloc((size_t)frames, sizeof(*pictures));
    CHECK(cells != NULL && pictures != NULL, "no memory for %d frames", frames);
    for (int f = 0; f < frames; f++) {
        const int count = cells_at(cells, sheet, f);
        pictures[f] = picture_grid(cells, count, (int)sheet->columns, (int)sheet->scale);
    }
    bool ok = path_join(path, folder, name, error);
    if (ok && frames == 1) ok = png_write(path, &pictures[0], error);
    if (ok && frames > 1) ok = apng_write(path, pictures, frames, FRAME_MILLISECONDS, error);
    for (int f = 0; f < frames; f++) picture_free(&pictures[f]);
    free(pictures);
    free(cells);
    return ok;
}

// "an ankle boot moving left" -> "an-ankle-boot-moving-left.png"; where the name is taken already,
// the row's number follows.
static void file_name(char name[CAPTION_FILE_MAX], const Pictures *p, int row) {
    const char *caption = p->rows[row].caption[0] == '\0' ? "no text" : p->rows[row].caption;
    int n = 0;
    for (const char *c = caption; *c != '\0' && n < CAPTION_FILE_MAX - 20; c++) {
        const int letter = tolower((unsigned char)*c);
        name[n++] = isalnum(letter) ? (char)letter : '-';
    }
    name[n] = '\0';
    bool taken = strcmp(name, "images") == 0 || strcmp(name, "videos") == 0;
    for (int r = 0; r < row; r++) {
        taken = taken || strcmp(p->rows[r].caption, p->rows[row].caption) == 0;
    }
    if (taken) n += snprintf(name + n, (size_t)(CAPTION_FILE_MAX - n), "-%d", row + 1);
    snprintf(name + n, (size_t)(CAPTION_FILE_MAX - n), ".png");
}

static bool write_all(PicturesMade *made, const char *folder, Sheet *sheet, bool *shown,
                      Error *error) {
    const Pictures *p = sheet->pictures;
    sheet->shown = shown;
    bool ok = folder_create(folder, error);
    for (int video = 0; video < 2 && ok; video++) {
        bool any = false;
        for (int r = 0; r < p->row_count; r++) {
            shown[r] = (p->rows[r].shape.F > 1) == video;
            any = any || shown[r];
        }
        if (!any) continue;
        ok = write_sheet(folder, video ? "videos.png" : "images.png", sheet, error);
        *(video ? &made->videos : &made->images) = ok;
    }
    for (int row = 0; row < p->row_count && ok; row++) {
        char name[CAPTION_FILE_MAX];
        for (int r = 0; r < p->row_count; r++) shown[r] = r == row;
        file_name(name, p, row);
        ok = write_sheet(folder, name, sheet, error);
    }
    return ok;
}

bool pictures_write(PicturesMade *made, const Pictures *p, const Codec *codec, int64_t scale,
                    const char *folder, Error *error) {
    Sheet sheet = {.pictures = p, .scale = scale};
    bool *shown = calloc((size_t)p->row_count + 1, sizeof(*shown));
    sheet.pixels = calloc((size_t)p->count + 1, sizeof(*sheet.pixels));
    CHECK(sheet.pixels != NULL && shown != NULL, "no memory for %d samples", p->count);
    *made = (PicturesMade){false, false};
    for (int i = 0; i < p->count; i++) {
        const LatentShape s = p->requests[i].shape;
        sheet.pixels[i] = malloc((size_t)codec_pixels(s) * sizeof(float));
        CHECK(sheet.pixels[i] != NULL, "no memory for %" PRId64 " pixels", codec_pixels(s));
        codec_decode(sheet.pixels[i], codec, p->requests[i].latent, s);
    }
    const bool ok = write_all(made, folder, &sheet, shown, error);
    for (int i = 0; i < p->count; i++) free(sheet.pixels[i]);
    free(sheet.pixels);
    free(shown);
    return ok;
}
