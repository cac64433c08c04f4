/* Answers to pings of our own addresses (RFC 792; RFC 4443, 4). The request becomes the
 * reply. */
#include "snabb_py/engine/offload.h"
#include "snabb_py/engine/wire.h"

#include "snabb_py/lwaftr/counters.h"
#include "snabb_py/lwaftr/echo.h"

enum {
    ICMP_ECHO_REPLY = 0,
    ICMP_ECHO = 8,
    ICMPV6_ECHO = 128,
    ICMPV6_ECHO_REPLY = 129,
    ICMP_CODE = 1,
    ICMP_CHECKSUM = 2,
    ICMP_HEADER = 8,
    IPV4_TTL = 8,
    IPV6_HOP_LIMIT = 7,
    IPV4_OFFSET = 0x1fff,
    REPLY_TTL = 64,
    ETHERNET_SOURCE = 6
};

static void count(uint64_t *counters, enum lwaftr_counter bytes, uint32_t length)
{
    counters[bytes] += length;
    counters[bytes + 1]++;
}

static void swap(uint8_t *a, uint8_t *b, uint32_t n)
{
    uint8_t c[16];
    memcpy(c, a, n);
    memcpy(a, b, n);
    memcpy(b, c, n);
}

static void store_checksum(uint8_t *p, uint64_t sum)
{
    uint16_t value = (uint16_t)~checksum_fold(sum);
    memcpy(p, &value, sizeof(value));
}

/* Sent to one, not to a group of which we may be: that would be the reply's source. */
static bool is_to_one(const uint8_t *frame)
{
    return !(frame[0] & 1);
}

/* One that may be answered: not nobody, not a group, not ourselves (RFC 1122, 3.2.1.3;
 * RFC 4443, 2.4 has the same). */
static bool is_sender_ipv4(const uint8_t *ip, const uint8_t *own)
{
    return ip[0] != 0 && ip[0] != 127 && ip[0] < 224 && memcmp(ip, own, 4) != 0;
}

static bool is_sender_ipv6(const uint8_t *ip, const uint8_t *own)
{
    static const uint8_t unspecified[16], loopback[16] = {[15] = 1};
    return ip[0] != 0xff && memcmp(ip, unspecified, 16) != 0 &&
           memcmp(ip, loopback, 16) != 0 && memcmp(ip, own, 16) != 0;
}

bool echo_ipv4(const struct neighbor_config *own, struct packet *packet,
               uint64_t *counters)
{
    uint8_t *frame = packet->data, *header = frame + WIRE_ETHERNET_SIZE;
    struct wire_ip ip;
    if (packet->length < WIRE_ETHERNET_SIZE ||
        load_be16(frame + ETHERNET_TYPE) != WIRE_IPV4 ||
        !wire_parse_ipv4(frame, packet->length, WIRE_ETHERNET_SIZE, &ip) ||
        ip.protocol != WIRE_ICMP || memcmp(header + IPV4_DESTINATION, own->ip, 4) != 0)
        return false;
    /* Snabb sums up all that is in the frame. */
    uint32_t end = packet->length;
    if (!own->compat)
        end = WIRE_ETHERNET_SIZE + (uint32_t)load_be16(header + IPV4_TOTAL_LENGTH);
    if (end > packet->length || !wire_has(end, ip.payload, ICMP_HEADER))
        return false;
    /* Guaranteed from here on: the ICMP message is within the frame. */
    uint8_t *icmp = frame + ip.payload;
    uint32_t size = end - ip.payload;
    if (icmp[0] != ICMP_ECHO || icmp[ICMP_CODE] != 0)
        return false;
    if (!own->compat &&
        (ip.is_fragment || checksum(icmp, size) != 0 || !is_to_one(frame) ||
         !is_sender_ipv4(header + IPV4_SOURCE, own->ip)))
        return false;
    count(counters, LWAFTR_IN_ICMPV4_ECHO_BYTES, packet->length);
    swap(frame, frame + ETHERNET_SOURCE, 6);
    swap(header + IPV4_SOURCE, header + IPV4_DESTINATION, 4);
    store_be16(header + IPV4_FRAGMENT,
               load_be16(header + IPV4_FRAGMENT) & IPV4_OFFSET);
    header[IPV4_TTL] = REPLY_TTL;
    store_be16(header + IPV4_CHECKSUM, 0);
    store_checksum(header + IPV4_CHECKSUM,
                   checksum_add_small(0, header, ip.payload - WIRE_ETHERNET_SIZE));
    icmp[0] = ICMP_ECHO_REPLY;
    store_be16(icmp + ICMP_CHECKSUM, 0);
    store_checksum(icmp + ICMP_CHECKSUM, checksum_add(0, icmp, size));
    count(counters, LWAFTR_OUT_ICMPV4_ECHO_BYTES, packet->length);
    return true;
}

/* The part of the sum that is not in the message (RFC 8200, 8.1). */
static uint64_t pseudo_header(const uint8_t *ip, uint32_t size)
{
    uint64_t sum = checksum_add_small(0, ip + IPV6_SOURCE, 32);
    return sum + htobe16((uint16_t)size) + htobe16(WIRE_ICMPV6);
}

bool echo_ipv6(const struct neighbor_config *own, struct packet *packet,
               uint64_t *counters)
{
    enum { PAYLOAD = WIRE_ETHERNET_SIZE + WIRE_IPV6_SIZE };
    uint8_t *frame = packet->data, *ip = frame + WIRE_ETHERNET_SIZE;
    if (packet->length < PAYLOAD + ICMP_HEADER ||
        load_be16(frame + ETHERNET_TYPE) != WIRE_IPV6 || ip[0] >> 4 != 6 ||
        ip[IPV6_NEXT_HEADER] != WIRE_ICMPV6 ||
        memcmp(ip + IPV6_DESTINATION, own->ip, 16) != 0)
        return false;
    uint32_t size = load_be16(ip + IPV6_PAYLOAD_LENGTH);
    if (size < ICMP_HEADER || size > packet->length - PAYLOAD)
        return false;
    /* Guaranteed from here on: the ICMPv6 message is within the frame. */
    uint8_t *icmp = ip + WIRE_IPV6_SIZE;
    if (icmp[0] != ICMPV6_ECHO || icmp[ICMP_CODE] != 0)
        return false;
    if (!own->compat &&
        (checksum_fold(checksum_add(pseudo_header(ip, size), icmp, size)) != 0xffff ||
         !is_to_one(frame) || !is_sender_ipv6(ip + IPV6_SOURCE, own->ip)))
        return false;
    count(counters, LWAFTR_IN_ICMPV6_ECHO_BYTES, packet->length);
    swap(frame, frame + ETHERNET_SOURCE, 6);
    swap(ip + IPV6_SOURCE, ip + IPV6_DESTINATION, 16);
    ip[IPV6_HOP_LIMIT] = REPLY_TTL;
    icmp[0] = ICMPV6_ECHO_REPLY;
    store_be16(icmp + ICMP_CHECKSUM, 0);
    store_checksum(icmp + ICMP_CHECKSUM,
                   checksum_add(pseudo_header(ip, size), icmp, size));
    count(counters, LWAFTR_OUT_ICMPV6_ECHO_BYTES, packet->length);
    return true;
}
