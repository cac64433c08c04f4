#ifndef SNABB_PY_ENGINE_EVENT_SIGNAL_H
#define SNABB_PY_ENGINE_EVENT_SIGNAL_H

#include <stdint.h>

#include "snabb_py/engine/event_signal_abi.h"

#endif
