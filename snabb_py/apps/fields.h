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
    uint32_t ip_sums[FIELDS_BURST]; /* of the layouts */
    uint32_t l4_sums[FIELDS_BURST];
};

/* Say whose copies the next n frames are, n <= FIELDS_BURST: of the layouts in turn,
 * from one on. */
static inline void fields_take(struct fields_frames *all,
                               const struct field_layout *const *layouts,
                               uint32_t nlayouts, uint32_t turn, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        const struct field_layout *layout = layouts[turn];
        all->layouts[i] = layout;
        all->ip_sums[i] = layout->ip_sum;
        all->l4_sums[i] = layout->l4_sum;
        if (++turn == nlayouts)
            turn = 0;
    }
}

/* Make the next n frames, n <= FIELDS_BURST, those of the next flows. */
void fields_write(const struct fields *fields, struct fields_state *state,
                  const struct fields_frames *all, uint32_t n);

#endif
