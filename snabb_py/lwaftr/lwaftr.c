/* The lwAFTR (RFC 7596): IPv4 over IPv6 tunnels, one to each B4.
 *
 * One app does the work of a chain. Here are the packets that most others are like:
 * whole, right, of a softwire, too short to be cut up. They go in bursts: read and
 * check, look up all at once, write the header. Whatever is in any way special goes by
 * itself through every stage (lwaftr_edge.c, lwaftr_core.c), where all is decided and
 * counted. Both are in the order in which they came.
 */
#include "snabb_py/lwaftr/lwaftr.h"

enum {
    PORTS_SIZE = 4,  /* source and destination, the first bytes of a payload */
    EXPIRED_MAX = 32 /* reassemblies that a tick gives up */
};

/* A burst between two of the three steps that it takes. Those of the binding table's
 * lookup are among them, so that what one asks for is there when the next one comes. */
struct burst {
    struct packet *const *packets;
    uint32_t n;
    uint8_t *frames[LWAFTR_BURST]; /* without tags; NULL: no common one */
    uint32_t addresses[LWAFTR_BURST];
    uint16_t ports[LWAFTR_BURST];
    uint32_t slots[LWAFTR_BURST]; /* of the addresses */
    uint16_t psids[LWAFTR_BURST]; /* of the ports */
    const struct softwire *softwires[LWAFTR_BURST];
};

/* What the common packets of a burst add to the counters. */
struct sums {
    uint32_t packets;
    uint32_t bytes;     /* of frames as they came */
    uint32_t out_bytes; /* as they went, untagged */
    uint32_t filtered;  /* on their way out */
};

/* Where they go: what does not change meanwhile, read once. The compiler must think
 * that whatever is stored in a frame might be part of it. */
struct way {
    uint32_t side;
    bool is_plain; /* no tag, no filter */
    uint64_t ethernet[2];
};

/* What is looked up for a packet that is no common one. */
static const uint8_t no_ipv4[WIRE_IPV4_SIZE + PORTS_SIZE];

/* ---- frames ---------------------------------------------------------------------- */

static inline bool is_filtering(const struct lwaftr_filter *filter)
{
    return filter->program != NULL;
}

/* No checksum to be finished, no super-frame. */
static inline bool carries_nothing(const struct packet *packet)
{
    return ((packet->flags & ~PACKET_CSUM_VALID) | packet->gso_type) == 0;
}

/* The frame without its tag: the addresses in front of it are where they were. NULL:
 * too short, or not of this kind and VLAN, or with a priority. */
static inline uint8_t *common_frame(const struct packet *packet,
                                    const struct lwaftr_side *side, uint16_t type,
                                    uint32_t size)
{
    uint8_t *frame = packet->data;
    if (unlikely(side->is_tagged)) {
        size += WIRE_TAG_SIZE;
        if (packet->length < size ||
            load_be32(frame + ETHERNET_TYPE) != ((uint32_t)WIRE_VLAN << 16 | side->vlan))
            return NULL;
        frame += WIRE_TAG_SIZE;
    }
    bool is_common = packet->length >= size && carries_nothing(packet) &&
                     load_be16(frame + ETHERNET_TYPE) == type;
    return is_common ? frame : NULL;
}

/* Bytes from the IP header on. */
static inline uint32_t ip_room(const struct packet *packet, const uint8_t *frame)
{
    return (uint32_t)(packet->data + packet->length - frame) - FRAME_IP;
}

/* A header without options, right, of a datagram that is no fragment and has ports, and
 * `most` bytes at most. Version, header length and fragment fields are in one word. The
 * sum is a multiple of 0xffff when it times the inverse of that, modulo 2^64, is small
 * (Granlund and Montgomery, 1994, 9); it is never 0. */
static inline bool is_common_ipv4(const uint8_t *ip, uint32_t total, uint32_t most)
{
    const uint64_t first = htobe64(0x45ull << 56);
    const uint64_t mask = htobe64(0xffull << 56 | IPV4_IS_FRAGMENT);
    const uint64_t inverse = 0xfffefffefffeffff, quotients = 0x0001000100010001;
    uint64_t word[2];
    uint32_t last;
    memcpy(word, ip, sizeof(word));
    memcpy(&last, ip + sizeof(word), sizeof(last));
    /* 2^64 is 1 modulo 0xffff: so are carries. */
    uint64_t sum = word[0] + word[1];
    sum += sum < word[1];
    sum += last;
    sum += sum < last;
    return ((word[0] ^ first) & mask) == 0 && total <= most &&
           total >= WIRE_IPV4_SIZE + PORTS_SIZE && ip[IPV4_PROTOCOL] != WIRE_ICMP &&
           sum * inverse <= quotients;
}

