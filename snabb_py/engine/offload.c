/* What cards do for their kernels, in software: checksums and segmentation. */
#include <errno.h>

#include "snabb_py/engine/offload.h"
#include "snabb_py/engine/wire.h"

/* ---- checksum ------------------------------------------------------------ */

/* The halves of 64-bit words into 64-bit sums: no carries to look after. Written in
 * vectors, 64 bytes a round, because compilers do poorly with the plain loop (1466
 * bytes: 196 -> 68 ns). The best form for the CPU is chosen when the extension is
 * loaded. */
typedef uint64_t vector __attribute__((vector_size(32)));

#if defined(__x86_64__) && !defined(__clang__)
__attribute__((target_clones("avx2", "default")))
#endif
uint64_t checksum_add(uint64_t sum, const uint8_t *data, uint32_t n)
{
    enum { ROUND = 2 * sizeof(vector) };
    const vector low = {UINT32_MAX, UINT32_MAX, UINT32_MAX, UINT32_MAX};
    vector even = {0}, odd = {0}, one, other;
    for (; n >= ROUND; n -= ROUND) {
        memcpy(&one, data, sizeof(one));
        memcpy(&other, data + sizeof(one), sizeof(other));
        even += (one & low) + (other & low);
        odd += (one >> 32) + (other >> 32);
        data += ROUND;
    }
    even += odd;
    /* an odd byte at the end is followed by a zero (RFC 1071) */
    return checksum_add_small(sum + even[0] + even[1] + even[2] + even[3], data, n);
}

uint16_t checksum(const uint8_t *data, uint32_t n)
{
    return (uint16_t)~checksum_fold(checksum_add(0, data, n));
}

static void store_checksum(uint8_t *p, uint16_t value)
{
    memcpy(p, &value, sizeof(value));
}

/* The checksum field lies within the frame, and so does where summing begins. */
static bool has_checksum(const struct packet *packet)
{
    return wire_has(packet->length, packet->csum_start, packet->csum_offset + 2u);
}

bool packet_finish_checksum(struct packet *packet)
{
    if (!(packet->flags & PACKET_CSUM_PARTIAL))
        return true;
    if (!has_checksum(packet))
        return false;
    uint8_t *start = packet->data + packet->csum_start;
    uint16_t value = checksum(start, packet->length - packet->csum_start);
    /* Zero means "none" in UDP (RFC 768) and the same as 0xffff in TCP. */
    store_checksum(start + packet->csum_offset, value ? value : 0xffff);
    packet->flags &= (uint16_t)~PACKET_CSUM_PARTIAL;
    return true;
}

static bool ends_with(const struct packet *packet, const struct wire_ip *ip)
{
    const uint8_t *header = packet->data + ip->header;
    uint32_t size = ip->version == 4
                        ? load_be16(header + IPV4_TOTAL_LENGTH)
                        : WIRE_IPV6_SIZE + load_be16(header + IPV6_PAYLOAD_LENGTH);
    return ip->header + size == packet->length;
}

bool packet_find_unfinished(struct packet *packet)
{
    const uint8_t *frame = packet->data;
    struct wire_ip tunnel, ip;
    if (!wire_parse_ip(frame, packet->length, &ip))
        return false;
    if (wire_is_tunnel(&ip)) {
        tunnel = ip;
        if (!wire_parse_inner_ip(frame, packet->length, &tunnel, &ip))
            return false;
    }
    bool is_tcp = ip.protocol == WIRE_TCP;
    if ((!is_tcp && ip.protocol != WIRE_UDP) || ip.is_fragment ||
        !ends_with(packet, &ip))
        return false;
    uint32_t size = packet->length - ip.payload, address = ip.version == 4 ? 4 : 16;
    if (size < (is_tcp ? WIRE_TCP_SIZE : WIRE_UDP_SIZE))
        return false;
    /* The header is within the frame from here on. */
    uint32_t offset = is_tcp ? TCP_CHECKSUM : UDP_CHECKSUM;
    uint64_t sum = htobe16(ip.protocol) + (uint64_t)htobe16((uint16_t)size);
    sum = checksum_add_small(sum, frame + ip.source, address);
    sum = checksum_add_small(sum, frame + ip.destination, address);
    uint16_t field;
    memcpy(&field, frame + ip.payload + offset, sizeof(field));
    if (likely(field != checksum_fold(sum)))
        return false;
    packet->flags = PACKET_CSUM_PARTIAL;
    packet->csum_start = (uint16_t)ip.payload;
    packet->csum_offset = (uint16_t)offset;
    return true;
}

