#ifndef SNABB_PY_APPS_BASIC_H
#define SNABB_PY_APPS_BASIC_H

#include "snabb_py/engine/engine.h"

#include "snabb_py/apps/basic_abi.h"

#endif
