/* What the files of the lwAFTR share. Frames in here are untagged, and `side` is where
 * a packet came from, which is who answers for its drops. */
#ifndef SNABB_PY_LWAFTR_LWAFTR_H
#define SNABB_PY_LWAFTR_LWAFTR_H

#include "snabb_py/engine/bpf.h"
#include "snabb_py/engine/offload.h"
#include "snabb_py/engine/wire.h"
#include "snabb_py/lwaftr/binding_table.h"
#include "snabb_py/lwaftr/counters.h"
#include "snabb_py/lwaftr/echo.h"
#include "snabb_py/lwaftr/fragment.h"
#include "snabb_py/lwaftr/neighbor.h"
#include "snabb_py/lwaftr/reassemble.h"

#include "snabb_py/lwaftr/lwaftr_abi.h"

/* A side is added to a counter, or twice to a pair of them. */
_Static_assert(LWAFTR_DROP_ALL_IPV6_IFACE_BYTES == LWAFTR_DROP_ALL_IPV4_IFACE_BYTES + 2 &&
                   LWAFTR_DROP_MISPLACED_NOT_IPV6_BYTES ==
                       LWAFTR_DROP_MISPLACED_NOT_IPV4_BYTES + 2,
               "pairs");
_Static_assert(LWAFTR_DROP_VLAN_IPV6_PACKETS == LWAFTR_DROP_VLAN_IPV4_PACKETS + 1 &&
                   LWAFTR_DROP_MALFORMED_IPV6_PACKETS ==
                       LWAFTR_DROP_MALFORMED_IPV4_PACKETS + 1,
               "single ones");

enum {
    IPV4_TOS = 1,
    IPV4_TTL = 8,
    IPV6_HOP_LIMIT = 7,
    ECN_MASK = 3, /* of TOS and traffic class (RFC 3168) */
    ICMP_SIZE = 8,
    /* Of an untagged frame: */
    FRAME_IP = WIRE_ETHERNET_SIZE,
    FRAME_TUNNELLED = WIRE_ETHERNET_SIZE + WIRE_IPV6_SIZE
};

enum { /* in IPv4's flags and offset */
    IPV4_DONT_FRAGMENT = 0x4000,
    IPV4_IS_FRAGMENT = 0x3fff, /* more fragments, or an offset */
    IPV4_OFFSET = 0x1fff
};

/* ---- counters ------------------------------------------------------------ */

/* A pair of counters: bytes, packets. */
static inline void lwaftr_count(struct lwaftr *lw, uint32_t bytes, uint32_t length)
{
    lw->counters[bytes] += length;
    lw->counters[bytes + 1]++;
}

static inline void lwaftr_free(struct lwaftr *lw, struct packet *packet)
{
    packet_free(lw->freelist, packet);
}

/* Drop for a reason of ours, which stands beside drop-all-*. */
static inline void lwaftr_drop(struct lwaftr *lw, uint32_t packets,
                               struct packet *packet)
{
    lw->counters[packets]++;
    lwaftr_free(lw, packet);
}

/* Count an IPv4 packet of so many bytes as a drop of the side that it came from: what
 * came from a B4 had a header more. */
static inline void lwaftr_count_drop(struct lwaftr *lw, uint32_t side, uint32_t length)
{
    if (side == LWAFTR_V4)
        lwaftr_count(lw, LWAFTR_DROP_ALL_IPV4_IFACE_BYTES, length);
    else
        lwaftr_count(lw, LWAFTR_DROP_ALL_IPV6_IFACE_BYTES, length + WIRE_IPV6_SIZE);
}

/* ---- headers ------------------------------------------------------------- */

static inline uint32_t ipv4_header_size(const uint8_t *ip)
{
    return (ip[0] & 15u) * 4;
}

/* TTL, protocol and checksum, one word of memory, with one hop less. The checksum becomes
 * 0x100 more, in network order, as RFC 1624, equation 3, has it: never 0xffff. A wrong one
 * stays wrong. */
static inline uint64_t ipv4_one_hop_less(uint64_t word)
{
    return word + 0xffff + ((word + 0x20000) >> 32 << 16);
}

static inline void ipv4_decrement_ttl(uint8_t *ip)
{
    uint32_t word;
    memcpy(&word, ip + IPV4_TTL, sizeof(word));
    word = (uint32_t)ipv4_one_hop_less(word);
    memcpy(ip + IPV4_TTL, &word, sizeof(word));
}

/* The first 8 bytes of the header in front of a tunnelled packet, as memory has them. */
static inline uint64_t ipv6_tunnel_word(uint64_t tos, uint64_t flow_label, uint64_t length)
{
    const uint64_t rest = 6ull << 60 | WIRE_IPV4_IN_IP << 8 | 255 /* hop limit */;
    return htobe64(rest | tos << 52 | flow_label << 32 | length << 16);
}

static inline void ipv6_write_tunnel(uint8_t *ipv6, uint8_t tos, uint32_t flow_label,
                                     uint32_t length, const uint8_t *br,
                                     const uint8_t *b4)
{
    uint64_t begin = ipv6_tunnel_word(tos, flow_label, length);
    memcpy(ipv6, &begin, sizeof(begin));
    memcpy(ipv6 + IPV6_SOURCE, br, 16);
    memcpy(ipv6 + IPV6_DESTINATION, b4, 16);
}

static inline bool ipv6_is_same(const uint8_t *a, const uint8_t *b)
{
    uint64_t x[2], y[2];
    memcpy(x, a, 16);
    memcpy(y, b, 16);
    return ((x[0] ^ y[0]) | (x[1] ^ y[1])) == 0;
}