/* ---- virtio -------------------------------------------------------------- */

static bool is_gso_type(uint8_t type)
{
    switch (type) {
    case PACKET_GSO_TCPV4:
    case PACKET_GSO_TCPV6:
    case PACKET_GSO_UDP_L4:
    case PACKET_GSO_TCPV4 | PACKET_GSO_ECN:
    case PACKET_GSO_TCPV6 | PACKET_GSO_ECN:
        return true;
    default:
        return false;
    }
}

int packet_from_virtio(struct packet *packet, const struct virtio_net_header *header)
{
    packet->flags = 0;
    packet->gso_type = PACKET_GSO_NONE;
    /* Unknown flags are ignored (virtio 1.2, 5.1.6.2.2); hdr_len is a hint that may be
     * wrong (ibid.) and is not read. */
    if (header->flags & VIRTIO_NET_NEEDS_CSUM) {
        packet->csum_start = header->csum_start;
        packet->csum_offset = header->csum_offset;
        /* Guaranteed from here on, as long as the frame stays as it is. */
        if (!has_checksum(packet))
            return -EINVAL;
    }
    if (header->gso_type != PACKET_GSO_NONE) {
        if (!is_gso_type(header->gso_type) || header->gso_size == 0)
            return -EINVAL;
        packet->gso_type = header->gso_type;
        packet->gso_size = header->gso_size;
    }
    if (header->flags & VIRTIO_NET_NEEDS_CSUM)
        packet->flags = PACKET_CSUM_PARTIAL;
    else if (header->flags & VIRTIO_NET_DATA_VALID)
        packet->flags = PACKET_CSUM_VALID;
    return 0;
}

/* Bytes of all headers of a super-frame whose layer 4 begins at csum_start; 0 when
 * unknown. A receiver makes so much contiguous. */
static uint32_t headers_size(const struct packet *packet)
{
    uint32_t start = packet->csum_start, size = WIRE_UDP_SIZE;
    if (packet->gso_type == PACKET_GSO_NONE || !(packet->flags & PACKET_CSUM_PARTIAL))
        return 0;
    if (packet->gso_type != PACKET_GSO_UDP_L4)
        size = wire_tcp_size(packet->data, packet->length, start);
    return size && wire_has(packet->length, start, size) ? start + size : 0;
}

int packet_to_virtio(const struct packet *packet, struct virtio_net_header *header)
{
    *header = (struct virtio_net_header){.num_buffers = 1};
    bool is_partial = packet->flags & PACKET_CSUM_PARTIAL;
    bool is_super = packet->gso_type != PACKET_GSO_NONE;
    if ((is_partial && !has_checksum(packet)) ||
        (is_super && (!is_gso_type(packet->gso_type) || packet->gso_size == 0)))
        return -EINVAL;
    if (is_partial) {
        header->flags = VIRTIO_NET_NEEDS_CSUM;
        header->csum_start = packet->csum_start;
        header->csum_offset = packet->csum_offset;
    } else if (packet->flags & PACKET_CSUM_VALID) {
        header->flags = VIRTIO_NET_DATA_VALID;
    }
    if (is_super) {
        header->gso_type = packet->gso_type;
        header->gso_size = packet->gso_size;
        header->hdr_len = (uint16_t)headers_size(packet);
    }
    return 0;
}

/* ---- segmentation -------------------------------------------------------- */

/* A super-frame taken apart. All headers, bytes 0 to payload, are within the frame. */
struct super {
    const uint8_t *frame;
    uint32_t length;
    struct wire_ip ip;
    struct wire_ip tunnel; /* what that is inside of; of version 0: nothing */
    uint32_t payload;   /* what is dealt out to the segments begins here */
    uint32_t size;      /* payload bytes of a segment */
    uint64_t addresses; /* their part of the pseudo header's sum */
    bool has_checksum;  /* UDP over IPv4 may go without (RFC 768) */
};

static bool is_what_it_says(const struct packet *packet, const struct wire_ip *ip)
{
    switch (packet->gso_type & ~PACKET_GSO_ECN) {
    case PACKET_GSO_TCPV4:
        return ip->version == 4 && ip->protocol == WIRE_TCP;
    case PACKET_GSO_TCPV6:
        return ip->version == 6 && ip->protocol == WIRE_TCP;
    case PACKET_GSO_UDP_L4:
        return ip->protocol == WIRE_UDP;
    default:
        return false;
    }
}

