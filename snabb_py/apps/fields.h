/* Header fields that vary: what a Generator writes them with. */
#ifndef SNABB_PY_APPS_FIELDS_H
#define SNABB_PY_APPS_FIELDS_H

#include "snabb_py/engine/engine.h"

#include "snabb_py/apps/fields_abi.h"

_Static_assert(sizeof(((struct fields *)0)->ranges) ==
                   FIELD_KINDS * sizeof(struct field_range),
               "a range of each kind");
_Static_assert(sizeof(((struct field_layout *)0)->windows) ==
                   FIELD_SOURCES * sizeof(struct field_window),
               "a window for each range and checksum");

enum { FIELDS_BURST = 128 };

/* What some packets have in the windows of their frames, in turn. */
struct fields_words {
    uint64_t words[FIELD_SOURCES][FIELDS_BURST];
};

/* Make the words of the next n packets, n <= FIELDS_BURST, those of the next flows. They
 * are copies of the templates of nlayouts layouts in turn, from one on. */
void fields_make(const struct fields *fields, struct fields_state *state,
                 const struct field_layout *const *layouts, uint32_t nlayouts,
                 uint32_t turn, uint32_t n, struct fields_words *made);

/* Write what varies in a copy of a layout's template, the i-th of them. */
static inline void fields_put(const struct field_layout *layout,
                              const struct fields_words *made, uint32_t i, uint8_t *frame)
{
    for (uint32_t k = 0; k < layout->nwindows; k++)
        memcpy(frame + layout->windows[k].offset, &made->words[k][i], sizeof(uint64_t));
}

#endif
