#ifndef SNABB_PY_LWAFTR_BINDING_TABLE_H
#define SNABB_PY_LWAFTR_BINDING_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "snabb_py/lwaftr/binding_table_abi.h"

_Static_assert(sizeof(struct softwire) == 24, "no padding");
_Static_assert(sizeof(struct binding_address) == 32, "two to a cache line");

/* The multipliers of MurmurHash3's finalizer; the top bits are the slot. */
static inline uint64_t binding_hash(uint64_t seed, uint64_t key)
{
    uint64_t h = (key ^ seed) * 0xff51afd7ed558ccd;
    h ^= h >> 32;
    return h * 0xc4ceb9fe1a85ec53;
}

static inline uint64_t binding_key(uint32_t ipv4, uint16_t psid)
{
    return (uint64_t)ipv4 << 16 | psid;
}

static inline uint32_t binding_slot_mask(uint32_t shift)
{
    return (uint32_t)(UINT64_MAX >> shift);
}

/* Multiplied by the golden ratio, addresses in a row, as they mostly are, fall far from
 * each other (Knuth, The Art of Computer Programming 3, 6.4): hardly a second probe, and
 * no branch mispredicted for it. */
static inline uint32_t binding_address_slot(const struct binding_table *t,
                                            uint32_t ipv4)
{
    return (uint32_t)(ipv4 * t->multiplier >> t->address_shift);
}

/* binding_table_has_address(), and what mostly answers it: packets to the internet are
 * to addresses that have nothing near them in the table. */
static inline bool binding_table_is_managed(const struct binding_table *t,
                                            uint32_t ipv4)
{
    return (t->managed[ipv4 >> 22] >> (ipv4 >> 16 & 63) & 1) &&
           binding_table_has_address(t, ipv4);
}

#endif
