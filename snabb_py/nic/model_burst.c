/* Bursts of plain frames: what model_receive.c and model_transmit.c do frame by frame,
 * done for many at once. With the same effect: what does not depend on the frame is
 * decided once, and the first frame that is not plain ends the burst before anything has
 * happened to it. Then it takes the long way.
 *
 * The host may run on another CPU, and a cache line that both write to takes longer to
 * change sides than all that is done to a frame. So descriptors are looked at in one go
 * and written in another, and what will be needed is asked for ahead.
 */
#include "snabb_py/engine/offload.h"
#include "snabb_py/engine/wire.h"
#include "snabb_py/nic/model82599.h"
#include "snabb_py/nic/model_facts.h"

_Static_assert(MODEL_BURST <= 64, "a bit for each frame");

/* Copy n bytes and not one more, n >= LEAST_COPY: the last vector overlaps the one
 * before it. */
enum { LEAST_COPY = 32 };

static inline void copy_exactly(uint8_t *to, const uint8_t *from, uint32_t n)
{
    if (n < 64) {
        memcpy(to, from, 32);
        memcpy(to + n - 32, from + n - 32, 32);
        return;
    }
    for (uint32_t i = 0; i + 64 <= n; i += 64)
        memcpy(to + i, from + i, 64);
    if (n % 64)
        memcpy(to + n - 64, from + n - 64, 64);
}

/* As tally_frame() does, but for the address. The loop becomes vectors. */
static inline uint64_t tally_lengths(struct model_tally *tally, const uint32_t *lengths,
                                     uint32_t n)
{
    uint32_t bytes = 0, from_65 = 0, from_128 = 0, from_256 = 0, from_512 = 0,
             from_1024 = 0;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t length = lengths[i] + MODEL_FCS;
        bytes += length;
        from_65 += length > 64;
        from_128 += length > 127;
        from_256 += length > 255;
        from_512 += length > 511;
        from_1024 += length > 1023;
    }
    tally->packets += n;
    tally->bytes += bytes;
    tally->by_size[0] += n - from_65;
    tally->by_size[1] += from_65 - from_128;
    tally->by_size[2] += from_128 - from_256;
    tally->by_size[3] += from_256 - from_512;
    tally->by_size[4] += from_512 - from_1024;
    tally->by_size[5] += from_1024;
    return bytes - n * MODEL_FCS;
}

static inline void tally_address(struct model_tally *tally, const uint8_t *frame)
{
    if (unlikely(frame[0] & 1))
        *(is_broadcast(frame) ? &tally->broadcast : &tally->multicast) += 1;
}

/* A ring of n descriptors that can be read and written in one piece. */
static struct model_descriptor *find_ring(struct model_card *card, uint64_t iova,
                                          uint32_t n)
{
    uint8_t *at = n ? dma_piece(card, iova, 16 * (uint64_t)n,
                                MODEL_DMA_READ | MODEL_DMA_WRITE)
                    : NULL;
    /* Its address for the card is aligned, but what is mapped there need not be. */
    return (uintptr_t)at % sizeof(struct model_descriptor) ? NULL
                                                           : (void *)at;
}

/* ---- receive ------------------------------------------------------------- */

/* What is the same for all frames. */
struct constants {
    uint32_t common; /* how what read_common() knows begins: EtherType, version, length */
    uint32_t range;  /* of lengths, from MODEL_MIN_FRAME on */
    uint16_t tag;    /* EtherType, as it lies in memory */
    bool shows_hash; /* in write-backs */
};

/* The frames of a burst, step by step. */
struct arrivals {
    uint32_t lengths[MODEL_BURST];
    struct model_descriptor words[MODEL_BURST]; /* as they are written back */
    struct model_descriptor *to[MODEL_BURST];
    uint8_t *buffers[MODEL_BURST];
    uint8_t queues[MODEL_BURST]; /* with RSS alone */
    uint8_t addresses;           /* their first bytes, or'ed */
};

