/* ICMP of the lwAFTR: what stands for ports in ICMPv4, errors of our own, and errors
 * about our tunnels, handed on to who sent what was in them. */
#include "snabb_py/lwaftr/lwaftr.h"

enum {
    ICMPV4_ERROR_MAX = 576,  /* bytes of an error, IP header included (RFC 1812, 4.3.2.3) */
    ICMPV6_ERROR_MAX = 1280, /* RFC 4443, 2.4 c */
    IPV4_MINIMUM_MTU = 68,
    ERROR_HOPS = 255
};

/* ---- messages that came -------------------------------------------------------- */

/* Queries have an identifier where TCP and UDP have ports. */
static bool icmpv4_is_query(uint8_t type)
{
    return type == ICMPV4_ECHO || type == ICMPV4_ECHO_REPLY || (type >= 13 && type <= 18);
}

/* Errors quote the packet that they are about. */
static bool icmpv4_is_error(uint8_t type)
{
    return type == ICMPV4_UNREACHABLE || type == ICMPV4_TIME_EXCEEDED ||
           type == 4 /* source quench */ || type == 5 /* redirect */ ||
           type == 12 /* parameter problem */;
}

static uint16_t load_if_there(const uint8_t *p, uint32_t n, uint32_t offset)
{
    return wire_has(n, offset, 2) ? load_be16(p + offset) : 0;
}

/* The port or query identifier that the B4 has in a packet of which the first n bytes
 * are quoted (RFC 5508, REQ-3 and 4). */
static uint16_t quoted_port(const uint8_t *ip, uint32_t n, bool outbound)
{
    if (n < WIRE_IPV4_SIZE || ip[0] >> 4 != 4 || ipv4_header_size(ip) < WIRE_IPV4_SIZE ||
        (load_be16(ip + IPV4_FRAGMENT) & IPV4_OFFSET))
        return 0;
    uint32_t offset = ipv4_header_size(ip);
    if (ip[IPV4_PROTOCOL] == WIRE_ICMP)
        return offset < n && icmpv4_is_query(ip[offset])
                   ? load_if_there(ip, n, offset + 4)
                   : 0;
    return load_if_there(ip, n, offset + (outbound ? 2 : 0));
}

/* As Snabb has it: echoes are told apart in one direction, whatever else is quoted has
 * a source port first. */
static uint16_t icmpv4_port_compat(const uint8_t *icmp, uint32_t n, bool outbound)
{
    if (n < 1)
        return 0;
    if (icmp[0] == ICMPV4_ECHO || icmp[0] == ICMPV4_ECHO_REPLY) {
        bool has_port = (icmp[0] == ICMPV4_ECHO) == outbound;
        return has_port ? load_if_there(icmp, n, 4) : 0;
    }
    if (n <= ICMP_SIZE)
        return 0;
    return load_if_there(icmp, n, ICMP_SIZE + ipv4_header_size(icmp + ICMP_SIZE));
}

/* Of a ping between two B4s the identifier is the asking one's alone. */
static bool is_echo_at_asked(uint8_t type, uint32_t way)
{
    return (way & ICMP_HAIRPINNED) &&
           type == (way & ICMP_OUTBOUND ? ICMPV4_ECHO_REPLY : ICMPV4_ECHO);
}

uint16_t icmpv4_port(const uint8_t *icmp, uint32_t n, uint32_t way, bool compat)
{
    bool is_outbound = way & ICMP_OUTBOUND;
    if (compat)
        return icmpv4_port_compat(icmp, n, is_outbound);
    if (n < ICMP_SIZE || is_echo_at_asked(icmp[0], way))
        return 0;
    if (icmpv4_is_query(icmp[0]))
        return load_be16(icmp + 4);
    if (icmpv4_is_error(icmp[0]))
        return quoted_port(icmp + ICMP_SIZE, n - ICMP_SIZE, is_outbound);
    return 0;
}

bool icmpv4_checksum_is_right(const uint8_t *icmp, uint32_t n)
{
    return checksum_is_right(checksum_add(0, icmp, n));
}

