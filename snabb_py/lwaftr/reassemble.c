/* Reassembly: of IPv4 (RFC 791, 815), of IPv6 (RFC 8200, 4.5; 5722; 6946) and of IPv4 in
 * tunnels (RFC 7597, 8.3).
 *
 * The first fragment of a datagram to come keeps its packet, the others are copied to
 * their places in its slot, which is as long as the longest frame: no packet is held
 * but one a datagram, and mostly (a big fragment, then a small one) next to nothing is
 * copied. Fragments neither overlap nor lie beyond the end, so a datagram is whole when
 * as many bytes have come as it has.
 *
 * A flood of fragments costs a bounded time each (a look into a hash table with a secret
 * key, a search among no more ranges than a datagram may have fragments) and bounded
 * memory. When there is no room, the oldest datagram goes of the subscriber who has
 * most: who has no more than the average loses none to a storm that others raise or
 * suffer. (Snabb lets any go, by chance; the counter bears its name.)
 *
 * In compat mode all is as Snabb has it: the protocol is not part of the key, headers
 * are those of the fragment that came first, and what overlaps or comes twice stays
 * until its time is over. */
#include "snabb_py/engine/offload.h"
#include "snabb_py/engine/wire.h"

#include "snabb_py/lwaftr/counters.h"
#include "snabb_py/lwaftr/reassemble.h"
#include "snabb_py/lwaftr/tunnelled.h"

enum {
    FRAGMENT_HEADER = 8,
    IPV4_MORE_FRAGMENTS = 0x2000,
    IPV4_OFFSET = 0x1fff,
    IPV6_MORE_FRAGMENTS = 1,
    IPV6_OFFSET = 0xfff8,
    SWEEP = 16 /* queues that a tick looks at */
};

/* A fragment that lies within its frame. */
struct fragment {
    uint64_t key[5];
    uint64_t subscriber[2]; /* the address that names the queue */
    uint32_t header;        /* bytes in front of the payload */
    uint32_t removed;       /* of them, that the whole datagram will not have */
    uint32_t start;         /* of the datagram's payload; multiple of 8 */
    uint32_t end;
    bool is_last;
};

enum verdict { WHOLE, FRAGMENT, MALFORMED };

/* ---- what a kind counts -------------------------------------------------- */

struct names {
    uint8_t needed, unneeded, reassembled;
    uint8_t invalid, evicted, timeout, overlap; /* each reassembly that is given up */
    uint8_t unreassembled, duplicate, malformed; /* each fragment */
};

/* `lost`: where fragments came in, of which version they are. */
#define NAMES(version, lost)                                                             \
    {                                                                                    \
        LWAFTR_IN_##version##_FRAG_NEEDS_REASSEMBLY,                                     \
            LWAFTR_IN_##version##_FRAG_REASSEMBLY_UNNEEDED,                              \
            LWAFTR_IN_##version##_FRAG_REASSEMBLED,                                      \
            LWAFTR_DROP_##version##_FRAG_INVALID_REASSEMBLY,                             \
            LWAFTR_DROP_##version##_FRAG_RANDOM_EVICTED,                                 \
            LWAFTR_DROP_##version##_FRAG_TIMEOUT,                                        \
            LWAFTR_DROP_##version##_FRAG_OVERLAP,                                        \
            LWAFTR_DROP_##lost##_FRAG_UNREASSEMBLED,                                     \
            LWAFTR_DROP_##lost##_FRAG_DUPLICATE,                                         \
            LWAFTR_DROP_MALFORMED_##version##_PACKETS                                    \
    }

_Static_assert(LWAFTR_NCOUNTERS <= UINT8_MAX, "counters fit struct names");

static const struct names names_of[] = {
    [REASSEMBLY_IPV4] = NAMES(IPV4, IPV4),
    [REASSEMBLY_IPV6] = NAMES(IPV6, IPV6),
    [REASSEMBLY_TUNNELLED] = NAMES(IPV4, INNER_IPV4),
};

/* ---- what a frame is ----------------------------------------------------- */

static uint64_t load_word(const uint8_t *p, uint32_t n)
{
    uint64_t word = 0;
    memcpy(&word, p, n);
    return word;
}

/* IPv4 behind `offset` bytes of the frame, which has its fixed header. Guaranteed of a
 * fragment: header and payload are within the frame. */
