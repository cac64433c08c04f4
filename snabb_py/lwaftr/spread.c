/* Packets of an interface spread over the workers of an lwAFTR, so that each flow has one
 * worker, and stays in order.
 *
 * A flow is known by its two IPv4 addresses: in a tunnel by those inside, so that the
 * flows of one softwire have many workers. Ports are not looked at: fragments have none.
 * Of a tunnel's datagram that was cut up only the first fragment has the addresses, and
 * decides for the others (shallow virtual reassembly, RFC 7597, 8.3); those that come
 * before it wait for it. Nothing is put together here, nothing is changed.
 *
 * ARP and neighbour discovery are the first worker's, who tells the others where the next
 * hop is.
 *
 * Nothing is lost to a worker that is slow: it holds up the input. Fragments that wait
 * are few, and what one subscriber sends does not cost another one his; see
 * datagram_table.c. */
#include "snabb_py/engine/wire.h"

#include "snabb_py/lwaftr/spread.h"

enum {
    BURST = 128,
    FRAGMENT_HEADER = 8,
    NDP_FIRST = 133,  /* router solicitation */
    NDP_LAST = 137,   /* redirect */
    FIRST_WORKER = 0, /* whose is what is no flow's */
    SWEEP = 16,       /* queues that a tick looks at */
    FORGOTTEN_MAX = 128 /* datagrams that a tick forgets */
};

/* A fragment that lies within its frame. */
struct fragment {
    uint64_t key[5];
    uint32_t start; /* of its payload in the datagram's */
    uint32_t end;
    bool is_last;
};

/* A burst on its way to an output. */
struct share {
    struct link *link;
    uint32_t write; /* its cursor, which the link is told at the end */
    uint32_t bytes;
};

/* And to all of them. */
struct turn {
    struct app *app;
    struct spread *spread;
    uint32_t noutput;
    struct share shares[SPREAD_MAX_OUTPUTS];
};

/* ---- whose a packet is ------------------------------------------------------------- */

static uint64_t load_word(const uint8_t *p, uint32_t n)
{
    uint64_t word = 0;
    memcpy(&word, p, n);
    return word;
}

/* The worker of what has these words in common. */
static uint32_t choose(const struct turn *turn, const uint64_t *words, uint32_t n)
{
    uint64_t hash = keyed_hash(turn->spread->seed, words, n) >> 32;
    return (uint32_t)(hash * turn->noutput >> 32);
}

static uint32_t choose_ipv4(const struct turn *turn, const uint8_t *ip)
{
    uint64_t addresses = load_word(ip + IPV4_SOURCE, 8);
    return choose(turn, &addresses, 1);
}

/* Source and destination. */
static void load_ipv6(const uint8_t *ip, uint64_t *words)
{
    memcpy(words, ip + IPV6_SOURCE, 32);
}

static bool is_skipped(uint8_t header)
{
    return header == WIRE_HOP_BY_HOP || header == WIRE_ROUTING ||
           header == WIRE_DESTINATION;
}

/* A walk along the headers of a packet, up to what says whose it is. */
struct walk {
    const uint8_t *frame;
    uint32_t end; /* of the frame */
    uint32_t at;  /* of the header that is next */
    uint8_t next; /* what it is */
};

/* Pass extension headers. They may say that the next one is beyond the end. */
static void skip_extensions(struct walk *walk)
{
    for (uint32_t i = 0; i < WIRE_MAX_EXTENSIONS && is_skipped(walk->next) &&
                         wire_has(walk->end, walk->at, 8);
         i++) {
        const uint8_t *header = walk->frame + walk->at;
        walk->next = header[0];
        walk->at += (header[1] + 1u) * 8;
    }
}

/* The worker of an IPv6 packet, as far as its addresses or those inside tell. */
static uint32_t choose_ipv6(const struct turn *turn, const uint8_t *ip,
                            const struct walk *walk)
{
    uint64_t words[4];
    if (walk->next == WIRE_IPV4_IN_IP && wire_has(walk->end, walk->at, WIRE_IPV4_SIZE))
        return choose_ipv4(turn, walk->frame + walk->at);
    load_ipv6(ip, words);
    return choose(turn, words, 4);
}

/* Take the fragment header that is next. False: there is none, or the packet is not
 * there as a whole, or it is all of its datagram (RFC 6946). */
