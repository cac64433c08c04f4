#ifndef SNABB_PY_ENGINE_PCI_WATCHDOG_H
#define SNABB_PY_ENGINE_PCI_WATCHDOG_H

#include <stdint.h>

#include "snabb_py/engine/pci_watchdog_abi.h"

#endif
