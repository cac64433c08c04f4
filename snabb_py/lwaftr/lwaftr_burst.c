/* Packets that most others are like: whole, right, of a softwire, too short to be cut up.
 * They go in bursts, step by step: what is judged and computed lies in arrays, so that
 * the compiler makes vectors of it, and what one step asks the memory for is there when
 * the next one comes. Whatever is in any way special goes by itself through every stage
 * (lwaftr_edge.c, lwaftr_core.c), where all is decided and counted. Both are in the order
 * in which they came. */
#include "snabb_py/lwaftr/lwaftr.h"

/* As HOT, and with instructions that swap bytes in the widest vectors. */
#if defined(__x86_64__) && defined(__GNUC__) && __GNUC__ >= 12 && !defined(__clang__) &&   \
    !defined(__SANITIZE_ADDRESS__)
#define WIDE __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define WIDE HOT
#endif
#define INLINE static inline __attribute__((always_inline))

enum {
    BURST = 64,         /* packets: so few that all of this stays near */
    PORTS_SIZE = 4,     /* source and destination, the first bytes of a payload */
    ETHERNET_ROOM = 16, /* the header and what makes it a vector, in front of it */
    MAYBE = 2           /* special: its destination may be ours */
};

/* What a burst meets on its way from one side to the other. */
struct way {
    const struct lwaftr_config *config;
    uint32_t from;
    uint32_t tag;                    /* bytes of it in front of the EtherType */
    bool is_plain;                   /* no tags, no filters */
    uint8_t ethernet[ETHERNET_ROOM]; /* the header, at the end */
};

/* A burst between two steps. Words are 8 bytes as they are in memory. */
struct burst {
    struct packet *const *packets;
    uint32_t n;
    uint8_t *ip[BURST];       /* IPv4 */
    uint64_t metadata[BURST]; /* length, flags, gso_type, slot_class; then what they become */
    uint64_t type[BURST];     /* EtherType and 6 bytes more */
    uint64_t ipv6[BURST];     /* of the tunnel, the first word: it came with, or goes with */
    uint64_t words[3][BURST]; /* of IPv4 and the ports */
    uint64_t special[BURST];  /* 0, 1, or MAYBE */
    uint64_t totals[BURST];   /* bytes of IPv4 */
    uint64_t hops[BURST];     /* TTL, protocol and checksum, one hop less: 4 bytes */
    uint64_t keys[BURST];     /* of an address and a port, then of a softwire */
    const struct binding_address *addresses[BURST];
    const struct softwire *softwires[BURST];
};

/* What the common packets of a burst add to the counters. */
struct sums {
    uint64_t packets;
    uint64_t ipv4;     /* bytes, without any other header */
    uint64_t payload;  /* of the tunnel: there may be padding in it */
    uint64_t filtered; /* on their way out */
};

/* ---- read ---------------------------------------------------------------------------- */

static inline uint64_t load_word(const uint8_t *p)
{
    uint64_t word;
    memcpy(&word, p, sizeof(word));
    return word;
}

/* What is behind the frame's end is read, too, and looked at only once the length is known
 * to hold it: there is room to read behind the last slot of a page. */
INLINE void read_burst(struct burst *burst, const struct way *way)
{
    uint32_t offset = way->tag + (way->from == LWAFTR_V4 ? FRAME_IP : FRAME_TUNNELLED);
    for (uint32_t i = 0; i < burst->n; i++) {
        const struct packet *packet = burst->packets[i];
        const uint8_t *type = packet->data + way->tag + ETHERNET_TYPE;
        uint8_t *ip = packet->data + offset;
        memcpy(&burst->metadata[i], &packet->length, sizeof(burst->metadata[i]));
        burst->type[i] = load_word(type);
        if (way->from == LWAFTR_V6)
            burst->ipv6[i] = load_word(type + 2);
        burst->ip[i] = ip;
        for (uint32_t k = 0; k < 3; k++)
            burst->words[k][i] = load_word(ip + 8 * k);
    }
}

/* ---- judge --------------------------------------------------------------------------- */

INLINE bool is_of_type(uint64_t type, uint16_t wanted)
{
    return (type & UINT16_MAX) == htobe16(wanted);
}

