/* The lwAFTR (RFC 7596): IPv4 over IPv6 tunnels, one to each B4. One app does the work
 * of a chain: the common packets in bursts (lwaftr_burst.c), all others through every
 * stage (lwaftr_edge.c, lwaftr_core.c). */
#include "snabb_py/lwaftr/lwaftr.h"

enum {
    EXPIRED_MAX = 32,   /* reassemblies that a tick gives up */
    LEAST_SEGMENT = 512 /* bytes; senders of super-frames cut them up into larger ones */
};

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

/* A burst at the front of a link. */
struct front {
    struct packet *const *packets;
    uint32_t n;
    uint64_t bytes;
};

/* As many packets as fit the other side's link. What ICMP errors and fragments are more
 * is lost where it does not fit, and counted by the link. Super-frames are looked for
 * only where their segments might not fit. */
static struct front find_front(struct link *in, const struct link *out)
{
    uint32_t room = link_writable(out), n = min_u32(LWAFTR_BURST, room);
    struct packet *const *packets = link_run(in, &n);
    uint64_t bytes = link_bytes(in, n);
    if (unlikely(n + bytes / LEAST_SEGMENT > room)) {
        n = fitting(packets, n, room);
        bytes = link_bytes(in, n);
    }
    return (struct front){packets, n, bytes};
}

static uint32_t push_side(struct lwaftr *lw, uint32_t side, struct link *in)
{
    const struct link *out = lw->out[LWAFTR_V6 - side].link;
    struct front front;
    uint32_t total = 0;
    while ((front = find_front(in, out)).n > 0) {
        lwaftr_push_burst(lw, side, front.packets, front.n);
        link_consume(in, front.n, front.bytes);
        total += front.n;
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

/* Frames that came from a card are not in the cache; what describes them is. */
static void prefetch_frames(struct packet *const *packets, uint32_t n)
{
#pragma GCC unroll 8
    for (uint32_t i = 0; i < n; i++)
        __builtin_prefetch(packets[i]->data);
}

static uint32_t push_stick(struct lwaftr *lw, struct link *in, const struct link *out)
{
    struct packet *sides[LWAFTR_NSIDES][LWAFTR_BURST];
    struct front front;
    uint32_t total = 0;
    while ((front = find_front(in, out)).n > 0) {
        uint32_t counts[LWAFTR_NSIDES] = {0};
        prefetch_frames(front.packets, front.n);
        for (uint32_t i = 0; i < front.n; i++) {
            uint32_t side = side_of(lw->config, front.packets[i]);
            sides[side][counts[side]++] = front.packets[i];
        }
        for (uint32_t side = LWAFTR_NSIDES; side-- > 0;)
            if (counts[side] > 0)
                lwaftr_push_burst(lw, side, sides[side], counts[side]);
        link_consume(in, front.n, front.bytes);
        total += front.n;
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
    for (uint32_t side = 0; side < LWAFTR_NSIDES; side++)
        lw->counters[LWAFTR_DROP_NEXT_HOP_UNRESOLVED_IPV4_PACKETS + side] +=
            neighbor_expire(lw->neighbor[side], lw->freelist, lw->now);
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