/* See how many descriptors a queue has; none when it takes the long way. */
static __attribute__((noinline)) void look_at_queue(struct model_card *card,
                                                    uint32_t queue)
{
    struct model_rx_queue *rx = &card->rx[queue];
    if (!rx->known)
        receive_learn(card, queue, rx);
    if (rx->mapping != card->mapping) {
        rx->ring_memory = find_ring(card, rx->ring, rx->n);
        rx->mapping = card->mapping;
    }
    uint32_t room = 0;
    if (has_bit(card->rx_enabled, queue) && rx->is_advanced && rx->size &&
        rx->ring_memory)
        room = receive_available(card, queue, rx);
    rx->limit = room ? (rx->head + room) % rx->n : rx->head;
    rx->step = card->step;
}

static inline uint64_t load_word(const uint8_t *p)
{
    uint64_t word;
    memcpy(&word, p, sizeof(word));
    return word;
}

static inline uint32_t load_half(const uint8_t *p)
{
    uint32_t word;
    memcpy(&word, p, sizeof(word));
    return word;
}

/* The IP packet of a frame, up to `end`, as a sum of 16-bit words, or what leaves the same
 * rest. What ends within the first cache line is a vector. */
static inline __attribute__((always_inline)) uint64_t sum_of(const uint8_t *frame,
                                                             uint32_t end)
{
    typedef uint32_t vector __attribute__((vector_size(64)));
    typedef uint32_t half __attribute__((vector_size(32)));
    typedef uint32_t quarter __attribute__((vector_size(16)));
    static const uint8_t before[2 * sizeof(vector)] = {[0 ... sizeof(vector) - 1] = 0xff};
    /* Header and EtherType: 14 bytes. */
    static const vector behind = {0, 0, 0, 0xffff0000, -1u, -1u, -1u, -1u,
                                  -1u, -1u, -1u, -1u, -1u, -1u, -1u, -1u};
    vector words, mask;
    half halves[2];
    quarter quarters[2];
    uint64_t sums[2];
    if (unlikely(end > sizeof(vector)))
        return checksum_add(0, frame + WIRE_ETHERNET_SIZE, end - WIRE_ETHERNET_SIZE);
    memcpy(&words, frame, sizeof(words));
    memcpy(&mask, before + sizeof(mask) - end, sizeof(mask));
    words &= mask & behind;
    words = (words & 0xffff) + (words >> 16);
    memcpy(halves, &words, sizeof(halves));
    halves[0] += halves[1];
    memcpy(quarters, halves, sizeof(quarters));
    quarters[0] += quarters[1];
    memcpy(sums, quarters, sizeof(sums));
    return sums[0] + sums[1];
}

/* By 65535, with its inverse modulo 2^64. Of two remainders that are compared with 0 the
 * compiler would make two divisions. */
static inline bool is_divisible(uint64_t sum)
{
    return sum * 0xfffefffefffeffff <= UINT64_MAX / 0xffff;
}

/* Read the commonest frames: IPv4 without options that is all of a TCP segment or UDP
 * datagram, with right checksums. False: it is none of these. */
static inline __attribute__((always_inline)) bool
read_common(const struct model_card *card, const struct constants *constants,
            bool has_rss, const uint8_t *frame, uint32_t length, struct facts *facts)
{
    const uint8_t *ip = frame + WIRE_ETHERNET_SIZE, *payload = ip + WIRE_IPV4_SIZE;
    const uint32_t but_tos = 0xffffff, fragment = htobe32(0x3fff);
    if (unlikely((load_half(frame + ETHERNET_TYPE) & but_tos) != constants->common ||
                 load_half(ip + IPV4_ID) & fragment))
        return false;
    uint32_t protocol = ip[IPV4_PROTOCOL], size = load_be16(ip + IPV4_TOTAL_LENGTH);
    bool is_udp = protocol == WIRE_UDP;
    uint32_t least = WIRE_IPV4_SIZE + (is_udp ? WIRE_UDP_SIZE : WIRE_TCP_SIZE);
    if (unlikely((!is_udp && protocol != WIRE_TCP) ||
                 size > length - WIRE_ETHERNET_SIZE || size < least ||
                 (is_udp && load_be16(payload + UDP_CHECKSUM) == 0)))
        return false;
    /* Checksums are right when 65535 divides the sums. It divides 2^64 - 1 as well: a
     * carry counts as one. */
    uint64_t first = load_word(ip), second = load_word(ip + 8);
    uint64_t destination = load_half(ip + IPV4_DESTINATION);
    uint64_t addresses = (second >> 32) + destination, header = first + second;
    header += header < first;
    header += destination;
    header += header < destination;
    /* The header is in this sum too, but is nothing if it is right. */
    uint64_t all = sum_of(frame, WIRE_ETHERNET_SIZE + size) + addresses + (protocol << 8) +
                   htobe16((uint16_t)(size - WIRE_IPV4_SIZE));
    if (unlikely(!is_divisible(header) || !is_divisible(all)))
        return false;
    facts->type = TYPE_IPV4 | TYPE_TCP << is_udp;
    facts->status = STATUS_IPCS | STATUS_L4I | (is_udp ? STATUS_UDPCS : 0);
    if (has_rss) {
        facts->hash = toeplitz(card, 0, ip + IPV4_SOURCE, 12);
        facts->rss_type = is_udp ? HASH_UDP4 : HASH_TCP4;
    }
    return true;
}

