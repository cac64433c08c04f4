/* Generator and Checker: packets that can be counted at the other end. The stamp, and
 * why it lies where it lies, is described in traffic_abi.h. */
#include "snabb_py/engine/engine.h"
#include "snabb_py/engine/offload.h"
#include "snabb_py/engine/wire.h"

#include "snabb_py/apps/fields.h"
#include "snabb_py/apps/traffic_abi.h"

_Static_assert(sizeof(((struct checker_stream *)0)->seen) * 8 == TRAFFIC_WINDOW,
               "one bit a number");
_Static_assert(sizeof(((struct checker_state *)0)->streams) ==
                   TRAFFIC_MAX_STREAMS * sizeof(struct checker_stream),
               "places of streams");
_Static_assert(sizeof(((struct checker_state *)0)->latency) ==
                   HISTOGRAM_BUCKETS * sizeof(uint64_t),
               "histogram_bucket() fits");
_Static_assert(TRAFFIC_STAMP_SIZE == 2 * sizeof(uint64_t), "two words");

enum {
    WIRE_IPIP = 4,    /* IP protocols: IPv4 in IP (RFC 2003), */
    WIRE_IPV6_IN = 41 /* IPv6 in IP (RFC 2473) */
};

/* ---- the stamp ----------------------------------------------------------- */

static uint64_t load64(const uint8_t *p)
{
    uint64_t value;
    memcpy(&value, p, sizeof(value));
    return value;
}

static void store64(uint8_t *p, uint64_t value)
{
    memcpy(p, &value, sizeof(value));
}

/* First word of a stamp, as memory has it, without its balance. */
static uint64_t stamp_head(uint16_t magic, uint32_t stream)
{
    return htobe16(magic) | (uint64_t)htobe32(stream) << 32;
}

static inline void stamp_write(uint8_t *p, uint64_t head, uint64_t number,
                               uint64_t more)
{
    uint64_t tail = htobe64(number);
    uint64_t sum = (checksum_word(head) + checksum_word(tail) + more) % 0xffff;
    store64(p, head | (0xffff - sum) << 16);
    store64(p + 8, tail);
}

/* What a frame holds: the outermost IP packet, or all behind the Ethernet header. */
struct place {
    uint16_t type;   /* EtherType */
    uint32_t offset; /* of its header */
    uint32_t end;    /* within the frame */
};

/* False: an IP header that contradicts itself or the frame's length, or is not all
 * there. Else the fixed part of an IP header is. */
static inline bool find_place(const uint8_t *frame, uint32_t length, struct place *place)
{
    struct wire_ethernet ethernet;
    if (!wire_parse_ethernet(frame, length, &ethernet))
        return false;
    uint32_t offset = ethernet.payload, size;
    if (ethernet.type == WIRE_IPV4) {
        if (!wire_has(length, offset, WIRE_IPV4_SIZE))
            return false;
        size = load_be16(frame + offset + IPV4_TOTAL_LENGTH);
        uint32_t version = frame[offset] >> 4, header = (frame[offset] & 15u) * 4;
        if (version != 4 || header < WIRE_IPV4_SIZE || header > size)
            return false;
    } else if (ethernet.type == WIRE_IPV6) {
        if (!wire_has(length, offset, WIRE_IPV6_SIZE) || frame[offset] >> 4 != 6)
            return false;
        size = WIRE_IPV6_SIZE + load_be16(frame + offset + IPV6_PAYLOAD_LENGTH);
    } else {
        size = length - offset;
    }
    *place = (struct place){ethernet.type, offset, offset + size};
    return wire_has(length, offset, size);
}

uint32_t traffic_end(const uint8_t *frame, uint32_t length)
{
    struct place place;
    return find_place(frame, length, &place) ? place.end : 0;
}

/* ---- Generator ----------------------------------------------------------- */