static bool take_fragment_header(struct walk *walk, const uint8_t *ip,
                                 struct fragment *fragment)
{
    uint32_t payload = load_be16(ip + IPV6_PAYLOAD_LENGTH);
    uint32_t end = (uint32_t)(ip - walk->frame) + WIRE_IPV6_SIZE + payload;
    if (walk->next != WIRE_FRAGMENT || end > walk->end ||
        !wire_has(end, walk->at, FRAGMENT_HEADER))
        return false;
    const uint8_t *header = walk->frame + walk->at;
    uint32_t field = load_be16(header + 2);
    walk->next = header[0];
    walk->at += FRAGMENT_HEADER;
    load_ipv6(ip, fragment->key);
    fragment->key[4] = load_word(header + 4, 4);
    fragment->start = field & 0xfff8;
    fragment->end = fragment->start + end - walk->at;
    fragment->is_last = !(field & 1);
    return fragment->start != 0 || !fragment->is_last;
}

static bool is_for_neighbors(const uint8_t *ip, const struct walk *walk)
{
    uint32_t at = (uint32_t)(ip - walk->frame) + WIRE_IPV6_SIZE;
    return ip[IPV6_NEXT_HEADER] == WIRE_ICMPV6 && wire_has(walk->end, at, 1) &&
           walk->frame[at] >= NDP_FIRST && walk->frame[at] <= NDP_LAST;
}

/* ---- fragments --------------------------------------------------------------------- */

/* Put a packet on an output, which has room; the link is told at the end. */
static inline void put(struct turn *turn, uint32_t output, struct packet *packet)
{
    struct share *share = &turn->shares[output];
    *link_slot(share->link, share->write++) = packet;
    share->bytes += packet->length;
}

static void forget_known(struct turn *turn, struct spread_known *known)
{
    datagram_remove(&turn->spread->known, known);
}

/* Note that a fragment has gone its way. Those that come in order are the last of the
 * datagram when it has an end; others are forgotten in time. Whether the datagram is still
 * known. */
static bool note_fragment(struct turn *turn, struct spread_known *known, uint32_t start,
                          uint32_t end, bool is_last)
{
    if (start != known->expected)
        return true;
    known->expected = end;
    if (is_last)
        forget_known(turn, known);
    return !is_last;
}

static void free_held(struct spread *spread, uint32_t index)
{
    spread->held[index - 1].next = spread->free;
    spread->free = index;
    spread->nheld--;
}

/* Drop all fragments of a datagram that wait. */
static void drop_waiting(struct app *app, struct spread_waiting *waiting,
                         uint32_t counter)
{
    struct spread *spread = app->state;
    for (uint32_t index = waiting->first, next; index; index = next) {
        next = spread->held[index - 1].next;
        packet_free(app->worker->freelist, spread->held[index - 1].packet);
        free_held(spread, index);
    }
    app->counters[counter] += waiting->n;
    datagram_remove(&spread->waiting, waiting);
}

/* Keep a fragment until the first one of its datagram comes. */
static void hold(struct turn *turn, struct packet *packet,
                 const struct fragment *fragment)
{
    struct app *app = turn->app;
    struct spread *spread = turn->spread;
    if (spread->nheld == SPREAD_MAX_HELD)
        drop_waiting(app, datagram_victim(&spread->waiting),
                     SPREAD_DROP_FRAGMENT_EVICTED);
    struct spread_waiting *waiting = datagram_find(&spread->waiting, fragment->key);
    if (waiting && waiting->n == SPREAD_MAX_HELD_OF_ONE) {
        app->counters[SPREAD_DROP_FRAGMENT_TOO_MANY]++;
        packet_free(app->worker->freelist, packet);
        return;
    }
    uint32_t index = spread->free ? spread->free : ++spread->nfresh;
    struct spread_held *held = &spread->held[index - 1];
    if (spread->free)
        spread->free = held->next;
    *held = (struct spread_held){packet, 0, fragment->start, fragment->end,
                                 fragment->is_last};
    spread->nheld++;
    app->counters[SPREAD_FRAGMENTS_HELD]++;
    if (waiting) {
        spread->held[waiting->last - 1].next = index;
    } else {
        waiting = datagram_insert(&spread->waiting, fragment->key, fragment->key,
                                  app->worker->now);
        waiting->n = 0;
        waiting->first = index;
    }
    waiting->last = index;
    waiting->n++;
}

