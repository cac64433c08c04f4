/* Header fields that vary: where they lie in a frame, which checksums cover them, and the
 * windows through which all that is written.
 */
#include "snabb_py/engine/offload.h"
#include "snabb_py/engine/wire.h"

#include "snabb_py/apps/fields.h"

int fields_find(const uint8_t *frame, uint32_t length, uint32_t kind,
                struct field_place *place)
{
    struct wire_ethernet ethernet;
    struct wire_ip ip;
    if (!wire_parse_ethernet(frame, length, &ethernet))
        return -1;
    switch (kind) {
    case FIELD_DST_MAC:
        *place = (struct field_place){.offset = 0, .size = 6};
        return 0;
    case FIELD_SRC_MAC:
        *place = (struct field_place){.offset = 6, .size = 6};
        return 0;
    case FIELD_VLAN:
        *place = (struct field_place){.offset = WIRE_ETHERNET_SIZE, .size = 2};
        return ethernet.ntags ? 0 : -1;
    default:
        break;
    }
    if (!wire_parse_ip(frame, length, &ip))
        return -1;
    bool is_ipv4 = ip.version == 4;
    if (kind == FIELD_SRC_IP || kind == FIELD_DST_IP) {
        uint32_t offset = kind == FIELD_SRC_IP ? ip.source : ip.destination;
        *place = (struct field_place){
            .offset = (uint16_t)(is_ipv4 ? offset : offset + 8),
            .size = is_ipv4 ? 4 : 8,
            .sums = is_ipv4 ? FIELD_IN_IP_SUM | FIELD_IN_L4_SUM : FIELD_IN_L4_SUM,
        };
        return 0;
    }
    *place = (struct field_place){
        .offset = (uint16_t)(ip.payload + (kind == FIELD_DST_PORT ? 2 : 0)),
        .size = 2,
        .sums = FIELD_IN_L4_SUM,
    };
    return (ip.protocol == WIRE_UDP || ip.protocol == WIRE_TCP) && !ip.is_fragment &&
                   wire_has(length, ip.payload, 4)
               ? 0
               : -1;
}

/* Of part of a frame, from an even offset of it on. */
static uint64_t sum_part(const uint8_t *frame, uint32_t begin, uint32_t size)
{
    return checksum_add(0, frame + begin, size);
}

/* What places that a checksum covers have added to its sum, to be taken off again. */
static uint64_t sum_places(const uint8_t *frame, const struct field_layout *layout,
                           uint32_t nplaces, uint32_t which)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < nplaces; i++)
        if (layout->places[i].sums & which)
            sum = checksum_add(sum, frame + layout->places[i].offset,
                               layout->places[i].size);
    return sum;
}

/* One's complement: taking off is adding the inverse. Less than 2^17. */
static uint32_t without(uint64_t sum, uint64_t part)
{
    return checksum_fold(sum) + (uint32_t)(uint16_t)~checksum_fold(part);
}

/* Offset of the checksum of TCP, UDP or ICMPv6 within its header; 0: none is known. */
static uint32_t checksum_offset(const struct wire_ip *ip)
{
    switch (ip->protocol) {
    case WIRE_TCP:
        return TCP_CHECKSUM;
    case WIRE_UDP:
        return UDP_CHECKSUM;
    case WIRE_ICMPV6:
        return ip->version == 6 ? 2 : 0;
    default:
        return 0;
    }
}

