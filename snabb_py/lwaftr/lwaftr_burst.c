/* Packets that most others are like: whole, right, of a softwire, too short to be cut up.
 * They go in bursts, step by step: what is judged and computed lies in arrays, so that
 * the compiler makes vectors of it, and what one step asks the memory for is there when
 * the next one comes. Whatever is in any way special goes by itself through every stage
 * (lwaftr_edge.c, lwaftr_core.c), where all is decided and counted. Both are in the order
 * in which they came. */
#include "snabb_py/lwaftr/lanes.h"
#include "snabb_py/lwaftr/lwaftr.h"

/* As HOT, and with instructions that swap bytes in the widest vectors. */
#if defined(__x86_64__) && defined(__GNUC__) && __GNUC__ >= 12 && !defined(__clang__) &&   \
    !defined(__SANITIZE_ADDRESS__)
#define WIDE __attribute__((target_clones("arch=x86-64-v3", "default")))
#else
#define WIDE HOT
#endif
#define INLINE LANES_INLINE

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

/* What the common packets of a burst add to the counters. */
struct sums {
    uint64_t packets;
    uint64_t ipv4;     /* bytes, without any other header */
    uint64_t payload;  /* of the tunnel: there may be padding in it */
    uint64_t filtered; /* on their way out */
};

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
INLINE struct packet *const *take_eight(const struct burst *burst, uint32_t i,
                                        struct packet **filled)
{
    if (likely(i + LANES <= burst->n))
        return burst->packets + i;
    for (uint32_t k = 0; k < LANES; k++)
        filled[k] = burst->packets[min_u32(i + k, burst->n - 1)];
    return filled;
}

INLINE struct eight read_eight(struct packet *const *packets, const struct way *way)
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
INLINE lanes lanes_one_hop_less(lanes word, uint32_t carry)
{
    return word + UINT16_MAX + (((word >> 16) + 2) & carry);
}

/* Each of these is 0 with common packets. A number that is too large leaves less than
 * nothing of its limit, which the sign tells. */

INLINE lanes is_other_type(const struct eight *eight, uint16_t type)
{
    return eight->frame.word[0] >> 16 ^ htobe16(type);
}

/* A checksum to be finished, a super-frame. */
INLINE lanes carries_something(const struct eight *eight)
{
    return eight->metadata.word[3] &
           ((UINT16_MAX & ~PACKET_CSUM_VALID) | UINT8_MAX << 16);
}

/* The sum of a header without options, which is never 0. */
INLINE lanes is_sum_wrong(const lanes *ip)
{
    lanes sum = {0};
    for (uint32_t k = 0; k < 5; k++)
        sum += (ip[k] & UINT16_MAX) + (ip[k] >> 16);
    return ((sum & UINT16_MAX) + (sum >> 16)) ^ UINT16_MAX;
}

/* IPv4: a header without options, right, of a datagram that is no fragment, has ports,
 * at most `room` bytes, and so many hops left. `begin`: its first word in host order. */
INLINE lanes is_special_ipv4(const lanes *ip, lanes begin, lanes room, uint32_t hops)
{
    lanes total = begin & UINT16_MAX;
    lanes negative = (total - (WIRE_IPV4_SIZE + PORTS_SIZE)) | (room - total) |
                     ((ip[2] & UINT8_MAX) - hops);
    return (begin >> 24 ^ 0x45) | (ip[1] & htobe32(IPV4_IS_FRAGMENT)) |
           (lanes)((ip[2] & 0xff00) == WIRE_ICMP << 8) | negative >> 31 |
           is_sum_wrong(ip);
}

/* What is to be looked up. */
INLINE void store_address(struct burst *burst, uint32_t i, lanes ipv4,
                          const struct binding_table *table)
{
    lanes_store(burst->ipv4 + i, ipv4);
    lanes_store(burst->slots + i, ipv4 * table->multiplier >> table->address_shift);
}