/* Let the fragments go that have waited for the first one, as they came. */
static void release(struct turn *turn, struct spread_known *known)
{
    struct spread *spread = turn->spread;
    struct spread_waiting *waiting =
        datagram_find(&spread->waiting, known->datagram.key);
    if (!waiting)
        return;
    uint32_t output = known->output;
    bool is_known = true;
    for (uint32_t index = waiting->first, next; index; index = next) {
        struct spread_held *held = &spread->held[index - 1];
        next = held->next;
        put(turn, output, held->packet);
        is_known = is_known && note_fragment(turn, known, held->start, held->end,
                                             held->is_last);
        free_held(spread, index);
    }
    datagram_remove(&spread->waiting, waiting);
}

/* The first fragment: it decides, also anew when it comes again. */
static void begin_datagram(struct turn *turn, struct spread_known *known,
                           const struct fragment *fragment, uint32_t output)
{
    struct datagram_table *table = &turn->spread->known;
    if (!known) {
        if (table->n == table->capacity) {
            forget_known(turn, datagram_victim(table));
            turn->app->counters[SPREAD_FORGOTTEN_DATAGRAMS]++;
        }
        known = datagram_insert(table, fragment->key, fragment->key,
                                turn->app->worker->now);
    }
    known->output = output;
    known->expected = fragment->end;
    release(turn, known);
}

static void spread_fragment(struct turn *turn, struct packet *packet, const uint8_t *ip,
                            struct walk *walk, const struct fragment *fragment)
{
    struct spread_known *known = datagram_find(&turn->spread->known, fragment->key);
    if (fragment->start == 0) {
        skip_extensions(walk);
        uint32_t output = choose_ipv6(turn, ip, walk);
        put(turn, output, packet);
        begin_datagram(turn, known, fragment, output);
    } else if (known) {
        /* There may be fewer of them than when it came. */
        put(turn, min_u32(known->output, turn->noutput - 1), packet);
        note_fragment(turn, known, fragment->start, fragment->end, fragment->is_last);
    } else {
        hold(turn, packet, fragment);
    }
}

/* ---- packets ----------------------------------------------------------------------- */

static void spread_ipv6(struct turn *turn, struct packet *packet, uint32_t offset)
{
    const uint8_t *ip = packet->data + offset;
    struct walk walk = {packet->data, packet->length, offset + WIRE_IPV6_SIZE,
                        ip[IPV6_NEXT_HEADER]};
    struct fragment fragment;
    if (is_for_neighbors(ip, &walk)) {
        put(turn, FIRST_WORKER, packet);
        return;
    }
    skip_extensions(&walk);
    if (unlikely(walk.next == WIRE_FRAGMENT)) {
        if (take_fragment_header(&walk, ip, &fragment)) {
            spread_fragment(turn, packet, ip, &walk, &fragment);
            return;
        }
        skip_extensions(&walk);
    }
    put(turn, choose_ipv6(turn, ip, &walk), packet);
}

/* The IPv4 header that says whose a packet is, of nearly all: behind Ethernet's, or
 * behind that of a tunnel. NULL: one has to look closely. */
static inline const uint8_t *find_ipv4(const struct packet *packet)
{
    const uint8_t *frame = packet->data, *ip = frame + WIRE_ETHERNET_SIZE;
    uint32_t length = packet->length;
    if (unlikely(length < WIRE_ETHERNET_SIZE + WIRE_IPV4_SIZE))
        return NULL;
    uint16_t type = load_be16(frame + ETHERNET_TYPE);
    if (type == WIRE_IPV4)
        return ip;
    if (type == WIRE_IPV6 && ip[IPV6_NEXT_HEADER] == WIRE_IPV4_IN_IP &&
        length >= WIRE_ETHERNET_SIZE + WIRE_IPV6_SIZE + WIRE_IPV4_SIZE)
        return ip + WIRE_IPV6_SIZE;
    return NULL;
}

/* A frame with one VLAN tag or none: others are nobody's. */
static void spread_any(struct turn *turn, struct packet *packet)
{
    const uint8_t *frame = packet->data;
    uint32_t length = packet->length, offset = WIRE_ETHERNET_SIZE;
    uint16_t type = length >= offset ? load_be16(frame + ETHERNET_TYPE) : 0;
    if (type == WIRE_VLAN && wire_has(length, offset, WIRE_TAG_SIZE)) {
        offset += WIRE_TAG_SIZE;
        type = load_be16(frame + offset - 2);
    }
    if (type == WIRE_IPV4 && wire_has(length, offset, WIRE_IPV4_SIZE))
        put(turn, choose_ipv4(turn, frame + offset), packet);
    else if (type == WIRE_IPV6 && wire_has(length, offset, WIRE_IPV6_SIZE))
        spread_ipv6(turn, packet, offset);
    else
        put(turn, FIRST_WORKER, packet);
}

