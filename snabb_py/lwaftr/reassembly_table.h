/* Inside of reassembly: the table of reassembly_table.c. */
#ifndef SNABB_PY_LWAFTR_REASSEMBLY_TABLE_H
#define SNABB_PY_LWAFTR_REASSEMBLY_TABLE_H

#include "snabb_py/lwaftr/reassemble.h"

enum { REASSEMBLY_NONE = 0 }; /* where an index + 1 would be */

static inline struct reassembly *reassembly_at(const struct reassembler *r,
                                               uint32_t index)
{
    return &r->entries[index - 1];
}

/* NULL: there is none. */
struct reassembly *reassembly_find(const struct reassembler *r, const uint64_t *key);

/* Add a datagram of a subscriber (two words), which is not there; there is room. What
 * has come of it is the caller's to fill in. */
struct reassembly *reassembly_insert(struct reassembler *r, const uint64_t *key,
                                     const uint64_t *subscriber, uint64_t now);

/* Take a datagram out; its packet is the caller's, and the rest stays as it is until the
 * next is inserted. */
struct packet *reassembly_remove(struct reassembler *r, struct reassembly *entry);

/* Who has to make room. There is a datagram. */
struct reassembly *reassembly_victim(struct reassembler *r);

#endif
