#ifndef SNABB_PY_LWAFTR_COUNTERS_H
#define SNABB_PY_LWAFTR_COUNTERS_H

#include "snabb_py/lwaftr/counters_abi.h"

#endif
