#ifndef SNABB_PY_ENGINE_CAPTURE_H
#define SNABB_PY_ENGINE_CAPTURE_H

#include "snabb_py/engine/bpf.h"
#include "snabb_py/engine/engine.h"

#include "snabb_py/engine/capture_abi.h"

_Static_assert(sizeof(((struct capture_ring *)0)->blocks) == CAPTURE_RING_SIZE &&
                   (CAPTURE_RING_SIZE & (CAPTURE_RING_SIZE - 1)) == 0,
               "cursors are reduced by a mask");
_Static_assert(offsetof(struct capture_ring, read) == 64, "each side has its own line");

#endif
