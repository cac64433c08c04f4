/* Neighbours: who asks for our address, and where the next hop is. By ARP (RFC 826) and
 * by neighbour discovery (RFC 4861).
 *
 * The next hop's address is asked for until it is known, and asked for again when it has
 * not been confirmed for a while: directly, then, if nobody answers, by multicast. All
 * that time the last address known is used (RFC 7048): a router that answers no probes
 * may still forward, and frames that wait would be lost in any case.
 *
 * In compat mode all is as Snabb has it: an address that is known is never asked for
 * again, and nobody is told that he is about to take ours. */
#include "snabb_py/engine/offload.h"
#include "snabb_py/engine/wire.h"

#include "snabb_py/lwaftr/counters.h"
#include "snabb_py/lwaftr/neighbor.h"

enum {
    MAC_SIZE = 6,
    ETHERNET_SOURCE = 6,

    ARP_FRAME = 42, /* without padding; offsets in the frame: */
    ARP_HEADER = 14,
    ARP_OPERATION = 20,
    ARP_SENDER_MAC = 22,
    ARP_SENDER_IP = 28,
    ARP_TARGET_MAC = 32,
    ARP_TARGET_IP = 38,
    ARP_REQUEST = 1,
    ARP_REPLY = 2,

    IPV6_HOP_LIMIT = 7,
    ND_FRAME = 86, /* of a message with one option; offsets in the frame: */
    ND_MESSAGE = WIRE_ETHERNET_SIZE + WIRE_IPV6_SIZE,
    ND_CODE = ND_MESSAGE + 1,
    ND_CHECKSUM = ND_MESSAGE + 2,
    ND_FLAGS = ND_MESSAGE + 4,
    ND_TARGET = ND_MESSAGE + 8,
    ND_OPTIONS = ND_MESSAGE + 24,
    ND_HOP_LIMIT = 255,
    ND_MIN_SIZE = 24, /* of NS and NA without options */
    ND_FIRST = 133,   /* router solicitation */
    ND_SOLICIT = 135,
    ND_ADVERTISE = 136,
    ND_LAST = 137, /* redirect */
    ND_ROUTER = 0x80, /* flags of NA */
    ND_SOLICITED = 0x40,
    ND_OVERRIDE = 0x20,
    ND_SOURCE_MAC = 1, /* options */
    ND_TARGET_MAC = 2,

    MAX_PROBES = 3, /* MAX_UNICAST_SOLICIT */
    MAX_BACKOFF = 4 /* doublings: 48 s */
};

static const uint64_t SECOND = 1000000000u;
static const uint64_t RESOLVE = 3 * 1000000000ull;    /* Snabb's, between requests */
static const uint64_t REACHABLE = 30 * 1000000000ull; /* REACHABLE_TIME */
static const uint64_t STALE = 5 * 1000000000ull;      /* DELAY_FIRST_PROBE_TIME */

static const uint8_t broadcast[MAC_SIZE] = {255, 255, 255, 255, 255, 255};
static const uint8_t unspecified[16];
static const uint8_t all_nodes[16] = {0xff, 0x02, [15] = 1};

static void count(uint64_t *counters, enum lwaftr_counter bytes, uint32_t length)
{
    counters[bytes] += length;
    counters[bytes + 1]++;
}

static uint32_t ip_size(const struct neighbor_config *config)
{
    return config->is_ipv6 ? 16 : 4;
}

/* ---- the next hop -------------------------------------------------------- */

void neighbor_init(struct neighbor *neighbor, const struct neighbor_config *config)
{
    memset(neighbor, 0, sizeof(*neighbor));
    memcpy(neighbor->ethernet, config->next_hop_mac, MAC_SIZE);
    memcpy(neighbor->ethernet + ETHERNET_SOURCE, config->mac, MAC_SIZE);
    neighbor->state = config->is_static ? NEIGHBOR_STATIC : NEIGHBOR_INCOMPLETE;
}