/* With the pseudo header (RFC 8200, 8.1). */
static uint64_t icmpv6_sum(const uint8_t *ipv6, uint32_t n)
{
    uint8_t pseudo[8] = {[7] = WIRE_ICMPV6};
    store_be32(pseudo, n);
    uint64_t sum = checksum_add_small(0, pseudo, sizeof(pseudo));
    sum = checksum_add_small(sum, ipv6 + IPV6_SOURCE, 32);
    return checksum_add(sum, ipv6 + WIRE_IPV6_SIZE, n);
}

/* ---- errors that go out -------------------------------------------------------- */

/* So many in a period, and no more. */
static bool rate_allows(struct lwaftr *lw, uint32_t side)
{
    const struct lwaftr_side *config = &lw->config->side[side];
    struct lwaftr_rate *rate = &lw->rate[side];
    if (lw->now - rate->since >= config->error_period) {
        rate->since = lw->now;
        rate->n = 0;
    }
    if (rate->n >= config->error_packets)
        return false;
    rate->n++;
    return true;
}

/* No error about errors, later fragments, what went to many, and what did not come from
 * one host (RFC 1122, 3.2.2; RFC 1812, 4.3.2.7). */
static bool icmpv4_may_tell(const uint8_t *ip, uint32_t n)
{
    uint32_t source = load_be32(ip + IPV4_SOURCE);
    uint32_t destination = load_be32(ip + IPV4_DESTINATION);
    uint32_t size = ipv4_header_size(ip);
    if (ip[IPV4_PROTOCOL] == WIRE_ICMP && size < n && icmpv4_is_error(ip[size]))
        return false;
    if (load_be16(ip + IPV4_FRAGMENT) & IPV4_OFFSET)
        return false;
    if (destination >> 28 == 14 || destination == UINT32_MAX)
        return false;
    return !ipv4_is_martian(source);
}

/* A fresh frame of a type, of this many bytes behind the Ethernet header, which the next
 * hop's stage fills in; NULL is counted. */
static struct packet *new_frame(struct lwaftr *lw, uint16_t type, uint32_t length)
{
    struct packet *packet = packet_alloc(lw->freelist, WIRE_ETHERNET_SIZE + length);
    if (!packet) {
        lw->counters[LWAFTR_DROP_NO_MEMORY_PACKETS]++;
        return NULL;
    }
    memset(packet->data, 0, ETHERNET_TYPE);
    store_be16(packet->data + ETHERNET_TYPE, type);
    return packet;
}

/* The n bytes from an IPv4 header on are what it is about. */
static struct packet *new_icmpv4_error(struct lwaftr *lw, const uint8_t *about,
                                       uint32_t n, uint8_t type, uint8_t code,
                                       uint16_t mtu)
{
    n = min_u32(n, ICMPV4_ERROR_MAX - WIRE_IPV4_SIZE - ICMP_SIZE);
    uint32_t length = WIRE_IPV4_SIZE + ICMP_SIZE + n;
    struct packet *packet = new_frame(lw, WIRE_IPV4, length);
    if (!packet)
        return NULL;
    uint8_t *ip = packet->data + FRAME_IP, *icmp = ip + WIRE_IPV4_SIZE;
    memset(ip, 0, WIRE_IPV4_SIZE + ICMP_SIZE);
    ip[0] = 0x45;
    store_be16(ip + IPV4_TOTAL_LENGTH, (uint16_t)length);
    ip[IPV4_TTL] = ERROR_HOPS;
    ip[IPV4_PROTOCOL] = WIRE_ICMP;
    memcpy(ip + IPV4_SOURCE, lw->config->side[LWAFTR_V4].neighbor->ip, 4);
    memcpy(ip + IPV4_DESTINATION, about + IPV4_SOURCE, 4);
    uint16_t sum = checksum(ip, WIRE_IPV4_SIZE);
    memcpy(ip + IPV4_CHECKSUM, &sum, sizeof(sum));
    icmp[0] = type;
    icmp[1] = code;
    store_be16(icmp + 6, mtu);
    memcpy(icmp + ICMP_SIZE, about, n);
    sum = checksum(icmp, ICMP_SIZE + n);
    memcpy(icmp + 2, &sum, sizeof(sum));
    return packet;
}