/* No checksum to be finished, no super-frame. */
INLINE bool carries_nothing(uint64_t metadata)
{
    const uint64_t flags = UINT16_MAX & ~PACKET_CSUM_VALID, gso_type = UINT8_MAX;
    return (metadata >> 32 & (flags | gso_type << 16)) == 0;
}

/* The sum of a header without options is right; it is never 0. */
INLINE bool is_sum_right(uint64_t first, uint64_t second, uint64_t third)
{
    const uint64_t low = UINT32_MAX;
    uint64_t sum = (first & low) + (first >> 32) + (second & low) + (second >> 32) +
                   (third & low);
    sum = (sum & UINT16_MAX) + (sum >> 16);
    sum = (sum & UINT16_MAX) + (sum >> 16);
    return (sum & UINT16_MAX) + (sum >> 16) == UINT16_MAX;
}

/* IPv4: a header without options, right, of a datagram that is no fragment, has ports,
 * and so many hops left. `begin`: its first word in host order. Numbers are signed, as
 * vectors compare them. */
INLINE bool is_common_ipv4(const struct burst *burst, uint32_t i, uint64_t begin,
                           int64_t hops)
{
    const uint64_t kind = 0xffull << 56 | IPV4_IS_FRAGMENT;
    uint64_t second = burst->words[1][i];
    return ((begin & kind) == 0x45ull << 56) &
           ((int64_t)(begin >> 32 & UINT16_MAX) >= WIRE_IPV4_SIZE + PORTS_SIZE) &
           ((int64_t)(second & UINT8_MAX) >= hops) &
           ((second >> 8 & UINT8_MAX) != WIRE_ICMP) &
           is_sum_right(burst->words[0][i], second, burst->words[2][i]);
}

/* From the internet, with room for a tunnel's header in front. */
INLINE bool judge_inbound(struct burst *burst, const struct way *way)
{
    const struct lwaftr_config *config = way->config;
    const struct binding_table *table = config->table;
    int64_t headers = FRAME_IP + way->tag;
    int64_t most = (int64_t)config->side[LWAFTR_V6].mtu - WIRE_IPV6_SIZE;
    uint64_t compat = config->compat, label = config->flow_label, any = 0;
    for (uint32_t i = 0; i < burst->n; i++) {
        uint64_t metadata = burst->metadata[i], begin = be64toh(burst->words[0][i]);
        int64_t total = begin >> 32 & UINT16_MAX;
        int64_t room = (int64_t)(metadata & UINT32_MAX) - headers;
        int64_t in_front = (int64_t)((uintptr_t)burst->ip[i] - (uintptr_t)burst->packets[i]);
        bool is_common = is_of_type(burst->type[i], WIRE_IPV4) &
                         carries_nothing(metadata) & is_common_ipv4(burst, i, begin, 2) &
                         (total <= room) & (total <= most) &
                         ((compat == 0) | (total == room)) &
                         (in_front >= (int64_t)sizeof(struct packet) + WIRE_IPV6_SIZE +
                                          ETHERNET_ROOM);
        /* destination, source port, destination port */
        uint64_t end = be64toh(burst->words[2][i]);
        uint64_t key = (end & ~(uint64_t)UINT32_MAX) | (end & UINT16_MAX) << 16;
        burst->special[i] = !is_common;
        any |= !is_common;
        burst->keys[i] = key;
        burst->addresses[i] = binding_begin(table, key);
        burst->totals[i] = (uint64_t)total;
        burst->hops[i] = ipv4_one_hop_less(burst->words[1][i] & UINT32_MAX);
        burst->ipv6[i] = ipv6_tunnel_word(begin >> 48 & UINT8_MAX, label, (uint64_t)total);
        burst->metadata[i] = (metadata & 0xffull << 56) | (uint64_t)(total + FRAME_TUNNELLED);
    }
    return any != 0;
}