void neighbor_reconfigure(struct neighbor *neighbor, const struct neighbor_config *old,
                          const struct neighbor_config *config)
{
    bool is_same = old->is_ipv6 == config->is_ipv6 && !old->is_static &&
                   !config->is_static &&
                   memcmp(old->next_hop, config->next_hop, ip_size(config)) == 0;
    memcpy(neighbor->ethernet + ETHERNET_SOURCE, config->mac, MAC_SIZE);
    if (is_same)
        return;
    memcpy(neighbor->ethernet, config->next_hop_mac, MAC_SIZE);
    neighbor->state = config->is_static ? NEIGHBOR_STATIC : NEIGHBOR_INCOMPLETE;
    neighbor->deadline = 0;
    neighbor->nprobes = 0;
}

static void enter(struct neighbor *neighbor, uint32_t state, uint64_t deadline)
{
    neighbor->state = state;
    neighbor->deadline = deadline;
    neighbor->nprobes = 0;
}

static bool is_next_hop(const struct neighbor_config *config, const uint8_t *ip)
{
    return !config->is_static && memcmp(ip, config->next_hop, ip_size(config)) == 0;
}

/* An address that frames can be sent to: not a group's, not nobody's. */
static bool is_unicast(const uint8_t *mac)
{
    static const uint8_t nobody[MAC_SIZE];
    return !(mac[0] & 1) && memcmp(mac, nobody, MAC_SIZE) != 0;
}

static bool is_known_as(const struct neighbor *neighbor, const uint8_t *mac)
{
    return neighbor_is_known(neighbor) &&
           memcmp(neighbor->ethernet, mac, MAC_SIZE) == 0;
}

/* Where the next hop is: it has answered us (is_confirmed), or has only said so. */
static void learn(struct neighbor *neighbor, const struct neighbor_config *config,
                  const uint8_t *mac, bool is_confirmed, uint64_t now)
{
    if (!config->compat && !is_unicast(mac))
        return;
    bool is_news = !is_known_as(neighbor, mac);
    memmove(neighbor->ethernet, mac, MAC_SIZE);
    if (is_confirmed)
        enter(neighbor, NEIGHBOR_REACHABLE, now + REACHABLE);
    else if (is_news)
        enter(neighbor, NEIGHBOR_STALE, now + STALE);
}

/* ---- ARP ----------------------------------------------------------------- */

/* Ethernet, IPv4 and the lengths of their addresses. */
static const uint8_t arp_header[6] = {0, 1, 8, 0, MAC_SIZE, 4};

static void write_arp(uint8_t *frame, const struct neighbor_config *config,
                      uint16_t operation, const uint8_t *mac, const uint8_t *target_mac,
                      const uint8_t *target_ip)
{
    memmove(frame + ARP_TARGET_IP, target_ip, 4);
    memmove(frame + ARP_TARGET_MAC, target_mac, MAC_SIZE);
    memmove(frame, mac, MAC_SIZE);
    memcpy(frame + ETHERNET_SOURCE, config->mac, MAC_SIZE);
    store_be16(frame + ETHERNET_TYPE, WIRE_ARP);
    memcpy(frame + ARP_HEADER, arp_header, sizeof(arp_header));
    store_be16(frame + ARP_OPERATION, operation);
    memcpy(frame + ARP_SENDER_MAC, config->mac, MAC_SIZE);
    memcpy(frame + ARP_SENDER_IP, config->ip, 4);
}