/* ---- the app ------------------------------------------------------------------------- */

/* How many packets may be taken: if all of them, and all that wait, go to the output that
 * has the least room. */
static uint32_t count_room(const struct app *app, uint32_t noutput)
{
    const struct spread *spread = app->state;
    uint32_t room = LINK_CAPACITY;
    for (uint32_t i = 0; i < noutput; i++)
        room = min_u32(room, link_writable(app->output[i]));
    return room > spread->nheld ? min_u32(room - spread->nheld, BURST) : 0;
}

static void begin_turn(struct turn *turn, struct app *app, uint32_t noutput)
{
    turn->app = app;
    turn->spread = app->state;
    turn->noutput = noutput;
    for (uint32_t i = 0; i < noutput; i++)
        turn->shares[i] = (struct share){app->output[i], app->output[i]->write, 0};
}

static uint32_t spread_push(struct app *app)
{
    uint32_t n, total = 0, noutput = min_u32(app->noutput, SPREAD_MAX_OUTPUTS);
    struct packet *packets[BURST];
    while ((n = link_receive_burst(app->input[0], packets, count_room(app, noutput)))) {
        struct turn turn;
        begin_turn(&turn, app, noutput);
        for (uint32_t i = 0; i < n; i++) {
            __builtin_prefetch(packets[i]->data);
            __builtin_prefetch(packets[i]->data + 64); /* inner addresses */
        }
        for (uint32_t i = 0; i < n; i++) {
            const uint8_t *ip = find_ipv4(packets[i]);
            if (likely(ip))
                put(&turn, choose_ipv4(&turn, ip), packets[i]);
            else
                spread_any(&turn, packets[i]);
        }
        for (uint32_t i = 0; i < noutput; i++) {
            const struct share *share = &turn.shares[i];
            link_produce(share->link, share->write - share->link->write, share->bytes);
        }
        total += n;
    }
    return total;
}

static void spread_tick(struct app *app)
{
    struct spread *spread = app->state;
    uint64_t now = app->worker->now;
    uint32_t nqueues = SWEEP, left = FORGOTTEN_MAX;
    void *entry;
    while (left > 0 && (entry = datagram_expired(&spread->known, now, &nqueues))) {
        datagram_remove(&spread->known, entry);
        left--;
    }
    nqueues = SWEEP;
    while ((entry = datagram_expired(&spread->waiting, now, &nqueues)))
        drop_waiting(app, entry, SPREAD_DROP_FRAGMENT_TIMEOUT);
}

static uint32_t spread_held(const struct app *app)
{
    const struct spread *spread = app->state;
    return spread->nheld;
}

static uint32_t spread_retire(struct app *app)
{
    struct spread *spread = app->state;
    uint32_t n = spread->nheld;
    while (spread->nheld > 0)
        drop_waiting(app, datagram_victim(&spread->waiting),
                     SPREAD_DROP_FRAGMENT_EVICTED);
    return n;
}

const struct app_ops spread_ops = {
    .push = spread_push,
    .tick = spread_tick,
    .retire = spread_retire,
    .held = spread_held,
};

/* ---- life ------------------------------------------------------------------------------ */

uint64_t spread_memory_needed(void)
{
    return datagram_table_memory_needed(sizeof(struct spread_known),
                                        SPREAD_MAX_DATAGRAMS) +
           datagram_table_memory_needed(sizeof(struct spread_waiting), SPREAD_MAX_HELD);
}

void spread_init(struct spread *spread, uint8_t *memory, uint64_t timeout,
                 const uint64_t *seeds)
{
    uint64_t first = datagram_table_memory_needed(sizeof(struct spread_known),
                                                  SPREAD_MAX_DATAGRAMS);
    memset(spread, 0, sizeof(*spread));
    memcpy(spread->seed, seeds, sizeof(spread->seed));
    datagram_table_init(&spread->known, memory, sizeof(struct spread_known),
                        SPREAD_MAX_DATAGRAMS, timeout, seeds + 2);
    datagram_table_init(&spread->waiting, memory + first, sizeof(struct spread_waiting),
                        SPREAD_MAX_HELD, timeout, seeds + 4);
}
