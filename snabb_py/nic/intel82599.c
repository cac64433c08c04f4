/* The 82599 driver's data path: see intel82599_abi.h.
 *
 * The card and we share rings of descriptors; each side owns those between its cursor
 * and the other's. Cursors run freely and are reduced modulo n. A descriptor changes
 * hands by the DD bit that the card sets in it (receive: in each; transmit: in those
 * that ask for it), and by the tail register that we write. RDH and TDH are never read:
 * they may run ahead of the memory they speak of (7.2.2.4), and cost a round trip.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <poll.h>
#include <unistd.h>

#include "snabb_py/engine/offload.h"
#include "snabb_py/engine/wire.h"

#include "snabb_py/nic/intel82599_ring.h"

_Static_assert(sizeof(((struct intel82599_queue *)0)->counters) ==
                   INTEL82599_NCOUNTERS * sizeof(uint64_t),
               "counters");
_Static_assert(INTEL82599_BUFFER_KIB * 1024 <= PACKET_SMALL_SIZE,
               "the card writes nothing behind a slot");

enum {
    BUFFER_OFFSET = sizeof(struct packet) + PACKET_HEADROOM,
    AHEAD = 8, /* packets whose metadata are prefetched */
    /* 17 bytes are what the transmitter needs to live (8.2.3.8.8); HLREG0.TXPADEN fills
     * up from there. */
    SHORTEST = 17,
    BUFFER_MAX = 8192, /* bytes that one descriptor of a super-frame has: under 15.5 KiB */
    /* Descriptors that one packet may take: a context, and 66 KiB in pieces. */
    PER_PACKET_MAX = 1 + PACKET_LARGE_SIZE / BUFFER_MAX + 1
};

/* Receive, write-back, second word (7.1.6.2). */
#define RX_DD (1ull << 0)
#define RX_EOP (1ull << 1)
#define RX_L4I (1ull << 5)
#define RX_RXE (1ull << 29)
#define RX_L4E (1ull << 30)
#define RX_IPE (1ull << 31)
#define RX_RSS_TYPE 0xfull /* first word */

static inline void count(struct intel82599_queue *queue, uint32_t counter)
{
    queue->counters[counter]++;
}

/* Give the card what lies before the cursor. */
static inline void give(volatile uint32_t *tail, uint32_t cursor, uint32_t n)
{
    write_tail(tail, cursor & (n - 1));
}

/* ---- receive ------------------------------------------------------------- */

static inline void post(struct intel82599_rx *rx, uint32_t at, struct packet *packet)
{
    rx->packets[at] = packet;
    rx->ring[2 * at] = packet->iova + BUFFER_OFFSET;
    rx->ring[2 * at + 1] = 0; /* bit 0 is DD, and that of a header buffer's address */
}

/* The ring's first packets. The card gets all descriptors but one, for a ring whose head
 * is its tail is empty to it; the last one has its packet ready. False: the pool is dry,
 * and the ring waits. */
static bool fill(struct intel82599_queue *queue, struct freelist *freelist)
{
    struct intel82599_rx *rx = &queue->rx;
    for (; rx->filled < rx->n; rx->filled++) {
        struct packet *packet = packet_alloc(freelist, 0);
        if (!packet) {
            count(queue, INTEL82599_RX_NO_PACKET);
            return false;
        }
        post(rx, rx->filled, packet);
    }
    rx->given = rx->n - 1;
    give(rx->tail, rx->given, rx->n);
    return true;
}

/* How many of the next descriptors the card has given back, at most `most`. */
static inline uint32_t count_done(const struct intel82599_rx *rx, uint32_t most)
{
    uint32_t n = 0;
    while (n < most) {
        uint32_t at = (rx->next + n) & (rx->n - 1);
        /* Acquire: what the card wrote before DD is read after it. */
        if (!(__atomic_load_n(&rx->ring[2 * at + 1], __ATOMIC_ACQUIRE) & RX_DD))
            break;
        n++;
    }
    return n;
}

/* Frames that are none: the card counts errors that it was told to store (FCTRL.SBP),
 * and with MAXFRS below a buffer's size no frame takes two. The bits are its own, but a
 * length is not trusted. */