_Static_assert(TYPE_UDP == TYPE_TCP << 1, "TYPE_TCP << is_udp");

/* Read a frame. False: it is not plain. */
static inline __attribute__((always_inline)) bool
accept(struct model_card *card, const struct constants *constants, bool has_rss,
       const struct packet *packet, struct arrivals *burst, uint32_t i)
{
    const uint8_t *frame = packet->data;
    uint32_t length = packet->length;
    struct facts facts = {0};
    if (unlikely(!packet_is_plain(packet) ||
                 length - MODEL_MIN_FRAME > constants->range))
        return false;
    if (unlikely(!read_common(card, constants, has_rss, frame, length, &facts))) {
        uint16_t type;
        memcpy(&type, frame + ETHERNET_TYPE, sizeof(type));
        if (type == constants->tag || type == htobe16(MODEL_MAC_CONTROL))
            return false;
        facts = facts_of(card, frame, length);
        if (facts.nwrong)
            return false;
    }
    const struct model_filter_entry *filter = receive_filter(card, frame, -1);
    if (unlikely(!filter->pools))
        return false;
    uint64_t low = facts.type;
    if (has_rss) {
        burst->queues[i] = (uint8_t)(facts.rss_type ? facts_queue(card, facts.hash) : 0);
        if (constants->shows_hash && facts.rss_type)
            low |= facts.rss_type | (uint64_t)facts.hash << 32;
    }
    burst->lengths[i] = length;
    burst->words[i].low = low;
    burst->words[i].high = (uint64_t)length << 32 | filter->status | facts.status |
                           STATUS_DD | STATUS_EOP;
    burst->addresses |= frame[0];
    return true;
}

/* Give a descriptor to each of n frames of queue 0, which has them. */
static inline void assign_first(struct model_card *card, struct arrivals *burst,
                                uint32_t n)
{
    struct model_rx_queue *rx = &card->rx[0];
    uint32_t head = rx->head;
    for (uint32_t i = 0; i < n; i++) {
        burst->to[i] = &rx->ring_memory[head];
        prefetch_to_write(burst->to[i]);
        head = head + 1 == rx->n ? 0 : head + 1;
    }
    rx->head = head;
}

/* The same on the queues that RSS has chosen. Returns how many frames come before the
 * first that finds no descriptor. */
static inline uint32_t assign_each(struct model_card *card, struct arrivals *burst,
                                   uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        struct model_rx_queue *rx = &card->rx[burst->queues[i]];
        if (unlikely(rx->step != card->step))
            look_at_queue(card, burst->queues[i]);
        if (unlikely(rx->head == rx->limit || burst->lengths[i] > rx->size))
            return i;
        burst->to[i] = &rx->ring_memory[rx->head];
        prefetch_to_write(burst->to[i]);
        rx->head = rx->head + 1 == rx->n ? 0 : rx->head + 1;
        rx->packets++;
        rx->bytes += burst->lengths[i];
        card->rx_causes[0] |= 1ull << burst->queues[i];
    }
    return n;
}

/* Copy n frames to where their descriptors say, then hand the descriptors over: whoever
 * sees DD sees the rest. */
