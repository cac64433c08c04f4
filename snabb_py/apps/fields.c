/* Header fields that vary: where they lie in a frame, which checksums cover them, and the
 * loops that write them. What is the same for each packet of a burst is done for all of
 * them at once, in vectors.
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

void fields_sum(const uint8_t *frame, uint32_t length, uint32_t nplaces,
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

/* ---- flows --------------------------------------------------------------- */

static void seek(const struct field_cycle *cycle, struct field_count *count, uint64_t step)
{
    uint64_t round = step / cycle->period % cycle->rounds;
    uint64_t within = step % cycle->period;
    *count = (struct field_count){
        .index = (within + round) % cycle->n,
        .left = cycle->period - within,
        .round = round,
    };
}

/* Set all ranges to where they are in the flow. */
static void enter(const struct fields *fields, struct fields_state *state)
{
    for (uint32_t i = 0; i < fields->nranges; i++)
        seek(&fields->ranges[i].cycle, &state->counts[i], state->flow.index);
}

void fields_seek(const struct fields *fields, struct fields_state *state, uint64_t number)
{
    seek(&fields->flows, &state->flow, number);
    enter(fields, state);
}

/* ---- the loops ----------------------------------------------------------- */

/* Into the clones that the loader chooses from. */
#define INLINE static inline __attribute__((always_inline))

/* The fields of some packets. */
struct fields_burst {
    uint64_t bytes[FIELD_KINDS][FIELDS_BURST]; /* of each range, as they lie in a frame */
    uint32_t ip_sums[FIELDS_BURST]; /* what they add to checksums: less than 2^21 */
    uint32_t l4_sums[FIELDS_BURST];
};

/* How many steps, `most` at most, only count on. */
INLINE uint32_t field_run(const struct field_cycle *cycle,
                          const struct field_count *count, uint32_t most)
{
    uint64_t to_end = cycle->n - count->index;
    uint64_t run = to_end < count->left ? to_end : count->left;
    return run < most ? (uint32_t)run : most;
}

/* Go on by so many steps of field_run(). */
INLINE void field_step(const struct field_cycle *cycle, struct field_count *count,
                       uint32_t run)
{
    count->index += run;
    count->left -= run;
    if (count->left == 0) {
        count->left = cycle->period;
        count->index++;
        if (++count->round == cycle->rounds) {
            count->round = 0;
            count->index = 0;
        }
    }
    if (count->index >= cycle->n)
        count->index -= cycle->n;
}

/* Numbers that follow each other, as a frame has them. */
INLINE void count_up(uint64_t *to, uint64_t value, uint32_t shift, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        to[i] = htobe64((value + i) << shift);
}

/* The values of a range in n packets, flows that follow each other. */
INLINE void range_fill(const struct field_range *range, struct field_count *count,
                       uint64_t *bytes, uint32_t n)
{
    uint32_t shift = 64 - 8 * range->size;
    for (uint32_t done = 0; done < n;) {
        uint32_t run = field_run(&range->cycle, count, n - done);
        uint64_t value = range->first + count->index;
        if (likely(run == FIELDS_BURST))
            count_up(bytes, value, shift, FIELDS_BURST);
        else
            count_up(bytes + done, value, shift, run);
        field_step(&range->cycle, count, run);
        done += run;
    }
}

INLINE void add_to_sums(uint32_t *restrict sums, const uint64_t *restrict bytes,
                        uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        uint64_t two = (bytes[i] & 0xffff0000ffff) + (bytes[i] >> 16 & 0xffff0000ffff);
        sums[i] += (uint32_t)two + (uint32_t)(two >> 32);
    }
}

/* The next n packets' fields, n <= FIELDS_BURST. */
INLINE void fields_fill(const struct fields *fields, struct fields_state *state,
                        struct fields_burst *burst, uint32_t n)
{
    for (uint32_t done = 0; done < n;) {
        uint32_t run = field_run(&fields->flows, &state->flow, n - done);
        for (uint32_t i = 0; i < fields->nranges; i++)
            range_fill(&fields->ranges[i], &state->counts[i], &burst->bytes[i][done], run);
        uint64_t next = state->flow.index + run;
        field_step(&fields->flows, &state->flow, run);
        if (unlikely(state->flow.index != next))
            enter(fields, state);
        done += run;
    }
    memset(burst->ip_sums, 0, n * sizeof(uint32_t));
    memset(burst->l4_sums, 0, n * sizeof(uint32_t));
    for (uint32_t i = 0; i < fields->nranges; i++) {
        if (fields->ranges[i].sums & FIELD_IN_IP_SUM)
            add_to_sums(burst->ip_sums, burst->bytes[i], n);
        if (fields->ranges[i].sums & FIELD_IN_L4_SUM)
            add_to_sums(burst->l4_sums, burst->bytes[i], n);
    }
}