/* Whether the filter of a side that a frame came in on lets it pass. The filter sees
 * it without its tag; then it is as it was, for whoever takes it from here. */
static bool passes_filter(const struct lwaftr_side *side, const struct packet *packet,
                          uint8_t *frame)
{
    uint32_t tag = (uint32_t)(frame - packet->data);
    struct packet untagged = {.data = frame, .length = packet->length - tag};
    uint8_t header[ETHERNET_TYPE + WIRE_TAG_SIZE];
    memcpy(header, packet->data, sizeof(header));
    memmove(frame, header, ETHERNET_TYPE);
    bool does = filter_matches(&side->ingress, &untagged);
    memcpy(packet->data, header, sizeof(header));
    return does;
}

static inline bool passes(const struct lwaftr_side *side, const struct packet *packet,
                          uint8_t *frame)
{
    return likely(!is_filtering(&side->ingress)) || passes_filter(side, packet, frame);
}

/* Frames that came from a card are not in the cache; what describes them is. Returns
 * whether a super-frame is among them. */
static inline bool prefetch_frames(struct packet *const *packets, uint32_t n)
{
    uint32_t any = PACKET_GSO_NONE;
    for (uint32_t i = 0; i < n; i++) {
        __builtin_prefetch(packets[i]->data);
        any |= packets[i]->gso_type;
    }
    return any != PACKET_GSO_NONE;
}

/* ---- the lookup -------------------------------------------------------------------- */

static inline void burst_note(struct burst *burst, const struct binding_table *table,
                              uint32_t i, uint32_t address, uint16_t port)
{
    uint32_t slot = binding_address_slot(table, address);
    __builtin_prefetch(&table->addresses[slot]);
    burst->addresses[i] = address;
    burst->ports[i] = port;
    burst->slots[i] = slot;
}

static inline void burst_place(struct burst *burst, const struct binding_table *table)
{
    for (uint32_t i = 0; i < burst->n; i++) {
        const struct binding_address *address =
            binding_probe(table, burst->addresses[i], burst->slots[i]);
        burst->softwires[i] =
            binding_place(table, address, burst->ports[i], &burst->psids[i]);
        __builtin_prefetch(burst->softwires[i]);
    }
}

/* The softwire of a packet; NULL: there is none, or it is no common one. */
static inline const struct softwire *burst_settle(const struct burst *burst,
                                                  const struct binding_table *table,
                                                  uint32_t i)
{
    return likely(burst->frames[i] != NULL)
               ? binding_settle(table, burst->softwires[i], burst->addresses[i],
                                burst->psids[i])
               : NULL;
}

/* ---- out -------------------------------------------------------------------------- */

static inline struct way way_out(const struct lwaftr *lw, uint32_t side)
{
    const struct lwaftr_side *config = &lw->config->side[side];
    struct way way = {.side = side,
                      .is_plain = !config->is_tagged && !is_filtering(&config->egress)};
    uint16_t type = htobe16(side == LWAFTR_V4 ? WIRE_IPV4 : WIRE_IPV6);
    uint8_t header[16] = {0};
    neighbor_address(lw->neighbor[side], header);
    memcpy(header + ETHERNET_TYPE, &type, sizeof(type));
    memcpy(way.ethernet, header, sizeof(header));
    return way;
}

/* Common packets that are next to each other go as they are. */
static void send_run(struct lwaftr *lw, uint32_t side, struct packet *const *packets,
                     uint32_t n, uint32_t bytes)
{
    struct link *out = lw->out[side].link;
    lwaftr_flush(lw);
    if (likely(n <= link_writable(out)))
        link_transmit_known(out, packets, n, bytes);
    else
        link_transmit_burst(out, packets, n);
}

/* Give a packet the Ethernet header in front of `ip`. */
static inline void set_frame(const struct way *way, struct packet *packet, uint8_t *ip,
                             uint32_t length)
{
    uint8_t *frame = ip - WIRE_ETHERNET_SIZE;
    memcpy(frame, &way->ethernet[0], 8);
    memcpy(frame + 8, &way->ethernet[1], WIRE_ETHERNET_SIZE - 8);
    /* Metadata of a packet on which nothing rides, at one store; see packet_fresh(). */
    uint64_t word = length | (uint64_t)packet->slot_class << 56;
    packet->data = frame;
    memcpy(&packet->length, &word, sizeof(word));
}

