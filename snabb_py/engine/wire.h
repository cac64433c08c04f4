/* Views of the headers on the wire: where they begin, what they say.
 *
 * All offsets are bytes from the first byte of the Ethernet frame. A wire_parse_*
 * function checks bounds once; what it says lies within the frame may then be read
 * and written with the loads and stores below, which check nothing. Loads and stores
 * take any alignment; numbers are in network order on the wire, in host order here.
 */
#ifndef SNABB_PY_ENGINE_WIRE_H
#define SNABB_PY_ENGINE_WIRE_H

#include <endian.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

enum { /* EtherTypes */
    WIRE_IPV4 = 0x0800,
    WIRE_ARP = 0x0806,
    WIRE_IPV6 = 0x86dd,
    WIRE_VLAN = 0x8100, /* 802.1Q, the customer's tag */
    WIRE_QINQ = 0x88a8  /* 802.1ad, the provider's tag */
};

enum { /* IP protocols and IPv6 extension headers */
    WIRE_HOP_BY_HOP = 0,
    WIRE_ICMP = 1,
    WIRE_IPV4_IN_IP = 4,
    WIRE_TCP = 6,
    WIRE_UDP = 17,
    WIRE_IPV6_IN_IP = 41,
    WIRE_ROUTING = 43,
    WIRE_FRAGMENT = 44,
    WIRE_AH = 51,
    WIRE_ICMPV6 = 58,
    WIRE_DESTINATION = 60
};

enum { /* lengths of headers, bytes */
    WIRE_ETHERNET_SIZE = 14,
    WIRE_TAG_SIZE = 4,
    WIRE_IPV4_SIZE = 20, /* without options */
    WIRE_IPV6_SIZE = 40,
    WIRE_TCP_SIZE = 20, /* without options */
    WIRE_UDP_SIZE = 8
};

enum { /* offsets in a header */
    ETHERNET_TYPE = 12,
    IPV4_TOTAL_LENGTH = 2,
    IPV4_ID = 4,
    IPV4_FRAGMENT = 6,
    IPV4_PROTOCOL = 9,
    IPV4_CHECKSUM = 10,
    IPV4_SOURCE = 12,
    IPV4_DESTINATION = 16,
    IPV6_PAYLOAD_LENGTH = 4,
    IPV6_NEXT_HEADER = 6,
    IPV6_SOURCE = 8,
    IPV6_DESTINATION = 24,
    TCP_SEQUENCE = 4,
    TCP_DATA_OFFSET = 12,
    TCP_FLAGS = 13,
    TCP_CHECKSUM = 16,
    UDP_LENGTH = 4,
    UDP_CHECKSUM = 6
};

enum { /* TCP flags */
    TCP_FIN = 0x01,
    TCP_PSH = 0x08,
    TCP_CWR = 0x80
};

enum {
    /* More than anybody sends; a bound for what a frame can make us walk. */
    WIRE_MAX_TAGS = 8,
    WIRE_MAX_EXTENSIONS = 16
};

static inline uint16_t load_be16(const uint8_t *p)
{
    uint16_t value;
    memcpy(&value, p, sizeof(value));
    return be16toh(value);
}

static inline uint32_t load_be32(const uint8_t *p)
{
    uint32_t value;
    memcpy(&value, p, sizeof(value));
    return be32toh(value);
}

static inline void store_be16(uint8_t *p, uint16_t value)
{
    value = htobe16(value);
    memcpy(p, &value, sizeof(value));
}

static inline void store_be32(uint8_t *p, uint32_t value)
{
    value = htobe32(value);
    memcpy(p, &value, sizeof(value));
}

/* Whether an IPv4 address, in host order, is that of no host: this network, loopback,
 * multicast, reserved and broadcast (RFC 1812, 5.3.7; RFC 6890). */
static inline bool ipv4_is_martian(uint32_t address)
{
    uint32_t net = address >> 24;
    return net == 0 || net == 127 || net >= 224;
}

/* n bytes at an offset lie within a frame; the sum cannot overflow. */
static inline bool wire_has(uint32_t length, uint32_t offset, uint32_t n)
{
    return offset <= length && n <= length - offset;
}

/* ---- Ethernet ------------------------------------------------------------ */

struct wire_ethernet {
    uint16_t type;    /* EtherType behind the tags */
    uint16_t ntags;   /* VLAN tags */
    uint32_t payload; /* within the frame, or its end */
};

static inline bool wire_is_tag(uint16_t type)
{
    return type == WIRE_VLAN || type == WIRE_QINQ;
}

/* Pass over the Ethernet header and VLAN tags. False: the frame ends before, or has
 * more tags than WIRE_MAX_TAGS. */
static inline bool wire_parse_ethernet(const uint8_t *frame, uint32_t length,
                                       struct wire_ethernet *ethernet)
{
    uint32_t offset = WIRE_ETHERNET_SIZE;
    if (length < offset)
        return false;
    uint16_t type = load_be16(frame + ETHERNET_TYPE);
    uint16_t ntags = 0;
    while (wire_is_tag(type)) {
        if (++ntags > WIRE_MAX_TAGS || !wire_has(length, offset, WIRE_TAG_SIZE))
            return false;
        type = load_be16(frame + offset + 2);
        offset += WIRE_TAG_SIZE;
    }
    *ethernet = (struct wire_ethernet){type, ntags, offset};
    return true;
}

/* ---- IP ------------------------------------------------------------------ */

struct wire_ip {
    uint32_t header;      /* the fixed header (20 or 40 bytes) is within the frame */
    uint32_t payload;     /* behind options or extensions; within the frame, or its end */
    uint32_t source;      /* of the address (4 or 16 bytes) */
    uint32_t destination; /* of the final one, which checksums count (RFC 8200, 8.1) */
    uint8_t version;      /* 4 or 6 */
    uint8_t protocol;     /* of the payload */
    bool is_fragment;     /* the payload is a part of one */
};

