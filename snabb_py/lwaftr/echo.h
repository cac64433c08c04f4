#ifndef SNABB_PY_LWAFTR_ECHO_H
#define SNABB_PY_LWAFTR_ECHO_H

#include "snabb_py/engine/engine.h"

#include "snabb_py/lwaftr/neighbor.h"

#include "snabb_py/lwaftr/echo_abi.h"

#endif