/* Make a common packet what it becomes, out of the tunnel or into it. Returns how long
 * the frame is then. */
static inline uint32_t transform(const struct lwaftr_config *config,
                                 const struct way *way, struct packet *packet,
                                 uint8_t *frame, const struct softwire *softwire,
                                 struct sums *sums)
{
    bool is_inbound = way->side == LWAFTR_V6;
    uint8_t *ip = frame + (is_inbound ? FRAME_IP : FRAME_TUNNELLED), *start = ip;
    uint32_t total = load_be16(ip + IPV4_TOTAL_LENGTH), length = FRAME_IP + total;
    sums->bytes += length;
    if (is_inbound) {
        uint8_t tos = ip[IPV4_TOS];
        const uint8_t *br = config->table->br[softwire->br];
        start = ip - WIRE_IPV6_SIZE;
        length += WIRE_IPV6_SIZE;
        ipv4_decrement_ttl(ip);
        ipv6_write_tunnel(start, tos, config->flow_label, total, br, softwire->b4);
    } else { /* padding in the tunnel is part of what came */
        sums->bytes += WIRE_IPV6_SIZE - total;
        sums->bytes += load_be16(frame + FRAME_IP + IPV6_PAYLOAD_LENGTH);
    }
    set_frame(way, packet, start, length);
    sums->packets++;
    sums->out_bytes += length;
    return length;
}

/* What came through the right tunnel, and does not turn round here. */
static inline bool is_for_internet(const struct lwaftr_config *config,
                                   const struct softwire *softwire, const uint8_t *frame)
{
    uint32_t destination = load_be32(frame + FRAME_TUNNELLED + IPV4_DESTINATION);
    return softwire_matches(config->table, softwire, frame + FRAME_IP) &&
           !(config->hairpinning &&
             binding_table_is_managed(config->table, destination));
}

/* Send what is common of a burst out of a side, and the others through all stages, in
 * the order in which they came. */
static inline struct sums burst_send(struct lwaftr *lw, const struct burst *burst,
                                     uint32_t side)
{
    const struct lwaftr_config *config = lw->config;
    struct packet *const *packets = burst->packets;
    struct way way = way_out(lw, side);
    struct sums sums = {0};
    uint32_t begin = 0, bytes = 0; /* of the run */
    for (uint32_t i = 0; i < burst->n; i++) {
        const struct softwire *softwire = burst_settle(burst, config->table, i);
        uint8_t *frame = burst->frames[i];
        bool is_common = softwire && (side == LWAFTR_V6 ||
                                      is_for_internet(config, softwire, frame));
        if (likely(is_common)) {
            bytes += transform(config, &way, packets[i], frame, softwire, &sums);
            if (likely(way.is_plain))
                continue;
            sums.filtered += !lwaftr_output_whole(lw, side, packets[i]);
        } else {
            send_run(lw, side, packets + begin, i - begin, bytes);
            lwaftr_input(lw, LWAFTR_V6 - side, packets[i]);
            way = way_out(lw, side); /* the next hop may be another one */
        }
        begin = i + 1;
        bytes = 0;
    }
    send_run(lw, side, packets + begin, burst->n - begin, bytes);
    return sums;
}

/* ---- from the internet -------------------------------------------------------------- */

/* A frame that is like most others, without its tag; or NULL. */
static inline uint8_t *common_ipv4(const struct lwaftr_config *config,
                                   const struct packet *packet)
{
    const struct lwaftr_side *in = &config->side[LWAFTR_V4];
    uint8_t *frame =
        common_frame(packet, in, WIRE_IPV4, FRAME_IP + WIRE_IPV4_SIZE + PORTS_SIZE);
    if (unlikely(!frame))
        return NULL;
    const uint8_t *ip = frame + FRAME_IP;
    uint32_t total = load_be16(ip + IPV4_TOTAL_LENGTH), room = ip_room(packet, frame);
    uint32_t most = min_u32(room, config->side[LWAFTR_V6].mtu - WIRE_IPV6_SIZE);
    bool is_common = is_common_ipv4(ip, total, most) && ip[IPV4_TTL] > 1 &&
                     (!config->compat || total == room);
    return likely(is_common) && passes(in, packet, frame) ? frame : NULL;
}