static inline void deliver_burst(struct model_card *card, struct arrivals *burst,
                                 struct packet *const *packets, uint32_t n)
{
    struct model_window window = card->windows[1];
    for (uint32_t i = 0; i < n; i++) {
        uint32_t length = burst->lengths[i];
        /* bit 0 of the address is NSE */
        uint64_t iova =
            __atomic_load_n(&burst->to[i]->low, __ATOMIC_RELAXED) & ~(uint64_t)1;
        uint8_t *buffer = dma_through(card, &window, iova, length, MODEL_DMA_WRITE);
        if (unlikely(!buffer)) /* piece by piece, what there is of it */
            dma_write(card, iova, packets[i]->data, length);
        prefetch_to_write(buffer);
        burst->buffers[i] = buffer;
    }
    for (uint32_t i = 0; i < n; i++)
        if (likely(burst->buffers[i]))
            copy_exactly(burst->buffers[i], packets[i]->data, burst->lengths[i]);
    for (uint32_t i = 0; i < n; i++) {
        struct model_descriptor *to = burst->to[i];
        __atomic_store_n(&to->low, burst->words[i].low, __ATOMIC_RELAXED);
        __atomic_store_n(&to->high, burst->words[i].high, __ATOMIC_RELEASE);
    }
}

/* Frames for one or for all, counted by who they are for. */
static inline void tally_groups(struct model_tally *tally, const struct arrivals *burst,
                                struct packet *const *packets, uint32_t n)
{
    for (uint32_t i = 0; unlikely(burst->addresses & 1) && i < n; i++)
        tally_address(tally, packets[i]->data);
}

/* Up to MODEL_BURST frames; compiled twice, for one queue and for many. */
static inline __attribute__((always_inline)) uint32_t
receive_some(struct model_card *card, const struct constants *constants, bool has_rss,
             struct freelist *freelist, struct packet **packets, uint32_t n,
             struct model_tally *received)
{
    enum { AHEAD = 4 };
    struct arrivals burst;
    struct model_rx_queue *first = &card->rx[0];
    uint32_t most = min_u32(n, MODEL_BURST), some = 0;
    if (!has_rss)
        most = min_u32(most, first->limit - first->head +
                                 (first->limit < first->head ? first->n : 0));
    burst.addresses = 0;
    for (; some < most; some++) {
        __builtin_prefetch(packets[min_u32(some + AHEAD, n - 1)]->data);
        if (unlikely(!accept(card, constants, has_rss, packets[some], &burst, some)))
            break;
    }
    if (has_rss)
        some = assign_each(card, &burst, some);
    else
        assign_first(card, &burst, some);
    deliver_burst(card, &burst, packets, some);
    tally_groups(received, &burst, packets, some);
    uint64_t bytes = tally_lengths(received, burst.lengths, some);
    received->all_packets += some;
    received->all_bytes += bytes + some * MODEL_FCS;
    card->counters[MODEL_RX_PACKETS] += some;
    card->counters[MODEL_RX_BYTES] += bytes;
    if (!has_rss && some) {
        first->packets += some;
        first->bytes += bytes;
        set_bit(card->rx_causes, 0, true);
    }
    packet_free_burst(freelist, packets, some);
    return some;
}

HOT uint32_t burst_receive(struct model_card *card, struct freelist *freelist,
                           struct packet **packets, uint32_t n,
                           struct model_tally *received)
{
    const uint32_t udp_and_tcp = MRQC_TCP4 | MRQC_UDP4;
    const uint16_t ipv4 = htobe16(WIRE_IPV4);
    bool has_rss = facts_has_rss(card);
    uint32_t longest = receive_longest(card), done = 0, some;
    struct constants constants = {
        .common = htobe32(WIRE_IPV4 << 16 | 0x45 << 8),
        .tag = htobe16((uint16_t)get(card, REG_VLNCTRL)),
        .shows_hash = get(card, REG_RXCSUM) & RXCSUM_PCSD,
    };
    /* What is hashed in another way, or called a tag, is not common. */
    if ((has_rss && (get(card, REG_MRQC) & udp_and_tcp) != udp_and_tcp) ||
        constants.tag == ipv4)
        constants.common = UINT32_MAX;
    if (has_rss && card->rss_stale)
        facts_rebuild_rss(card);
    if (!has_rss) {
        if (card->rx[0].step != card->step)
            look_at_queue(card, 0);
        longest = min_u32(longest, card->rx[0].size);
    }
    if (longest < MODEL_MIN_FRAME)
        return 0;
    constants.range = longest - MODEL_MIN_FRAME;
    do {
        some = has_rss ? receive_some(card, &constants, true, freelist, packets + done,
                                      n - done, received)
                       : receive_some(card, &constants, false, freelist, packets + done,
                                      n - done, received);
        done += some;
    } while (some == MODEL_BURST && done < n);
    return done;
}

