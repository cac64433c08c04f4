#ifndef SNABB_PY_ENGINE_GUARD_H
#define SNABB_PY_ENGINE_GUARD_H

#include <stddef.h>
#include <stdint.h>

#include "snabb_py/engine/guard_abi.h"

#endif