static enum verdict parse_ipv4(const struct packet *packet, uint32_t offset, bool compat,
                               struct fragment *fragment)
{
    const uint8_t *ip = packet->data + offset;
    uint32_t size = (ip[0] & 15u) * 4, total = load_be16(ip + IPV4_TOTAL_LENGTH);
    uint32_t field = load_be16(ip + IPV4_FRAGMENT);
    if (size < WIRE_IPV4_SIZE || total > packet->length - offset)
        return MALFORMED;
    if ((field & (IPV4_MORE_FRAGMENTS | IPV4_OFFSET)) == 0)
        return WHOLE;
    if (size > total)
        return MALFORMED;
    *fragment = (struct fragment){
        .key = {load_word(ip + IPV4_SOURCE, 8),
                load_word(ip + IPV4_ID, 2) |
                    (uint64_t)(compat ? 0 : ip[IPV4_PROTOCOL]) << 16},
        .subscriber = {load_word(ip + IPV4_DESTINATION, 4)},
        .header = offset + size,
        .start = (field & IPV4_OFFSET) * 8,
        .end = (field & IPV4_OFFSET) * 8 + total - size,
        .is_last = !(field & IPV4_MORE_FRAGMENTS),
    };
    return FRAGMENT;
}

static enum verdict classify_ipv4(const struct packet *packet, bool compat,
                                  struct fragment *fragment)
{
    if (load_be16(packet->data + ETHERNET_TYPE) != WIRE_IPV4)
        return WHOLE;
    if (packet->length < WIRE_ETHERNET_SIZE + WIRE_IPV4_SIZE)
        return MALFORMED;
    return parse_ipv4(packet, WIRE_ETHERNET_SIZE, compat, fragment);
}

/* Where the field is that says that a fragment header follows; 0: nowhere. A source may
 * put headers that each node on the way reads in front of it (RFC 8200, 4.5); Linux puts
 * there, too, the option that limits encapsulation, which its tunnels have by default. */
static uint32_t find_fragment_header(const uint8_t *frame, uint32_t end, bool compat,
                                     uint32_t *offset)
{
    uint32_t field = WIRE_ETHERNET_SIZE + IPV6_NEXT_HEADER;
    *offset = WIRE_ETHERNET_SIZE + WIRE_IPV6_SIZE;
    for (uint32_t i = 0; i < WIRE_MAX_EXTENSIONS; i++) {
        uint8_t type = frame[field];
        if (type == WIRE_FRAGMENT)
            return field;
        if (compat || !wire_has(end, *offset, 8) ||
            (type != WIRE_HOP_BY_HOP && type != WIRE_ROUTING && type != WIRE_DESTINATION))
            return 0;
        field = *offset;
        *offset += (frame[field + 1] + 1u) * 8;
        if (*offset > end)
            return 0;
    }
    return 0;
}

static enum verdict classify_ipv6(const struct packet *packet, bool compat,
                                  struct fragment *fragment)
{
    const uint8_t *frame = packet->data, *ip = frame + WIRE_ETHERNET_SIZE;
    uint32_t offset, end = WIRE_ETHERNET_SIZE + WIRE_IPV6_SIZE;
    if (load_be16(frame + ETHERNET_TYPE) != WIRE_IPV6)
        return WHOLE;
    if (packet->length < end)
        return MALFORMED;
    end += load_be16(ip + IPV6_PAYLOAD_LENGTH);
    if (packet->length < end)
        return MALFORMED;
    if (find_fragment_header(frame, end, compat, &offset) == 0)
        return WHOLE;
    if (!wire_has(end, offset, FRAGMENT_HEADER))
        return MALFORMED;
    const uint8_t *header = frame + offset;
    uint32_t field = load_be16(header + 2), start = field & IPV6_OFFSET;
    offset += FRAGMENT_HEADER;
    *fragment = (struct fragment){
        .key = {load_word(ip + IPV6_SOURCE, 8), load_word(ip + IPV6_SOURCE + 8, 8),
                load_word(ip + IPV6_DESTINATION, 8),
                load_word(ip + IPV6_DESTINATION + 8, 8), load_word(header + 4, 4)},
        .subscriber = {load_word(ip + IPV6_SOURCE, 8),
                       load_word(ip + IPV6_SOURCE + 8, 8)},
        .header = offset,
        .removed = FRAGMENT_HEADER,
        .start = start,
        .end = start + end - offset,
        .is_last = !(field & IPV6_MORE_FRAGMENTS),
    };
    return FRAGMENT;
}