/* Whether a packet from a B4 came through the tunnel that its softwire names. */
static inline bool softwire_matches(const struct binding_table *table,
                                    const struct softwire *softwire,
                                    const uint8_t *ipv6)
{
    return ipv6_is_same(softwire->b4, ipv6 + IPV6_SOURCE) &&
           ipv6_is_same(table->br[softwire->br], ipv6 + IPV6_DESTINATION);
}

/* Whether another worker asks for next hops, and tells us. */
static inline bool lwaftr_is_told(const struct lwaftr *lw)
{
    return lw->config->worker != 0;
}

static inline bool filter_matches(const struct lwaftr_filter *filter,
                                  const struct packet *packet)
{
    if (filter->code)
        return filter->code(packet->data, packet->length) != 0;
    return !filter->program ||
           bpf_run(filter->program, packet->data, packet->length) != 0;
}

/* ---- bursts (lwaftr_burst.c) ---------------------------------------------- */

/* Take 1 to LWAFTR_BURST frames that came in on a side, and put what becomes of them on
 * the links. */
void lwaftr_push_burst(struct lwaftr *lw, uint32_t side, struct packet *const *packets,
                       uint32_t n);

/* ---- the edge (lwaftr_edge.c): what lies between core and links ----------- */

/* Take a frame off the link, tag and all, through every stage. */
void lwaftr_input(struct lwaftr *lw, uint32_t side, struct packet *packet);
/* Send what the core has made, to the next hop. */
void lwaftr_send(struct lwaftr *lw, uint32_t side, struct packet *packet);
/* Send a frame that is addressed. */
void lwaftr_output(struct lwaftr *lw, uint32_t side, struct packet *packet);
/* The same for one that is known to fit the MTU, without counting it as such. False: it
 * was filtered out. */
bool lwaftr_output_whole(struct lwaftr *lw, uint32_t side, struct packet *packet);
/* Tell the other workers where the next hop of a side is, or be told. */
void lwaftr_share_next_hop(struct lwaftr *lw, uint32_t side);
/* Put what is queued on the links. */
void lwaftr_flush_queues(struct lwaftr *lw);

static inline void lwaftr_flush(struct lwaftr *lw)
{
    if (unlikely(lw->out[LWAFTR_V4].n | lw->out[LWAFTR_V6].n))
        lwaftr_flush_queues(lw);
}

static inline void lwaftr_queue(struct lwaftr *lw, uint32_t side, struct packet *packet)
{
    struct lwaftr_queue *out = &lw->out[side];
    out->packets[out->n++] = packet;
    out->bytes += packet->length;
    if (unlikely(out->n == LWAFTR_BURST))
        lwaftr_flush(lw);
}

/* ---- the core (lwaftr_core.c) ---------------------------------------------- */

/* An IPv4 packet for some B4, out of a tunnel (LWAFTR_V6) or not. */
void lwaftr_from_internet(struct lwaftr *lw, struct packet *packet, uint32_t side);
/* An IPv6 packet from some B4. */
void lwaftr_from_b4(struct lwaftr *lw, struct packet *packet);

/* ---- ICMP (icmp.c) ---------------------------------------------------------- */

enum { /* types and codes */
    ICMPV4_ECHO_REPLY = 0,
    ICMPV4_UNREACHABLE = 3,
    ICMPV4_ECHO = 8,
    ICMPV4_TIME_EXCEEDED = 11,
    ICMPV4_HOST = 1,     /* of unreachable */
    ICMPV4_TOO_BIG = 4,
    ICMPV4_TTL = 0,      /* of time exceeded */
    ICMPV4_REASSEMBLY = 1,
    ICMPV6_UNREACHABLE = 1,
    ICMPV6_TOO_BIG = 2,
    ICMPV6_TIME_EXCEEDED = 3,
    ICMPV6_PARAMETER_PROBLEM = 4,
    ICMPV6_POLICY = 5,   /* of unreachable: source address failed ingress policy */
    ICMPV6_HOP_LIMIT = 0, /* of time exceeded */
    ICMPV6_REASSEMBLY = 1
};

enum {               /* the way of a message, for icmpv4_port() */
    ICMP_INBOUND = 0, /* to a B4 */
    ICMP_OUTBOUND = 1, /* from one: what it quotes went to it */
    ICMP_HAIRPINNED = 2 /* between two of them */
};

/* What stands for a port in an ICMPv4 message of n bytes; 0: nothing does. */
uint16_t icmpv4_port(const uint8_t *icmp, uint32_t n, uint32_t way, bool compat);

/* Whether a message of n bytes has the right checksum. */
bool icmpv4_checksum_is_right(const uint8_t *icmp, uint32_t n);

/* Tell the source of an IPv4 packet what became of it, if we may. The packet is still
 * the caller's. mtu: for "too big". */
void icmpv4_send_error(struct lwaftr *lw, const struct packet *about, uint8_t type,
                       uint8_t code, uint16_t mtu);

/* The same for IPv6, as from `source`, 16 bytes, if that is an address of ours; else as
 * from our interface's. */
void icmpv6_send_error(struct lwaftr *lw, const struct packet *about, uint8_t type,
                       uint8_t code, const uint8_t *source);

/* An ICMPv6 message to us, not for neighbours and no ping: tell who sent what it
 * quotes through a tunnel (RFC 2473, 8). */
void icmpv6_relay(struct lwaftr *lw, struct packet *packet);

#endif
