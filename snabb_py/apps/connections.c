/* A table of connections, bounded in memory and in work.
 *
 * A key has one bucket of eight entries to be in; an entry whose deadline is over is
 * free. So nothing ever has to be swept, each kind of connection has a timeout of its
 * own to the second, and a look costs two cache lines however full the table is. (Two
 * generations of one table, the other way to age, know one timeout for all, and to
 * clear one stalls a breath.) Where a bucket is full a connection is not remembered:
 * none that is alive has to give way. */
#include "snabb_py/engine/wire.h"

#include "snabb_py/apps/connections.h"

enum {
    TCP_RST = 0x04,
    ICMP_ECHO_REPLY = 0,
    ICMP_UNREACHABLE = 3,
    ICMP_QUENCH = 4,
    ICMP_ECHO = 8,
    ICMP_TIME_EXCEEDED = 11,
    ICMP_PARAMETER_PROBLEM = 12,
    ICMP_TIMESTAMP = 13,
    ICMP_TIMESTAMP_REPLY = 14,
    ICMPV6_FIRST_ERROR = 1, /* unreachable, too big, time exceeded, parameter problem */
    ICMPV6_LAST_ERROR = 4,
    ICMPV6_ECHO = 128,
    ICMPV6_ECHO_REPLY = 129,
    ICMP_HEADER = 8
};

/* ---- what a frame belongs to --------------------------------------------- */

static void swap_ends(struct connection_key *key)
{
    for (uint32_t i = 0; i < 2; i++) {
        uint64_t word = key->address[0][i];
        key->address[0][i] = key->address[1][i];
        key->address[1][i] = word;
    }
    uint64_t ids = key->ids;
    key->ids = (ids & ~0xffffffffull) | (ids & 0xffff) << 16 | (ids >> 16 & 0xffff);
}

/* Put the ends in order: of words, which is as good as any. Returns which of them comes
 * first in the frame: 0, 1. */
static uint32_t order_ends(struct connection_key *key)
{
    const uint64_t *a = key->address[0], *b = key->address[1];
    bool is_same = a[0] == b[0] && a[1] == b[1];
    if (is_same ? (key->ids & 0xffff) <= (key->ids >> 16 & 0xffff)
                : a[0] < b[0] || (a[0] == b[0] && a[1] < b[1]))
        return 0;
    swap_ends(key);
    return 1;
}

static void set_ids(struct connection_key *key, uint64_t first, uint64_t second)
{
    key->ids = (key->ids & ~0xffffffffull) | first | second << 16;
}

/* Not the first fragment: only that has the ports. */
static bool is_later_fragment(const uint8_t *frame, const struct wire_ip *ip)
{
    if (!ip->is_fragment)
        return false;
    if (ip->version == 4)
        return (load_be16(frame + ip->header + IPV4_FRAGMENT) & 0x1fff) != 0;
    return (load_be16(frame + ip->payload - 6) & 0xfff8) != 0;
}

static uint32_t fragment_id(const uint8_t *frame, const struct wire_ip *ip)
{
    return ip->version == 4 ? load_be16(frame + ip->header + IPV4_ID)
                            : load_be32(frame + ip->payload - 4);
}

static void fill_address(uint64_t *address, const uint8_t *p, uint8_t version)
{
    if (version == 4) {
        uint32_t word;
        memcpy(&word, p, sizeof(word));
        address[0] = word;
        address[1] = 0;
    } else {
        memcpy(address, p, 16);
    }
}

static void fill_key(struct connection_key *key, const uint8_t *frame,
                     const struct wire_ip *ip)
{
    fill_address(key->address[0], frame + ip->source, ip->version);
    fill_address(key->address[1], frame + ip->destination, ip->version);
    key->kind = ip->protocol | (uint64_t)ip->version << 8 | CONNECTION_PLAIN;
}

/* Fragments of one datagram go one way: their key keeps its order. */
static void become_fragment(struct connection_flow *flow, uint32_t id)
{
    flow->key.kind |= CONNECTION_FRAGMENT;
    set_ids(&flow->key, id & 0xffff, id >> 16);
    flow->timeout_s = CONNECTION_FRAGMENT_S;
    flow->seen = 0;
    flow->is_reset = flow->has_fragments = false;
}

/* The ids of a payload at `ip->payload`; enough of it may be missing only where an ICMP
 * error quotes it. False: it has no connection. */