/* A header that is broken is for the core to see: a router would have dropped it (RFC
 * 1812, 5.2.2), and here it would get a right checksum. */
static bool is_right_ipv4(const uint8_t *ip, uint32_t size)
{
    return ip[0] >> 4 == 4 && checksum_is_right(checksum_add_small(0, ip, size));
}

static enum verdict classify_tunnelled(const struct packet *packet, bool compat,
                                       struct fragment *fragment)
{
    const uint8_t *ip = packet->data + WIRE_ETHERNET_SIZE;
    uint32_t offset;
    if (load_be16(packet->data + ETHERNET_TYPE) != WIRE_IPV6 ||
        packet->length < WIRE_ETHERNET_SIZE + WIRE_IPV6_SIZE ||
        (offset = tunnelled_offset(packet, compat)) == 0 ||
        !wire_has(packet->length, offset, WIRE_IPV4_SIZE) ||
        parse_ipv4(packet, offset, compat, fragment) != FRAGMENT ||
        !is_right_ipv4(packet->data + offset, fragment->header - offset))
        return WHOLE;
    for (uint32_t i = 0; i < 2; i++)
        fragment->key[2 + i] = fragment->subscriber[i] =
            load_word(ip + IPV6_SOURCE + 8 * i, 8);
    return FRAGMENT;
}

/* ---- the payload --------------------------------------------------------- */

/* Give a packet room for n bytes from its first, at the cost of its headroom; the first
 * nused are in use. False: not even so. */
static bool make_room(struct packet *packet, uint32_t nused, uint32_t n)
{
    uint32_t room = packet_slot_size(packet) - packet_headroom(packet);
    if (likely(n <= room))
        return true;
    if (n - room > packet_headroom(packet))
        return false;
    memmove(packet->data - (n - room), packet->data, nused);
    packet->data -= n - room;
    return true;
}

enum place { NEW, DUPLICATE, OVERLAP, MISFIT };

/* Where a fragment belongs among those that have come: before ranges[*at]. Most come in
 * order: from the end. */
static enum place place_fragment(const struct reassembly *entry,
                                 const struct fragment *fragment, uint32_t *at)
{
    const struct reassembly_range *ranges = entry->ranges;
    uint32_t i = entry->nranges;
    while (i > 0 && ranges[i - 1].start >= fragment->start)
        i--;
    *at = i;
    if (i < entry->nranges && ranges[i].start == fragment->start &&
        ranges[i].end == fragment->end &&
        fragment->is_last == (entry->length == fragment->end))
        return DUPLICATE;
    if ((i > 0 && ranges[i - 1].end > fragment->start) ||
        (i < entry->nranges && ranges[i].start < fragment->end))
        return OVERLAP;
    /* What is last is last, and stays where it is. */
    bool is_beyond = entry->length && fragment->end > entry->length;
    bool has_beyond = fragment->is_last && entry->highest > fragment->end;
    return is_beyond || has_beyond || (fragment->is_last && entry->length) ? MISFIT : NEW;
}

/* Snabb looks at nothing but a second end, and does not take what begins at 0 for one. */
static enum place place_as_snabb(const struct reassembly *entry,
                                 const struct fragment *fragment, uint32_t *at)
{
    *at = entry->nranges;
    while (*at > 0 && entry->ranges[*at - 1].start > fragment->start)
        --*at;
    return fragment->is_last && entry->length ? MISFIT : NEW;
}

static void note_range(struct reassembler *r, struct reassembly *entry,
                       const struct fragment *fragment, uint32_t at)
{
    memmove(&entry->ranges[at + 1], &entry->ranges[at],
            (entry->nranges - at) * sizeof(entry->ranges[0]));
    entry->ranges[at] =
        (struct reassembly_range){(uint16_t)fragment->start, (uint16_t)fragment->end};
    entry->nranges++;
    r->nfragments++;
    /* Twice the same may come in compat mode: only there can the sum overflow. */
    uint32_t received = entry->received + fragment->end - fragment->start;
    entry->received = (uint16_t)min_u32(received, UINT16_MAX);
    if (fragment->end > entry->highest)
        entry->highest = (uint16_t)fragment->end;
    if (fragment->is_last && !(r->compat && fragment->start == 0))
        entry->length = (uint16_t)fragment->end;
}

