#ifndef SNABB_PY_ENGINE_INTERLINK_H
#define SNABB_PY_ENGINE_INTERLINK_H

#include "snabb_py/engine/engine.h"

#include "snabb_py/engine/interlink_abi.h"

#endif