static inline bool is_odd(uint64_t high, uint32_t length)
{
    return (high & (RX_EOP | RX_RXE)) != RX_EOP || length - 1 >= PACKET_SMALL_SIZE;
}

/* Take frames out of the ring. Each place gets a fresh packet at once, so that the ring
 * is always full: where the pool has none, frames stay where they are, and what the
 * card then has to drop it counts. */
static uint32_t receive(struct intel82599_queue *queue, struct freelist *freelist,
                        struct link *out, uint32_t most)
{
    struct intel82599_rx *rx = &queue->rx;
    struct packet *burst[LINK_CAPACITY]; /* good ones from the front, others from the end */
    uint32_t done = count_done(rx, min_u32(most, link_writable(out)));
    if (done == 0)
        return 0;
    uint32_t n = freelist_reserve(freelist, PACKET_SMALL, done);
    if (unlikely(n < done))
        count(queue, INTEL82599_RX_NO_PACKET);
    struct packet **fresh = freelist_take(freelist, PACKET_SMALL, n);
    uint32_t mask = rx->n - 1, first = rx->next, kept = 0, odd = 0;
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t at = (first + i) & mask;
        __builtin_prefetch(rx->packets[(at + AHEAD) & mask], 1);
        uint64_t low = rx->ring[2 * at], high = rx->ring[2 * at + 1];
        struct packet *packet = rx->packets[at];
        uint32_t length = high >> 32 & 0xffff;
        post(rx, at, fresh[i]);
        packet_fresh(packet, PACKET_SMALL, length);
        if (unlikely(is_odd(high, length))) {
            count(queue, high & RX_EOP && high & RX_RXE ? INTEL82599_DROP_RX_BAD_FRAME
                                                        : INTEL82599_DROP_RX_TOO_LONG);
            burst[n - ++odd] = packet;
            continue;
        }
        /* Errata 66 and 67: an IP error may be none, nor is a wrong datagram dropped
         * here: it only lacks the card's word for it. */
        if ((high & (RX_L4I | RX_L4E | RX_IPE)) == RX_L4I)
            packet->flags = PACKET_CSUM_VALID;
        packet->hash = low & RX_RSS_TYPE ? (uint32_t)(low >> 32) : 0;
        bytes += length;
        burst[kept++] = packet;
    }
    rx->next += n;
    link_transmit_known(out, burst, kept, bytes);
    if (unlikely(odd))
        packet_free_burst(freelist, burst + kept, odd);
    queue->counters[INTEL82599_RX_PACKETS] += kept;
    queue->counters[INTEL82599_RX_BYTES] += bytes;
    if (rx->next + rx->n - 1 - rx->given >= INTEL82599_BATCH) {
        rx->given = rx->next + rx->n - 1;
        give(rx->tail, rx->given, rx->n);
    }
    return n;
}

uint32_t intel82599_receive(struct intel82599_queue *queue, struct app *app)
{
    struct link *out = app->output[0];
    if (unlikely(!out || queue->rx.n == 0 || queue->is_gone))
        return 0;
    if (unlikely(queue->rx.filled < queue->rx.n) && !fill(queue, app->worker->freelist))
        return 0;
    return receive(queue, app->worker->freelist, out, app->worker->burst);
}

static uint32_t intel82599_pull(struct app *app)
{
    return intel82599_receive(app->state, app);
}

/* ---- transmit ------------------------------------------------------------ */

/* Free the packets of descriptors [clean, end). */
static void free_sent(struct intel82599_tx *tx, struct freelist *freelist, uint32_t end)
{
    uint32_t mask = tx->n - 1;
    tx->reported += end - tx->clean;
    while (tx->clean != end) {
        uint32_t at = tx->clean & mask;
        uint32_t run = min_u32(min_u32(end - tx->clean, tx->n - at), FREELIST_CAPACITY / 2);
        if (likely(tx->holes == 0)) {
            packet_free_burst(freelist, &tx->packets[at], run);
        } else {
            for (uint32_t i = 0; i < run; i++)
                if (tx->packets[at + i])
                    packet_free(freelist, tx->packets[at + i]);
                else
                    tx->holes--;
        }
        tx->clean += run;
    }
}