static bool parse_payload(const uint8_t *frame, uint32_t length,
                          const struct wire_ip *ip, struct connection_flow *flow)
{
    const uint8_t *payload = frame + ip->payload;
    struct connection_key *key = &flow->key;
    uint8_t flags = 0;
    switch (ip->protocol) {
    case WIRE_TCP:
    case WIRE_UDP:
        if (!wire_has(length, ip->payload, 8))
            return false;
        set_ids(key, load_be16(payload), load_be16(payload + 2));
        flow->timeout_s = ip->protocol == WIRE_TCP ? CONNECTION_TCP_S : CONNECTION_UDP_S;
        if (ip->protocol == WIRE_TCP && wire_has(length, ip->payload, WIRE_TCP_SIZE))
            flags = payload[TCP_FLAGS];
        break;
    case WIRE_ICMP:
    case WIRE_ICMPV6: {
        if (!wire_has(length, ip->payload, ICMP_HEADER))
            return false;
        uint8_t type = payload[0];
        bool is_query = ip->version == 4
                            ? ip->protocol == WIRE_ICMP &&
                                  (type == ICMP_ECHO || type == ICMP_ECHO_REPLY ||
                                   type == ICMP_TIMESTAMP || type == ICMP_TIMESTAMP_REPLY)
                            : ip->protocol == WIRE_ICMPV6 &&
                                  (type == ICMPV6_ECHO || type == ICMPV6_ECHO_REPLY);
        if (!is_query)
            return false;
        set_ids(key, load_be16(payload + 4), load_be16(payload + 4));
        flow->timeout_s = CONNECTION_ICMP_S;
        break;
    }
    default:
        flow->timeout_s = CONNECTION_OTHER_S;
    }
    uint32_t end = order_ends(key);
    flow->seen = (uint8_t)(CONNECTION_SEEN_A << end);
    if (flags & TCP_FIN)
        flow->seen |= (uint8_t)(CONNECTION_FIN_A << end);
    flow->is_reset = flags & TCP_RST;
    return true;
}

static bool is_icmp_error(const uint8_t *frame, uint32_t length,
                          const struct wire_ip *ip)
{
    if (!wire_has(length, ip->payload, ICMP_HEADER))
        return false;
    uint8_t type = frame[ip->payload];
    if (ip->version == 4)
        return ip->protocol == WIRE_ICMP &&
               (type == ICMP_UNREACHABLE || type == ICMP_QUENCH ||
                type == ICMP_TIME_EXCEEDED || type == ICMP_PARAMETER_PROBLEM);
    return ip->protocol == WIRE_ICMPV6 && type >= ICMPV6_FIRST_ERROR &&
           type <= ICMPV6_LAST_ERROR;
}

/* VLANs by number: priorities may differ between the directions. */
static void fill_vlans(struct connection_key *key, const uint8_t *frame,
                       const struct wire_ethernet *ethernet)
{
    for (uint32_t i = 0; i < ethernet->ntags && i < CONNECTION_MAX_TAGS; i++)
        key->ids |=
            (load_be16(frame + WIRE_ETHERNET_SIZE + i * WIRE_TAG_SIZE) & 0xfffull)
            << (32 + 16 * i);
}

static bool parse_ip_at(const uint8_t *frame, uint32_t length, uint32_t version,
                        uint32_t offset, struct wire_ip *ip)
{
    return version == 4 ? wire_parse_ipv4(frame, length, offset, ip)
                        : wire_parse_ipv6(frame, length, offset, ip);
}

bool connection_parse(const uint8_t *frame, uint32_t length,
                      struct connection_flow *flow)
{
    struct wire_ethernet ethernet;
    struct wire_ip ip;
    memset(flow, 0, sizeof(*flow));
    if (!wire_parse_ethernet(frame, length, &ethernet) ||
        ethernet.ntags > CONNECTION_MAX_TAGS ||
        (ethernet.type != WIRE_IPV4 && ethernet.type != WIRE_IPV6) ||
        !parse_ip_at(frame, length, ethernet.type == WIRE_IPV4 ? 4 : 6,
                     ethernet.payload, &ip))
        return false;
    fill_vlans(&flow->key, frame, &ethernet);
    if (is_later_fragment(frame, &ip)) {
        fill_key(&flow->key, frame, &ip);
        become_fragment(flow, fragment_id(frame, &ip));
        return true;
    }
    if (!ip.is_fragment && is_icmp_error(frame, length, &ip)) {
        struct wire_ip quoted;
        if (!parse_ip_at(frame, length, ip.version, ip.payload + ICMP_HEADER, &quoted))
            return false;
        flow->is_related = true;
        fill_key(&flow->key, frame, &quoted);
        return !is_later_fragment(frame, &quoted) &&
               parse_payload(frame, length, &quoted, flow);
    }
    fill_key(&flow->key, frame, &ip);
    if (ip.is_fragment) {
        flow->has_fragments = true;
        flow->fragment_id = fragment_id(frame, &ip);
    }
    return parse_payload(frame, length, &ip, flow);
}

/* ---- the table ----------------------------------------------------------- */