static bool is_complete(const struct reassembly *entry, bool compat)
{
    if (entry->length == 0)
        return false;
    if (!compat)
        return entry->received == entry->length;
    uint32_t end = 0;
    for (uint32_t i = 0; i < entry->nranges && entry->ranges[i].start == end; i++)
        end = entry->ranges[i].end;
    return entry->received == entry->highest && end == entry->highest;
}

/* The header of a datagram is that of the fragment with offset 0 (RFC 791, 3.2; RFC
 * 8200, 4.5), whichever came first. False: there is no room for it. */
static bool adopt_header(struct reassembly *entry, const struct packet *packet,
                         const struct fragment *fragment)
{
    struct packet *base = entry->packet;
    uint8_t *payload = base->data + entry->header;
    if (payload - packet_slot_data(base) < (ptrdiff_t)fragment->header)
        return false;
    base->data = payload - fragment->header;
    memcpy(base->data, packet->data, fragment->header);
    entry->header = (uint16_t)fragment->header;
    return true;
}

/* The next header is that of the fragment that came last. */
static void adopt_next_header(struct reassembly *entry, const struct packet *packet,
                              const struct fragment *fragment)
{
    entry->packet->data[entry->header - FRAGMENT_HEADER] =
        packet->data[fragment->header - FRAGMENT_HEADER];
}

/* ---- the datagram -------------------------------------------------------- */

static void finish_ipv4(uint8_t *ip, uint32_t size, uint32_t length, bool keeps_id)
{
    store_be16(ip + IPV4_TOTAL_LENGTH, (uint16_t)(size + length));
    /* As Snabb has it, on its one side of IPv4. */
    if (!keeps_id)
        store_be16(ip + IPV4_ID, 0);
    store_be16(ip + IPV4_FRAGMENT, 0);
    store_be16(ip + IPV4_CHECKSUM, 0);
    uint16_t sum = (uint16_t)~checksum_fold(checksum_add_small(0, ip, size));
    memcpy(ip + IPV4_CHECKSUM, &sum, sizeof(sum));
}

/* Take the fragment header, in front of the payload, away. */
static void finish_ipv6(struct packet *packet, uint32_t header, bool compat)
{
    uint32_t offset, end = header;
    uint32_t field = find_fragment_header(packet->data, end, compat, &offset);
    packet->data[field] = packet->data[offset];
    memmove(packet->data + FRAGMENT_HEADER, packet->data, offset);
    packet_shift(packet, FRAGMENT_HEADER);
    store_be16(packet->data + WIRE_ETHERNET_SIZE + IPV6_PAYLOAD_LENGTH,
               (uint16_t)(packet->length - WIRE_ETHERNET_SIZE - WIRE_IPV6_SIZE));
}

/* Make the frame of a payload of `length` bytes behind `header` ones right. */
static struct packet *finish(const struct reassembler *r, struct packet *packet,
                             uint32_t header, uint32_t length)
{
    uint32_t offset = WIRE_ETHERNET_SIZE;
    packet->length = header + length;
    packet->flags = 0;
    switch (r->kind) {
    case REASSEMBLY_IPV6:
        finish_ipv6(packet, header, r->compat);
        break;
    case REASSEMBLY_TUNNELLED:
        store_be16(packet->data + offset + IPV6_PAYLOAD_LENGTH,
                   (uint16_t)(packet->length - offset - WIRE_IPV6_SIZE));
        offset = tunnelled_offset(packet, r->compat);
        finish_ipv4(packet->data + offset, header - offset, length, true);
        break;
    default:
        finish_ipv4(packet->data + offset, header - offset, length, false);
    }
    return packet;
}

/* ---- fragments ----------------------------------------------------------- */

static bool fits(const struct fragment *fragment, uint32_t header, uint32_t end)
{
    return header - fragment->removed + end <= PACKET_SMALL_SIZE;
}

/* What can be said of a fragment alone. */
static bool is_sound(const struct reassembler *r, const struct fragment *fragment)
{
    bool is_even = (fragment->end - fragment->start) % 8 == 0;
    if (!fits(fragment, fragment->header, fragment->end))
        return false;
    if (r->compat) /* v4 is not looked at */
        return fragment->is_last || is_even || r->kind != REASSEMBLY_IPV6;
    return (fragment->is_last || is_even) && fragment->end > fragment->start;
}

static struct packet *drop(struct freelist *freelist, struct packet *packet,
                           uint64_t *counter)
{
    ++*counter;
    packet_free(freelist, packet);
    return NULL;
}