/* To a B4 through its tunnel, as a hairpinned packet goes, else to the internet. */
static void send_icmpv4(struct lwaftr *lw, const uint8_t *about, uint32_t n,
                        uint8_t type, uint8_t code, uint16_t mtu)
{
    struct packet *packet = new_icmpv4_error(lw, about, n, type, code, mtu);
    if (!packet)
        return;
    if (!rate_allows(lw, LWAFTR_V4)) {
        lwaftr_count(lw, LWAFTR_DROP_OVER_RATE_LIMIT_ICMPV4_BYTES, packet->length);
        lwaftr_free(lw, packet);
        return;
    }
    lwaftr_count(lw, LWAFTR_OUT_ICMPV4_ERROR_BYTES, packet->length);
    if (binding_table_is_managed(lw->config->table, load_be32(about + IPV4_SOURCE))) {
        lwaftr_from_internet(lw, packet, LWAFTR_V6);
    } else {
        lwaftr_count(lw, LWAFTR_OUT_IPV4_BYTES, packet->length);
        lwaftr_send(lw, LWAFTR_V4, packet);
    }
}

void icmpv4_send_error(struct lwaftr *lw, const struct packet *about, uint8_t type,
                       uint8_t code, uint16_t mtu)
{
    const uint8_t *ip = about->data + FRAME_IP;
    uint32_t n = about->length - FRAME_IP;
    if (!lw->config->side[LWAFTR_V4].generate_icmp_errors)
        lw->counters[LWAFTR_DROP_OUT_BY_POLICY_ICMPV4_PACKETS]++;
    else if (!lw->config->compat && !icmpv4_may_tell(ip, n))
        lw->counters[LWAFTR_DROP_OUT_BY_RFC1122_ICMPV4_PACKETS]++;
    else
        send_icmpv4(lw, ip, n, type, code, mtu);
}

/* RFC 4443, 2.4 e. */
static bool icmpv6_may_tell(const uint8_t *ipv6, uint32_t n)
{
    static const uint8_t unspecified[16];
    if (ipv6[IPV6_NEXT_HEADER] == WIRE_ICMPV6 &&
        (n <= WIRE_IPV6_SIZE || ipv6[WIRE_IPV6_SIZE] < 128))
        return false;
    return ipv6[IPV6_DESTINATION] != 0xff && ipv6[IPV6_SOURCE] != 0xff &&
           !ipv6_is_same(ipv6 + IPV6_SOURCE, unspecified);
}

static bool is_our_ipv6(const struct lwaftr_config *config, const uint8_t *address)
{
    const struct binding_table *table = config->table;
    if (ipv6_is_same(address, config->side[LWAFTR_V6].neighbor->ip))
        return true;
    for (uint32_t i = 0; i < table->nbr; i++)
        if (ipv6_is_same(address, table->br[i]))
            return true;
    return false;
}

/* What came to an address of ours is answered from there (RFC 4443, 2.2). Whatever else
 * a neighbour hands us, nobody else's address is the source of what we send. */
static const uint8_t *source_of(const struct lwaftr *lw, const uint8_t *asked)
{
    const struct lwaftr_config *config = lw->config;
    bool may = config->compat || is_our_ipv6(config, asked);
    return may ? asked : config->side[LWAFTR_V6].neighbor->ip;
}

/* The n bytes from an IPv6 header on are what it is about, as much as fits. */
static struct packet *new_icmpv6_error(struct lwaftr *lw, const uint8_t *about,
                                       uint32_t n, uint8_t type, uint8_t code,
                                       const uint8_t *source)
{
    struct packet *packet = new_frame(lw, WIRE_IPV6, WIRE_IPV6_SIZE + ICMP_SIZE + n);
    if (!packet)
        return NULL;
    uint8_t *ipv6 = packet->data + FRAME_IP, *icmp = ipv6 + WIRE_IPV6_SIZE;
    memset(ipv6, 0, WIRE_IPV6_SIZE + ICMP_SIZE);
    store_be32(ipv6, 6u << 28);
    store_be32(ipv6 + IPV6_PAYLOAD_LENGTH,
               (ICMP_SIZE + n) << 16 | WIRE_ICMPV6 << 8 | ERROR_HOPS);
    memcpy(ipv6 + IPV6_SOURCE, source, 16);
    memcpy(ipv6 + IPV6_DESTINATION, about + IPV6_SOURCE, 16);
    icmp[0] = type;
    icmp[1] = code;
    memcpy(icmp + ICMP_SIZE, about, n);
    uint16_t sum = (uint16_t)~checksum_fold(icmpv6_sum(ipv6, ICMP_SIZE + n));
    memcpy(icmp + 2, &sum, sizeof(sum));
    return packet;
}

