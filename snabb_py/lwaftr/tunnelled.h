/* Where in a frame of IPv6 the IPv4 packet is that a tunnel carries. */
#ifndef SNABB_PY_LWAFTR_TUNNELLED_H
#define SNABB_PY_LWAFTR_TUNNELLED_H

#include "snabb_py/engine/engine.h"
#include "snabb_py/engine/wire.h"

/* Behind the IPv6 header, or behind destination options of which none asks us to drop
 * it, such as a tunnel encapsulation limit (RFC 2473, 4.1.1; RFC 8200, 4.2). The IPv6
 * header is within the frame, which is untagged. 0: there is none. */
static inline uint32_t tunnelled_offset(const struct packet *packet, bool compat)
{
    const uint32_t begin = WIRE_ETHERNET_SIZE + WIRE_IPV6_SIZE;
    const uint8_t *header = packet->data + begin;
    uint8_t next = packet->data[WIRE_ETHERNET_SIZE + IPV6_NEXT_HEADER];
    if (next == WIRE_IPV4_IN_IP)
        return begin;
    if (compat || next != WIRE_DESTINATION || !wire_has(packet->length, begin, 8))
        return 0;
    uint32_t size = (header[1] + 1u) * 8, at = 2;
    if (header[0] != WIRE_IPV4_IN_IP || !wire_has(packet->length, begin, size))
        return 0;
    while (at < size) {
        if (header[at] >> 6 != 0) /* not to be skipped by who does not know it */
            return 0;
        if (header[at] == 0) /* Pad1 */
            at++;
        else
            at += at + 1 < size ? 2u + header[at + 1] : size;
    }
    return at == size ? begin + size : 0;
}

#endif