/* From the internet. */
INLINE lanes judge_inbound(struct burst *burst, uint32_t i, const struct eight *eight,
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
INLINE lanes judge_outbound(struct burst *burst, uint32_t i, const struct eight *eight,
                            const struct way *way)
{
    const lanes *ip = eight->ip;
    lanes begin = lanes_swap(ip[0]), total = begin & UINT16_MAX;
    lanes first = lanes_swap(eight->frame.word[1]), ecn = first >> 20 & ECN_MASK;
    lanes second = lanes_swap(eight->frame.word[2]), payload = second >> 16;
    lanes room = eight->metadata.word[2] - way->headers;
    lanes special = is_other_type(eight, WIRE_IPV6) | carries_something(eight) |
                    is_special_ipv4(ip, begin, payload, 1) | (first >> 28 ^ 6) |
                    ((second >> 8 & UINT8_MAX) ^ WIRE_IPV4_IN_IP) |
                    ((room - payload) | (way->most - total)) >> 31 |
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
INLINE bool judge(struct burst *burst, const struct way *way)
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

/* Whether a packet that comes from a B4 goes to another one. */
static bool is_hairpinned(const struct burst *burst, uint32_t i, const struct way *way)
{
    if (way->from == LWAFTR_V4 || !way->config->hairpinning || !burst->others[i])
        return false;
    const uint8_t *ip = burst->packets[i]->data + way->tag + FRAME_TUNNELLED;
    return binding_table_has_address(way->config->table, load_be32(ip + IPV4_DESTINATION));
}

static void judge_rest(struct burst *burst, const struct way *way)
{
    for (uint32_t i = 0; i < burst->n; i++)
        if (!burst->special[i] &&
            (is_hairpinned(burst, i, way) ||
             (!way->is_plain && !passes(way, burst->packets[i]))))
            burst->special[i] = 1;
}

/* ---- look up --------------------------------------------------------------------------- */

/* What is in the table where binding_table_find() looks first is found eight at a time;
 * as nearly all are. */
INLINE lanes find_eight(struct burst *burst, uint32_t i, const struct binding_table *table)
{
    lanes ipv4 = lanes_load(burst->ipv4 + i), port = lanes_load(burst->ports + i);
    const uint8_t *places[LANES];
    for (uint32_t k = 0; k < LANES; k++)
        places[k] = (const uint8_t *)&table->addresses[burst->slots[i + k]];
    struct columns address = lanes_columns(places, 0);
    lanes first = address.word[1], reserved = address.word[2] & UINT16_MAX;
    lanes psid = port >> (address.word[3] & UINT8_MAX) & address.word[2] >> 16;
    lanes alone = (lanes)(address.word[0] != ipv4) | lanes_less(port, reserved) |
                  (lanes)(first >= (uint32_t)BINDING_NO_ROW) | lanes_load(burst->special + i);
    lanes_store_places((uintptr_t *)burst->softwires + i, first + psid,
                       (uintptr_t)table->row, sizeof(struct softwire));
    lanes_store(burst->alone + i, alone);
    lanes_store_pairs(burst->keys + i, psid << 16, ipv4);
    return alone;
}

static void find_alone(struct burst *burst, uint32_t i, const struct binding_table *table)
{
    uint64_t key = binding_key(burst->ipv4[i], (uint16_t)burst->ports[i]);
    burst->softwires[i] = &binding_no_softwire;
    if (!burst->special[i]) {
        const struct binding_address *address =
            binding_probe(table, binding_begin(table, key), burst->ipv4[i]);
        burst->softwires[i] = binding_place(table, address, &key);
        __builtin_prefetch(burst->softwires[i]);
    }
    burst->keys[i] = key;
}

INLINE void find_softwires(struct burst *burst, const struct binding_table *table)
{
    lanes alone = {0};
    for (uint32_t i = 0; i < burst->n; i += LANES)
        alone |= find_eight(burst, i, table);
    for (uint32_t i = 0; i < burst->n; i += LANES)
        for (uint32_t k = 0; k < LANES; k++)
            __builtin_prefetch(burst->softwires[i + k]);
    if (unlikely(lanes_any(alone)))
        for (uint32_t i = 0; i < burst->n; i++)
            if (burst->alone[i])
                find_alone(burst, i, table);
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

/* False: there is no room in front of it. */
INLINE bool encapsulate(const struct burst *burst, uint32_t i, const struct way *way,
                        struct packet *packet, const uint8_t *br, const uint8_t *b4)
{
    uint8_t *ip = packet->data + way->tag + FRAME_IP, *ipv6 = ip - WIRE_IPV6_SIZE;
    if (unlikely(ipv6 - ETHERNET_ROOM < packet_slot_data(packet)))
        return false;
    memcpy(ip + IPV4_TTL, &burst->hops[i], 4);
    memcpy(ipv6, &burst->ipv6[i], 8);
    memcpy(ipv6 + IPV6_SOURCE, br, 16);
    memcpy(ipv6 + IPV6_DESTINATION, b4, 16);
    set_frame(way, packet, ipv6, burst->metadata[i]);
    return true;
}

/* False: it did not come through the tunnel that its softwire names. */
INLINE bool decapsulate(const struct burst *burst, uint32_t i, const struct way *way,
                        struct packet *packet, const uint8_t *br, const uint8_t *b4)
{
    uint8_t *ip = packet->data + way->tag + FRAME_TUNNELLED, *ipv6 = ip - WIRE_IPV6_SIZE;
    if (unlikely(!ipv6_is_same(b4, ipv6 + IPV6_SOURCE) ||
                 !ipv6_is_same(br, ipv6 + IPV6_DESTINATION)))
        return false;
    set_frame(way, packet, ip, burst->metadata[i]);
    return true;
}

/* Make packets what they become, into the tunnel or out of it, from the begin-th on.
 * Returns which one is special, or the end. */
INLINE uint32_t transform(const struct burst *burst, uint32_t begin,
                          const struct way *given)
{
    const struct way way = *given; /* a copy that nobody writes to stays in registers */
    const struct binding_table *table = way.config->table;
    const uint8_t(*br)[16] = (const uint8_t(*)[16])table->br;
    struct packet *const *packets = burst->packets;
    uint32_t i, n = burst->n;
    for (i = begin; i < n; i++) {
        const struct softwire *softwire = burst->softwires[i];
        if (unlikely(!softwire_has_key(softwire, burst->keys[i]))) {
            softwire = binding_settle(table, softwire, burst->keys[i]);
            if (!softwire)
                break;
        }
        const uint8_t *ours = br[softwire->br], *b4 = softwire->b4;
        if (unlikely(way.from == LWAFTR_V4
                         ? !encapsulate(burst, i, &way, packets[i], ours, b4)
                         : !decapsulate(burst, i, &way, packets[i], ours, b4)))
            break;
    }
    return i;
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

/* Or by themselves, where there is a tag or a filter. Returns how many did not pass. */
static uint32_t send_each(struct lwaftr *lw, uint32_t side, struct packet *const *packets,
                          uint32_t n)
{
    uint32_t filtered = 0;
    for (uint32_t i = 0; i < n; i++)
        filtered += !lwaftr_output_whole(lw, side, packets[i]);
    return filtered;
}

INLINE uint32_t sum_of(const uint32_t *numbers, uint32_t n)
{
    uint32_t sum = 0;
    for (uint32_t i = 0; i < n; i++)
        sum += numbers[i];
    return sum;
}

/* Send what is common of a burst out of the other side, and the others through all
 * stages, in the order in which they came. */
INLINE struct sums send_burst(struct lwaftr *lw, const struct burst *burst, struct way *way)
{
    uint32_t to = LWAFTR_V6 - way->from;
    uint32_t header = to == LWAFTR_V4 ? FRAME_IP : FRAME_TUNNELLED;
    struct sums sums = {0};
    for (uint32_t begin = 0, end;; begin = end + 1) {
        end = transform(burst, begin, way);
        struct packet *const *run = burst->packets + begin;
        uint32_t n = end - begin, ipv4 = sum_of(burst->totals + begin, n);
        sums.packets += n;
        sums.ipv4 += ipv4;
        if (way->from == LWAFTR_V6)
            sums.payload += sum_of(burst->payloads + begin, n);
        if (likely(way->is_plain))
            send_run(lw, to, run, n, ipv4 + header * n);
        else
            sums.filtered += send_each(lw, to, run, n);
        if (likely(end == burst->n))
            return sums;
        lwaftr_input(lw, way->from, burst->packets[end]);
        find_next_hop(lw, way);
    }
}

/* ---- all of it ----------------------------------------------------------------------- */

static bool is_plain(const struct lwaftr_config *config, uint32_t from)
{
    const struct lwaftr_side *in = &config->side[from];
    const struct lwaftr_side *out = &config->side[LWAFTR_V6 - from];
    return !in->is_tagged && !out->is_tagged && !is_filtering(&in->ingress) &&
           !is_filtering(&out->egress);
}

/* By itself, so that the compiler does not know the constants: it would make vectors of
 * them anew all the time, where it can take them from here. */
static __attribute__((noinline)) void
find_way(struct way *way, const struct lwaftr_config *config, uint32_t from)
{
    bool is_inbound = from == LWAFTR_V4;
    uint32_t mtu = config->side[LWAFTR_V6 - from].mtu;
    way->config = config;
    way->from = from;
    way->tag = config->side[from].is_tagged ? WIRE_TAG_SIZE : 0;
    way->is_plain = is_plain(config, from);
    way->headers = way->tag + (is_inbound ? FRAME_IP : FRAME_TUNNELLED);
    way->growth = is_inbound ? FRAME_TUNNELLED : FRAME_IP;
    way->most = is_inbound ? mtu - WIRE_IPV6_SIZE : mtu;
    way->exact = config->compat ? UINT32_MAX : 0;
    way->begin = 6u << 28 | config->flow_label;
    way->end = WIRE_IPV4_IN_IP << 16 | 255u << 24 /* hop limit */;
    way->tos = 0x0ff00000;
    way->slot_class = 0xff000000;
    way->carry = 0x10000;
}

INLINE struct sums push(struct lwaftr *lw, uint32_t from, struct packet *const *packets,
                        uint32_t n)
{
    struct way way;
    find_way(&way, lw->config, from);
    struct burst burst;
    burst.packets = packets;
    burst.n = n;
    find_next_hop(lw, &way);
    if (judge(&burst, &way) || !way.is_plain)
        judge_rest(&burst, &way);
    find_softwires(&burst, way.config->table);
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

void lwaftr_push_burst(struct lwaftr *lw, uint32_t side, struct packet *const *packets,
                       uint32_t n)
{
    if (unlikely(!neighbor_is_known(lw->neighbor[LWAFTR_V6 - side])))
        for (uint32_t i = 0; i < n; i++)
            lwaftr_input(lw, side, packets[i]);
    else if (side == LWAFTR_V4)
        push_inbound(lw, packets, n);
    else
        push_outbound(lw, packets, n);
    lwaftr_flush(lw);
}