void icmpv6_send_error(struct lwaftr *lw, const struct packet *about, uint8_t type,
                       uint8_t code, const uint8_t *source)
{
    const uint8_t *ipv6 = about->data + FRAME_IP;
    uint32_t n = about->length - FRAME_IP;
    if (!lw->config->side[LWAFTR_V6].generate_icmp_errors) {
        lw->counters[LWAFTR_DROP_OUT_BY_POLICY_ICMPV6_PACKETS]++;
        return;
    }
    if (!lw->config->compat && !icmpv6_may_tell(ipv6, n)) {
        lw->counters[LWAFTR_DROP_OUT_BY_RFC4443_ICMPV6_PACKETS]++;
        return;
    }
    n = min_u32(n, ICMPV6_ERROR_MAX - WIRE_IPV6_SIZE - ICMP_SIZE);
    if (!rate_allows(lw, LWAFTR_V6)) {
        lwaftr_count(lw, LWAFTR_DROP_OVER_RATE_LIMIT_ICMPV6_BYTES,
                     FRAME_TUNNELLED + ICMP_SIZE + n);
        return;
    }
    source = source_of(lw, source);
    struct packet *packet = new_icmpv6_error(lw, ipv6, n, type, code, source);
    if (!packet)
        return;
    lwaftr_count(lw, LWAFTR_OUT_ICMPV6_ERROR_BYTES, packet->length);
    lwaftr_count(lw, LWAFTR_OUT_IPV6_BYTES, packet->length);
    lwaftr_send(lw, LWAFTR_V6, packet);
}

/* ---- errors about tunnels -------------------------------------------------------- */

struct translation { /* of ICMPv6 to ICMPv4 */
    uint8_t code;    /* of "unreachable" */
    uint16_t mtu;
};

/* As Snabb has it, the difference wraps. */
static uint16_t inner_mtu(uint32_t mtu, bool compat)
{
    if (compat)
        return (uint16_t)(mtu - WIRE_IPV6_SIZE);
    if (mtu < IPV4_MINIMUM_MTU + WIRE_IPV6_SIZE)
        return IPV4_MINIMUM_MTU;
    return (uint16_t)min_u32(mtu - WIRE_IPV6_SIZE, UINT16_MAX);
}

/* What an ICMPv6 error says in ICMPv4 (RFC 2473, 8.3). Returns 0, or why not: a pair of
 * counters. */
static uint32_t translate(const uint8_t *icmp, bool compat,
                          struct translation *translation)
{
    uint8_t code = icmp[1];
    *translation = (struct translation){.code = ICMPV4_HOST};
    switch (icmp[0]) {
    case 0: /* reserved */
    case ICMPV6_UNREACHABLE:
    case ICMPV6_PARAMETER_PROBLEM:
        return 0;
    case ICMPV6_TOO_BIG: /* whatever the code (RFC 4443, 3.2) */
        translation->code = ICMPV4_TOO_BIG;
        translation->mtu = inner_mtu(load_be32(icmp + 4), compat);
        return compat && code != 0 ? LWAFTR_DROP_TOO_BIG_TYPE_BUT_NOT_CODE_ICMPV6_BYTES
                                   : 0;
    case ICMPV6_TIME_EXCEEDED:
        return code == ICMPV6_HOP_LIMIT
                   ? 0
                   : LWAFTR_DROP_OVER_TIME_BUT_NOT_HOP_LIMIT_ICMPV6_BYTES;
    default:
        return LWAFTR_DROP_UNKNOWN_PROTOCOL_ICMPV6_BYTES;
    }
}

/* Whether the n bytes from an IPv6 header on are of a packet that we have sent through
 * a softwire, from the address that the message came to. */