int neighbor_input_arp(struct neighbor *neighbor, const struct neighbor_config *config,
                       struct packet *packet, uint64_t now, uint64_t *counters)
{
    uint8_t *frame = packet->data;
    if (packet->length < ARP_FRAME || load_be16(frame + ETHERNET_TYPE) != WIRE_ARP)
        return NEIGHBOR_PASS;
    /* Guaranteed from here on: all of the message is within the frame. */
    uint16_t operation = load_be16(frame + ARP_OPERATION);
    if (memcmp(frame + ARP_HEADER, arp_header, sizeof(arp_header)) != 0 ||
        (operation != ARP_REQUEST && operation != ARP_REPLY)) {
        counters[LWAFTR_DROP_MALFORMED_ARP_PACKETS]++;
        return NEIGHBOR_CONSUMED;
    }
    bool is_reply = operation == ARP_REPLY;
    count(counters, is_reply ? LWAFTR_IN_ARP_REPLY_BYTES : LWAFTR_IN_ARP_REQUEST_BYTES,
          packet->length);
    /* Who asks tells where he is, too (RFC 826). He has answered nothing, though. */
    if (is_next_hop(config, frame + ARP_SENDER_IP) && (is_reply || !config->compat))
        learn(neighbor, config, frame + ARP_SENDER_MAC, is_reply, now);
    if (is_reply || memcmp(frame + ARP_TARGET_IP, config->ip, 4) != 0)
        return NEIGHBOR_CONSUMED;
    write_arp(frame, config, ARP_REPLY, frame + ARP_SENDER_MAC, frame + ARP_SENDER_MAC,
              frame + ARP_SENDER_IP);
    packet->length = ARP_FRAME;
    count(counters, LWAFTR_OUT_ARP_REPLY_BYTES, ARP_FRAME);
    return NEIGHBOR_REPLY;
}

/* ---- neighbour discovery ------------------------------------------------- */

static uint64_t sum_message(const uint8_t *frame, uint32_t size)
{
    const uint8_t *ip = frame + WIRE_ETHERNET_SIZE;
    uint64_t sum = checksum_add_small(0, ip + IPV6_SOURCE, 32);
    sum += htobe16((uint16_t)size) + htobe16(WIRE_ICMPV6);
    return checksum_add(sum, frame + ND_MESSAGE, size);
}

/* ff02::1:ffXX:XXXX of an address, and where Ethernet has it (RFC 4291, 2.7.1; RFC 2464,
 * 7). */
static const uint8_t solicited_node[13] = {0xff, 0x02, [11] = 1, [12] = 0xff};

static void write_solicited_node(uint8_t *ip, const uint8_t *of)
{
    memcpy(ip, solicited_node, sizeof(solicited_node));
    memcpy(ip + 13, of + 13, 3);
}

static void write_group_mac(uint8_t *mac, const uint8_t *ip)
{
    mac[0] = mac[1] = 0x33;
    memcpy(mac + 2, ip + 12, 4);
}

/* A message with one option: an address of ours. `destination` is of IPv6. */
static void write_nd(struct packet *packet, const struct neighbor_config *config,
                     const uint8_t *mac, const uint8_t *destination, uint8_t type,
                     uint32_t flags, const uint8_t *target)
{
    uint8_t *frame = packet->data, *ip = frame + WIRE_ETHERNET_SIZE;
    packet->length = ND_FRAME;
    memcpy(frame, mac, MAC_SIZE);
    memcpy(frame + ETHERNET_SOURCE, config->mac, MAC_SIZE);
    store_be16(frame + ETHERNET_TYPE, WIRE_IPV6);
    store_be32(ip, 6u << 28);
    store_be16(ip + IPV6_PAYLOAD_LENGTH, ND_FRAME - ND_MESSAGE);
    ip[IPV6_NEXT_HEADER] = WIRE_ICMPV6;
    ip[IPV6_HOP_LIMIT] = ND_HOP_LIMIT;
    memcpy(ip + IPV6_SOURCE, config->ip, 16);
    memcpy(ip + IPV6_DESTINATION, destination, 16);
    frame[ND_MESSAGE] = type;
    frame[ND_CODE] = 0;
    store_be16(frame + ND_CHECKSUM, 0);
    store_be32(frame + ND_FLAGS, flags << 24);
    memcpy(frame + ND_TARGET, target, 16);
    frame[ND_OPTIONS] = type == ND_SOLICIT ? ND_SOURCE_MAC : ND_TARGET_MAC;
    frame[ND_OPTIONS + 1] = 1; /* times 8 bytes */
    memcpy(frame + ND_OPTIONS + 2, config->mac, MAC_SIZE);
    uint16_t sum = (uint16_t)~checksum_fold(sum_message(frame, ND_FRAME - ND_MESSAGE));
    memcpy(frame + ND_CHECKSUM, &sum, sizeof(sum));
}