/* Give the time since the last pull as credit, and take back what is more than may be
 * made up for: those packets are missed, for the reason that held the last pull up.
 * Credit is time and not packets, so that it stands when the rate changes; it stays
 * small, so that no rate is too odd to be kept for years. */
static void generator_earn(struct app *app)
{
    const struct generator_config *config = app->config;
    struct generator_state *state = app->state;
    uint64_t now = app->worker->now;
    state->credit += (double)(now - state->since);
    state->since = now;
    double most = 4.0 * app->worker->burst * config->mean;
    if (most < config->catch_up)
        most = config->catch_up;
    if (likely(state->credit <= most))
        return;
    state->missed += (state->credit - most) / config->mean;
    state->credit = most;
    uint64_t whole = (uint64_t)state->missed;
    app->counters[state->reason] += whole;
    state->missed -= (double)whole;
}

/* Spend credit on the next packets, n at most. Returns how many it pays for. */
static uint32_t generator_spend(const struct generator_config *config,
                                struct generator_state *state, uint32_t n)
{
    uint32_t turn = state->turn, paid = 0;
    double credit = state->credit;
    for (; paid < n && credit >= 0; paid++) {
        credit -= config->costs[turn];
        if (++turn == config->norder)
            turn = 0;
    }
    state->credit = credit;
    return paid;
}

/* Number a packet. */
static inline void generator_stamp(const struct generator_config *config, uint8_t *data,
                                   uint16_t place, uint64_t number, uint64_t time)
{
    uint8_t *stamp = data + (place & ~GENERATOR_TIMED);
    if (unlikely(place & GENERATOR_TIMED)) {
        store64(stamp - 8, time);
        stamp_write(stamp, stamp_head(TRAFFIC_MAGIC_TIMED, config->stream), number,
                    checksum_word(time));
    } else {
        stamp_write(stamp, stamp_head(TRAFFIC_MAGIC, config->stream), number, 0);
    }
}

/* Make n packets of the frames in turn. Returns their bytes. */
static HOT uint64_t make_packets(const struct generator_config *config,
                                 struct generator_state *state, struct packet **fresh,
                                 uint32_t n, uint64_t time)
{
    const struct generator_turn *turns = config->order;
    const uint8_t *frames = config->frames;
    uint64_t number = state->number, bytes = 0;
    uint32_t at = state->turn, norder = config->norder;
    for (uint32_t i = 0; i < n; i++) {
        struct generator_turn turn = turns[at];
        struct packet *packet = packet_fresh(fresh[i], PACKET_SMALL, turn.length);
        uint8_t *data = packet->data;
        packet_copy_data(data, frames + (uint64_t)turn.place * 64, turn.length);
        bytes += turn.length;
        if (turn.stamp != 0)
            generator_stamp(config, data, turn.stamp, number++, time);
        if (unlikely(++at == norder))
            at = 0;
    }
    state->turn = at;
    state->number = number;
    return bytes;
}

/* Make n packets and put them on a link that has room for them. */
static void generator_make(const struct generator_config *config,
                           struct generator_state *state, struct link *out, uint64_t now,
                           uint32_t n)
{
    struct packet **fresh = freelist_take(out->freelist, PACKET_SMALL, n);
    uint64_t bytes = make_packets(config, state, fresh, n, htobe64(now));
    link_transmit_known(out, fresh, n, bytes);
}

/* Write what varies in fresh packets, copies of the frames in turn, from one on. */
static inline void vary_packets(const struct generator_config *config, uint32_t turn,
                                const struct fields_words *words,
                                struct packet *const *packets, uint32_t n)
{
    if (unlikely(!config->fields->is_uniform)) {
        for (uint32_t i = 0; i < n; i++) {
            fields_put(config->layouts[turn], words, i, packet_fresh_data(packets[i]));
            if (++turn == config->norder)
                turn = 0;
        }
        return;
    }
    /* Window by window: nothing but loads and stores is left of the loop. */
    const struct field_layout *layout = config->layouts[0];
    for (uint32_t k = 0; k < layout->nwindows; k++) {
        uint32_t at = layout->windows[k].offset;
#pragma GCC unroll 4
        for (uint32_t i = 0; i < n; i++)
            memcpy(packet_fresh_data(packets[i]) + at, &words->words[k][i],
                   sizeof(uint64_t));
    }
}