static bool is_of_softwire(const struct lwaftr *lw, const uint8_t *ipv6, uint32_t n,
                           const uint8_t *destination)
{
    if (n < WIRE_IPV6_SIZE + WIRE_IPV4_SIZE || ipv6[0] >> 4 != 6 ||
        ipv6[IPV6_NEXT_HEADER] != WIRE_IPV4_IN_IP ||
        !ipv6_is_same(ipv6 + IPV6_SOURCE, destination))
        return false;
    const uint8_t *ip = ipv6 + WIRE_IPV6_SIZE;
    uint32_t size = ipv4_header_size(ip), total = load_be16(ip + IPV4_TOTAL_LENGTH);
    n -= WIRE_IPV6_SIZE;
    if (ip[0] >> 4 != 4 || size < WIRE_IPV4_SIZE || n < min_u32(total, size + 8) ||
        n < size)
        return false;
    n = min_u32(n, total);
    uint16_t port = ip[IPV4_PROTOCOL] == WIRE_ICMP
                        ? icmpv4_port(ip + size, n > size ? n - size : 0,
                                      ICMP_INBOUND, false)
                        : load_if_there(ip, n, size + 2);
    if (load_be16(ip + IPV4_FRAGMENT) & IPV4_OFFSET)
        port = 0;
    const struct binding_table *table = lw->config->table;
    const struct softwire *softwire =
        binding_table_find(table, load_be32(ip + IPV4_DESTINATION), port);
    return softwire && ipv6_is_same(table->br[softwire->br], ipv6 + IPV6_SOURCE) &&
           ipv6_is_same(softwire->b4, ipv6 + IPV6_DESTINATION);
}

static void relay_drop(struct lwaftr *lw, struct packet *packet)
{
    lwaftr_count(lw, LWAFTR_DROP_ALL_IPV6_IFACE_BYTES, packet->length);
    lwaftr_free(lw, packet);
}

/* Whether the message is whole and says what it seems to say; else it is counted. In
 * compat nobody asks about the checksum, and what is quoted. */
static bool relay_admits(struct lwaftr *lw, const struct packet *packet,
                         struct translation *translation)
{
    const uint8_t *ipv6 = packet->data + FRAME_IP, *icmp = ipv6 + WIRE_IPV6_SIZE;
    uint32_t n = packet->length - FRAME_TUNNELLED;
    bool compat = lw->config->compat;
    if (!lw->config->side[LWAFTR_V6].allow_incoming_icmp) {
        lwaftr_count(lw, LWAFTR_DROP_IN_BY_POLICY_ICMPV6_BYTES, packet->length);
        return false;
    }
    if (n < ICMP_SIZE) {
        lw->counters[LWAFTR_DROP_MALFORMED_ICMPV6_PACKETS]++;
        return false;
    }
    if (!compat && !checksum_is_right(icmpv6_sum(ipv6, n))) {
        lw->counters[LWAFTR_DROP_BAD_CHECKSUM_ICMPV6_PACKETS]++;
        return false;
    }
    uint32_t why = translate(icmp, compat, translation);
    if (why) {
        lwaftr_count(lw, why, packet->length);
        return false;
    }
    if (n < ICMP_SIZE + WIRE_IPV6_SIZE + WIRE_IPV4_SIZE) {
        lw->counters[LWAFTR_DROP_MALFORMED_ICMPV6_PACKETS]++;
        return false;
    }
    if (!compat && !is_of_softwire(lw, icmp + ICMP_SIZE, n - ICMP_SIZE,
                                   ipv6 + IPV6_DESTINATION)) {
        lw->counters[LWAFTR_DROP_UNRELATED_ICMPV6_PACKETS]++;
        return false;
    }
    return true;
}

void icmpv6_relay(struct lwaftr *lw, struct packet *packet)
{
    struct translation translation;
    if (!relay_admits(lw, packet, &translation)) {
        relay_drop(lw, packet);
        return;
    }
    uint32_t offset = FRAME_TUNNELLED + ICMP_SIZE + WIRE_IPV6_SIZE;
    const uint8_t *ip = packet->data + offset;
    uint32_t n = packet->length - offset;
    /* What makes errors is not gated by who generates them: the B4's side did. */
    if (!lw->config->compat && !icmpv4_may_tell(ip, n))
        lw->counters[LWAFTR_DROP_OUT_BY_RFC1122_ICMPV4_PACKETS]++;
    else
        send_icmpv4(lw, ip, n, ICMPV4_UNREACHABLE, translation.code, translation.mtu);
    lwaftr_free(lw, packet);
}