/* Find the MAC among the options, which end at `end`. *mac is NULL when there is none.
 * False: an option has no length, or does not fit (RFC 4861, 4.6). */
static bool find_mac(const uint8_t *frame, uint32_t end, uint8_t type,
                     const uint8_t **mac)
{
    *mac = NULL;
    for (uint32_t at = ND_OPTIONS; at < end;) {
        uint32_t size = wire_has(end, at, 2) ? frame[at + 1] * 8u : 0;
        if (size == 0 || !wire_has(end, at, size))
            return false;
        if (frame[at] == type && size == 8 && !*mac)
            *mac = frame + at + 2;
        at += size;
    }
    return true;
}

/* Somebody asks where we are, or whether we are (RFC 4861, 7.2.3 and 7.2.4). */
static int answer(struct neighbor *neighbor, const struct neighbor_config *config,
                  struct packet *packet, uint32_t end, uint64_t now, uint64_t *counters)
{
    uint8_t *frame = packet->data, *ip = frame + WIRE_ETHERNET_SIZE;
    const uint8_t *source_mac;
    uint8_t source[16], mac[MAC_SIZE];
    if (!find_mac(frame, end, ND_SOURCE_MAC, &source_mac)) {
        counters[LWAFTR_DROP_MALFORMED_NDP_PACKETS]++;
        return NEIGHBOR_CONSUMED;
    }
    memcpy(source, ip + IPV6_SOURCE, 16);
    bool is_probe = memcmp(source, unspecified, 16) == 0;
    bool is_to_group =
        memcmp(ip + IPV6_DESTINATION, solicited_node, sizeof(solicited_node)) == 0;
    if (memcmp(frame + ND_TARGET, config->ip, 16) != 0)
        return NEIGHBOR_CONSUMED;
    /* Whoever has no address yet asks all who might have it (7.1.1). Snabb has this the
     * other way round. */
    if (is_probe && (config->compat ? is_to_group : !is_to_group || source_mac))
        return NEIGHBOR_CONSUMED;
    if (source_mac && !config->compat && is_next_hop(config, source))
        learn(neighbor, config, source_mac, false, now);
    memcpy(mac, frame + ETHERNET_SOURCE, MAC_SIZE);
    uint32_t flags = ND_ROUTER | ND_SOLICITED;
    if (is_probe) {
        memcpy(source, all_nodes, 16);
        if (!config->compat) {
            write_group_mac(mac, all_nodes);
            flags = ND_ROUTER | ND_OVERRIDE;
        }
    }
    write_nd(packet, config, mac, source, ND_ADVERTISE, flags, config->ip);
    count(counters, LWAFTR_OUT_NDP_NA_BYTES, ND_FRAME);
    return NEIGHBOR_REPLY;
}

