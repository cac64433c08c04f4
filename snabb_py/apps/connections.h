#ifndef SNABB_PY_APPS_CONNECTIONS_H
#define SNABB_PY_APPS_CONNECTIONS_H

#include "snabb_py/engine/engine.h"

#include "snabb_py/apps/connections_abi.h"

_Static_assert(sizeof(struct connection_bucket) == 512, "whole cache lines");

/* What a frame belongs to. */
struct connection_flow {
    struct connection_key key;
    uint32_t timeout_s;
    uint8_t seen;    /* CONNECTION_SEEN_* and CONNECTION_FIN_* that it adds */
    bool is_reset;
    bool is_related; /* an ICMP error: the key is that of what it is about */
    bool has_fragments; /* the first fragment: others with this id will follow */
    uint32_t fragment_id;
};

/* Find out. False: nothing that has connections (ARP, neighbour discovery, what is
 * broken). */
bool connection_parse(const uint8_t *frame, uint32_t length,
                      struct connection_flow *flow);

/* Whether the connection is there; its timeout begins anew. */
bool connection_find(struct connections *table, const struct connection_flow *flow,
                     uint64_t now);

enum connection_note { CONNECTION_KNOWN, CONNECTION_NEW, CONNECTION_NO_ROOM };

/* Remember the connection of a frame that the filter has let through. */
enum connection_note connection_note(struct connections *table,
                                     const struct connection_flow *flow, uint64_t now);

#endif