static uint32_t checksum_field(const struct wire_ip *ip)
{
    return ip->payload + (ip->protocol == WIRE_TCP ? TCP_CHECKSUM : UDP_CHECKSUM);
}

/* A jumbogram (RFC 2675) has an option that its segments must not have. */
static bool is_jumbogram(const uint8_t *frame, const struct wire_ip *ip)
{
    return ip->version == 6 && load_be16(frame + ip->header + IPV6_PAYLOAD_LENGTH) == 0;
}

/* Find the IP header that is to be cut at, and the one in front of it. False: they are
 * not all there. */
static bool find_ip(const struct packet *packet, struct super *super)
{
    const uint8_t *frame = packet->data;
    uint32_t length = packet->length;
    struct wire_ip *ip = &super->ip, *tunnel = &super->tunnel;
    tunnel->version = 0;
    if (!wire_parse_ip(frame, length, ip))
        return false;
    if (!wire_is_tunnel(ip))
        return true;
    *tunnel = *ip;
    return !is_jumbogram(frame, tunnel) &&
           wire_parse_inner_ip(frame, length, tunnel, ip);
}

bool packet_is_tunnelled(const struct packet *packet)
{
    struct wire_ip ip;
    return wire_parse_ip(packet->data, packet->length, &ip) && wire_is_tunnel(&ip);
}

/* False: the frame is not a super-frame that can be cut up. */
static bool take_apart(const struct packet *packet, struct super *super)
{
    const uint8_t *frame = packet->data;
    uint32_t length = packet->length;
    struct wire_ip *ip = &super->ip;
    if (!find_ip(packet, super) || !is_what_it_says(packet, ip) || ip->is_fragment ||
        packet->gso_size == 0)
        return false;
    uint32_t size = ip->protocol == WIRE_TCP
                        ? wire_tcp_size(frame, length, ip->payload)
                        : WIRE_UDP_SIZE;
    if (size == 0 || !wire_has(length, ip->payload, size))
        return false;
    bool is_partial = packet->flags & PACKET_CSUM_PARTIAL;
    /* A checksum elsewhere: what is to be cut is inside a tunnel of another kind. */
    if (is_partial && packet->csum_start + packet->csum_offset != checksum_field(ip))
        return false;
    if (is_jumbogram(frame, ip))
        return false;
    super->frame = frame;
    super->length = length;
    super->payload = ip->payload + size;
    super->size = packet->gso_size;
    /* Lengths of segments fit the fields of IP and of UDP. */
    uint32_t first = super->tunnel.version ? super->tunnel.header : ip->header;
    if (super->payload - first + super->size > 65535)
        return false;
    uint32_t address_size = ip->version == 4 ? 4 : 16;
    super->addresses = checksum_add(0, frame + ip->source, address_size);
    super->addresses =
        checksum_add(super->addresses, frame + ip->destination, address_size);
    super->has_checksum = is_partial || ip->protocol == WIRE_TCP || ip->version == 6 ||
                          load_be16(frame + checksum_field(ip)) != 0;
    return true;
}

static void write_ip(uint8_t *header, uint8_t version, uint32_t size, uint32_t i)
{
    if (version == 6) {
        store_be16(header + IPV6_PAYLOAD_LENGTH, (uint16_t)(size - WIRE_IPV6_SIZE));
        return;
    }
    store_be16(header + IPV4_TOTAL_LENGTH, (uint16_t)size);
    /* One up each, as the sender would have counted (RFC 6864 lets it be anything
     * where fragmenting is forbidden). */
    store_be16(header + IPV4_ID, (uint16_t)(load_be16(header + IPV4_ID) + i));
    store_be16(header + IPV4_CHECKSUM, 0);
    store_checksum(header + IPV4_CHECKSUM, checksum(header, (header[0] & 15u) * 4));
}

static void write_tcp(uint8_t *header, uint32_t offset, bool is_first, bool is_last)
{
    store_be32(header + TCP_SEQUENCE, load_be32(header + TCP_SEQUENCE) + offset);
    if (!is_last) /* FIN is behind the last byte; PSH asks for all of it at once */
        header[TCP_FLAGS] &= (uint8_t)~(TCP_FIN | TCP_PSH);
    if (!is_first) /* CWR is said once (RFC 3168, 6.1.2) */
        header[TCP_FLAGS] &= (uint8_t)~TCP_CWR;
}

