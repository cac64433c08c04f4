/* The core of the lwAFTR: packets from the internet into tunnels, packets out of
 * tunnels to the internet or, hairpinned, into another tunnel (RFC 7596, 6.2). */
#include "snabb_py/lwaftr/lwaftr.h"
#include "snabb_py/lwaftr/tunnelled.h"

/* ---- to a B4 ----------------------------------------------------------------- */

/* A packet that a router must not pass on: count, tell its source, drop. */
static void refuse(struct lwaftr *lw, struct packet *packet, uint32_t side,
                   enum lwaftr_counter why, uint8_t type, uint8_t code, uint16_t mtu)
{
    lwaftr_count(lw, why, packet->length);
    lwaftr_count_drop(lw, side, packet->length);
    icmpv4_send_error(lw, packet, type, code, mtu);
    lwaftr_free(lw, packet);
}

/* The lookup precedes all other checks. */
static void encapsulate(struct lwaftr *lw, struct packet *packet,
                        const struct softwire *softwire, uint32_t side)
{
    const struct lwaftr_config *config = lw->config;
    uint8_t *ip = packet->data + FRAME_IP;
    uint32_t length = packet->length - FRAME_IP, mtu = config->side[LWAFTR_V6].mtu;
    if (ip[IPV4_TTL] != 0)
        ipv4_decrement_ttl(ip);
    if (ip[IPV4_TTL] == 0) {
        refuse(lw, packet, side, LWAFTR_DROP_TTL_ZERO_IPV4_BYTES, ICMPV4_TIME_EXCEEDED,
               ICMPV4_TTL, 0);
        return;
    }
    if (length + WIRE_IPV6_SIZE > mtu &&
        (load_be16(ip + IPV4_FRAGMENT) & IPV4_DONT_FRAGMENT)) {
        refuse(lw, packet, side, LWAFTR_DROP_OVER_MTU_BUT_DONT_FRAGMENT_IPV4_BYTES,
               ICMPV4_UNREACHABLE, ICMPV4_TOO_BIG, (uint16_t)(mtu - WIRE_IPV6_SIZE));
        return;
    }
    if (length > UINT16_MAX || !packet_prepend(packet, WIRE_IPV6_SIZE)) {
        lwaftr_count_drop(lw, side, packet->length);
        lwaftr_drop(lw, LWAFTR_DROP_NO_MEMORY_PACKETS, packet);
        return;
    }
    store_be16(packet->data + ETHERNET_TYPE, WIRE_IPV6);
    ipv6_write_tunnel(packet->data + FRAME_IP, ip[IPV4_TOS], config->flow_label, length,
                      config->table->br[softwire->br], softwire->b4);
    lwaftr_count(lw, LWAFTR_OUT_IPV6_BYTES, packet->length);
    lwaftr_send(lw, LWAFTR_V6, packet);
}

/* Nobody has this address and port. */
static void refuse_unbound(struct lwaftr *lw, struct packet *packet, uint32_t side)
{
    const uint8_t *ip = packet->data + FRAME_IP;
    if (ip[IPV4_PROTOCOL] == WIRE_ICMP &&
        lw->config->side[LWAFTR_V4].generate_icmp_errors) {
        /* ICMP is dropped in silence (RFC 7596, 8.1). */
        lwaftr_count(lw, LWAFTR_DROP_NO_DEST_SOFTWIRE_IPV4_BYTES, packet->length);
        lwaftr_count(lw, LWAFTR_DROP_IN_BY_RFC7596_ICMPV4_BYTES, packet->length);
        lwaftr_count_drop(lw, side, packet->length);
        lwaftr_free(lw, packet);
        return;
    }
    refuse(lw, packet, side, LWAFTR_DROP_NO_DEST_SOFTWIRE_IPV4_BYTES,
           ICMPV4_UNREACHABLE, ICMPV4_HOST, 0);
}

/* Bytes of the datagram behind its header; the frame may hold fewer. */
static uint32_t payload_length(const uint8_t *ip)
{
    uint32_t size = ipv4_header_size(ip), total = load_be16(ip + IPV4_TOTAL_LENGTH);
    return total > size ? total - size : 0;
}

/* ICMP from the internet may pass, and is right. False: it is counted. */
static bool admit_icmp(struct lwaftr *lw, const struct packet *packet)
{
    const uint8_t *ip = packet->data + FRAME_IP;
    uint32_t size = ipv4_header_size(ip), n = payload_length(ip);
    if (!lw->config->side[LWAFTR_V4].allow_incoming_icmp) {
        lwaftr_count(lw, LWAFTR_DROP_IN_BY_POLICY_ICMPV4_BYTES, packet->length);
        return false;
    }
    if (n > packet->length - FRAME_IP - size ||
        !icmpv4_checksum_is_right(ip + size, n)) {
        lwaftr_count(lw, LWAFTR_DROP_BAD_CHECKSUM_ICMPV4_BYTES, packet->length);
        return false;
    }
    return true;
}

/* The 16 bits at an offset of a payload of n bytes; 0 where it is shorter. */
static uint16_t port_at(const uint8_t *payload, uint32_t n, uint32_t offset)
{
    return wire_has(n, offset, 2) ? load_be16(payload + offset) : 0;
}