/* Take back what the card has reported. */
static inline void reclaim(struct intel82599_tx *tx, struct freelist *freelist)
{
    uint32_t mask = tx->n - 1, nmarks = tx->n / INTEL82599_BATCH, done = tx->clean;
    while (tx->first_mark != tx->last_mark) {
        uint32_t mark = tx->marks[tx->first_mark & (nmarks - 1)];
        const uint64_t *high = &tx->ring[2 * (mark & mask) + 1];
        if (!(__atomic_load_n(high, __ATOMIC_ACQUIRE) & TX_DD))
            break;
        tx->first_mark++;
        done = mark + 1;
    }
    if (done != tx->clean)
        free_sent(tx, freelist, done);
}

/* The next descriptor; packet: of its last one, else NULL. */
static inline void put(struct intel82599_tx *tx, uint64_t low, uint64_t high,
                       struct packet *packet)
{
    uint32_t at = tx->next & (tx->n - 1);
    tx->unreported++;
    /* RS once in a while, for a packet's last descriptor: a report is a write to a line
     * that both sides want. */
    if (unlikely(tx->unreported >= INTEL82599_BATCH) && packet) {
        tx->unreported = 0;
        tx->marks[tx->last_mark++ & (tx->n / INTEL82599_BATCH - 1)] = tx->next;
        high |= TX_RS;
    }
    tx->ring[2 * at] = low;
    tx->ring[2 * at + 1] = high;
    tx->packets[at] = packet;
    tx->next++;
}

static inline void put_frame(struct intel82599_tx *tx, struct packet *packet,
                             uint32_t length, uint64_t more)
{
    put(tx, packet_iova(packet), tx_frame(tx, length) | more, packet);
}

static inline void put_hole(struct intel82599_tx *tx, uint64_t low, uint64_t high)
{
    put(tx, low, high, NULL);
    tx->holes++;
}

/* Set the queue's context 1, unless it is so already: flows repeat. */
static void put_context(struct intel82599_tx *tx, uint64_t low, uint64_t high)
{
    if (tx->has_context && tx->context[0] == low && tx->context[1] == high)
        return;
    tx->has_context = 1;
    tx->context[0] = low;
    tx->context[1] = high;
    put_hole(tx, low, high);
}

/* What the card is to do for a packet, in its terms. */
struct work {
    uint32_t mac; /* bytes in front of the IP header */
    uint32_t ip;  /* bytes of it, with options or extension headers */
    uint32_t l4;  /* bytes of the header behind; super-frames */
    bool is_ipv4;
    bool is_tcp;
};

/* MACLEN has 7 bits, IPLEN 9 (7.2.3.2.3). */
static bool fits_context(const struct work *work)
{
    return work->mac < 128 && work->ip < 512;
}

/* A checksum as a packet's metadata describe it. False: not what the card finishes. */
static bool plan_checksum(const struct packet *packet, struct work *work)
{
    struct wire_ethernet ethernet;
    if (!wire_parse_ethernet(packet->data, packet->length, &ethernet) ||
        (ethernet.type != WIRE_IPV4 && ethernet.type != WIRE_IPV6))
        return false;
    bool is_ipv4 = ethernet.type == WIRE_IPV4;
    uint32_t start = packet->csum_start;
    if (start < ethernet.payload + (is_ipv4 ? WIRE_IPV4_SIZE : WIRE_IPV6_SIZE) ||
        !wire_has(packet->length, start, packet->csum_offset + 2u) ||
        (packet->csum_offset != TCP_CHECKSUM && packet->csum_offset != UDP_CHECKSUM))
        return false;
    *work = (struct work){
        .mac = ethernet.payload,
        .ip = start - ethernet.payload,
        .is_ipv4 = is_ipv4,
        .is_tcp = packet->csum_offset == TCP_CHECKSUM,
    };
    return fits_context(work);
}

static uint64_t context_low(const struct work *work)
{
    return work->ip | (uint64_t)work->mac << 9;
}

