#ifndef SNABB_PY_NIC_REGISTERS_H
#define SNABB_PY_NIC_REGISTERS_H

#include "snabb_py/nic/registers_abi.h"

#endif
