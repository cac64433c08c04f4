#ifndef SNABB_PY_APPS_FILTER_H
#define SNABB_PY_APPS_FILTER_H

#include "snabb_py/engine/bpf.h"
#include "snabb_py/apps/connections.h"

#include "snabb_py/apps/filter_abi.h"

#endif