/* From a B4, and not to another one. ECN says nothing, or nothing new (RFC 6040, 4.2). */
INLINE bool judge_outbound(struct burst *burst, const struct way *way)
{
    const uint64_t outer = 6ull << 60 | WIRE_IPV4_IN_IP << 8, kind = 15ull << 60 | 0xff00;
    const struct lwaftr_config *config = way->config;
    const struct binding_table *table = config->table;
    int64_t headers = FRAME_TUNNELLED + way->tag;
    int64_t most = (int64_t)config->side[LWAFTR_V4].mtu;
    uint64_t compat = config->compat, hairpinning = config->hairpinning, any = 0;
    for (uint32_t i = 0; i < burst->n; i++) {
        uint64_t metadata = burst->metadata[i], begin = be64toh(burst->words[0][i]);
        uint64_t ipv6 = be64toh(burst->ipv6[i]);
        int64_t total = begin >> 32 & UINT16_MAX, payload = ipv6 >> 16 & UINT16_MAX;
        int64_t room = (int64_t)(metadata & UINT32_MAX) - headers;
        uint64_t ecn = ipv6 >> 52 & ECN_MASK;
        bool is_common = is_of_type(burst->type[i], WIRE_IPV6) &
                         carries_nothing(metadata) & is_common_ipv4(burst, i, begin, 1) &
                         ((ipv6 & kind) == outer) & (total <= payload) &
                         (payload <= room) & (total <= most) &
                         ((compat == 0) | (total == room)) &
                         ((ecn == 0) | (ecn == (begin >> 48 & ECN_MASK)));
        /* destination, source port, destination port */
        uint64_t end = be64toh(burst->words[2][i]);
        uint64_t key = be64toh(burst->words[1][i]) << 32 | (end & 0xffff0000);
        uint64_t near = table->managed[end >> 54] >> (end >> 48 & 63) & hairpinning;
        uint64_t special = is_common ? MAYBE * near : 1;
        burst->special[i] = special;
        any |= special;
        burst->keys[i] = key;
        burst->addresses[i] = binding_begin(table, key);
        burst->totals[i] = (uint64_t)total;
        burst->metadata[i] = (metadata & 0xffull << 56) | (uint64_t)(total + FRAME_IP);
    }
    return any != 0;
}

/* ---- what cannot be judged in vectors ------------------------------------------------- */

static inline bool is_filtering(const struct lwaftr_filter *filter)
{
    return filter->program != NULL;
}

/* Whether the filter of the side lets a packet pass. It sees it without its tag; then
 * the packet is as it was, for whoever takes it from here. */
static bool passes_filter(const struct lwaftr_filter *filter, const struct packet *packet,
                          uint32_t tag)
{
    uint8_t *frame = packet->data + tag, header[ETHERNET_TYPE + WIRE_TAG_SIZE];
    struct packet untagged = {.data = frame, .length = packet->length - tag};
    memcpy(header, packet->data, sizeof(header));
    memmove(frame, header, ETHERNET_TYPE);
    bool does = filter_matches(filter, &untagged);
    memcpy(packet->data, header, sizeof(header));
    return does;
}

/* The tag is that of the side, without a priority, and the filter lets it pass. */
static bool passes(const struct way *way, const struct packet *packet)
{
    const struct lwaftr_side *side = &way->config->side[way->from];
    uint32_t tag = (uint32_t)WIRE_VLAN << 16 | side->vlan;
    return (way->tag == 0 || load_be32(packet->data + ETHERNET_TYPE) == tag) &&
           (!is_filtering(&side->ingress) ||
            passes_filter(&side->ingress, packet, way->tag));
}

INLINE void judge_rest(struct burst *burst, const struct way *way)
{
    for (uint32_t i = 0; i < burst->n; i++) {
        uint64_t special = burst->special[i];
        if (special == MAYBE)
            special = binding_table_has_address(
                way->config->table, (uint32_t)(be64toh(burst->words[2][i]) >> 32));
        if (!way->is_plain && !special)
            special = !passes(way, burst->packets[i]);
        burst->special[i] = special;
        if (special)
            burst->addresses[i] = &binding_no_address;
    }
}

/* ---- look up --------------------------------------------------------------------------- */

INLINE void find_softwires(struct burst *burst, const struct binding_table *table)
{
#pragma GCC unroll 8
    for (uint32_t i = 0; i < burst->n; i++)
        __builtin_prefetch(burst->addresses[i]);
    for (uint32_t i = 0; i < burst->n; i++) {
        uint64_t key = burst->keys[i];
        const struct binding_address *address =
            binding_probe(table, burst->addresses[i], binding_key_ipv4(key));
        burst->softwires[i] = binding_place(table, address, &key);
        burst->keys[i] = key;
        __builtin_prefetch(burst->softwires[i]);
    }
}

/* ---- out --------------------------------------------------------------------------- */

