/* Cutting datagrams that are longer than the MTU. */
#ifndef SNABB_PY_LWAFTR_FRAGMENT_H
#define SNABB_PY_LWAFTR_FRAGMENT_H

#include "snabb_py/engine/engine.h"

#include "snabb_py/lwaftr/fragment_abi.h"

#endif
