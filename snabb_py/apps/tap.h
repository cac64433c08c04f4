#ifndef SNABB_PY_APPS_TAP_H
#define SNABB_PY_APPS_TAP_H

#include "snabb_py/engine/engine.h"

#include "snabb_py/apps/tap_abi.h"

#endif
