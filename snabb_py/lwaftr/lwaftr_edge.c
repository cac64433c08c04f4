/* The edge of the lwAFTR: what a packet passes on its way from a link to the core and
 * back, stage by stage. */
#include "snabb_py/lwaftr/lwaftr.h"

#include <errno.h>

/* ---- out ------------------------------------------------------------------- */

static void flush_queue(struct lwaftr_queue *out)
{
    if (out->n == 0)
        return;
    if (likely(out->n <= link_writable(out->link)))
        link_transmit_known(out->link, out->packets, out->n, out->bytes);
    else
        link_transmit_burst(out->link, out->packets, out->n);
    out->n = 0;
    out->bytes = 0;
}

void lwaftr_flush_queues(struct lwaftr *lw)
{
    flush_queue(&lw->out[LWAFTR_V4]);
    flush_queue(&lw->out[LWAFTR_V6]);
}

static void tag_and_queue(struct lwaftr *lw, uint32_t side, struct packet *packet)
{
    const struct lwaftr_side *config = &lw->config->side[side];
    if (config->is_tagged) {
        if (!packet_prepend(packet, WIRE_TAG_SIZE)) {
            lwaftr_drop(lw, LWAFTR_DROP_NO_MEMORY_PACKETS, packet);
            return;
        }
        memmove(packet->data, packet->data + WIRE_TAG_SIZE, ETHERNET_TYPE);
        store_be32(packet->data + ETHERNET_TYPE,
                   (uint32_t)WIRE_VLAN << 16 | config->vlan);
    }
    lwaftr_queue(lw, side, packet);
}

static const enum lwaftr_counter out_whole[] = {LWAFTR_OUT_IPV4_FRAG_NOT,
                                                LWAFTR_OUT_IPV6_FRAG_NOT};
static const enum lwaftr_counter out_fragments[] = {LWAFTR_OUT_IPV4_FRAG,
                                                    LWAFTR_OUT_IPV6_FRAG};

/* Of one tunnel other workers may send fragments, too: theirs are others. */
static uint32_t next_ipv6_id(struct lwaftr *lw)
{
    return ++lw->ipv6_id << lw->config->worker_bits | lw->config->worker;
}

/* Cut a frame up that is too long for its side. Returns how many pieces there are. */
static int cut(struct lwaftr *lw, uint32_t side, struct packet *packet,
               struct packet **pieces)
{
    uint32_t mtu = lw->config->side[side].mtu;
    if (side == LWAFTR_V6)
        return fragment_ipv6(lw->freelist, packet, mtu, next_ipv6_id(lw), pieces,
                             FRAGMENTS_MAX);
    return fragment_ipv4(lw->freelist, packet, mtu, (uint16_t)++lw->ipv4_id,
                         lw->config->compat, pieces, FRAGMENTS_MAX);
}

static void fragment(struct lwaftr *lw, uint32_t side, struct packet *packet)
{
    struct packet *pieces[FRAGMENTS_MAX];
    int n = cut(lw, side, packet, pieces);
    if (n < 0) {
        lwaftr_drop(lw,
                    n == -ENOMEM ? LWAFTR_DROP_NO_MEMORY_PACKETS
                                 : LWAFTR_DROP_OUT_OVER_MTU_PACKETS,
                    packet);
        return;
    }
    lw->counters[n == 1 ? out_whole[side] : out_fragments[side]] += (uint32_t)n;
    for (int i = 0; i < n; i++)
        tag_and_queue(lw, side, pieces[i]);
}

static bool passes_out(struct lwaftr *lw, uint32_t side, struct packet *packet)
{
    bool does = filter_matches(&lw->config->side[side].egress, packet);
    if (!does)
        lwaftr_drop(lw, LWAFTR_DROP_EGRESS_FILTER_IPV4_PACKETS + side, packet);
    return does;
}

bool lwaftr_output_whole(struct lwaftr *lw, uint32_t side, struct packet *packet)
{
    if (!passes_out(lw, side, packet))
        return false;
    tag_and_queue(lw, side, packet);
    return true;
}

void lwaftr_output(struct lwaftr *lw, uint32_t side, struct packet *packet)
{
    if (!passes_out(lw, side, packet))
        return;
    if (packet->length > lw->config->side[side].mtu + WIRE_ETHERNET_SIZE) {
        fragment(lw, side, packet);
        return;
    }
    lw->counters[out_whole[side]]++;
    tag_and_queue(lw, side, packet);
}

void lwaftr_send(struct lwaftr *lw, uint32_t side, struct packet *packet)
{
    struct neighbor *neighbor = lw->neighbor[side];
    if (likely(neighbor_is_known(neighbor))) {
        neighbor_address(neighbor, packet->data);
        lwaftr_output(lw, side, packet);
    } else if (!neighbor_wait(neighbor, packet)) {
        lwaftr_drop(lw, LWAFTR_DROP_NEXT_HOP_UNRESOLVED_IPV4_PACKETS + side, packet);
    }
}