static void burst_from_internet(struct lwaftr *lw, struct packet *const *packets,
                                uint32_t n)
{
    const struct lwaftr_config *config = lw->config;
    struct burst burst;
    burst.packets = packets;
    burst.n = n;
    for (uint32_t i = 0; i < n; i++) {
        uint8_t *frame = common_ipv4(config, packets[i]);
        const uint8_t *ip = frame ? frame + FRAME_IP : no_ipv4;
        burst.frames[i] = frame;
        burst_note(&burst, config->table, i, load_be32(ip + IPV4_DESTINATION),
                   load_be16(ip + WIRE_IPV4_SIZE + 2));
    }
    burst_place(&burst, config->table);
    struct sums sums = burst_send(lw, &burst, LWAFTR_V6);
    uint64_t *counters = lw->counters;
    counters[LWAFTR_IN_IPV4_FRAG_REASSEMBLY_UNNEEDED] += sums.packets;
    counters[LWAFTR_IN_IPV4_PACKETS] += sums.packets;
    counters[LWAFTR_IN_IPV4_BYTES] += sums.bytes;
    counters[LWAFTR_OUT_IPV6_PACKETS] += sums.packets;
    counters[LWAFTR_OUT_IPV6_BYTES] += sums.out_bytes;
    counters[LWAFTR_OUT_IPV6_FRAG_NOT] += sums.packets - sums.filtered;
}

/* ---- from the B4s ------------------------------------------------------------------- */

/* The same. ECN says nothing, or nothing new (RFC 6040, 4.2). */
static inline uint8_t *common_ipv6(const struct lwaftr_config *config,
                                   const struct packet *packet)
{
    const struct lwaftr_side *in = &config->side[LWAFTR_V6];
    uint8_t *frame = common_frame(packet, in, WIRE_IPV6,
                                  FRAME_TUNNELLED + WIRE_IPV4_SIZE + PORTS_SIZE);
    if (unlikely(!frame))
        return NULL;
    const uint8_t *ipv6 = frame + FRAME_IP, *ip = frame + FRAME_TUNNELLED;
    uint32_t payload = load_be16(ipv6 + IPV6_PAYLOAD_LENGTH);
    uint32_t total = load_be16(ip + IPV4_TOTAL_LENGTH);
    uint32_t room = ip_room(packet, frame) - WIRE_IPV6_SIZE;
    uint32_t most = min_u32(payload, config->side[LWAFTR_V4].mtu);
    uint32_t ecn = ipv6[1] >> 4 & ECN_MASK;
    bool is_common = ipv6[0] >> 4 == 6 &&
                     ipv6[IPV6_NEXT_HEADER] == WIRE_IPV4_IN_IPV6 && payload <= room &&
                     (ecn == 0 || ecn == (ip[IPV4_TOS] & ECN_MASK)) &&
                     is_common_ipv4(ip, total, most) && ip[IPV4_TTL] > 0 &&
                     (!config->compat || total == room);
    return likely(is_common) && passes(in, packet, frame) ? frame : NULL;
}

static void burst_from_b4s(struct lwaftr *lw, struct packet *const *packets, uint32_t n)
{
    const struct lwaftr_config *config = lw->config;
    struct burst burst;
    burst.packets = packets;
    burst.n = n;
    for (uint32_t i = 0; i < n; i++) {
        uint8_t *frame = common_ipv6(config, packets[i]);
        const uint8_t *ip = frame ? frame + FRAME_TUNNELLED : no_ipv4;
        burst.frames[i] = frame;
        burst_note(&burst, config->table, i, load_be32(ip + IPV4_SOURCE),
                   load_be16(ip + WIRE_IPV4_SIZE));
    }
    burst_place(&burst, config->table);
    struct sums sums = burst_send(lw, &burst, LWAFTR_V4);
    uint64_t *counters = lw->counters;
    counters[LWAFTR_IN_IPV6_FRAG_REASSEMBLY_UNNEEDED] += sums.packets;
    counters[LWAFTR_IN_IPV6_PACKETS] += sums.packets;
    counters[LWAFTR_IN_IPV6_BYTES] += sums.bytes;
    counters[LWAFTR_OUT_IPV4_PACKETS] += sums.packets;
    counters[LWAFTR_OUT_IPV4_BYTES] += sums.out_bytes;
    counters[LWAFTR_OUT_IPV4_FRAG_NOT] += sums.packets - sums.filtered;
}