/* Multiplied to 128 bits and folded, a word at a time, as in wyhash (Wang Yi). */
static uint64_t mix(uint64_t a, uint64_t b)
{
    unsigned __int128 product = (unsigned __int128)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

static uint64_t hash_key(const struct connection_key *key, uint64_t seed)
{
    uint64_t hash = seed ^ 0xa0761d6478bd642fu;
    hash = mix(key->address[0][0] ^ hash, key->address[0][1] ^ seed);
    hash = mix(key->address[1][0] ^ hash, key->address[1][1] ^ seed);
    hash = mix(key->ids ^ hash, key->kind ^ seed);
    return mix(hash, 0xe7037ed1a0b428dbu ^ seed);
}

static bool is_same_key(const struct connection_key *a, const struct connection_key *b)
{
    return ((a->address[0][0] ^ b->address[0][0]) | (a->address[0][1] ^ b->address[0][1]) |
            (a->address[1][0] ^ b->address[1][0]) | (a->address[1][1] ^ b->address[1][1]) |
            (a->ids ^ b->ids) | (a->kind ^ b->kind)) == 0;
}

static uint32_t seconds(uint64_t now)
{
    return (uint32_t)(now / 1000000000u);
}

struct place {
    struct connection_bucket *bucket;
    uint32_t tag;
    int at; /* -1: not there */
};

static struct place look_up(const struct connections *table,
                            const struct connection_key *key, uint32_t now_s)
{
    uint64_t hash = hash_key(key, table->seed);
    struct place place = {
        .bucket = &table->buckets[hash & table->mask],
        .tag = (uint32_t)(hash >> 32) | 1, /* never 0 */
        .at = -1,
    };
    for (int i = 0; i < CONNECTIONS_WAYS; i++)
        if (place.bucket->tag[i] == place.tag && place.bucket->deadline[i] > now_s &&
            is_same_key(&place.bucket->key[i], key))
            place.at = i;
    return place;
}

/* What a packet says of the state of its connection, and how long that lasts. */
static void refresh(const struct place *place, const struct connection_flow *flow,
                    uint32_t now_s)
{
    struct connection_bucket *bucket = place->bucket;
    uint8_t seen = bucket->seen[place->at] |= flow->seen;
    uint32_t timeout_s = flow->timeout_s;
    if ((flow->key.kind & (0xff | CONNECTION_FRAGMENT)) == WIRE_TCP) {
        uint8_t ends = CONNECTION_FIN_A | CONNECTION_FIN_B;
        uint8_t both = CONNECTION_SEEN_A | CONNECTION_SEEN_B;
        if (flow->is_reset || (seen & ends) == ends)
            timeout_s = CONNECTION_TCP_END_S;
        else if ((seen & both) != both)
            timeout_s = CONNECTION_TCP_HALF_S;
    }
    bucket->deadline[place->at] = now_s + timeout_s;
}

static bool has_entry(struct connections *table, const struct connection_flow *flow,
                      uint32_t now_s)
{
    struct place place = look_up(table, &flow->key, now_s);
    if (place.at < 0)
        return false;
    if (!flow->is_related)
        refresh(&place, flow, now_s);
    return true;
}

static enum connection_note add_entry(struct connections *table,
                                      const struct connection_flow *flow,
                                      uint32_t now_s)
{
    struct place place = look_up(table, &flow->key, now_s);
    bool is_new = place.at < 0;
    if (is_new) {
        struct connection_bucket *bucket = place.bucket;
        for (int i = 0; i < CONNECTIONS_WAYS && place.at < 0; i++)
            if (bucket->deadline[i] <= now_s)
                place.at = i;
        if (place.at < 0)
            return CONNECTION_NO_ROOM;
        bucket->tag[place.at] = place.tag;
        bucket->seen[place.at] = 0;
        bucket->key[place.at] = flow->key;
    }
    refresh(&place, flow, now_s);
    return is_new ? CONNECTION_NEW : CONNECTION_KNOWN;
}

/* The fragments behind a first one that passes are to pass, too. A frame's addresses
 * may have been put in order: theirs are not. */
static void note_fragments(struct connections *table,
                           const struct connection_flow *flow, uint32_t now_s)
{
    struct connection_flow fragments = *flow;
    if (flow->seen & (CONNECTION_SEEN_B | CONNECTION_FIN_B))
        swap_ends(&fragments.key);
    become_fragment(&fragments, flow->fragment_id);
    add_entry(table, &fragments, now_s);
}

bool connection_find(struct connections *table, const struct connection_flow *flow,
                     uint64_t now)
{
    bool is_there = has_entry(table, flow, seconds(now));
    if (unlikely(is_there && flow->has_fragments))
        note_fragments(table, flow, seconds(now));
    return is_there;
}

enum connection_note connection_note(struct connections *table,
                                     const struct connection_flow *flow, uint64_t now)
{
    if (flow->is_related || flow->key.kind & CONNECTION_FRAGMENT)
        return CONNECTION_KNOWN; /* begins nothing */
    enum connection_note note = add_entry(table, flow, seconds(now));
    if (unlikely(flow->has_fragments))
        note_fragments(table, flow, seconds(now));
    return note;
}