/* The next hop says where it is (RFC 4861, 7.2.5). */
static void note_advertisement(struct neighbor *neighbor,
                               const struct neighbor_config *config,
                               const uint8_t *frame, uint32_t end, uint64_t now,
                               uint64_t *counters)
{
    const uint8_t *mac;
    uint8_t flags = frame[ND_FLAGS];
    bool is_solicited = flags & ND_SOLICITED;
    bool is_to_group = frame[WIRE_ETHERNET_SIZE + IPV6_DESTINATION] == 0xff;
    if (!find_mac(frame, end, ND_TARGET_MAC, &mac) ||
        (is_to_group && is_solicited && !config->compat)) {
        counters[LWAFTR_DROP_MALFORMED_NDP_PACKETS]++;
        return;
    }
    if (!is_next_hop(config, frame + ND_TARGET))
        return;
    if (config->compat) {
        if (!neighbor_is_known(neighbor) && is_solicited)
            learn(neighbor, config, mac ? mac : frame + ETHERNET_SOURCE, true, now);
        return;
    }
    /* An answer to what was sent to its address may leave that out. */
    if (!mac && !neighbor_is_known(neighbor))
        return;
    if (!mac)
        mac = neighbor->ethernet;
    bool is_other = neighbor_is_known(neighbor) && !is_known_as(neighbor, mac);
    if (!is_other || flags & ND_OVERRIDE)
        learn(neighbor, config, mac, is_solicited, now);
    else if (neighbor->state == NEIGHBOR_REACHABLE)
        enter(neighbor, NEIGHBOR_STALE, now + STALE);
}

int neighbor_input_ndp(struct neighbor *neighbor, const struct neighbor_config *config,
                       struct packet *packet, uint64_t now, uint64_t *counters)
{
    const uint8_t *frame = packet->data, *ip = frame + WIRE_ETHERNET_SIZE;
    if (packet->length < ND_MESSAGE + 4 ||
        load_be16(frame + ETHERNET_TYPE) != WIRE_IPV6 ||
        ip[IPV6_NEXT_HEADER] != WIRE_ICMPV6 || frame[ND_MESSAGE] < ND_FIRST ||
        frame[ND_MESSAGE] > ND_LAST)
        return NEIGHBOR_PASS;
    uint8_t type = frame[ND_MESSAGE];
    if (type != ND_SOLICIT && type != ND_ADVERTISE) {
        counters[LWAFTR_DROP_ROUTER_NDP_PACKETS]++;
        return NEIGHBOR_CONSUMED;
    }
    uint32_t size = load_be16(ip + IPV6_PAYLOAD_LENGTH);
    /* What is not of this link, or is broken (7.1.1, 7.1.2). */
    if (size < ND_MIN_SIZE || size > packet->length - ND_MESSAGE ||
        ip[IPV6_HOP_LIMIT] != ND_HOP_LIMIT || frame[ND_CODE] != 0 ||
        checksum_fold(sum_message(frame, size)) != 0xffff) {
        counters[LWAFTR_DROP_MALFORMED_NDP_PACKETS]++;
        return NEIGHBOR_CONSUMED;
    }
    /* Guaranteed from here on: the message, options included, is within the frame. */
    uint32_t end = ND_MESSAGE + size;
    if (type == ND_SOLICIT) {
        count(counters, LWAFTR_IN_NDP_NS_BYTES, packet->length);
        return answer(neighbor, config, packet, end, now, counters);
    }
    count(counters, LWAFTR_IN_NDP_NA_BYTES, packet->length);
    note_advertisement(neighbor, config, frame, end, now, counters);
    return NEIGHBOR_CONSUMED;
}

/* ---- requests ------------------------------------------------------------ */

/* Ask for the next hop: at its own address, as far as it is known, or all. */
static struct packet *ask(const struct neighbor *neighbor,
                          const struct neighbor_config *config, bool is_direct,
                          struct freelist *freelist, uint64_t *counters)
{
    static const uint8_t nobody[MAC_SIZE];
    uint8_t group[16], mac[MAC_SIZE];
    struct packet *packet =
        packet_alloc(freelist, config->is_ipv6 ? ND_FRAME : ARP_FRAME);
    if (unlikely(!packet))
        return NULL;
    if (!config->is_ipv6) {
        write_arp(packet->data, config, ARP_REQUEST,
                  is_direct ? neighbor->ethernet : broadcast, nobody, config->next_hop);
        count(counters, LWAFTR_OUT_ARP_REQUEST_BYTES, ARP_FRAME);
        return packet;
    }
    write_solicited_node(group, config->next_hop);
    write_group_mac(mac, group);
    write_nd(packet, config, is_direct ? neighbor->ethernet : mac,
             is_direct ? config->next_hop : group, ND_SOLICIT, 0, config->next_hop);
    count(counters, LWAFTR_OUT_NDP_NS_BYTES, ND_FRAME);
    return packet;
}