/* The same as generator_make() for packets whose fields vary. */
static HOT void generator_make_varied(const struct generator_config *config,
                                      struct generator_state *state, struct link *out,
                                      uint64_t now, uint32_t n)
{
    struct packet **fresh = freelist_take(out->freelist, PACKET_SMALL, n);
    uint64_t bytes = 0, time = htobe64(now);
    struct fields_words words;
    for (uint32_t done = 0, run; done < n; done += run) {
        uint32_t turn = state->turn;
        run = min_u32(n - done, FIELDS_BURST);
        fields_make(config->fields, &state->fields, config->layouts, config->norder, turn,
                    run, &words);
        bytes += make_packets(config, state, fresh + done, run, time);
        vary_packets(config, turn, &words, fresh + done, run);
    }
    link_transmit_known(out, fresh, n, bytes);
}

/* A rate begins, or would begin, now. */
static void generator_begin(struct generator_state *state, uint64_t now)
{
    state->since = now;
    state->credit = 0;
    state->reason = GENERATOR_MISSED_LATE;
}

/* After a start or a change of the configuration. */
static void generator_adapt(const struct generator_config *config,
                            struct generator_state *state, uint64_t now)
{
    if (!state->is_started || state->stream != config->stream) {
        state->stream = config->stream;
        state->number = state->sent = state->before = 0;
        state->begun = now;
    }
    if (unlikely(state->config != config)) {
        /* Which packet of a stream is the n-th depends on n alone. */
        state->config = config;
        state->turn = (uint32_t)(state->sent % config->norder);
        if (config->fields)
            fields_seek(config->fields, &state->fields, state->sent);
    }
    if (!state->is_started || config->mean == 0)
        generator_begin(state, now);
    state->is_started = 1;
}

static uint32_t generator_pull(struct app *app)
{
    const struct generator_config *config = app->config;
    struct generator_state *state = app->state;
    struct link *out = app->output[0];
    uint32_t room = link_writable(out), n = min_u32(app->worker->burst, room);
    generator_adapt(config, state, app->worker->now);
    if (config->count) {
        if (state->sent >= config->count) {
            state->is_resting = 1;
            return 0;
        }
        if (config->count - state->sent < n)
            n = (uint32_t)(config->count - state->sent);
    }
    if (unlikely(state->is_resting)) /* nothing was due meanwhile */
        generator_begin(state, app->worker->now);
    state->is_resting = 0;
    uint32_t there = freelist_reserve(out->freelist, PACKET_SMALL, n);
    if (config->mean > 0) {
        generator_earn(app);
        uint32_t reason = there < n                    ? GENERATOR_MISSED_NO_PACKET
                          : room < app->worker->burst ? GENERATOR_MISSED_NO_ROOM
                                                      : GENERATOR_MISSED_LATE;
        there = generator_spend(config, state, there);
        /* Nothing held it up if all that was due could go. */
        state->reason = state->credit < 0 ? GENERATOR_MISSED_LATE : reason;
    }
    if (there) {
        state->last = app->worker->now;
        state->before = state->sent;
        state->sent += there;
        (config->fields ? generator_make_varied
                        : generator_make)(config, state, out, app->worker->now, there);
    }
    return there;
}

const struct app_ops generator_ops = {.pull = generator_pull};

/* ---- Checker: checksums -------------------------------------------------- */

enum verdict { FINE, BAD_IP, BAD_L4 };

/* An IP packet within a frame: its headers and where it ends. */
struct ip_packet {
    struct wire_ip ip;
    uint32_t end;
};