static uint64_t context_high(const struct work *work, uint32_t mss)
{
    return TX_CONTEXT | TX_DEXT | TX_IDX | (uint64_t)work->is_ipv4 << 10 |
           (uint64_t)work->is_tcp << 11 |
           (mss ? (uint64_t)work->l4 << 40 | (uint64_t)mss << 48 : 0);
}

/* The shortest frames hang the transmitter: filled up with zeros. An app that takes
 * headers away may have left the frame at its slot's end. */
static void fill_up(struct packet *packet)
{
    uint32_t length = packet->length;
    if (length >= SHORTEST)
        return;
    if (packet_tailroom(packet) < SHORTEST - length) {
        uint8_t *front = (uint8_t *)packet + BUFFER_OFFSET;
        memmove(front, packet->data, length);
        packet->data = front;
    }
    memset(packet->data + length, 0, SHORTEST - length);
    packet->length = SHORTEST;
}

/* A checksum that the card finishes; its field holds the pseudo header's sum already.
 * What the card cannot do is done here. False: the field is not in the frame. */
static bool send_checksum(struct intel82599_tx *tx, struct packet *packet)
{
    struct work work;
    uint64_t more = 0;
    if (plan_checksum(packet, &work)) {
        put_context(tx, context_low(&work), context_high(&work, 0));
        more = TX_IDX | TX_TXSM;
    } else if (!packet_finish_checksum(packet)) {
        return false;
    }
    fill_up(packet);
    put_frame(tx, packet, packet->length, more);
    return true;
}

/* A super-frame by its headers, judged as packet_segment() does: what it would refuse
 * the card does not get, for the card would send something all the same. Nor does it get
 * what is inside of a tunnel, which the card cannot cut. */
static bool plan_segments(const struct packet *packet, struct wire_ip *ip,
                          struct work *work)
{
    const uint8_t *frame = packet->data;
    uint32_t length = packet->length, type = packet->gso_type & ~(uint32_t)PACKET_GSO_ECN;
    if (!wire_parse_ip(frame, length, ip) || ip->is_fragment || packet->gso_size == 0)
        return false;
    bool is_ipv4 = ip->version == 4, is_tcp = type != PACKET_GSO_UDP_L4;
    if (ip->protocol != (is_tcp ? WIRE_TCP : WIRE_UDP) ||
        (is_tcp && type != (is_ipv4 ? PACKET_GSO_TCPV4 : PACKET_GSO_TCPV6)))
        return false;
    uint32_t l4 = is_tcp ? wire_tcp_size(frame, length, ip->payload) : WIRE_UDP_SIZE;
    if (l4 == 0 || !wire_has(length, ip->payload, l4))
        return false;
    /* A checksum elsewhere: what is to be cut is inside a tunnel. */
    if (packet->flags & PACKET_CSUM_PARTIAL &&
        packet->csum_start + packet->csum_offset !=
            ip->payload + (is_tcp ? TCP_CHECKSUM : UDP_CHECKSUM))
        return false;
    /* A jumbogram (RFC 2675) */
    if (!is_ipv4 && load_be16(frame + ip->header + IPV6_PAYLOAD_LENGTH) == 0)
        return false;
    *work = (struct work){
        .mac = ip->header,
        .ip = ip->payload - ip->header,
        .l4 = l4,
        .is_ipv4 = is_ipv4,
        .is_tcp = is_tcp,
    };
    return true;
}

/* Headers of a super-frame as the card wants them (7.2.4.7): it fills in all lengths,
 * so the pseudo header's sum, which the checksum's field must hold, is without. */
static void prepare_headers(struct packet *packet, const struct wire_ip *ip,
                            const struct work *work)
{
    uint8_t *frame = packet->data, *header = frame + ip->header;
    uint32_t address_size = work->is_ipv4 ? 4 : 16;
    uint64_t sum = htobe16(ip->protocol);
    sum = checksum_add_small(sum, frame + ip->source, address_size);
    sum = checksum_add_small(sum, frame + ip->destination, address_size);
    uint16_t value = checksum_fold(sum);
    memcpy(frame + ip->payload + (work->is_tcp ? TCP_CHECKSUM : UDP_CHECKSUM), &value,
           sizeof(value));
    if (work->is_ipv4) {
        store_be16(header + IPV4_TOTAL_LENGTH, 0);
        store_be16(header + IPV4_CHECKSUM, 0);
    } else {
        store_be16(header + IPV6_PAYLOAD_LENGTH, 0);
    }
}