void lwaftr_from_internet(struct lwaftr *lw, struct packet *packet, uint32_t side)
{
    const uint8_t *ip = packet->data + FRAME_IP, *payload = ip + ipv4_header_size(ip);
    bool is_icmp = ip[IPV4_PROTOCOL] == WIRE_ICMP, compat = lw->config->compat;
    uint32_t n = packet->length - (uint32_t)(payload - packet->data);
    uint16_t port;
    bool is_fragment = load_be16(ip + IPV4_FRAGMENT) & IPV4_IS_FRAGMENT;
    /* Those from the internet have been put together, but for nobody's. */
    if (is_fragment && !compat && side == LWAFTR_V4) {
        refuse_unbound(lw, packet, side);
        return;
    }
    if (is_fragment && !(is_icmp && compat)) {
        lw->counters[LWAFTR_DROP_IPV4_FRAG_DISABLED]++;
        lwaftr_count_drop(lw, side, packet->length);
        lwaftr_free(lw, packet);
        return;
    }
    if (is_icmp) {
        if (!admit_icmp(lw, packet)) {
            lwaftr_count_drop(lw, side, packet->length);
            lwaftr_free(lw, packet);
            return;
        }
        uint32_t way = side == LWAFTR_V4 ? ICMP_INBOUND : ICMP_INBOUND | ICMP_HAIRPINNED;
        port = icmpv4_port(payload, n, way, compat);
    } else {
        port = port_at(payload, n, 2 /* the destination's */);
    }
    const struct softwire *softwire =
        binding_table_find(lw->config->table, load_be32(ip + IPV4_DESTINATION), port);
    if (softwire)
        encapsulate(lw, packet, softwire, side);
    else
        refuse_unbound(lw, packet, side);
}

/* ---- from a B4 ------------------------------------------------------------------ */

static void drop_ipv6(struct lwaftr *lw, struct packet *packet)
{
    lwaftr_count(lw, LWAFTR_DROP_ALL_IPV6_IFACE_BYTES, packet->length);
    lwaftr_free(lw, packet);
}

/* The tunnelled packet is IPv4, all there. What lies behind it goes away, compat aside,
 * where only what we read must be there. */
static bool check_tunnelled(struct lwaftr *lw, struct packet *packet, uint32_t offset)
{
    const uint8_t *ip = packet->data + offset;
    uint32_t room = packet->length - offset, why = LWAFTR_DROP_MALFORMED_INNER_IPV4_PACKETS;
    bool is_sound = false;
    if (room >= WIRE_IPV4_SIZE) {
        uint32_t size = ipv4_header_size(ip), total = load_be16(ip + IPV4_TOTAL_LENGTH);
        is_sound = size >= WIRE_IPV4_SIZE && size <= room;
        if (is_sound && !lw->config->compat) {
            is_sound = ip[0] >> 4 == 4 && size <= total && total <= room;
            if (is_sound && !checksum_is_right(checksum_add_small(0, ip, size))) {
                why = LWAFTR_DROP_BAD_CHECKSUM_INNER_IPV4_PACKETS;
                is_sound = false;
            }
        }
    }
    if (!is_sound)
        lw->counters[why]++;
    return is_sound;
}

/* A packet out of a tunnel that goes into another one. */
static bool is_for_b4(const struct lwaftr_config *config, const uint8_t *ip)
{
    return config->hairpinning &&
           binding_table_is_managed(config->table, load_be32(ip + IPV4_DESTINATION));
}

/* Who sent a tunnelled packet, as far as ports tell. */
static uint16_t source_port(const struct lwaftr_config *config,
                            const struct packet *packet, uint32_t offset)
{
    bool compat = config->compat;
    const uint8_t *ip = packet->data + offset, *payload = ip + ipv4_header_size(ip);
    uint32_t n = compat ? (uint32_t)(packet->data + packet->length - payload)
                        : payload_length(ip);
    if (!compat && (load_be16(ip + IPV4_FRAGMENT) & IPV4_OFFSET))
        return 0;
    if (ip[IPV4_PROTOCOL] != WIRE_ICMP)
        return port_at(payload, n, 0);
    uint32_t way = is_for_b4(config, ip) ? ICMP_OUTBOUND | ICMP_HAIRPINNED
                                         : ICMP_OUTBOUND;
    return icmpv4_port(payload, n, way, compat);
}

/* No softwire of this address and port, or its tunnel is another one. */
static void refuse_source(struct lwaftr *lw, struct packet *packet,
                          const struct softwire *softwire)
{
    const uint8_t *br = softwire ? lw->config->table->br[softwire->br]
                                 : packet->data + FRAME_IP + IPV6_DESTINATION;
    lwaftr_count(lw, LWAFTR_DROP_NO_SOURCE_SOFTWIRE_IPV6_BYTES, packet->length);
    icmpv6_send_error(lw, packet, ICMPV6_UNREACHABLE, ICMPV6_POLICY, br);
    drop_ipv6(lw, packet);
}