static void push_burst(struct lwaftr *lw, uint32_t side, struct packet *const *packets,
                       uint32_t n)
{
    if (n == 0)
        return;
    if (unlikely(!neighbor_is_known(lw->neighbor[LWAFTR_V6 - side])))
        for (uint32_t i = 0; i < n; i++)
            lwaftr_input(lw, side, packets[i]);
    else if (side == LWAFTR_V4)
        burst_from_internet(lw, packets, n);
    else
        burst_from_b4s(lw, packets, n);
    lwaftr_flush(lw);
}

/* ---- the app -------------------------------------------------------------------------- */

/* A config that was not there before: the next hops may be others. */
static void take_config(struct lwaftr *lw, const struct lwaftr_config *config)
{
    for (uint32_t side = 0; side < LWAFTR_NSIDES; side++) {
        const struct neighbor_config *wanted = config->side[side].neighbor;
        neighbor_reconfigure(lw->neighbor[side], lw->neighbor_config[side], wanted);
        *lw->neighbor_config[side] = *wanted;
        lw->reassembler[side]->max_fragments = config->side[side].max_fragments;
    }
    lw->reassembler[LWAFTR_TUNNELLED]->max_fragments =
        config->side[LWAFTR_V6].max_fragments;
    lw->serial = config->serial;
}

/* Two interfaces, or one that is both ("on a stick"). */
static bool is_on_a_stick(const struct app *app)
{
    return app->ninput == 1;
}

static struct lwaftr *begin(struct app *app)
{
    struct lwaftr *lw = app->state;
    const struct lwaftr_config *config = app->config;
    lw->config = config;
    lw->counters = app->counters;
    lw->freelist = app->worker->freelist;
    lw->now = app->worker->now;
    lw->out[LWAFTR_V4].link = app->output[0];
    lw->out[LWAFTR_V6].link = app->output[is_on_a_stick(app) ? 0 : 1];
    if (unlikely(lw->serial != config->serial))
        take_config(lw, config);
    for (uint32_t side = 0; side < LWAFTR_NSIDES; side++)
        if (config->side[side].next_hop)
            lwaftr_share_next_hop(lw, side);
    return lw;
}

/* Frames that a packet becomes, at most: a super-frame is cut up. */
static uint32_t most_frames(const struct packet *packet)
{
    if (packet->gso_type == PACKET_GSO_NONE || packet->gso_size == 0)
        return 1;
    return min_u32(packet->length / packet->gso_size + 1, SEGMENTS_MAX);
}

/* The packets of a burst whose frames have room, all of them. */
static uint32_t fitting(struct packet *const *packets, uint32_t n, uint32_t room)
{
    uint32_t i;
    for (i = 0; i < n && most_frames(packets[i]) <= room; i++)
        room -= most_frames(packets[i]);
    return i;
}

/* A burst off a link, as large as fits the other side's. What ICMP errors and fragments
 * are more is lost where it does not fit, and counted by the link. */
static uint32_t receive(struct link *in, const struct link *out, struct packet **packets)
{
    uint32_t room = link_writable(out);
    uint32_t n = min_u32(min_u32(LWAFTR_BURST, room), link_readable(in));
    if (n == 0)
        return 0;
    link_peek(in, packets, n);
    if (unlikely(prefetch_frames(packets, n)))
        n = fitting(packets, n, room);
    link_consume(in, n, link_bytes(in, n));
    return n;
}

static uint32_t push_side(struct lwaftr *lw, uint32_t side, struct link *in)
{
    const struct link *out = lw->out[LWAFTR_V6 - side].link;
    struct packet *packets[LWAFTR_BURST];
    uint32_t n, total = 0;
    while ((n = receive(in, out, packets)) > 0) {
        push_burst(lw, side, packets, n);
        total += n;
    }
    return total;
}

static inline uint32_t tag_size(const struct lwaftr_side *side)
{
    return side->is_tagged ? WIRE_TAG_SIZE : 0;
}