static void lay_sums(const uint8_t *frame, uint32_t length, uint32_t nplaces,
                     struct field_layout *layout)
{
    struct wire_ip ip;
    layout->ip_checksum = layout->l4_checksum = 0;
    if (!wire_parse_ip(frame, length, &ip))
        return;
    if (ip.version == 4) {
        layout->ip_checksum = (uint16_t)(ip.header + IPV4_CHECKSUM);
        uint64_t sum = sum_part(frame, ip.header, ip.payload - ip.header);
        sum = without(sum, sum_part(frame, layout->ip_checksum, 2));
        layout->ip_sum =
            without(sum, sum_places(frame, layout, nplaces, FIELD_IN_IP_SUM));
    }
    uint32_t at = checksum_offset(&ip), size = ip.version == 4 ? 4 : 16;
    uint32_t end = ip.version == 4
                       ? ip.header + load_be16(frame + ip.header + IPV4_TOTAL_LENGTH)
                       : ip.header + WIRE_IPV6_SIZE +
                             load_be16(frame + ip.header + IPV6_PAYLOAD_LENGTH);
    if (at == 0 || ip.is_fragment || end > length || end < ip.payload ||
        !wire_has(end, ip.payload, at + 2))
        return;
    at += ip.payload;
    if (ip.version == 4 && ip.protocol == WIRE_UDP && load_be16(frame + at) == 0)
        return;
    uint32_t n = end - ip.payload;
    uint64_t sum = htobe16(ip.protocol) + (uint64_t)htobe16((uint16_t)n);
    sum += sum_part(frame, ip.source, size) + sum_part(frame, ip.destination, size);
    sum += sum_part(frame, ip.payload, n);
    sum = without(sum, sum_part(frame, at, 2));
    layout->l4_checksum = (uint16_t)at;
    layout->is_udp = ip.protocol == WIRE_UDP;
    layout->l4_sum = without(sum, sum_places(frame, layout, nplaces, FIELD_IN_L4_SUM));
}

/* ---- windows ------------------------------------------------------------- */

/* Bytes that vary. */
struct span {
    uint32_t begin, end;
};

/* Where the bytes of all sources are; nowhere, where one is not in the frame. */
static void find_spans(const struct field_layout *layout, uint32_t nplaces,
                       struct span spans[FIELD_SOURCES])
{
    memset(spans, 0, FIELD_SOURCES * sizeof(*spans));
    for (uint32_t i = 0; i < nplaces; i++) {
        const struct field_place *place = &layout->places[i];
        spans[i] = (struct span){place->offset, (uint32_t)place->offset + place->size};
    }
    uint32_t ip = layout->ip_checksum, l4 = layout->l4_checksum;
    spans[FIELD_IP_CHECKSUM] = (struct span){ip, ip ? ip + 2 : 0};
    spans[FIELD_L4_CHECKSUM] = (struct span){l4, l4 ? l4 + 2 : 0};
}

static void open_window(const uint8_t *frame, const struct span spans[FIELD_SOURCES],
                        uint32_t begin, struct field_window *window)
{
    const uint32_t end = begin + sizeof(window->base);
    uint8_t fixed[sizeof(window->base)];
    *window = (struct field_window){.offset = (uint16_t)begin};
    memcpy(fixed, frame + begin, sizeof(fixed));
    for (uint8_t i = 0; i < FIELD_SOURCES; i++) {
        struct span in = {spans[i].begin > begin ? spans[i].begin : begin,
                          min_u32(spans[i].end, end)};
        if (in.begin >= in.end)
            continue;
        memset(fixed + (in.begin - begin), 0, in.end - in.begin);
        int32_t behind = (int32_t)spans[i].begin - (int32_t)begin;
        window->parts[window->nparts++] =
            (struct field_part){.source = i, .shift = (int8_t)(8 * behind)};
    }
    memcpy(&window->base, fixed, sizeof(fixed));
}

/* None reaches behind what varies, where a stamp may follow, but for the first bytes of a
 * frame. Where two overlap both have the same. */
static void lay_windows(const uint8_t *frame, uint32_t nplaces,
                        struct field_layout *layout)
{
    struct span spans[FIELD_SOURCES];
    uint32_t covered = 0, last = sizeof(layout->windows[0].base);
    find_spans(layout, nplaces, spans);
    for (uint32_t i = 0; i < FIELD_SOURCES; i++)
        last = spans[i].end > last ? spans[i].end : last;
    layout->nwindows = 0;
    for (;;) {
        uint32_t begin = UINT32_MAX;
        for (uint32_t i = 0; i < FIELD_SOURCES; i++)
            if (spans[i].end > covered) {
                uint32_t next = spans[i].begin > covered ? spans[i].begin : covered;
                begin = min_u32(begin, next);
            }
        if (begin == UINT32_MAX)
            return;
        begin = min_u32(begin, last - (uint32_t)sizeof(layout->windows[0].base));
        open_window(frame, spans, begin, &layout->windows[layout->nwindows++]);
        covered = begin + sizeof(layout->windows[0].base);
    }
}

void fields_lay_out(const uint8_t *frame, uint32_t length, uint32_t nplaces,
                    struct field_layout *layout)
{
    lay_sums(frame, length, nplaces, layout);
    lay_windows(frame, nplaces, layout);
}
