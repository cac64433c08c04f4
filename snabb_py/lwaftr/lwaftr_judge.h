/* Which packets of a burst are common, and what the other steps need of those: read and
 * judged eight at a time. For lwaftr_burst.c, where it is compiled for several machines. */
#ifndef SNABB_PY_LWAFTR_LWAFTR_JUDGE_H
#define SNABB_PY_LWAFTR_LWAFTR_JUDGE_H

#include "snabb_py/lwaftr/lanes.h"
#include "snabb_py/lwaftr/lwaftr.h"

enum {
    PORTS_SIZE = 4,      /* source and destination, the first bytes of a payload */
    ETHERNET_ROOM = 16,  /* the header and what makes it a vector, in front of it */
    FRAME_WORDS = 10,    /* where 16 bytes begin that have the type and words of IP */
    TUNNELLED_WORDS = FRAME_TUNNELLED
};

_Static_assert(LWAFTR_BURST % LANES == 0 && FRAME_WORDS + 4 == FRAME_IP, "words of IP");
_Static_assert(offsetof(struct packet, data) == 0 && offsetof(struct packet, flags) == 12,
               "length, and what a packet carries, are words 2 and 3");

/* What a burst meets on its way from one side to the other. */
struct way {
    const struct lwaftr_config *config;
    uint32_t from;
    uint32_t tag;                    /* bytes of it in front of the EtherType */
    bool is_plain;                   /* no tags, no filters */
    uint32_t headers;                /* bytes in front of IPv4, */
    uint32_t growth;                 /* and afterwards */
    uint32_t most;                   /* bytes of IPv4 that fit the other side's MTU */
    uint32_t exact;                  /* all ones: nothing may be behind IPv4 */
    uint32_t begin;                  /* first word of a tunnel's header, without TOS; */
    uint32_t end;                    /* second one, without the length, as in memory */
    uint32_t tos, slot_class, carry; /* bits of words */
    uint8_t ethernet[ETHERNET_ROOM]; /* the header, at the end */
};

/* A burst between two steps. */
struct burst {
    uint32_t special[LWAFTR_BURST];  /* 0: a common one */
    uint32_t others[LWAFTR_BURST];   /* a B4's peer; then: whether it may be another B4 */
    uint32_t ipv4[LWAFTR_BURST];     /* to be looked up, host order, */
    uint32_t ports[LWAFTR_BURST];    /* and so is this */
    uint32_t slots[LWAFTR_BURST];    /* where the search for an address begins */
    uint32_t alone[LWAFTR_BURST];    /* 0: looked up with the others */
    uint32_t totals[LWAFTR_BURST];   /* bytes of IPv4 */
    uint32_t payloads[LWAFTR_BURST]; /* of IPv6, from a B4 */
    uint32_t hops[LWAFTR_BURST];     /* TTL, protocol and checksum, one hop less */
    uint64_t ipv6[LWAFTR_BURST];     /* of the tunnel, the first word that it is to have */
    uint64_t metadata[LWAFTR_BURST]; /* what length to slot_class become */
    uint64_t keys[LWAFTR_BURST];     /* that the softwires have to have */
    const struct softwire *softwires[LWAFTR_BURST];
    struct packet *const *packets;
    uint32_t n;
} __attribute__((aligned(sizeof(lanes)))); /* so that no vector lies across two lines */

/* ---- read ---------------------------------------------------------------------------- */

/* Eight packets, the words of each as memory has them. What is behind a frame's end is
 * read, too, and looked at only once the length is known to hold it: there is room to
 * read behind the last slot of a page. */
struct eight {
    struct columns metadata; /* of struct packet */
    struct columns frame;    /* type in the upper half, and of IP, or of the tunnel's */
    lanes ip[6];             /* IPv4 and the ports */
};

/* Those from the i-th on; where there are fewer the last one fills the lanes. */
LANES_INLINE struct packet *const *take_eight(const struct burst *burst, uint32_t i,
                                        struct packet **filled)
{
    if (likely(i + LANES <= burst->n))
        return burst->packets + i;
    for (uint32_t k = 0; k < LANES; k++)
        filled[k] = burst->packets[min_u32(i + k, burst->n - 1)];
    return filled;
}

LANES_INLINE struct eight read_eight(struct packet *const *packets, const struct way *way)
{
    const uint8_t *places[LANES], *frames[LANES];
    for (uint32_t k = 0; k < LANES; k++) {
        places[k] = (const uint8_t *)packets[k];
        frames[k] = packets[k]->data + way->tag;
    }
    bool is_inbound = way->from == LWAFTR_V4;
    struct columns metadata = lanes_columns(places, 0);
    struct columns frame = lanes_columns(frames, FRAME_WORDS);
    struct columns last =
        lanes_columns(frames, is_inbound ? FRAME_WORDS + 16 : TUNNELLED_WORDS + 16);
    if (is_inbound)
        return (struct eight){metadata, frame, {frame.word[1], frame.word[2], frame.word[3],
                                                last.word[0], last.word[1], last.word[2]}};
    struct columns ip = lanes_columns(frames, TUNNELLED_WORDS);
    return (struct eight){metadata, frame, {ip.word[0], ip.word[1], ip.word[2],
                                            ip.word[3], last.word[0], last.word[1]}};
}

/* ---- judge --------------------------------------------------------------------------- */

/* As ipv4_one_hop_less(). */
LANES_INLINE lanes lanes_one_hop_less(lanes word, uint32_t carry)
{
    return word + UINT16_MAX + (((word >> 16) + 2) & carry);
}

/* Each of these is 0 with common packets. A number that is too large leaves less than
 * nothing of its limit, which the sign tells. */

LANES_INLINE lanes is_other_type(const struct eight *eight, uint16_t type)
{
    return eight->frame.word[0] >> 16 ^ htobe16(type);
}