/* The next hop may become another one while a special packet is dealt with. */
INLINE void find_next_hop(const struct lwaftr *lw, struct way *way)
{
    uint8_t *frame = way->ethernet + ETHERNET_ROOM - WIRE_ETHERNET_SIZE;
    uint32_t to = LWAFTR_V6 - way->from;
    neighbor_address(lw->neighbor[to], frame);
    store_be16(frame + ETHERNET_TYPE, to == LWAFTR_V4 ? WIRE_IPV4 : WIRE_IPV6);
}

/* Give a common packet the Ethernet header in front of `ip`, and its metadata. */
INLINE void set_frame(const struct way *way, struct packet *packet, uint8_t *ip,
                      uint64_t metadata)
{
    memcpy(ip - ETHERNET_ROOM, way->ethernet, ETHERNET_ROOM);
    packet->data = ip - WIRE_ETHERNET_SIZE;
    memcpy(&packet->length, &metadata, sizeof(metadata));
}

INLINE void encapsulate(const struct burst *burst, uint32_t i, const struct way *way,
                        const uint8_t *br, const uint8_t *b4)
{
    uint8_t *ip = burst->ip[i], *ipv6 = ip - WIRE_IPV6_SIZE;
    memcpy(ip + IPV4_TTL, &burst->hops[i], 4);
    memcpy(ipv6, &burst->ipv6[i], 8);
    memcpy(ipv6 + IPV6_SOURCE, br, 16);
    memcpy(ipv6 + IPV6_DESTINATION, b4, 16);
    set_frame(way, burst->packets[i], ipv6, burst->metadata[i]);
}

/* False: it did not come through the tunnel that its softwire names. */
INLINE bool decapsulate(const struct burst *burst, uint32_t i, const struct way *way,
                        const uint8_t *br, const uint8_t *b4)
{
    uint8_t *ip = burst->ip[i], *ipv6 = ip - WIRE_IPV6_SIZE;
    if (unlikely(!ipv6_is_same(b4, ipv6 + IPV6_SOURCE) ||
                 !ipv6_is_same(br, ipv6 + IPV6_DESTINATION)))
        return false;
    set_frame(way, burst->packets[i], ip, burst->metadata[i]);
    return true;
}

/* Make a packet what it becomes, into the tunnel or out of it. False: it is special. */
INLINE bool transform(const struct burst *burst, uint32_t i, const struct way *way,
                      const struct binding_table *table, const uint8_t (*br)[16])
{
    const struct softwire *softwire = burst->softwires[i];
    if (unlikely(!softwire_has_key(softwire, burst->keys[i]))) {
        softwire = binding_settle(table, softwire, burst->keys[i]);
        if (!softwire)
            return false;
    }
    if (way->from == LWAFTR_V6)
        return decapsulate(burst, i, way, br[softwire->br], softwire->b4);
    encapsulate(burst, i, way, br[softwire->br], softwire->b4);
    return true;
}

/* Common packets that are next to each other go as they are. */
static void send_run(struct lwaftr *lw, uint32_t side, struct packet *const *packets,
                     uint32_t n, uint64_t bytes)
{
    struct link *out = lw->out[side].link;
    lwaftr_flush(lw);
    if (likely(n <= link_writable(out)))
        link_transmit_known(out, packets, n, bytes);
    else
        link_transmit_burst(out, packets, n);
}

/* Send what is common of a burst out of the other side, and the others through all
 * stages, in the order in which they came. */
INLINE struct sums send_burst(struct lwaftr *lw, const struct burst *burst, struct way *way)
{
    const struct binding_table *table = way->config->table;
    const uint8_t(*br)[16] = (const uint8_t(*)[16])table->br;
    struct packet *const *packets = burst->packets;
    uint32_t to = LWAFTR_V6 - way->from, n = burst->n;
    uint32_t header = to == LWAFTR_V4 ? FRAME_IP : FRAME_TUNNELLED;
    struct sums sums = {.packets = n};
    uint32_t begin = 0; /* of the run */
    uint64_t sent = 0;  /* bytes of IPv4 before it */
    for (uint32_t i = 0; i < n; i++) {
        if (likely(transform(burst, i, way, table, br))) {
            sums.ipv4 += burst->totals[i];
            if (way->from == LWAFTR_V6)
                sums.payload += be64toh(burst->ipv6[i]) >> 16 & UINT16_MAX;
            if (likely(way->is_plain))
                continue;
            sums.filtered += !lwaftr_output_whole(lw, to, packets[i]);
        } else {
            send_run(lw, to, packets + begin, i - begin,
                     sums.ipv4 - sent + header * (i - begin));
            lwaftr_input(lw, way->from, packets[i]);
            find_next_hop(lw, way);
            sums.packets--;
        }
        begin = i + 1;
        sent = sums.ipv4;
    }
    send_run(lw, to, packets + begin, n - begin, sums.ipv4 - sent + header * (n - begin));
    return sums;
}