/* The pseudo header's part of the checksum of what begins at layer 4. */
static uint64_t add_pseudo(const struct super *super, uint32_t size)
{
    return super->addresses + htobe16(super->ip.protocol) +
           (uint64_t)htobe16((uint16_t)size);
}

static void write_checksum(const struct super *super, uint8_t *frame, uint32_t length)
{
    uint32_t start = super->ip.payload, size = length - start;
    uint8_t *field = frame + checksum_field(&super->ip);
    store_checksum(field, 0);
    if (!super->has_checksum)
        return;
    uint64_t sum = checksum_add(add_pseudo(super, size), frame + start, size);
    uint16_t value = (uint16_t)~checksum_fold(sum);
    if (value == 0 && super->ip.protocol == WIRE_UDP)
        value = 0xffff; /* zero means "none" (RFC 768) */
    store_checksum(field, value);
}

/* Lengths, flags and all that goes with them of what begins at `frame`. */
static void write_headers(const struct super *super, uint8_t *frame, uint32_t length,
                          uint32_t i, uint32_t offset)
{
    const struct wire_ip *ip = &super->ip, *tunnel = &super->tunnel;
    bool is_last = offset + length == super->length;
    if (tunnel->version)
        write_ip(frame + tunnel->header, tunnel->version, length - tunnel->header, i);
    write_ip(frame + ip->header, ip->version, length - ip->header, i);
    if (ip->protocol == WIRE_TCP)
        write_tcp(frame + ip->payload, offset, i == 0, is_last);
    else
        store_be16(frame + ip->payload + UDP_LENGTH, (uint16_t)(length - ip->payload));
}

/* Segment i, with payload bytes [offset, offset + n) of the super-frame's. */
static void write_segment(const struct super *super, struct packet *segment, uint32_t i,
                          uint32_t offset, uint32_t n)
{
    uint8_t *frame = segment->data;
    uint32_t length = super->payload + n;
    memcpy(frame, super->frame, super->payload);
    memcpy(frame + super->payload, super->frame + super->payload + offset, n);
    write_headers(super, frame, length, i, offset);
    write_checksum(super, frame, length);
}

static uint32_t count_segments(const struct super *super)
{
    uint32_t bytes = super->length - super->payload;
    return bytes ? (bytes + super->size - 1) / super->size : 1;
}

int packet_segment(struct freelist *freelist, const struct packet *packet,
                   struct packet **out, uint32_t max)
{
    struct super super;
    if (!take_apart(packet, &super))
        return -EINVAL;
    uint32_t bytes = super.length - super.payload;
    uint32_t nsegments = count_segments(&super);
    if (nsegments > max || nsegments > SEGMENTS_MAX)
        return -E2BIG;
    for (uint32_t i = 0; i < nsegments; i++) {
        uint32_t offset = i * super.size;
        uint32_t n = min_u32(super.size, bytes - offset);
        out[i] = packet_alloc(freelist, super.payload + n);
        if (unlikely(!out[i])) {
            packet_free_burst(freelist, out, i);
            return -ENOMEM;
        }
        out[i]->hash = packet->hash;
        out[i]->rx_time = packet->rx_time;
        write_segment(&super, out[i], i, offset, n);
    }
    return (int)nsegments;
}

bool packet_count_segments(const struct packet *packet, struct segments *segments)
{
    struct super super;
    if (!take_apart(packet, &super))
        return false;
    uint32_t n = count_segments(&super);
    *segments = (struct segments){
        .n = n,
        .length = super.payload + super.size,
        .last = super.length - (n - 1) * super.size,
    };
    return true;
}

void packet_keep_segments(struct packet *packet, uint32_t n)
{
    struct super super;
    uint8_t *frame = packet->data;
    if (!take_apart(packet, &super) || n == 0 || n >= count_segments(&super))
        return;
    packet->length = super.payload + n * super.size;
    write_headers(&super, frame, packet->length, 0, 0);
    if (packet->flags & PACKET_CSUM_PARTIAL)
        store_checksum(frame + checksum_field(&super.ip),
                       checksum_fold(add_pseudo(&super, packet->length - super.ip.payload)));
    else
        write_checksum(&super, frame, packet->length);
}