/* A checksum to be finished, a super-frame. */
LANES_INLINE lanes carries_something(const struct eight *eight)
{
    return eight->metadata.word[3] &
           ((UINT16_MAX & ~PACKET_CSUM_VALID) | UINT8_MAX << 16);
}

/* The sum of a header without options, which is never 0. */
LANES_INLINE lanes is_sum_wrong(const lanes *ip)
{
    lanes sum = {0};
    for (uint32_t k = 0; k < 5; k++)
        sum += (ip[k] & UINT16_MAX) + (ip[k] >> 16);
    return ((sum & UINT16_MAX) + (sum >> 16)) ^ UINT16_MAX;
}

/* IPv4: a header without options, right, of a datagram that is no fragment, has ports,
 * at most `room` bytes, and so many hops left. `begin`: its first word in host order. */
LANES_INLINE lanes is_special_ipv4(const lanes *ip, lanes begin, lanes room, uint32_t hops)
{
    lanes total = begin & UINT16_MAX;
    lanes negative = (total - (WIRE_IPV4_SIZE + PORTS_SIZE)) | (room - total) |
                     ((ip[2] & UINT8_MAX) - hops);
    return (begin >> 24 ^ 0x45) | (ip[1] & htobe32(IPV4_IS_FRAGMENT)) |
           (lanes)((ip[2] & 0xff00) == WIRE_ICMP << 8) | negative >> 31 |
           is_sum_wrong(ip);
}

/* What is to be looked up. */
LANES_INLINE void store_address(struct burst *burst, uint32_t i, lanes ipv4,
                          const struct binding_table *table)
{
    lanes_store(burst->ipv4 + i, ipv4);
    lanes_store(burst->slots + i, ipv4 * table->multiplier >> table->address_shift);
}

/* From the internet. */
LANES_INLINE lanes judge_inbound(struct burst *burst, uint32_t i, const struct eight *eight,
                           const struct way *way)
{
    const lanes *ip = eight->ip;
    lanes begin = lanes_swap(ip[0]), total = begin & UINT16_MAX;
    lanes room = eight->metadata.word[2] - way->headers;
    lanes special = is_other_type(eight, WIRE_IPV4) | carries_something(eight) |
                    is_special_ipv4(ip, begin, room, 2) | (way->most - total) >> 31 |
                    ((total ^ room) & way->exact);
    lanes_store(burst->special + i, special);
    store_address(burst, i, lanes_swap(ip[4]), way->config->table);
    lanes_store(burst->ports + i, lanes_swap(ip[5]) & UINT16_MAX);
    lanes_store(burst->totals + i, total);
    lanes_store(burst->hops + i, lanes_one_hop_less(ip[2], way->carry));
    lanes first = (begin << 4 & way->tos) | way->begin;
    lanes second = (ip[0] >> 16) | way->end;
    lanes_store_pairs(burst->ipv6 + i, lanes_swap(first), second);
    lanes_store_pairs(burst->metadata + i, total + way->growth,
                      eight->metadata.word[3] & way->slot_class);
    return special;
}

/* From a B4. ECN says nothing, or nothing new (RFC 6040, 4.2). */
LANES_INLINE lanes judge_outbound(struct burst *burst, uint32_t i, const struct eight *eight,
                            const struct way *way)
{
    const lanes *ip = eight->ip;
    lanes begin = lanes_swap(ip[0]), total = begin & UINT16_MAX;
    lanes first = lanes_swap(eight->frame.word[1]), ecn = first >> 20 & ECN_MASK;
    lanes second = lanes_swap(eight->frame.word[2]), payload = second >> 16;
    lanes room = eight->metadata.word[2] - way->headers;
    lanes net = ip[4] & UINT8_MAX; /* of the destination; see ipv4_is_martian() */
    lanes special = is_other_type(eight, WIRE_IPV6) | carries_something(eight) |
                    is_special_ipv4(ip, begin, payload, 1) | (first >> 28 ^ 6) |
                    ((second >> 8 & UINT8_MAX) ^ WIRE_IPV4_IN_IP) |
                    ((room - payload) | (way->most - total) | (223 - net)) >> 31 |
                    (lanes)(net == 0) | (lanes)(net == 127) |
                    ((lanes)(ecn != (begin >> 16 & ECN_MASK)) & ecn) |
                    ((total ^ room) & way->exact);
    lanes_store(burst->special + i, special);
    store_address(burst, i, lanes_swap(ip[3]), way->config->table);
    lanes_store(burst->others + i, lanes_swap(ip[4]));
    lanes_store(burst->ports + i, lanes_swap(ip[5]) >> 16);
    lanes_store(burst->totals + i, total);
    lanes_store(burst->payloads + i, payload);
    lanes_store_pairs(burst->metadata + i, total + way->growth,
                      eight->metadata.word[3] & way->slot_class);
    return special;
}

/* Whether any packet is special, or may be. */
LANES_INLINE bool judge(struct burst *burst, const struct way *way)
{
    const struct binding_table *table = way->config->table;
    struct packet *filled[LANES];
    lanes special = {0};
    for (uint32_t i = 0; i < burst->n; i += LANES) {
        struct eight eight = read_eight(take_eight(burst, i, filled), way);
        special |= way->from == LWAFTR_V4 ? judge_inbound(burst, i, &eight, way)
                                          : judge_outbound(burst, i, &eight, way);
    }
    uint32_t any = lanes_any(special);
    if (way->from == LWAFTR_V6 && way->config->hairpinning)
        for (uint32_t i = 0; i < burst->n; i++) {
            burst->others[i] = binding_has_neighbors(table, burst->others[i]);
            any |= burst->others[i];
        }
    return any;
}

#endif