/* ---- all of it ----------------------------------------------------------------------- */

static bool is_plain(const struct lwaftr_config *config, uint32_t from)
{
    const struct lwaftr_side *in = &config->side[from];
    const struct lwaftr_side *out = &config->side[LWAFTR_V6 - from];
    return !in->is_tagged && !out->is_tagged && !is_filtering(&in->ingress) &&
           !is_filtering(&out->egress);
}

INLINE struct sums push(struct lwaftr *lw, uint32_t from, struct packet *const *packets,
                        uint32_t n)
{
    const struct lwaftr_config *config = lw->config;
    struct way way = {.config = config,
                      .from = from,
                      .tag = config->side[from].is_tagged ? WIRE_TAG_SIZE : 0,
                      .is_plain = is_plain(config, from)};
    struct burst burst;
    burst.packets = packets;
    burst.n = n;
    find_next_hop(lw, &way);
    read_burst(&burst, &way);
    bool any_special = from == LWAFTR_V4 ? judge_inbound(&burst, &way)
                                         : judge_outbound(&burst, &way);
    if (any_special || !way.is_plain)
        judge_rest(&burst, &way);
    find_softwires(&burst, config->table);
    return send_burst(lw, &burst, &way);
}

static WIDE void push_inbound(struct lwaftr *lw, struct packet *const *packets, uint32_t n)
{
    struct sums sums = push(lw, LWAFTR_V4, packets, n);
    uint64_t *counters = lw->counters;
    counters[LWAFTR_IN_IPV4_FRAG_REASSEMBLY_UNNEEDED] += sums.packets;
    counters[LWAFTR_IN_IPV4_PACKETS] += sums.packets;
    counters[LWAFTR_IN_IPV4_BYTES] += sums.ipv4 + FRAME_IP * sums.packets;
    counters[LWAFTR_OUT_IPV6_PACKETS] += sums.packets;
    counters[LWAFTR_OUT_IPV6_BYTES] += sums.ipv4 + FRAME_TUNNELLED * sums.packets;
    counters[LWAFTR_OUT_IPV6_FRAG_NOT] += sums.packets - sums.filtered;
}

static WIDE void push_outbound(struct lwaftr *lw, struct packet *const *packets, uint32_t n)
{
    struct sums sums = push(lw, LWAFTR_V6, packets, n);
    uint64_t *counters = lw->counters;
    counters[LWAFTR_IN_IPV6_FRAG_REASSEMBLY_UNNEEDED] += sums.packets;
    counters[LWAFTR_IN_IPV6_PACKETS] += sums.packets;
    counters[LWAFTR_IN_IPV6_BYTES] += sums.payload + FRAME_TUNNELLED * sums.packets;
    counters[LWAFTR_OUT_IPV4_PACKETS] += sums.packets;
    counters[LWAFTR_OUT_IPV4_BYTES] += sums.ipv4 + FRAME_IP * sums.packets;
    counters[LWAFTR_OUT_IPV4_FRAG_NOT] += sums.packets - sums.filtered;
}

static void push_some(struct lwaftr *lw, uint32_t side, struct packet *const *packets,
                      uint32_t n)
{
    prefetch_frames(packets, n);
    if (unlikely(!neighbor_is_known(lw->neighbor[LWAFTR_V6 - side])))
        for (uint32_t i = 0; i < n; i++)
            lwaftr_input(lw, side, packets[i]);
    else if (side == LWAFTR_V4)
        push_inbound(lw, packets, n);
    else
        push_outbound(lw, packets, n);
}

void lwaftr_push_burst(struct lwaftr *lw, uint32_t side, struct packet *const *packets,
                       uint32_t n)
{
    for (uint32_t i = 0; i < n; i += BURST)
        push_some(lw, side, packets + i, min_u32(n - i, BURST));
    lwaftr_flush(lw);
}