/* False: its headers contradict themselves or the length, or are not all there. */
static bool parse_ip(const uint8_t *frame, uint32_t length, uint16_t type,
                     uint32_t offset, struct ip_packet *packet)
{
    uint32_t header = type == WIRE_IPV4 ? WIRE_IPV4_SIZE : WIRE_IPV6_SIZE;
    if (!wire_has(length, offset, header))
        return false;
    const uint8_t *p = frame + offset;
    uint32_t size = type == WIRE_IPV4
                        ? load_be16(p + IPV4_TOTAL_LENGTH)
                        : header + load_be16(p + IPV6_PAYLOAD_LENGTH);
    if (!wire_has(length, offset, size))
        return false;
    packet->end = offset + size;
    /* All headers lie before the end, from here on. */
    return type == WIRE_IPV4 ? wire_parse_ipv4(frame, packet->end, offset, &packet->ip)
                             : wire_parse_ipv6(frame, packet->end, offset, &packet->ip);
}

/* The EtherType of what is in a tunnel, 0: this is none. */
static uint16_t tunnelled_type(const struct wire_ip *ip)
{
    return ip->is_fragment                  ? 0
           : ip->protocol == WIRE_IPIP    ? WIRE_IPV4
           : ip->protocol == WIRE_IPV6_IN ? WIRE_IPV6
                                            : 0;
}

static bool is_header_right(const uint8_t *frame, const struct wire_ip *ip)
{
    uint32_t size = ip->payload - ip->header;
    const uint8_t *p = frame + ip->header;
    if (unlikely(size != WIRE_IPV4_SIZE))
        return checksum_is_right(checksum_add(0, p, size));
    uint32_t last;
    memcpy(&last, p + 16, sizeof(last));
    return checksum_is_right(checksum_word(load64(p)) + checksum_word(load64(p + 8)) + last);
}

static uint64_t pseudo_header(const uint8_t *frame, const struct wire_ip *ip,
                              uint32_t size)
{
    const uint8_t *source = frame + ip->source, *destination = frame + ip->destination;
    uint64_t sum = htobe16(ip->protocol) + (uint64_t)htobe16((uint16_t)size);
    if (ip->version == 4) /* the addresses are neighbours */
        return sum + checksum_word(load64(source));
    return sum + checksum_word(load64(source)) + checksum_word(load64(source + 8)) +
           checksum_word(load64(destination)) + checksum_word(load64(destination + 8));
}

/* Of the layer above IP, in a packet that is no fragment. What has no checksum, or one
 * that is not known here, is right. */
static bool is_payload_right(const uint8_t *frame, const struct ip_packet *packet)
{
    const struct wire_ip *ip = &packet->ip;
    const uint8_t *p = frame + ip->payload;
    uint32_t size = packet->end - ip->payload; /* at most 65535 */
    uint64_t sum = 0;
    switch (ip->protocol) {
    case WIRE_UDP:
        if (size < WIRE_UDP_SIZE)
            return false;
        if (load_be16(p + UDP_CHECKSUM) == 0) /* not computed; RFC 8200, 8.1: must be */
            return ip->version == 4;
        if (load_be16(p + UDP_LENGTH) < WIRE_UDP_SIZE || load_be16(p + UDP_LENGTH) > size)
            return false;
        size = load_be16(p + UDP_LENGTH);
        sum = pseudo_header(frame, ip, size);
        break;
    case WIRE_TCP:
        if (size < WIRE_TCP_SIZE)
            return false;
        sum = pseudo_header(frame, ip, size);
        break;
    case WIRE_ICMPV6:
        if (ip->version != 6)
            return true;
        if (size < 4)
            return false;
        sum = pseudo_header(frame, ip, size);
        break;
    case WIRE_ICMP:
        if (ip->version != 4)
            return true;
        if (size < 4)
            return false;
        break;
    default:
        return true;
    }
    return checksum_is_right(checksum_add(sum, p, size));
}