/* A super-frame of one segment is a frame whose lengths and checksums may be wrong: they
 * are set right here, and the card, of which nobody says what flags such a segment gets,
 * sends it as it is. False: it cannot be; the packet is still the caller's. */
static bool send_segment(struct intel82599_tx *tx, struct freelist *freelist,
                         struct packet *packet)
{
    struct packet *segment;
    if (packet_segment(freelist, packet, &segment, 1) != 1)
        return false;
    packet_free(freelist, packet);
    put_frame(tx, segment, segment->length, 0);
    return true;
}

/* A super-frame, which the card cuts up (7.2.4). */
static bool send_segments(struct intel82599_tx *tx, struct freelist *freelist,
                          struct packet *packet)
{
    struct work work;
    struct wire_ip ip;
    if (!plan_segments(packet, &ip, &work))
        return false;
    uint32_t header = ip.payload + work.l4, payload = packet->length - header;
    uint32_t mss = packet->gso_size;
    if (header + min_u32(mss, payload) > tx->max_length)
        return false;
    if (payload <= mss)
        return send_segment(tx, freelist, packet);
    if (!fits_context(&work) || (payload + mss - 1) / mss > SEGMENTS_MAX)
        return false;
    prepare_headers(packet, &ip, &work);
    put_context(tx, context_low(&work), context_high(&work, mss));
    uint64_t common = TX_DATA | TX_IFCS | TX_DEXT | TX_TSE | TX_IDX | tx->command |
                      TX_TXSM | (work.is_ipv4 ? TX_IXSM : 0) | (uint64_t)payload << 46;
    uint64_t iova = packet_iova(packet);
    uint32_t left = packet->length;
    for (; left > BUFFER_MAX; left -= BUFFER_MAX, iova += BUFFER_MAX)
        put_hole(tx, iova, common | BUFFER_MAX);
    put(tx, iova, common | left | TX_EOP, packet);
    return true;
}

/* A packet that is not simply sent as it is. False: it cannot be sent. */
static bool send_special(struct intel82599_queue *queue, struct freelist *freelist,
                         struct packet *packet)
{
    struct intel82599_tx *tx = &queue->tx;
    uint32_t length = packet->length;
    if (packet->gso_type != PACKET_GSO_NONE) {
        if (send_segments(tx, freelist, packet))
            return true;
        count(queue, INTEL82599_DROP_TX_BAD_OFFLOAD);
        return false;
    }
    if (length > tx->max_length || length == 0) {
        count(queue, INTEL82599_DROP_TX_TOO_LONG);
        return false;
    }
    if (packet->flags & PACKET_CSUM_PARTIAL) {
        if (send_checksum(tx, packet))
            return true;
        count(queue, INTEL82599_DROP_TX_BAD_OFFLOAD);
        return false;
    }
    fill_up(packet);
    put_frame(tx, packet, packet->length, 0);
    return true;
}

static uint32_t transmit(struct intel82599_queue *queue, struct freelist *freelist,
                         struct link *in)
{
    struct intel82599_tx *tx = &queue->tx;
    struct packet *burst[LINK_CAPACITY];
    uint32_t n = link_readable(in), sent = 0, dropped = 0, start = tx->next;
    /* One descriptor stays free: a ring whose tail is its head is empty to the card. */
    uint32_t end = tx->clean + tx->n - 1;
    uint64_t bytes = 0, lost = 0;
    link_peek(in, burst, n);
    for (; sent < n && tx->next != end; sent++) {
        struct packet *packet = burst[sent];
        uint32_t length = packet->length;
        if (sent + AHEAD < n)
            __builtin_prefetch(burst[sent + AHEAD]);
        if (likely(packet_is_plain(packet) &&
                   length - SHORTEST <= tx->max_length - SHORTEST)) {
            put_frame(tx, packet, length, 0);
        } else if (end - tx->next < PER_PACKET_MAX) {
            break;
        } else if (!send_special(queue, freelist, packet)) {
            packet_free(freelist, packet);
            dropped++;
            lost += length;
        }
        bytes += length;
    }
    if (sent == 0)
        return 0;
    link_consume(in, sent, bytes);
    queue->counters[INTEL82599_TX_PACKETS] += sent - dropped;
    queue->counters[INTEL82599_TX_BYTES] += bytes - lost;
    if (tx->next != start)
        give(tx->tail, tx->next, tx->n);
    return sent;
}

