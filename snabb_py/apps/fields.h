/* Header fields that vary: what a Generator writes them with. */
#ifndef SNABB_PY_APPS_FIELDS_H
#define SNABB_PY_APPS_FIELDS_H

#include "snabb_py/engine/engine.h"

#include "snabb_py/apps/fields_abi.h"

_Static_assert(sizeof(((struct fields *)0)->ranges) ==
                   FIELD_KINDS * sizeof(struct field_range),
               "a range of each kind");

enum { FIELDS_BURST = 32 };

/* Frames that are copies of templates. */
struct fields_frames {
    uint8_t *frames[FIELDS_BURST];
    const struct field_layout *layouts[FIELDS_BURST];
    uint64_t ip_sums[FIELDS_BURST]; /* of the layouts */
    uint64_t l4_sums[FIELDS_BURST];
};

static inline void fields_take(struct fields_frames *all, uint32_t i, uint8_t *frame,
                               const struct field_layout *layout)
{
    all->frames[i] = frame;
    all->layouts[i] = layout;
    all->ip_sums[i] = layout->ip_sum;
    all->l4_sums[i] = layout->l4_sum;
}

/* Make the next n frames, n <= FIELDS_BURST, those of the next flows. */
void fields_write(const struct fields *fields, struct fields_state *state,
                  const struct fields_frames *all, uint32_t n);

#endif