/* All checksums of a frame, through tunnels of IP in IP: each is behind at least 20
 * bytes of header, so the walk ends. Not judged: what cannot be parsed, fragments, and
 * what its sender has left open. */
static enum verdict judge(const struct packet *packet, const struct place *place)
{
    const uint8_t *frame = packet->data;
    uint16_t type = place->type;
    struct ip_packet at = {.end = place->end, .ip.payload = place->offset};
    if (packet->gso_type != PACKET_GSO_NONE)
        return FINE;
    while (type == WIRE_IPV4 || type == WIRE_IPV6) {
        if (!parse_ip(frame, at.end, type, at.ip.payload, &at))
            return FINE;
        if (at.ip.version == 4 && !is_header_right(frame, &at.ip))
            return BAD_IP;
        type = tunnelled_type(&at.ip);
        if (type == 0 && !at.ip.is_fragment && !(packet->flags & PACKET_CSUM_PARTIAL) &&
            !is_payload_right(frame, &at))
            return BAD_L4;
    }
    return FINE;
}

/* ---- Checker: streams ---------------------------------------------------- */

/* The frame is an ICMP message, in tunnels or not, that reports on another packet and
 * quotes it: to its very end if that is short. */
static bool is_report(const uint8_t *frame, const struct place *place)
{
    uint16_t type = place->type;
    struct ip_packet at = {.end = place->end, .ip.payload = place->offset};
    while (type == WIRE_IPV4 || type == WIRE_IPV6) {
        if (!parse_ip(frame, at.end, type, at.ip.payload, &at))
            return false;
        if (!at.ip.is_fragment && at.end > at.ip.payload) {
            uint8_t message = frame[at.ip.payload];
            if (at.ip.version == 4 && at.ip.protocol == WIRE_ICMP)
                return message != 0 && message != 8; /* echo (RFC 792) */
            if (at.ip.version == 6 && at.ip.protocol == WIRE_ICMPV6)
                return message < 128; /* errors (RFC 4443, 2.1) */
        }
        type = tunnelled_type(&at.ip);
    }
    return false;
}

/* The commonest packets say at once that they report on none. */
static bool may_be_report(const uint8_t *frame, const struct place *place)
{
    const uint8_t *header = frame + place->offset;
    uint8_t protocol;
    if (place->type == WIRE_IPV4)
        protocol = header[IPV4_PROTOCOL];
    else if (place->type == WIRE_IPV6)
        protocol = header[IPV6_NEXT_HEADER];
    else
        return false;
    return protocol != WIRE_UDP && protocol != WIRE_TCP;
}

static struct checker_stream *find_stream(struct checker_state *state, uint32_t id)
{
    for (uint32_t i = 0; i < TRAFFIC_MAX_STREAMS; i++) {
        struct checker_stream *stream = &state->streams[(id + i) % TRAFFIC_MAX_STREAMS];
        if (likely(stream->is_used && stream->id == id))
            return stream;
        if (!stream->is_used) {
            stream->id = id;
            stream->is_used = 1;
            return stream;
        }
    }
    return NULL;
}

/* More than two days of 64-byte frames at 100 Gbps ahead: nobody waits for those. */
static const uint64_t ABSURD = 1ull << 45;

/* Ahead of what is expected: the gap is lost, for now. */
static void stream_leap(struct checker_stream *stream, uint64_t number, uint64_t *counters)
{
    uint64_t gap = number - stream->expected;
    stream->lost += gap;
    counters[CHECKER_LOST] += gap;
    if (gap >= TRAFFIC_WINDOW)
        memset(stream->seen, 0, sizeof(stream->seen));
    else
        for (uint64_t n = stream->expected; n < number; n++)
            stream->seen[n % TRAFFIC_WINDOW / 64] &= ~(1ull << n % 64);
}

/* Behind it: was counted lost, unless it has come before. Numbers further behind than
 * the window count as duplicates. */
