#ifndef SNABB_PY_APPS_RAWSOCKET_H
#define SNABB_PY_APPS_RAWSOCKET_H

#include "snabb_py/engine/engine.h"

#include "snabb_py/apps/rawsocket_abi.h"

#endif