/* Parse the IPv4 header at an offset. False: it is none, or not all there. Total
 * length and checksum are not looked at. */
static inline bool wire_parse_ipv4(const uint8_t *frame, uint32_t length,
                                   uint32_t offset, struct wire_ip *ip)
{
    if (!wire_has(length, offset, WIRE_IPV4_SIZE))
        return false;
    const uint8_t *header = frame + offset;
    uint32_t size = (header[0] & 15u) * 4;
    if (header[0] >> 4 != 4 || size < WIRE_IPV4_SIZE || !wire_has(length, offset, size))
        return false;
    *ip = (struct wire_ip){
        .header = offset,
        .payload = offset + size,
        .source = offset + IPV4_SOURCE,
        .destination = offset + IPV4_DESTINATION,
        .version = 4,
        .protocol = header[IPV4_PROTOCOL],
        /* more fragments, or not the first one */
        .is_fragment = (load_be16(header + IPV4_FRAGMENT) & 0x3fff) != 0,
    };
    return true;
}

/* A routing header that has not done its work yet names the final destination.
 * False: in a way unknown here (segment routing is type 4, RFC 8754 2; mobility is
 * type 2, RFC 6275 6.4; both have it first). */
static inline bool wire_route(const uint8_t *frame, uint32_t offset, uint32_t size,
                              struct wire_ip *ip)
{
    const uint8_t *header = frame + offset;
    uint8_t type = header[2], segments_left = header[3];
    if (segments_left == 0)
        return true;
    if ((type != 2 && type != 4) || size < 8 + 16)
        return false;
    ip->destination = offset + 8;
    return true;
}

/* Parse the IPv6 header at an offset and pass over extension headers, up to the
 * payload of a fragment. False: it is none, or not all there, or has more of them
 * than WIRE_MAX_EXTENSIONS. Payload length is not looked at. */
static inline bool wire_parse_ipv6(const uint8_t *frame, uint32_t length,
                                   uint32_t offset, struct wire_ip *ip)
{
    if (!wire_has(length, offset, WIRE_IPV6_SIZE) || frame[offset] >> 4 != 6)
        return false;
    *ip = (struct wire_ip){
        .header = offset,
        .payload = offset + WIRE_IPV6_SIZE,
        .source = offset + IPV6_SOURCE,
        .destination = offset + IPV6_DESTINATION,
        .version = 6,
        .protocol = frame[offset + IPV6_NEXT_HEADER],
    };
    for (uint32_t i = 0; i < WIRE_MAX_EXTENSIONS; i++) {
        uint8_t type = ip->protocol;
        if (type != WIRE_HOP_BY_HOP && type != WIRE_ROUTING && type != WIRE_FRAGMENT &&
            type != WIRE_AH && type != WIRE_DESTINATION)
            return true;
        /* Each is 8 bytes at least, and says how long it is. */
        if (!wire_has(length, ip->payload, 8))
            return false;
        const uint8_t *header = frame + ip->payload;
        uint32_t size = type == WIRE_FRAGMENT ? 8
                        : type == WIRE_AH     ? (header[1] + 2u) * 4
                                              : (header[1] + 1u) * 8;
        if (!wire_has(length, ip->payload, size))
            return false;
        if (type == WIRE_ROUTING && !wire_route(frame, ip->payload, size, ip))
            return false;
        ip->protocol = header[0];
        ip->payload += size;
        if (type == WIRE_FRAGMENT && (load_be16(header + 2) & 0xfff9)) {
            ip->is_fragment = true;
            return true;
        }
    }
    return false;
}

/* Parse the frame up to the payload of IP. False: there is no IP in it, or not all
 * of its headers. */
static inline bool wire_parse_ip(const uint8_t *frame, uint32_t length,
                                 struct wire_ip *ip)
{
    struct wire_ethernet ethernet;
    if (!wire_parse_ethernet(frame, length, &ethernet))
        return false;
    if (ethernet.type == WIRE_IPV4)
        return wire_parse_ipv4(frame, length, ethernet.payload, ip);
    if (ethernet.type == WIRE_IPV6)
        return wire_parse_ipv6(frame, length, ethernet.payload, ip);
    return false;
}

/* There is IP in this IP (RFC 2003, 2473, 4213). */
static inline bool wire_is_tunnel(const struct wire_ip *ip)
{
    return (ip->protocol == WIRE_IPV4_IN_IP || ip->protocol == WIRE_IPV6_IN_IP) &&
           !ip->is_fragment;
}

/* Parse the IP header inside of a tunnel. False: it is none, or not all there. */
static inline bool wire_parse_inner_ip(const uint8_t *frame, uint32_t length,
                                       const struct wire_ip *tunnel, struct wire_ip *ip)
{
    return tunnel->protocol == WIRE_IPV4_IN_IP
               ? wire_parse_ipv4(frame, length, tunnel->payload, ip)
               : wire_parse_ipv6(frame, length, tunnel->payload, ip);
}

/* Bytes of the TCP header at an offset, options included; 0: not all there. */
static inline uint32_t wire_tcp_size(const uint8_t *frame, uint32_t length,
                                     uint32_t offset)
{
    if (!wire_has(length, offset, WIRE_TCP_SIZE))
        return 0;
    uint32_t size = (frame[offset + TCP_DATA_OFFSET] >> 4) * 4u;
    return size >= WIRE_TCP_SIZE && wire_has(length, offset, size) ? size : 0;
}

#endif