/* Write a field of each of n frames. A loop for each size: it is known then. */
INLINE void fields_store(uint8_t *const *frames, uint32_t n,
                         struct field_place place, const uint64_t *bytes)
{
    uint32_t at = place.offset;
    switch (place.size) {
    case 2:
#pragma GCC unroll 4
        for (uint32_t i = 0; i < n; i++)
            memcpy(frames[i] + at, &bytes[i], 2);
        break;
    case 4:
#pragma GCC unroll 4
        for (uint32_t i = 0; i < n; i++)
            memcpy(frames[i] + at, &bytes[i], 4);
        break;
    case 6:
#pragma GCC unroll 4
        for (uint32_t i = 0; i < n; i++)
            memcpy(frames[i] + at, &bytes[i], 6);
        break;
    default:
#pragma GCC unroll 4
        for (uint32_t i = 0; i < n; i++)
            memcpy(frames[i] + at, &bytes[i], 8);
    }
}

/* Write the checksum of each of n frames; sums: of the frames, without fields and without
 * it, and of the fields. Zero is the one of two zeros that all but UDP may have. */
INLINE void fields_store_checksum(uint8_t *const *frames, uint32_t n, uint32_t at,
                                  const uint32_t *restrict frame_sums,
                                  const uint32_t *restrict field_sums, bool is_udp)
{
    uint32_t values[FIELDS_BURST];
    for (uint32_t i = 0; i < n; i++) { /* checksum_fold(), in vectors */
        uint32_t sum = frame_sums[i] + field_sums[i];
        sum = (sum & 0xffff) + (sum >> 16);
        sum = (sum & 0xffff) + (sum >> 16);
        values[i] = ~sum & 0xffff;
    }
    if (is_udp)
        for (uint32_t i = 0; i < n; i++)
            values[i] = values[i] ? values[i] : 0xffff;
#pragma GCC unroll 4
    for (uint32_t i = 0; i < n; i++)
        memcpy(frames[i] + at, &values[i], 2);
}

/* Write the fields of n frames that have them in the same places, from the i-th on. */
INLINE void fields_write_alike(const struct fields *fields,
                               const struct fields_burst *burst,
                               const struct fields_frames *all, uint32_t i,
                               uint32_t n)
{
    const struct field_layout *layout = all->layouts[i];
    for (uint32_t k = 0; k < fields->nranges; k++)
        fields_store(all->frames + i, n, layout->places[k], burst->bytes[k] + i);
    if (layout->ip_checksum)
        fields_store_checksum(all->frames + i, n, layout->ip_checksum, all->ip_sums + i,
                              burst->ip_sums + i, false);
    if (layout->l4_checksum)
        fields_store_checksum(all->frames + i, n, layout->l4_checksum, all->l4_sums + i,
                              burst->l4_sums + i, layout->is_udp);
}

INLINE void fields_write_burst(const struct fields *fields, struct fields_state *state,
                               const struct fields_frames *all, uint32_t n)
{
    struct fields_burst burst;
    fields_fill(fields, state, &burst, n);
    if (likely(fields->is_uniform)) {
        fields_write_alike(fields, &burst, all, 0, n);
        return;
    }
    for (uint32_t i = 0; i < n; i++)
        fields_write_alike(fields, &burst, all, i, 1);
}

/* Loops of a length that the compiler knows are a few vectors, without a rest. */
HOT void fields_write(const struct fields *fields, struct fields_state *state,
                      const struct fields_frames *all, uint32_t n)
{
    if (likely(n == FIELDS_BURST))
        fields_write_burst(fields, state, all, FIELDS_BURST);
    else
        fields_write_burst(fields, state, all, n);
}

void fields_begin(const struct fields *fields, const struct field_layout *layout,
                  uint8_t *frame)
{
    struct fields_state state;
    struct fields_frames one = {.frames = {frame}};
    fields_seek(fields, &state, 0);
    fields_take(&one, &layout, 1, 0, 1);
    fields_write(fields, &state, &one, 1);
}
