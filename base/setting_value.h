// One setting's value as text, and back: what settings.c and settings_print.c share.
#ifndef BASE_SETTING_VALUE_H
#define BASE_SETTING_VALUE_H

#include "base/settings.h"

// Reads `text` into the field of a setting that has no rows. False if it is not legal; the field
// is then undefined.
bool setting_parse(const Setting *setting, const char *text, void *field);

// The field's canonical text: setting_parse gives the same value back.
void setting_text(char text[SETTING_VALUE_MAX], const Setting *setting, const void *field);

// What is allowed: "a whole number from 1 to 1024".
void setting_describe(char text[SETTING_VALUE_MAX], const Setting *setting);

// The setting or section of the table that someone may have meant by `key`; "" if none is near.
void setting_nearest(char text[SETTING_KEY_MAX], const Setting *table, const char *key);

#endif