/* The side that a frame of a stick belongs to: its VLAN's, or its kind's. */
static uint32_t side_of(const struct lwaftr_config *config, const struct packet *packet)
{
    const struct lwaftr_side *v4 = &config->side[LWAFTR_V4];
    const struct lwaftr_side *v6 = &config->side[LWAFTR_V6];
    const uint8_t *type = packet->data + ETHERNET_TYPE;
    if (packet->length < WIRE_ETHERNET_SIZE + tag_size(v4))
        return LWAFTR_V6;
    if (v4->is_tagged != v6->is_tagged || v4->vlan != v6->vlan) {
        bool has_tag = load_be16(type) == WIRE_VLAN;
        return v4->is_tagged == has_tag &&
                       (!has_tag || (load_be16(type + 2) & 0xfff) == v4->vlan)
                   ? LWAFTR_V4
                   : LWAFTR_V6;
    }
    uint16_t kind = load_be16(type + tag_size(v4));
    return kind == WIRE_IPV4 || kind == WIRE_ARP ? LWAFTR_V4 : LWAFTR_V6;
}

static uint32_t push_stick(struct lwaftr *lw, struct link *in, const struct link *out)
{
    struct packet *packets[LWAFTR_BURST], *sides[LWAFTR_NSIDES][LWAFTR_BURST];
    uint32_t n, total = 0;
    while ((n = receive(in, out, packets)) > 0) {
        uint32_t counts[LWAFTR_NSIDES] = {0};
        for (uint32_t i = 0; i < n; i++) {
            uint32_t side = side_of(lw->config, packets[i]);
            sides[side][counts[side]++] = packets[i];
        }
        push_burst(lw, LWAFTR_V6, sides[LWAFTR_V6], counts[LWAFTR_V6]);
        push_burst(lw, LWAFTR_V4, sides[LWAFTR_V4], counts[LWAFTR_V4]);
        total += n;
    }
    return total;
}

static uint32_t lwaftr_push(struct app *app)
{
    struct lwaftr *lw = begin(app);
    if (is_on_a_stick(app))
        return push_stick(lw, app->input[0], app->output[0]);
    return push_side(lw, LWAFTR_V6, app->input[LWAFTR_V6]) +
           push_side(lw, LWAFTR_V4, app->input[LWAFTR_V4]);
}

/* Reassemblies whose time is over: their first fragments' senders are told. */
static void expire(struct lwaftr *lw, uint32_t which)
{
    struct packet *expired[EXPIRED_MAX];
    uint32_t n = reassembler_tick(lw->reassembler[which], lw->freelist, lw->now,
                                  lw->counters, expired, EXPIRED_MAX);
    for (uint32_t i = 0; i < n; i++) {
        if (which == LWAFTR_V4)
            icmpv4_send_error(lw, expired[i], ICMPV4_TIME_EXCEEDED, ICMPV4_REASSEMBLY,
                              0);
        else if (which == LWAFTR_V6)
            icmpv6_send_error(lw, expired[i], ICMPV6_TIME_EXCEEDED, ICMPV6_REASSEMBLY,
                              expired[i]->data + FRAME_IP + IPV6_DESTINATION);
        lwaftr_free(lw, expired[i]);
    }
}

static void lwaftr_tick(struct app *app)
{
    struct lwaftr *lw = begin(app);
    for (uint32_t side = 0; side < LWAFTR_NSIDES && !lwaftr_is_told(lw); side++) {
        struct packet *request =
            neighbor_tick(lw->neighbor[side], lw->config->side[side].neighbor,
                          lw->freelist, lw->now, lw->counters);
        if (request)
            lwaftr_output(lw, side, request);
    }
    for (uint32_t which = 0; which < LWAFTR_NREASSEMBLERS; which++)
        expire(lw, which);
    lwaftr_flush(lw);
}

static uint32_t lwaftr_held(const struct app *app)
{
    const struct lwaftr *lw = app->state;
    uint32_t n = 0;
    for (uint32_t side = 0; side < LWAFTR_NSIDES; side++)
        n += lw->neighbor[side]->nwaiting;
    for (uint32_t which = 0; which < LWAFTR_NREASSEMBLERS; which++)
        n += reassembler_held(lw->reassembler[which]);
    return n;
}

static uint32_t lwaftr_retire(struct app *app)
{
    struct lwaftr *lw = app->state;
    struct freelist *freelist = app->worker->freelist;
    uint32_t n = 0;
    for (uint32_t side = 0; side < LWAFTR_NSIDES; side++)
        n += neighbor_retire(lw->neighbor[side], freelist);
    for (uint32_t which = 0; which < LWAFTR_NREASSEMBLERS; which++)
        n += reassembler_retire(lw->reassembler[which], freelist);
    return n;
}

const struct app_ops lwaftr_ops = {
    .push = lwaftr_push,
    .tick = lwaftr_tick,
    .retire = lwaftr_retire,
    .held = lwaftr_held,
};
