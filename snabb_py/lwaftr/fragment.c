/* Fragmenting, as a router of IPv4 (RFC 791, 3.2) and as a source of IPv6 (RFC 8200,
 * 4.5). The packet itself becomes the first fragment: only what goes into the others is
 * copied. */
#include <errno.h>

#include "snabb_py/engine/offload.h"
#include "snabb_py/engine/wire.h"

#include "snabb_py/lwaftr/fragment.h"

enum {
    IPV4_DONT_FRAGMENT = 0x4000,
    IPV4_MORE_FRAGMENTS = 0x2000,
    IPV4_OFFSET = 0x1fff,
    IPV4_OPTION_COPIED = 0x80,
    IPV4_OPTION_END = 0,
    IPV4_OPTION_NOTHING = 1, /* these two are one byte long, all others say how long */
    IPV4_MAX_SIZE = 60,
    FRAGMENT_HEADER = 8,
    IPV6_MORE_FRAGMENTS = 1
};

/* What all fragments have in common. */
struct cut {
    uint8_t header[WIRE_ETHERNET_SIZE + IPV4_MAX_SIZE]; /* of all but the first */
    uint32_t header_size;
    uint32_t payload; /* where it begins in the whole frame */
    uint32_t length;  /* of the payload */
    uint32_t chunk;   /* of the first fragment, and most of the others */
};

static uint32_t floor8(uint32_t n)
{
    return n & ~7u;
}

/* Make the fragments from the second on: header, then their part of the payload. `out`
 * gets the packet itself first, still whole. The payload is longer than a chunk. */
static int cut_up(struct freelist *freelist, struct packet *packet,
                  const struct cut *cut, struct packet **out, uint32_t max)
{
    uint32_t n = (cut->length + cut->chunk - 1) / cut->chunk;
    if (n > max)
        return -E2BIG;
    /* What a card was to sum up is in several frames now. */
    if (!packet_finish_checksum(packet))
        return -EINVAL;
    out[0] = packet;
    for (uint32_t i = 1; i < n; i++) {
        uint32_t start = i * cut->chunk;
        uint32_t size = min_u32(cut->chunk, cut->length - start);
        struct packet *fragment = packet_alloc(freelist, cut->header_size + size);
        if (unlikely(!fragment)) {
            packet_free_burst(freelist, out + 1, i - 1);
            return -ENOMEM;
        }
        fragment->hash = packet->hash;
        fragment->rx_time = packet->rx_time;
        memcpy(fragment->data, cut->header, cut->header_size);
        memcpy(fragment->data + cut->header_size,
               packet->data + cut->payload + start, size);
        out[i] = fragment;
    }
    packet->flags = 0;
    return (int)n;
}

static bool has_header(const struct packet *packet, uint16_t type, uint32_t size)
{
    return packet->length >= WIRE_ETHERNET_SIZE + size &&
           load_be16(packet->data + ETHERNET_TYPE) == type &&
           packet->gso_type == PACKET_GSO_NONE;
}

/* ---- IPv4 ---------------------------------------------------------------- */

/* Copy the options that every fragment has. Returns the size of the header that is
 * behind; what is no option ends them. */
static uint32_t copy_options(uint8_t *to, const uint8_t *from, uint32_t size)
{
    uint32_t n = WIRE_IPV4_SIZE;
    memcpy(to, from, n);
    for (uint32_t i = n; i < size && from[i] != IPV4_OPTION_END;) {
        if (from[i] == IPV4_OPTION_NOTHING) {
            i++;
            continue;
        }
        if (i + 1 >= size || from[i + 1] < 2 || from[i + 1] > size - i)
            break;
        uint32_t length = from[i + 1];
        if (from[i] & IPV4_OPTION_COPIED) {
            memcpy(to + n, from + i, length);
            n += length;
        }
        i += length;
    }
    for (; n % 4; n++)
        to[n] = IPV4_OPTION_END;
    to[0] = (uint8_t)((from[0] & 0xf0) | n / 4);
    return n;
}

/* Fill in what differs: `field` has the offset, in units of 8 bytes, and flags. */
static void write_ipv4(struct packet *packet, uint16_t id, uint32_t field)
{
    uint8_t *ip = packet->data + WIRE_ETHERNET_SIZE;
    store_be16(ip + IPV4_TOTAL_LENGTH, (uint16_t)(packet->length - WIRE_ETHERNET_SIZE));
    store_be16(ip + IPV4_ID, id);
    store_be16(ip + IPV4_FRAGMENT, (uint16_t)field);
    store_be16(ip + IPV4_CHECKSUM, 0);
    uint32_t size = (ip[0] & 15u) * 4;
    uint16_t sum = (uint16_t)~checksum_fold(checksum_add_small(0, ip, size));
    memcpy(ip + IPV4_CHECKSUM, &sum, sizeof(sum));
}