/* Take a datagram out; its packet is the caller's. */
static struct packet *remove_entry(struct reassembler *r, struct reassembly *entry)
{
    datagram_remove(&r->table, entry);
    r->nfragments -= entry->nranges;
    return entry->packet;
}

/* The same of one that does not become whole: each of its fragments is lost. */
static struct packet *give_up(struct reassembler *r, struct reassembly *entry,
                              uint64_t *counters)
{
    counters[names_of[r->kind].unreassembled] += entry->nranges;
    return remove_entry(r, entry);
}

/* A datagram can no longer become whole. */
static struct packet *fail(struct reassembler *r, struct freelist *freelist,
                           struct reassembly *entry, struct packet *packet,
                           uint64_t *counters)
{
    counters[names_of[r->kind].invalid]++;
    if (entry)
        packet_free(freelist, give_up(r, entry, counters));
    return drop(freelist, packet, &counters[names_of[r->kind].unreassembled]);
}

/* The first to come of its datagram. */
static struct packet *begin(struct reassembler *r, struct freelist *freelist,
                            struct packet *packet, const struct fragment *fragment,
                            uint64_t now, uint64_t *counters)
{
    uint32_t header = fragment->header, n = fragment->end - fragment->start;
    if (!make_room(packet, header + n, header + fragment->end))
        return fail(r, freelist, NULL, packet, counters);
    uint8_t *payload = packet->data + header;
    memmove(payload + fragment->start, payload, n);
    if (r->table.n == r->table.capacity)
        drop(freelist, give_up(r, datagram_victim(&r->table), counters),
             &counters[names_of[r->kind].evicted]);
    struct reassembly *entry =
        datagram_insert(&r->table, fragment->key, fragment->subscriber, now);
    entry->packet = packet;
    entry->header = (uint16_t)header;
    entry->received = entry->highest = entry->length = entry->nranges = 0;
    note_range(r, entry, fragment, 0);
    return NULL;
}

/* Another one. */
static struct packet *add(struct reassembler *r, struct freelist *freelist,
                          struct reassembly *entry, struct packet *packet,
                          const struct fragment *fragment, uint64_t *counters)
{
    const struct names *names = &names_of[r->kind];
    const uint8_t *payload = packet->data + fragment->header;
    uint32_t at, n = fragment->end - fragment->start;
    enum place place = r->compat ? place_as_snabb(entry, fragment, &at)
                                 : place_fragment(entry, fragment, &at);
    uint8_t *held = entry->packet->data + entry->header;
    if (place == DUPLICATE && memcmp(held + fragment->start, payload, n) == 0)
        return drop(freelist, packet, &counters[names->duplicate]);
    /* Of two that differ nobody knows which is true. */
    if (place == DUPLICATE || place == OVERLAP)
        counters[names->overlap]++;
    if (place != NEW || entry->nranges >= r->max_fragments)
        return fail(r, freelist, entry, packet, counters);
    bool is_first = fragment->start == 0 && !r->compat;
    uint32_t header = is_first ? fragment->header : entry->header;
    uint32_t highest = entry->highest > fragment->end ? entry->highest : fragment->end;
    if (!fits(fragment, header, highest) ||
        !make_room(entry->packet, entry->header + entry->highest,
                   entry->header + highest) ||
        (is_first && !adopt_header(entry, packet, fragment)))
        return fail(r, freelist, entry, packet, counters);
    if (r->compat && r->kind == REASSEMBLY_IPV6)
        adopt_next_header(entry, packet, fragment);
    memcpy(entry->packet->data + entry->header + fragment->start, payload, n);
    note_range(r, entry, fragment, at);
    packet_free(freelist, packet);
    if (!is_complete(entry, r->compat))
        return NULL;
    counters[names->reassembled]++;
    uint32_t length = entry->highest;
    header = entry->header;
    return finish(r, remove_entry(r, entry), header, length);
}

static struct packet *take(struct reassembler *r, struct freelist *freelist,
                           struct packet *packet, const struct fragment *fragment,
                           uint64_t now, uint64_t *counters)
{
    const struct names *names = &names_of[r->kind];
    counters[names->needed]++;
    /* Whole by itself, and no matter to others with its id (RFC 6946). */
    if (unlikely(fragment->start == 0 && fragment->is_last) && !r->compat) {
        counters[names->reassembled]++;
        return finish(r, packet, fragment->header, fragment->end);
    }
    struct reassembly *entry = datagram_find(&r->table, fragment->key);
    if (!is_sound(r, fragment))
        return fail(r, freelist, entry, packet, counters);
    if (!entry)
        return begin(r, freelist, packet, fragment, now, counters);
    return add(r, freelist, entry, packet, fragment, counters);
}