static void stream_late(struct checker_stream *stream, uint64_t number, uint64_t *counters)
{
    uint64_t *word = &stream->seen[number % TRAFFIC_WINDOW / 64];
    uint64_t bit = 1ull << number % 64;
    if (stream->expected - number > TRAFFIC_WINDOW || *word & bit) {
        stream->duplicated++;
        counters[CHECKER_DUPLICATED]++;
        return;
    }
    *word |= bit;
    stream->lost--;
    stream->reordered++;
    counters[CHECKER_LOST]--;
    counters[CHECKER_REORDERED]++;
}

/* Check the numbers of a packet whose checksums are in order, or not of interest. Returns
 * its stream; NULL: it is of none. */
static struct checker_stream *check_stamp(struct app *app,
                                          const struct packet *packet,
                                          const struct place *place)
{
    const uint8_t *frame = packet->data;
    struct checker_state *state = app->state;
    uint64_t *counters = app->counters;
    if (unlikely(place->end < WIRE_ETHERNET_SIZE + TRAFFIC_TIMED_STAMP_SIZE)) {
        counters[CHECKER_FOREIGN]++;
        return NULL;
    }
    /* Within the frame, from here on: a stamp, and a time in front of it. */
    const uint8_t *stamp = frame + place->end - TRAFFIC_STAMP_SIZE;
    uint64_t head = load64(stamp), tail = load64(stamp + 8);
    uint16_t magic = be16toh((uint16_t)head);
    uint64_t sum = checksum_word(head) + checksum_word(tail), time = 0;
    if (magic == TRAFFIC_MAGIC_TIMED) {
        time = load64(stamp - 8);
        sum += checksum_word(time);
        time = be64toh(time);
    } else if (unlikely(magic != TRAFFIC_MAGIC)) {
        counters[CHECKER_FOREIGN]++;
        return NULL;
    }
    if (unlikely(may_be_report(frame, place)) && is_report(frame, place)) {
        counters[CHECKER_FOREIGN]++;
        return NULL;
    }
    if (unlikely(!checksum_is_right(sum))) {
        counters[CHECKER_BAD_STAMP]++;
        return NULL;
    }
    struct checker_stream *stream = find_stream(state, be32toh((uint32_t)(head >> 32)));
    if (unlikely(!stream)) {
        counters[CHECKER_UNKNOWN_STREAM]++;
        return NULL;
    }
    uint64_t number = be64toh(tail), expected = stream->expected;
    if (unlikely(number >= expected && number - expected >= ABSURD)) {
        counters[CHECKER_BAD_STAMP]++;
        return NULL;
    }
    stream->packets++;
    stream->bytes += packet->length;
    if (unlikely(number < expected)) {
        stream_late(stream, number, counters);
    } else {
        if (unlikely(number > expected))
            stream_leap(stream, number, counters);
        stream->seen[number % TRAFFIC_WINDOW / 64] |= 1ull << number % 64;
        stream->expected = number + 1;
    }
    if (magic == TRAFFIC_MAGIC_TIMED) {
        uint64_t now = app->worker->now; /* at least the sender's, on one machine */
        uint64_t ns = now > time ? now - time : 0;
        state->latency[histogram_bucket(ns)]++;
        if (unlikely(ns > state->longest))
            state->longest = ns;
    }
    return stream;
}

/* Every packet ends in one of: a stream, foreign, bad-..., unknown-stream. One with a
 * wrong checksum would reach nobody: it is none of its stream's, which then misses it. */
static inline struct checker_stream *check(struct app *app, const struct packet *packet)
{
    const struct checker_config *config = app->config;
    struct place place;
    if (unlikely(!find_place(packet->data, packet->length, &place))) {
        app->counters[CHECKER_FOREIGN]++;
        return NULL;
    }
    enum verdict verdict = config->verify ? judge(packet, &place) : FINE;
    if (likely(verdict == FINE))
        return check_stamp(app, packet, &place);
    app->counters[verdict == BAD_IP ? CHECKER_BAD_IP_CHECKSUM
                                    : CHECKER_BAD_L4_CHECKSUM]++;
    return NULL;
}