static uint32_t intel82599_push(struct app *app)
{
    struct intel82599_queue *queue = app->state;
    struct link *in = app->input[0];
    if (!in)
        return 0;
    if (unlikely(queue->is_gone)) {
        uint32_t n = link_discard(in, LINK_CAPACITY);
        queue->counters[INTEL82599_DROP_TX_CARD_GONE] += n;
        return n;
    }
    if (unlikely(queue->tx.n == 0))
        return 0;
    reclaim(&queue->tx, app->worker->freelist);
    return transmit(queue, app->worker->freelist, in);
}

/* ---- the rest ------------------------------------------------------------ */

void intel82599_show(const struct intel82599_queue *queue, struct app *app)
{
    memcpy(app->counters, queue->counters, sizeof(queue->counters));
    for (uint32_t i = 0; i < queue->nstatistics; i++)
        app->counters[INTEL82599_NCOUNTERS + i] =
            __atomic_load_n(&queue->statistics[i], __ATOMIC_RELAXED);
}

static void intel82599_tick(struct app *app)
{
    intel82599_show(app->state, app);
}

static uint32_t intel82599_held(const struct app *app)
{
    const struct intel82599_queue *queue = app->state;
    return queue->rx.filled + (queue->tx.next - queue->tx.clean) - queue->tx.holes;
}

/* Let the card wake us when a frame has come. The interrupt masks itself when it is sent
 * (EIAM), and what came meanwhile is seen by a last look at the ring: so no frame waits
 * for the next one. */
static int intel82599_arm(struct app *app, struct wake *wake)
{
    struct intel82599_queue *queue = app->state;
    uint64_t ignored;
    /* Without descriptors the card has nothing to wake us for. */
    if (queue->wake_fd < 0 || queue->is_gone || queue->rx.filled < queue->rx.n)
        return ARM_NEVER;
    ssize_t taken = read(queue->wake_fd, &ignored, sizeof(ignored));
    (void)taken;
    *queue->unmask = queue->unmask_bit;
    if (queue->rx.n && count_done(&queue->rx, 1))
        return ARM_BUSY;
    *wake = (struct wake){.fd = queue->wake_fd, .events = POLLIN};
    return ARM_READY;
}

void intel82599_put_context(struct intel82599_queue *queue, uint64_t low, uint64_t high)
{
    put_hole(&queue->tx, low, high);
    give(queue->tx.tail, queue->tx.next, queue->tx.n);
}

uint32_t intel82599_release(struct intel82599_queue *queue, struct pool *pool,
                            uint32_t head)
{
    struct intel82599_rx *rx = &queue->rx;
    struct intel82599_tx *tx = &queue->tx;
    uint32_t lost = rx->filled == rx->n ? count_done(rx, rx->n) : 0;
    pool_return(pool, rx->packets, rx->filled);
    /* Descriptors from the head to the tail have not been sent. */
    uint32_t waiting = (tx->next - head) & (tx->n - 1);
    for (; tx->clean != tx->next; tx->clean++) {
        struct packet **packet = &tx->packets[tx->clean & (tx->n - 1)];
        if (*packet) {
            pool_return(pool, packet, 1);
            lost += tx->next - tx->clean <= waiting;
        }
    }
    rx->filled = rx->n = tx->n = tx->holes = 0;
    return lost;
}

const struct app_ops intel82599_ops = {
    .pull = intel82599_pull,
    .push = intel82599_push,
    .tick = intel82599_tick,
    .arm = intel82599_arm,
    .held = intel82599_held,
};