/* The next hop may have become known: let go what waits for it. */
static void send_waiting(struct lwaftr *lw, uint32_t side)
{
    struct neighbor *neighbor = lw->neighbor[side];
    struct packet *packets[LWAFTR_BURST];
    while (neighbor->nwaiting > 0 && neighbor_is_known(neighbor)) {
        uint32_t n = neighbor_release(neighbor, packets, LWAFTR_BURST);
        for (uint32_t i = 0; i < n; i++)
            lwaftr_output(lw, side, packets[i]);
    }
}

void lwaftr_share_next_hop(struct lwaftr *lw, uint32_t side)
{
    if (!lwaftr_is_told(lw)) {
        neighbor_tell(lw->neighbor[side], lw->config->side[side].next_hop);
        return;
    }
    neighbor_heed(lw->neighbor[side], lw->config->side[side].next_hop);
    send_waiting(lw, side);
    lwaftr_flush(lw);
}

/* ---- in -------------------------------------------------------------------- */

/* Take the tag off. False: it is not ours. */
static bool untag(const struct lwaftr *lw, uint32_t side, struct packet *packet)
{
    const struct lwaftr_side *config = &lw->config->side[side];
    if (!config->is_tagged)
        return true;
    if (packet->length < WIRE_ETHERNET_SIZE + WIRE_TAG_SIZE)
        return false;
    uint32_t ours = (uint32_t)WIRE_VLAN << 16 | config->vlan;
    /* Priority is nobody's address (802.1Q, 9.6). */
    uint32_t mask = lw->config->compat ? 0xffffffff : 0xffff0fff;
    if ((load_be32(packet->data + ETHERNET_TYPE) & mask) != ours)
        return false;
    memmove(packet->data + WIRE_TAG_SIZE, packet->data, ETHERNET_TYPE);
    return packet_shift(packet, WIRE_TAG_SIZE);
}

/* Lengths that agree with one another, and a header that is what it says: what is too
 * long for its datagram is padding, and goes away. In compat only what Snabb looks at,
 * and what must hold for us to read it. False: *why says what is wrong. */
static bool check_ipv4(const struct lwaftr *lw, struct packet *packet,
                       uint32_t *why)
{
    const uint8_t *ip = packet->data + FRAME_IP;
    *why = LWAFTR_DROP_MALFORMED_IPV4_PACKETS;
    if (packet->length < FRAME_IP + WIRE_IPV4_SIZE)
        return false;
    uint32_t size = ipv4_header_size(ip), total = load_be16(ip + IPV4_TOTAL_LENGTH);
    uint32_t room = packet->length - FRAME_IP;
    if (size < WIRE_IPV4_SIZE || size > room || total > room)
        return false;
    if (lw->config->compat)
        return true;
    if (ip[0] >> 4 != 4 || total < size)
        return false;
    *why = LWAFTR_DROP_BAD_CHECKSUM_IPV4_PACKETS;
    if (!checksum_is_right(checksum_add_small(0, ip, size)))
        return false;
    packet->length = FRAME_IP + total;
    return true;
}

static bool check_ipv6(const struct lwaftr *lw, struct packet *packet,
                       uint32_t *why)
{
    const uint8_t *ip = packet->data + FRAME_IP;
    *why = LWAFTR_DROP_MALFORMED_IPV6_PACKETS;
    if (packet->length < FRAME_IP + WIRE_IPV6_SIZE)
        return false;
    uint32_t payload = load_be16(ip + IPV6_PAYLOAD_LENGTH);
    if (payload > packet->length - FRAME_IP - WIRE_IPV6_SIZE)
        return false;
    if (lw->config->compat)
        return true;
    if (ip[0] >> 4 != 6)
        return false;
    packet->length = FRAME_IP + WIRE_IPV6_SIZE + payload;
    return true;
}

/* A frame with an Ethernet header, and what it says it is. False: dropped. */
static bool check_frame(struct lwaftr *lw, uint32_t side, struct packet *packet)
{
    uint32_t why = LWAFTR_DROP_MALFORMED_IPV4_PACKETS + side;
    bool is_sound = packet->length >= WIRE_ETHERNET_SIZE;
    if (is_sound) {
        uint16_t type = load_be16(packet->data + ETHERNET_TYPE);
        if (side == LWAFTR_V4 && type == WIRE_IPV4)
            is_sound = check_ipv4(lw, packet, &why);
        else if (side == LWAFTR_V6 && type == WIRE_IPV6)
            is_sound = check_ipv6(lw, packet, &why);
    }
    if (!is_sound)
        lwaftr_drop(lw, why, packet);
    return is_sound;
}

/* A fragment for an address that is neither ours nor a softwire's. It is refused as it
 * is: if it waited for others, it would be at the cost of those that are somebody's. */
static bool is_nobodys_fragment(const struct lwaftr *lw, const struct packet *packet)
{
    const uint8_t *ip = packet->data + FRAME_IP;
    const struct neighbor_config *own = lw->config->side[LWAFTR_V4].neighbor;
    return load_be16(packet->data + ETHERNET_TYPE) == WIRE_IPV4 &&
           load_be16(ip + IPV4_FRAGMENT) & IPV4_IS_FRAGMENT &&
           memcmp(ip + IPV4_DESTINATION, own->ip, 4) != 0 &&
           !binding_table_is_managed(lw->config->table,
                                     load_be32(ip + IPV4_DESTINATION));
}