int fragment_ipv4(struct freelist *freelist, struct packet *packet, uint32_t mtu,
                  uint16_t id, bool copy_all, struct packet **out, uint32_t max)
{
    struct cut cut;
    if (max < 1 || !has_header(packet, WIRE_IPV4, WIRE_IPV4_SIZE))
        return -EINVAL;
    uint8_t *ip = packet->data + WIRE_ETHERNET_SIZE;
    uint32_t size = (ip[0] & 15u) * 4, total = load_be16(ip + IPV4_TOTAL_LENGTH);
    uint32_t field = load_be16(ip + IPV4_FRAGMENT);
    if (size < WIRE_IPV4_SIZE || total < size ||
        total > packet->length - WIRE_ETHERNET_SIZE)
        return -EINVAL;
    /* Guaranteed from here on: header and payload lie within the frame. */
    if (total <= mtu) {
        packet->length = WIRE_ETHERNET_SIZE + total;
        out[0] = packet;
        return 1;
    }
    if (field & IPV4_DONT_FRAGMENT)
        return -EMSGSIZE;
    uint32_t offset = field & IPV4_OFFSET, more = field & IPV4_MORE_FRAGMENTS;
    if (mtu < size + 8 || offset * 8 + total > 65535)
        return -EINVAL;
    cut.payload = WIRE_ETHERNET_SIZE + size;
    cut.length = total - size;
    cut.chunk = floor8(mtu - size);
    memcpy(cut.header, packet->data, cut.payload);
    cut.header_size = cut.payload;
    if (!copy_all && size > WIRE_IPV4_SIZE)
        cut.header_size = WIRE_ETHERNET_SIZE +
                          copy_options(cut.header + WIRE_ETHERNET_SIZE, ip, size);
    int n = cut_up(freelist, packet, &cut, out, max);
    if (n < 0)
        return n;
    /* A piece of a fragment remains one of the same datagram. */
    if (offset | more)
        id = load_be16(ip + IPV4_ID);
    packet->length = cut.payload + cut.chunk;
    for (int i = 0; i < n; i++, offset += cut.chunk / 8)
        write_ipv4(out[i], id, offset | (i < n - 1 ? IPV4_MORE_FRAGMENTS : more));
    return n;
}

/* ---- IPv6 ---------------------------------------------------------------- */

static void write_ipv6(struct packet *packet, uint32_t field)
{
    uint32_t header = WIRE_ETHERNET_SIZE + WIRE_IPV6_SIZE;
    store_be16(packet->data + WIRE_ETHERNET_SIZE + IPV6_PAYLOAD_LENGTH,
               (uint16_t)(packet->length - header));
    store_be16(packet->data + header + 2, (uint16_t)field);
}

int fragment_ipv6(struct freelist *freelist, struct packet *packet, uint32_t mtu,
                  uint32_t id, struct packet **out, uint32_t max)
{
    struct cut cut;
    if (max < 1 || !has_header(packet, WIRE_IPV6, WIRE_IPV6_SIZE))
        return -EINVAL;
    uint8_t *ip = packet->data + WIRE_ETHERNET_SIZE;
    cut.payload = WIRE_ETHERNET_SIZE + WIRE_IPV6_SIZE;
    cut.length = load_be16(ip + IPV6_PAYLOAD_LENGTH);
    if (cut.length > packet->length - cut.payload)
        return -EINVAL;
    /* Guaranteed from here on: the payload lies within the frame. */
    if (WIRE_IPV6_SIZE + cut.length <= mtu) {
        packet->length = cut.payload + cut.length;
        out[0] = packet;
        return 1;
    }
    if (mtu < WIRE_IPV6_SIZE + FRAGMENT_HEADER + 8 ||
        packet_headroom(packet) < FRAGMENT_HEADER)
        return -EINVAL;
    cut.chunk = floor8(mtu - WIRE_IPV6_SIZE - FRAGMENT_HEADER);
    cut.header_size = cut.payload + FRAGMENT_HEADER;
    uint8_t *header = cut.header + cut.payload;
    memcpy(cut.header, packet->data, cut.payload);
    cut.header[WIRE_ETHERNET_SIZE + IPV6_NEXT_HEADER] = WIRE_FRAGMENT;
    header[0] = ip[IPV6_NEXT_HEADER];
    header[1] = 0;
    store_be32(header + 4, id);
    int n = cut_up(freelist, packet, &cut, out, max);
    if (n < 0)
        return n;
    packet_prepend(packet, FRAGMENT_HEADER);
    memcpy(packet->data, cut.header, cut.header_size);
    packet->length = cut.header_size + cut.chunk;
    uint32_t start = 0;
    for (int i = 0; i < n; i++, start += cut.chunk)
        write_ipv6(out[i], start | (i < n - 1 ? IPV6_MORE_FRAGMENTS : 0));
    return n;
}
