#ifndef SNABB_PY_APPS_FILTER_H
#define SNABB_PY_APPS_FILTER_H

#include "snabb_py/apps/bpf.h"
#include "snabb_py/apps/connections.h"

#include "snabb_py/apps/filter_abi.h"

#endif