static struct packet *reassemble(struct lwaftr *lw, uint32_t side,
                                 struct packet *packet)
{
    if (side == LWAFTR_V4 && !lw->config->compat && is_nobodys_fragment(lw, packet)) {
        lw->counters[LWAFTR_IN_IPV4_FRAG_REASSEMBLY_UNNEEDED]++;
        return packet;
    }
    if (side == LWAFTR_V4)
        return reassemble_ipv4(lw->reassembler[side], lw->freelist, packet, lw->now,
                               lw->counters);
    return reassemble_ipv6(lw->reassembler[side], lw->freelist, packet, lw->now,
                           lw->counters);
}

/* ARP, neighbour discovery and pings of ourselves. True: it was one of them. */
static bool answer(struct lwaftr *lw, uint32_t side, struct packet *packet)
{
    const struct neighbor_config *config = lw->config->side[side].neighbor;
    bool is_v4 = side == LWAFTR_V4;
    int what = is_v4 ? neighbor_input_arp(lw->neighbor[side], config, packet, lw->now,
                                          lw->counters)
                     : neighbor_input_ndp(lw->neighbor[side], config, packet, lw->now,
                                          lw->counters);
    if (what == NEIGHBOR_CONSUMED) {
        lwaftr_free(lw, packet);
        send_waiting(lw, side);
        return true;
    }
    if (what == NEIGHBOR_REPLY || (is_v4 ? echo_ipv4(config, packet, lw->counters)
                                         : echo_ipv6(config, packet, lw->counters))) {
        lwaftr_output(lw, side, packet);
        send_waiting(lw, side);
        return true;
    }
    return false;
}

/* What is not for us alone, of the side's kind or not. */
static void core(struct lwaftr *lw, uint32_t side, struct packet *packet)
{
    uint16_t type = load_be16(packet->data + ETHERNET_TYPE);
    uint32_t length = packet->length;
    if (side == LWAFTR_V4 && type == WIRE_IPV4) {
        lwaftr_count(lw, LWAFTR_IN_IPV4_BYTES, length);
        lwaftr_from_internet(lw, packet, LWAFTR_V4);
    } else if (side == LWAFTR_V6 && type == WIRE_IPV6) {
        lwaftr_count(lw, LWAFTR_IN_IPV6_BYTES, length);
        lwaftr_from_b4(lw, packet);
    } else {
        lwaftr_count(lw, LWAFTR_DROP_MISPLACED_NOT_IPV4_BYTES + 2 * side, length);
        lwaftr_count(lw, LWAFTR_DROP_ALL_IPV4_IFACE_BYTES + 2 * side, length);
        lwaftr_free(lw, packet);
    }
}

static void input_plain(struct lwaftr *lw, uint32_t side, struct packet *packet)
{
    if (!untag(lw, side, packet)) {
        lwaftr_drop(lw, LWAFTR_DROP_VLAN_IPV4_PACKETS + side, packet);
        return;
    }
    if (!check_frame(lw, side, packet))
        return;
    packet = reassemble(lw, side, packet);
    if (!packet)
        return;
    if (!filter_matches(&lw->config->side[side].ingress, packet)) {
        lwaftr_drop(lw, LWAFTR_DROP_INGRESS_FILTER_IPV4_PACKETS + side, packet);
        return;
    }
    if (answer(lw, side, packet))
        return;
    if (side == LWAFTR_V6 && !lw->config->compat)
        packet = reassemble_tunnelled(lw->reassembler[LWAFTR_TUNNELLED], lw->freelist,
                                      packet, lw->now, lw->counters);
    if (packet)
        core(lw, side, packet);
}

/* A tunnel has no use for what a card or a guest has left to others: super-frames are
 * cut up and checksums finished before. */
static void input_super_frame(struct lwaftr *lw, uint32_t side, struct packet *packet)
{
    struct packet *segments[SEGMENTS_MAX];
    int n = packet_segment(lw->freelist, packet, segments, SEGMENTS_MAX);
    lwaftr_free(lw, packet);
    if (n < 0)
        lw->counters[n == -ENOMEM ? LWAFTR_DROP_NO_MEMORY_PACKETS
                                  : LWAFTR_DROP_MALFORMED_IPV4_PACKETS + side]++;
    for (int i = 0; i < n; i++)
        input_plain(lw, side, segments[i]);
}

void lwaftr_input(struct lwaftr *lw, uint32_t side, struct packet *packet)
{
    if (packet->gso_type != PACKET_GSO_NONE) {
        input_super_frame(lw, side, packet);
        return;
    }
    if (!packet_finish_checksum(packet)) {
        lwaftr_drop(lw, LWAFTR_DROP_MALFORMED_IPV4_PACKETS + side, packet);
        return;
    }
    packet->flags = 0;
    input_plain(lw, side, packet);
}