/* What follows on a request, or on none, whose time is over. */
static void step(struct neighbor *neighbor, uint64_t now)
{
    switch (neighbor->state) {
    case NEIGHBOR_INCOMPLETE:
        neighbor->deadline = now + RESOLVE;
        break;
    case NEIGHBOR_PROBE:
        if (neighbor->nprobes < MAX_PROBES) {
            neighbor->deadline = now + SECOND;
            break;
        }
        enter(neighbor, NEIGHBOR_UNREACHABLE, now + RESOLVE);
        break;
    case NEIGHBOR_UNREACHABLE: /* ever more seldom (RFC 7048, 3) */
        neighbor->deadline = now + (RESOLVE << min_u32(neighbor->nprobes, MAX_BACKOFF));
        break;
    default:
        enter(neighbor, NEIGHBOR_PROBE, now + SECOND);
    }
    neighbor->nprobes++;
}

struct packet *neighbor_tick(struct neighbor *neighbor,
                             const struct neighbor_config *config,
                             struct freelist *freelist, uint64_t now,
                             uint64_t *counters)
{
    if (neighbor->state == NEIGHBOR_STATIC || now < neighbor->deadline ||
        (config->compat && neighbor_is_known(neighbor)))
        return NULL;
    step(neighbor, now);
    return ask(neighbor, config, neighbor->state == NEIGHBOR_PROBE, freelist, counters);
}

/* ---- several workers ----------------------------------------------------- */

static const uint64_t IS_TOLD = 1ull << 48; /* above a MAC address */

/* Relaxed, here and there: the word is all there is to see. */
void neighbor_tell(const struct neighbor *neighbor, struct next_hop *next_hop)
{
    uint64_t word = 0;
    if (neighbor_is_known(neighbor)) {
        memcpy(&word, neighbor->ethernet, MAC_SIZE);
        word |= IS_TOLD;
    }
    if (__atomic_load_n(&next_hop->told, __ATOMIC_RELAXED) != word)
        __atomic_store_n(&next_hop->told, word, __ATOMIC_RELAXED);
}

void neighbor_heed(struct neighbor *neighbor, const struct next_hop *next_hop)
{
    uint64_t word = __atomic_load_n(&next_hop->told, __ATOMIC_RELAXED);
    neighbor->state = word & IS_TOLD ? NEIGHBOR_STATIC : NEIGHBOR_INCOMPLETE;
    memcpy(neighbor->ethernet, &word, MAC_SIZE);
}

/* ---- frames that wait ---------------------------------------------------- */

bool neighbor_wait(struct neighbor *neighbor, struct packet *packet)
{
    if (neighbor->nwaiting == NEIGHBOR_WAITING_MAX)
        return false;
    neighbor->waiting[neighbor->nwaiting++] = packet;
    return true;
}

uint32_t neighbor_release(struct neighbor *neighbor, struct packet **out, uint32_t max)
{
    if (!neighbor_is_known(neighbor))
        return 0;
    uint32_t n = min_u32(max, neighbor->nwaiting);
    for (uint32_t i = 0; i < n; i++) {
        out[i] = neighbor->waiting[i];
        neighbor_address(neighbor, out[i]->data);
    }
    neighbor->nwaiting -= n;
    memmove(neighbor->waiting, neighbor->waiting + n,
            neighbor->nwaiting * sizeof(neighbor->waiting[0]));
    return n;
}

uint32_t neighbor_retire(struct neighbor *neighbor, struct freelist *freelist)
{
    uint32_t n = neighbor->nwaiting;
    packet_free_burst(freelist, neighbor->waiting, n);
    neighbor->nwaiting = 0;
    return n;
}
