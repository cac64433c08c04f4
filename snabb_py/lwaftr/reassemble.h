#ifndef SNABB_PY_LWAFTR_REASSEMBLE_H
#define SNABB_PY_LWAFTR_REASSEMBLE_H

#include "snabb_py/engine/engine.h"

#include "snabb_py/lwaftr/datagram_table.h"
#include "snabb_py/lwaftr/reassemble_abi.h"

_Static_assert(offsetof(struct reassembly, ranges) == 88, "ranges");
_Static_assert(sizeof(struct reassembly) % 64 == 0, "whole cache lines");
_Static_assert(PACKET_SMALL_SIZE <= UINT16_MAX, "ends of fragments fit 16 bits");

#endif