/* ---- Checker: runs ------------------------------------------------------- */

/* Packets of one stream whose numbers follow each other, not counted yet. */
struct run {
    struct checker_stream *stream; /* NULL: none has begun */
    uint64_t head;                 /* of its stamps, without their balance */
    uint64_t first;                /* number */
    uint64_t next;
    uint64_t bytes;
};

static const uint64_t BALANCE = 0xffff0000;

/* The packet continues the run. False: it may, but does not do so at first sight: the
 * long way will tell. IPv4 without tags and options alone; no time, no checksums. */
static inline bool continue_run(struct run *run, const struct packet *packet)
{
    const uint8_t *frame = packet->data, *ip = frame + WIRE_ETHERNET_SIZE;
    /* EtherType, version and length of the header */
    const uint32_t plain = htobe32(WIRE_IPV4 << 16 | 0x45 << 8), but_tos = 0xffffff;
    uint32_t length = packet->length, begin;
    if (unlikely(length < WIRE_ETHERNET_SIZE + WIRE_IPV4_SIZE))
        return false;
    memcpy(&begin, frame + ETHERNET_TYPE, sizeof(begin));
    uint32_t size = load_be16(ip + IPV4_TOTAL_LENGTH);
    if (unlikely((begin & but_tos) != plain || size < WIRE_IPV4_SIZE + TRAFFIC_STAMP_SIZE ||
                 size > length - WIRE_ETHERNET_SIZE))
        return false;
    const uint8_t *stamp = ip + size - TRAFFIC_STAMP_SIZE;
    uint64_t head = load64(stamp), tail = load64(stamp + 8);
    if (unlikely((head & ~BALANCE) != run->head || be64toh(tail) != run->next ||
                 ip[IPV4_PROTOCOL] != WIRE_UDP ||
                 !checksum_is_right(checksum_word(head) + checksum_word(tail))))
        return false;
    run->next++;
    run->bytes += length;
    return true;
}

/* Count a run, and begin the next one where it ended. */
static void end_run(struct run *run)
{
    struct checker_stream *stream = run->stream;
    if (run->next == run->first)
        return;
    stream->packets += run->next - run->first;
    stream->bytes += run->bytes;
    for (uint64_t n = run->first; n < run->next;) {
        uint64_t last = (n | 63) < run->next ? n | 63 : run->next - 1;
        stream->seen[n % TRAFFIC_WINDOW / 64] |=
            UINT64_MAX << n % 64 & UINT64_MAX >> (63 - last % 64);
        n = last + 1;
    }
    stream->expected = run->first = run->next;
    run->bytes = 0;
}

static uint32_t checker_push(struct app *app)
{
    const struct checker_config *config = app->config;
    struct packet *burst[LINK_CAPACITY];
    uint32_t moved = 0;
    struct run run = {0};
    for (uint32_t i = 0; i < app->ninput; i++) {
        struct link *in = app->input[i];
        uint32_t n = link_receive_burst(in, burst, LINK_CAPACITY);
        /* Taken off the link first, judged then: who looks at what was judged before he
         * looks at what came never sees more of it. */
        __atomic_signal_fence(__ATOMIC_RELEASE);
        for (uint32_t k = 0; k < n; k++) {
            if (likely(run.stream && continue_run(&run, burst[k])))
                continue;
            end_run(&run);
            struct checker_stream *stream = check(app, burst[k]);
            run = (struct run){0};
            if (stream && !config->verify)
                run = (struct run){.stream = stream,
                                   .head = stamp_head(TRAFFIC_MAGIC, stream->id),
                                   .first = stream->expected,
                                   .next = stream->expected};
        }
        end_run(&run);
        packet_free_burst(app->worker->freelist, burst, n);
        moved += n;
    }
    return moved;
}

const struct app_ops checker_ops = {.push = checker_push};
