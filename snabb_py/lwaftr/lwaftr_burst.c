/* Packets that most others are like: whole, right, of a softwire, too short to be cut up.
 * They go in bursts, step by step and eight at a time: what one step asks the memory for
 * is there when the next one comes. Whatever is in any way special goes by itself through
 * every stage (lwaftr_edge.c, lwaftr_core.c), where all is decided and counted. Both are
 * in the order in which they came. */
#include "snabb_py/lwaftr/lwaftr_judge.h"

/* For machines that have vectors as wide as lanes, and others. GCC makes slower ones with
 * AVX-512: constants and columns take the one port that shuffles (11.2 -> 13 ns a packet). */
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) &&                   \
    !defined(__SANITIZE_ADDRESS__)
#define WIDE __attribute__((target_clones("arch=x86-64-v3", "default")))
#else
#define WIDE
#endif
#define INLINE LANES_INLINE

/* What the common packets of a burst add to the counters. */
struct sums {
    uint64_t packets;
    uint64_t ipv4;     /* bytes, without any other header */
    uint64_t payload;  /* of the tunnel: there may be padding in it */
    uint64_t filtered; /* on their way out */
};

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