/* Congestion that the tunnel met is the inner packet's, too (RFC 6040, 4.2). False: its
 * sender would not know, so that the loss must tell. */
static bool copy_congestion(const uint8_t *ipv6, uint8_t *ip)
{
    uint8_t outer = load_be16(ipv6) >> 4 & ECN_MASK, inner = ip[IPV4_TOS] & ECN_MASK;
    bool is_met = outer == 3, is_capable = inner != 0;
    if (is_met && !is_capable)
        return false;
    if (outer == inner || !(is_met || (outer == 1 && inner == 2)))
        return true;
    uint32_t size = ipv4_header_size(ip);
    ip[IPV4_TOS] = (uint8_t)((ip[IPV4_TOS] & ~ECN_MASK) | outer);
    store_be16(ip + IPV4_CHECKSUM, 0);
    uint16_t sum = (uint16_t)~checksum_fold(checksum_add_small(0, ip, size));
    memcpy(ip + IPV4_CHECKSUM, &sum, sizeof(sum));
    return true;
}

/* Out to the internet, if a router may: RFC 1812, 4.2.2.9 and 5.3.7; RFC 1191, 4. */
static void to_internet(struct lwaftr *lw, struct packet *packet)
{
    const uint8_t *ip = packet->data + FRAME_IP;
    uint32_t mtu = lw->config->side[LWAFTR_V4].mtu;
    if (!lw->config->compat) {
        if (ipv4_is_martian(load_be32(ip + IPV4_DESTINATION))) {
            lwaftr_count_drop(lw, LWAFTR_V6, packet->length);
            lwaftr_drop(lw, LWAFTR_DROP_MARTIAN_INNER_IPV4_PACKETS, packet);
            return;
        }
        if (ip[IPV4_TTL] == 0) {
            refuse(lw, packet, LWAFTR_V6, LWAFTR_DROP_TTL_ZERO_IPV4_BYTES,
                   ICMPV4_TIME_EXCEEDED, ICMPV4_TTL, 0);
            return;
        }
        if (packet->length - FRAME_IP > mtu &&
            (load_be16(ip + IPV4_FRAGMENT) & IPV4_DONT_FRAGMENT)) {
            refuse(lw, packet, LWAFTR_V6,
                   LWAFTR_DROP_OVER_MTU_BUT_DONT_FRAGMENT_IPV4_BYTES,
                   ICMPV4_UNREACHABLE, ICMPV4_TOO_BIG, (uint16_t)mtu);
            return;
        }
    }
    lwaftr_count(lw, LWAFTR_OUT_IPV4_BYTES, packet->length);
    lwaftr_send(lw, LWAFTR_V4, packet);
}

/* Take the headers of the tunnel off a packet of ours. */
static void decapsulate(struct lwaftr *lw, struct packet *packet, uint32_t offset)
{
    const struct lwaftr_config *config = lw->config;
    uint8_t *ip = packet->data + offset;
    if (!config->compat && !copy_congestion(packet->data + FRAME_IP, ip)) {
        lw->counters[LWAFTR_DROP_CONGESTION_IPV6_PACKETS]++;
        drop_ipv6(lw, packet);
        return;
    }
    packet_shift(packet, offset - FRAME_IP);
    store_be16(packet->data + ETHERNET_TYPE, WIRE_IPV4);
    if (!config->compat)
        packet->length = FRAME_IP + load_be16(ip + IPV4_TOTAL_LENGTH);
    if (is_for_b4(config, ip)) {
        lwaftr_count(lw, LWAFTR_HAIRPIN_IPV4_BYTES, packet->length);
        lwaftr_from_internet(lw, packet, LWAFTR_V6);
    } else {
        to_internet(lw, packet);
    }
}

static void from_tunnel(struct lwaftr *lw, struct packet *packet, uint32_t offset)
{
    const struct binding_table *table = lw->config->table;
    if (!check_tunnelled(lw, packet, offset)) {
        drop_ipv6(lw, packet);
        return;
    }
    const uint8_t *ip = packet->data + offset;
    const struct softwire *softwire =
        binding_table_find(table, load_be32(ip + IPV4_SOURCE),
                           source_port(lw->config, packet, offset));
    if (softwire && softwire_matches(table, softwire, packet->data + FRAME_IP))
        decapsulate(lw, packet, offset);
    else
        refuse_source(lw, packet, softwire);
}

void lwaftr_from_b4(struct lwaftr *lw, struct packet *packet)
{
    uint8_t next = packet->data[FRAME_IP + IPV6_NEXT_HEADER];
    uint32_t offset = tunnelled_offset(packet, lw->config->compat);
    if (offset != 0) {
        from_tunnel(lw, packet, offset);
    } else if (next == WIRE_ICMPV6) {
        icmpv6_relay(lw, packet);
    } else {
        if (next == WIRE_FRAGMENT)
            lw->counters[LWAFTR_DROP_IPV6_FRAG_DISABLED]++;
        else
            lwaftr_count(lw, LWAFTR_DROP_UNKNOWN_PROTOCOL_IPV6_BYTES, packet->length);
        drop_ipv6(lw, packet);
    }
}
