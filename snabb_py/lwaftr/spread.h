#ifndef SNABB_PY_LWAFTR_SPREAD_H
#define SNABB_PY_LWAFTR_SPREAD_H

#include "snabb_py/lwaftr/datagram_table.h"
#include "snabb_py/lwaftr/spread_abi.h"

_Static_assert(sizeof(((struct spread *)0)->held) ==
                   SPREAD_MAX_HELD * sizeof(struct spread_held),
               "held");
_Static_assert(2 * SPREAD_MAX_HELD <= LINK_CAPACITY, "an empty link has room for all");

#endif