/* What has no room for an EtherType is no frame: nobody looks into it. */
static inline struct packet *
reassemble(struct reassembler *r, struct freelist *freelist, struct packet *packet,
           uint64_t now, uint64_t *counters,
           enum verdict classify(const struct packet *, bool, struct fragment *))
{
    const struct names *names = &names_of[r->kind];
    struct fragment fragment;
    enum verdict verdict = MALFORMED;
    if (likely(packet->length >= WIRE_ETHERNET_SIZE))
        verdict = classify(packet, r->compat, &fragment);
    if (verdict == FRAGMENT)
        return take(r, freelist, packet, &fragment, now, counters);
    if (verdict == MALFORMED)
        return drop(freelist, packet, &counters[names->malformed]);
    counters[names->unneeded]++;
    return packet;
}

struct packet *reassemble_ipv4(struct reassembler *reassembler,
                               struct freelist *freelist, struct packet *packet,
                               uint64_t now, uint64_t *counters)
{
    return reassemble(reassembler, freelist, packet, now, counters, classify_ipv4);
}

struct packet *reassemble_ipv6(struct reassembler *reassembler,
                               struct freelist *freelist, struct packet *packet,
                               uint64_t now, uint64_t *counters)
{
    return reassemble(reassembler, freelist, packet, now, counters, classify_ipv6);
}

struct packet *reassemble_tunnelled(struct reassembler *reassembler,
                                    struct freelist *freelist, struct packet *packet,
                                    uint64_t now, uint64_t *counters)
{
    struct fragment fragment;
    if (packet->length < WIRE_ETHERNET_SIZE ||
        classify_tunnelled(packet, reassembler->compat, &fragment) != FRAGMENT)
        return packet;
    return take(reassembler, freelist, packet, &fragment, now, counters);
}

/* ---- time ---------------------------------------------------------------- */

/* The first fragment as it came, the others being gone; NULL: it has not come. */
static struct packet *restore_first(const struct reassembly *entry)
{
    if (entry->ranges[0].start != 0)
        return NULL;
    entry->packet->length = entry->header + (uint32_t)entry->ranges[0].end;
    return entry->packet;
}

uint32_t reassembler_tick(struct reassembler *reassembler, struct freelist *freelist,
                          uint64_t now, uint64_t *counters, struct packet **expired,
                          uint32_t max)
{
    struct reassembler *r = reassembler;
    const struct names *names = &names_of[r->kind];
    struct reassembly *entry;
    uint32_t nexpired = 0, nqueues = SWEEP;
    while (max > 0 && (entry = datagram_expired(&r->table, now, &nqueues))) {
        counters[names->invalid]++;
        counters[names->timeout]++;
        struct packet *first = r->compat ? NULL : restore_first(entry);
        struct packet *packet = give_up(r, entry, counters);
        if (first)
            expired[nexpired++] = first;
        else
            packet_free(freelist, packet);
        max--;
    }
    if (max == 0) /* the next one's turn */
        r->table.swept++;
    return nexpired;
}

/* ---- life ---------------------------------------------------------------- */

uint64_t reassembler_memory_needed(uint32_t capacity)
{
    return datagram_table_memory_needed(sizeof(struct reassembly), capacity);
}

void reassembler_init(struct reassembler *reassembler, uint8_t *memory, uint32_t kind,
                      uint32_t capacity, uint32_t max_fragments, uint64_t timeout,
                      const uint64_t *seed, bool compat)
{
    datagram_table_init(&reassembler->table, memory, sizeof(struct reassembly), capacity,
                        timeout, seed);
    reassembler->max_fragments = min_u32(max_fragments, REASSEMBLY_MAX_FRAGMENTS);
    reassembler->kind = kind;
    reassembler->compat = compat;
}

uint32_t reassembler_retire(struct reassembler *reassembler, struct freelist *freelist)
{
    struct datagram_table *table = &reassembler->table;
    uint32_t n = table->n;
    while (table->n > 0)
        packet_free(freelist, remove_entry(reassembler, datagram_victim(table)));
    return n;
}

uint32_t reassembler_held(const struct reassembler *reassembler)
{
    return reassembler->table.n;
}