/* ---- transmit ------------------------------------------------------------ */

/* Look at the descriptors from the head on: as many as are plain, lie where one piece of
 * memory is, and are sent before the wire is busy. */
static inline uint32_t plan_burst(struct model_card *card, uint32_t queue, uint32_t n,
                                  uint32_t tail, uint32_t most, const uint8_t **frames,
                                  uint32_t *lengths, uint64_t *reports)
{
    struct model_tx_queue *tx = &card->tx[queue];
    struct model_window window = card->windows[0];
    uint64_t now = card->now * MODEL_BITS_PER_NS;
    uint64_t earliest = card->last * MODEL_BITS_PER_NS;
    uint64_t wire_free = card->wire_free;
    uint32_t least = transmit_least(card), at = tx->head, some = 0;
    for (; some < most && at != tail && wire_free <= now; some++) {
        const struct model_descriptor *descriptor = &tx->ring_memory[at];
        uint64_t low = __atomic_load_n(&descriptor->low, __ATOMIC_RELAXED);
        uint64_t high = __atomic_load_n(&descriptor->high, __ATOMIC_RELAXED);
        uint32_t length = high & 0xffff;
        if (unlikely(!tx_is_plain(high) || length < LEAST_COPY ||
                     length > PACKET_SMALL_SIZE))
            break;
        const uint8_t *frame = dma_through(card, &window, low, length, MODEL_DMA_READ);
        if (unlikely(!frame))
            break;
        __builtin_prefetch(frame);
        frames[some] = frame;
        lengths[some] = length;
        *reports |= (high / TX_RS & 1) << some;
        if (!card->unpaced)
            wire_free = (wire_free > earliest ? wire_free : earliest) +
                        model_wire_bits(length > least ? length : least);
        at = at + 1 == n ? 0 : at + 1;
    }
    card->wire_free = wire_free;
    return some;
}

HOT uint32_t burst_transmit(struct model_card *card, struct link *out, uint32_t queue,
                            uint32_t n, uint32_t tail, uint32_t most,
                            struct model_tally *sent)
{
    struct model_tx_queue *tx = &card->tx[queue];
    const uint8_t *frames[MODEL_BURST];
    uint32_t lengths[MODEL_BURST];
    uint64_t reports = 0;
    if (unlikely(tx->mapping != card->mapping)) {
        tx->ring_memory = find_ring(card, transmit_ring(card, queue), n);
        tx->mapping = card->mapping;
    }
    if (unlikely(!tx->ring_memory))
        return 0;
    most = min_u32(min_u32(most, MODEL_BURST), link_writable(out));
    most = freelist_reserve(out->freelist, PACKET_SMALL, most);
    most = plan_burst(card, queue, n, tail, most, frames, lengths, &reports);
    if (unlikely(most == 0))
        return 0;
    struct packet **packets = freelist_take(out->freelist, PACKET_SMALL, most);
    uint32_t least = transmit_least(card);
    for (uint32_t i = 0; i < most; i++) {
        struct packet *packet = packet_fresh(packets[i], PACKET_SMALL, lengths[i]);
        copy_exactly(packet->data, frames[i], lengths[i]);
        if (unlikely(lengths[i] < least)) {
            fill_up(packet);
            lengths[i] = least;
        }
        tally_address(sent, packet->data);
    }
    for (; reports; reports &= reports - 1) {
        uint32_t at = tx->head + (uint32_t)__builtin_ctzll(reports);
        at = at >= n ? at - n : at;
        transmit_complete(card, queue, transmit_ring(card, queue) + 16 * (uint64_t)at,
                          tx->ring_memory[at].high, at + 1 == n ? 0 : at + 1);
    }
    tx->head = tx->head + most >= n ? tx->head + most - n : tx->head + most;
    uint64_t bytes = tally_lengths(sent, lengths, most);
    transmit_settle(card, queue, most, bytes);
    card->counters[MODEL_TX_PACKETS] += most;
    card->counters[MODEL_TX_BYTES] += bytes;
    link_transmit_known(out, packets, most, bytes);
    return most;
}
