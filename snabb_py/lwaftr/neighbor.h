#ifndef SNABB_PY_LWAFTR_NEIGHBOR_H
#define SNABB_PY_LWAFTR_NEIGHBOR_H

#include "snabb_py/engine/engine.h"

#include "snabb_py/lwaftr/neighbor_abi.h"

_Static_assert(sizeof(((struct neighbor *)0)->waiting) ==
                   NEIGHBOR_WAITING_MAX * sizeof(void *),
               "waiting");

static inline bool neighbor_is_known(const struct neighbor *neighbor)
{
    return neighbor->state != NEIGHBOR_INCOMPLETE;
}

/* Address a frame to the next hop, which is known. */
static inline void neighbor_address(const struct neighbor *neighbor, uint8_t *frame)
{
    memcpy(frame, neighbor->ethernet, sizeof(neighbor->ethernet));
}

#endif
