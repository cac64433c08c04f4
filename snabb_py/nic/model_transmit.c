/* Transmit: descriptors, offloads, the local switch, pacing (data sheet 7.2, 7.10.3.4).
 *
 * A queue's frames are gathered from its descriptors, finished as the descriptors ask,
 * and go to the wire at its speed, to pools of this card, or to both.
 */
#include "snabb_py/engine/offload.h"
#include "snabb_py/engine/wire.h"
#include "snabb_py/nic/model82599.h"

enum {
    DMATXCTL_TE = 1 << 0,
    HLREG0_TXPADEN = 1 << 10,
    HLREG0_LPBK = 1 << 15,
    MTQC_VT_ENA = 1 << 1,
    PFDTXGSWC_LBE = 1 << 0,
    VLANA_DEFAULT = 1 << 30,
    VLANA_NEVER = 1u << 31,
    TDWBAL_ENABLE = 1 << 0,
    RATE_ENABLE = 1u << 31,
    SECTXCTRL_TX_DIS = 1 << 1,
    /* 8.2.3.8.8: frames under 17 bytes hang the transmitter; here they are refused */
    SHORTEST = 17,
    MANY = 32,  /* descriptors of a queue's turn, */
    MOST = 1024 /* and of a step */
};

/* A frame as its first data descriptor describes it. */
struct order {
    uint64_t high; /* second word of the first descriptor */
    const struct model_tx_context *context;
    uint32_t length; /* of all descriptors */
    uint32_t ndescriptors;
    bool is_legacy;
};

static uint32_t field(uint64_t word, uint32_t shift, uint32_t bits)
{
    return (uint32_t)(word >> shift) & ((1u << bits) - 1);
}

/* The pool of a queue; MODEL_NPOOLS without virtualisation (MTQC, 8.2.3.9.16). */
static uint32_t pool_of(const struct model_card *card, uint32_t queue)
{
    uint32_t mtqc = get(card, REG_MTQC);
    if (!(mtqc & MTQC_VT_ENA))
        return MODEL_NPOOLS;
    return (mtqc >> 2 & 3) == 2 ? queue / 4 : queue / 2;
}

/* ---- where a frame goes -------------------------------------------------- */

/* The wire is busy for as long as the frame takes on it, and the queue for as long as
 * its rate limiter says (7.7.2.1.1: a factor with 14 bits behind the point). What is
 * sent in this step may have begun any time since the last one. */
static void pass_time(struct model_card *card, struct model_tx_queue *tx, uint32_t length)
{
    uint64_t earliest = card->last * MODEL_BITS_PER_NS;
    if (unlikely(card->unpaced))
        return;
    uint64_t bits = model_wire_bits(length);
    card->wire_free = (card->wire_free > earliest ? card->wire_free : earliest) + bits;
    if (tx->rate & RATE_ENABLE)
        tx->next = (tx->next > earliest ? tx->next : earliest) +
                   (bits * (tx->rate & 0xffffff) >> 14);
}

static bool is_wire_free(const struct model_card *card, const struct model_tx_queue *tx)
{
    uint64_t now = card->now * MODEL_BITS_PER_NS;
    return card->wire_free <= now && card->paused_until <= now &&
           (!(tx->rate & RATE_ENABLE) || tx->next <= now);
}

/* Pools of this card that a frame goes to, and whether the wire gets it: a unicast
 * address of one of ours does not leave (7.10.3.4). A pool hears itself only where
 * PFVMTXSW lets it. */
static uint64_t local_pools(struct model_card *card, const struct packet *packet,
                            uint32_t pool, bool *wire)
{
    const uint8_t *frame = packet->data;
    *wire = true;
    if (pool >= MODEL_NPOOLS)
        return 0;
    int32_t vlan = receive_tag(card, frame, packet->length);
    uint64_t pools = 0;
    if (get(card, REG_PFDTXGSWC) & PFDTXGSWC_LBE) {
        pools = receive_pools(card, frame, vlan);
        if (!(frame[0] & 1)) {
            pools &= receive_owners(card, frame);
            *wire = !pools;
        }
        if (!(get(card, REG_PFVMTXSW + pool / 32 * 4) >> pool % 32 & 1))
            pools &= ~(1ull << pool);
    }
    return pools | receive_mirrors(card, pools, vlan, *wire ? MIRROR_UPLINK_OUT : 0);
}

/* Source address and VLAN are the pool's own (PFVFSPOOF, 7.10.3.9.2). */
static bool is_spoofed(const struct model_card *card, const struct packet *packet,
                       uint32_t pool)
{
    if (pool >= MODEL_NPOOLS)
        return false;
    uint32_t checks = get(card, REG_PFVFSPOOF + pool / 8 * 4) >> pool % 8;
    if (checks & 1 && !receive_owns(card, packet->data + 6, pool))
        return true;
    if (checks & 0x100) {
        int32_t vlan = receive_tag(card, packet->data, packet->length);
        if (vlan >= 0 &&
            !(receive_vlan_pools(card, (uint32_t)vlan & 0xfff) >> pool & 1))
            return true;
    }
    return false;
}

/* Insert a tag behind the addresses. False: there is no room in front. */
static bool insert_tag(const struct model_card *card, struct packet *packet, uint16_t tag)
{
    if (!packet_prepend(packet, WIRE_TAG_SIZE))
        return false;
    memmove(packet->data, packet->data + WIRE_TAG_SIZE, 12);
    store_be16(packet->data + 12, (uint16_t)(get(card, REG_DMATXCTL) >> 16));
    store_be16(packet->data + 14, tag);
    return true;
}

/* The tag that a frame is to get, -1: none. A pool's own rule comes first (PFVMVIR). */
static int32_t tag_of(const struct model_card *card, const struct order *order,
                      uint32_t pool)
{
    uint32_t rule = pool < MODEL_NPOOLS ? get(card, REG_PFVMVIR + 4 * pool) : 0;
    if (rule & VLANA_DEFAULT)
        return rule & 0xffff;
    if (rule & VLANA_NEVER || !(order->high & TX_VLE))
        return -1;
    return order->is_legacy ? (int32_t)field(order->high, 48, 16)
                            : (int32_t)field(order->context->low, 16, 16);
}

uint32_t transmit_least(const struct model_card *card)
{
    return get(card, REG_HLREG0) & HLREG0_TXPADEN ? MODEL_MIN_FRAME : 0;
}

void transmit_settle(struct model_card *card, uint32_t queue, uint32_t packets,
                     uint64_t bytes)
{
    uint32_t slot = get(card, REG_TQSM + queue / 4 * 4) >> queue % 4 * 8 & 0xf;
    stat_add(card, REG_QPTC + 4 * slot, packets);
    stat_add_pair(card, REG_QBTC_L + 8 * slot, bytes);
    stat_add(card, REG_TXDGPC, packets);
    stat_add_pair(card, REG_TXDGBCL, bytes);
}

bool transmit_is_plain(const struct model_card *card, uint32_t queue,
                       const struct link *out)
{
    return out && model_link_is_up(card) && !(get(card, REG_HLREG0) & HLREG0_LPBK) &&
           pool_of(card, queue) >= MODEL_NPOOLS &&
           !(card->tx[queue].rate & RATE_ENABLE) && !card->one_by_one;
}

/* One finished frame; the packet is gone afterwards. */
static void emit(struct model_card *card, struct freelist *freelist, struct link *out,
                 uint32_t queue, const struct order *order, struct packet *packet,
                 struct model_tally *sent)
{
    uint32_t pool = pool_of(card, queue);
    int32_t tag = tag_of(card, order, pool);
    if (unlikely(tag >= 0) && !insert_tag(card, packet, (uint16_t)tag)) {
        count(card, MODEL_DROP_TX_BAD_LENGTH);
        packet_free(freelist, packet);
        return;
    }
    if (transmit_least(card))
        fill_up(packet);
    transmit_settle(card, queue, 1, packet->length);
    if (unlikely(is_spoofed(card, packet, pool))) {
        stat_add(card, REG_SSVPC, 1);
        count(card, MODEL_DROP_TX_SPOOFED);
        packet_free(freelist, packet);
        return;
    }
    bool wire;
    uint64_t local = local_pools(card, packet, pool, &wire);
    if (unlikely(get(card, REG_HLREG0) & HLREG0_LPBK)) {
        struct model_tally received = {0};
        tally_frame(sent, packet->data, packet->length);
        receive_frame(card, freelist, packet, &received);
        receive_count(card, &received);
        return;
    }
    if (unlikely(local)) {
        struct packet *copy = packet_clone(freelist, packet);
        if (copy)
            receive_switched(card, freelist, copy, local);
        else
            count(card, MODEL_DROP_TX_NO_PACKET);
    }
    if (likely(wire)) {
        pass_time(card, &card->tx[queue], packet->length);
        if (unlikely(!model_link_is_up(card)) || !out) {
            count(card, MODEL_DROP_TX_LINK_DOWN);
            packet_free(freelist, packet);
            return;
        }
        tally_frame(sent, packet->data, packet->length);
        count(card, MODEL_TX_PACKETS);
        card->counters[MODEL_TX_BYTES] += packet->length;
        link_transmit(out, packet);
    } else {
        packet_free(freelist, packet);
    }
}

/* ---- offloads ------------------------------------------------------------ */

static void store_checksum(uint8_t *at, uint64_t sum)
{
    uint16_t value = (uint16_t)~checksum_fold(sum);
    memcpy(at, &value, sizeof(value));
}

/* Headers as a context gives them (7.2.3.2.3). */
struct shape {
    uint32_t ip;      /* offset */
    uint32_t l4;      /* offset */
    uint32_t l4_size; /* TSO */
    uint32_t protocol; /* L4T: 0 UDP, 1 TCP, 2 SCTP */
    bool is_ipv4;
    bool ip_checksum; /* IXSM */
    bool l4_checksum; /* TXSM */
};

static struct shape shape_of(const struct order *order)
{
    const struct model_tx_context *context = order->context;
    uint32_t mac = field(context->low, 9, 7);
    return (struct shape){
        .ip = mac,
        .l4 = mac + field(context->low, 0, 9),
        .l4_size = field(context->high, 40, 8),
        .protocol = field(context->high, 11, 2),
        .is_ipv4 = field(context->high, 10, 1),
        .ip_checksum = field(order->high, 40, 1),
        .l4_checksum = field(order->high, 41, 1),
    };
}

/* Checksums of a frame, TSO segments too. The L4 field holds the pseudo header's sum;
 * `missing`: what of it is left to add. False: it lies outside of the frame. */
static bool fill_checksums(struct packet *packet, const struct shape *shape,
                           uint32_t missing)
{
    static const uint8_t offsets[4] = {UDP_CHECKSUM, TCP_CHECKSUM, 8, 0};
    uint8_t *frame = packet->data;
    if (shape->ip_checksum) {
        uint32_t n = shape->l4 - shape->ip;
        if (n < WIRE_IPV4_SIZE || shape->l4 > packet->length)
            return false;
        memset(frame + shape->ip + IPV4_CHECKSUM, 0, 2);
        store_checksum(frame + shape->ip + IPV4_CHECKSUM,
                       checksum_add(0, frame + shape->ip, n));
    }
    if (!shape->l4_checksum)
        return true;
    uint32_t at = shape->l4 + offsets[shape->protocol];
    uint32_t size = shape->protocol == 2 ? 4 : 2;
    if (shape->protocol == 3 || !wire_has(packet->length, at, size))
        return false;
    uint32_t n = packet->length - shape->l4;
    if (shape->protocol == 2) {
        memset(frame + at, 0, 4);
        /* CRC-32c (RFC 9260, appendix A) */
        uint32_t crc = crc32_of(frame + shape->l4, n, 0x82f63b78);
        memcpy(frame + at, &crc, sizeof(crc));
        return true;
    }
    uint64_t sum = checksum_add(htobe16((uint16_t)missing), frame + shape->l4, n);
    store_checksum(frame + at, sum);
    if (shape->protocol == 0 && load_be16(frame + at) == 0)
        store_be16(frame + at, 0xffff); /* RFC 768: 0 says that there is none */
    return true;
}

/* Legacy: the sum from CSS on is put at CSO (7.2.3.2.2). */
static bool fill_legacy_checksum(struct packet *packet, uint64_t high)
{
    uint32_t offset = field(high, 16, 8), start = field(high, 40, 8);
    if (start >= packet->length || !wire_has(packet->length, offset, 2))
        return false;
    store_checksum(packet->data + offset, checksum_add(0, packet->data + start,
                                                       packet->length - start));
    return true;
}

/* Lengths, identification, sequence number and flags of one segment (7.2.4.7). */
static void edit_segment(struct model_card *card, uint8_t *frame,
                         const struct shape *shape, uint32_t number, uint32_t mss,
                         uint32_t n, bool is_last)
{
    uint32_t size = shape->l4 - shape->ip + shape->l4_size + n;
    if (shape->is_ipv4) {
        uint8_t *id = frame + shape->ip + IPV4_ID;
        store_be16(frame + shape->ip + IPV4_TOTAL_LENGTH, (uint16_t)size);
        store_be16(id, (uint16_t)(load_be16(id) + number));
    } else {
        store_be16(frame + shape->ip + IPV6_PAYLOAD_LENGTH,
                   (uint16_t)(size - WIRE_IPV6_SIZE));
    }
    if (shape->protocol == 0) {
        store_be16(frame + shape->l4 + UDP_LENGTH, (uint16_t)(shape->l4_size + n));
        return;
    }
    uint8_t *sequence = frame + shape->l4 + TCP_SEQUENCE;
    store_be32(sequence, load_be32(sequence) + number * mss);
    uint32_t first_middle = get(card, REG_DTXTCPFLGL);
    uint32_t keep = UINT32_MAX;
    if (is_last && number > 0)
        keep = get(card, REG_DTXTCPFLGH);
    else if (!is_last)
        keep = number == 0 ? first_middle : first_middle >> 16;
    uint8_t *flags = frame + shape->l4 + TCP_DATA_OFFSET;
    store_be16(flags, load_be16(flags) & (uint16_t)(0xf000 | (keep & 0xfff)));
}

/* Cut what lies in the scratch memory into segments. */
static void segment(struct model_card *card, struct freelist *freelist, struct link *out,
                    uint32_t queue, const struct order *order, struct model_tally *sent)
{
    struct shape shape = shape_of(order);
    uint32_t mss = field(order->context->high, 48, 16);
    uint32_t header = shape.l4 + shape.l4_size;
    uint32_t least = shape.protocol == 1 ? WIRE_TCP_SIZE : WIRE_UDP_SIZE;
    uint32_t ip_least = shape.is_ipv4 ? WIRE_IPV4_SIZE : WIRE_IPV6_SIZE;
    if (mss == 0 || shape.protocol > 1 || shape.l4_size < least ||
        shape.ip < WIRE_ETHERNET_SIZE || shape.l4 - shape.ip < ip_least ||
        header >= order->length || header + mss > MODEL_FRAME_MAX - MODEL_FCS) {
        count(card, MODEL_DROP_TX_BAD_DESCRIPTOR);
        return;
    }
    uint32_t payload = order->length - header, number = 0;
    shape.l4_checksum = true;
    if ((payload + mss - 1) / mss > SEGMENTS_MAX) {
        count(card, MODEL_DROP_TX_BAD_DESCRIPTOR);
        return;
    }
    for (uint32_t at = 0; at < payload; at += mss, number++) {
        uint32_t n = min_u32(mss, payload - at);
        struct packet *packet = packet_alloc(freelist, header + n);
        if (unlikely(!packet)) {
            count(card, MODEL_DROP_TX_NO_PACKET);
            continue;
        }
        memcpy(packet->data, card->scratch, header);
        memcpy(packet->data + header, card->scratch + header + at, n);
        edit_segment(card, packet->data, &shape, number, mss, n, at + n == payload);
        if (fill_checksums(packet, &shape, shape.l4_size + n)) {
            emit(card, freelist, out, queue, order, packet, sent);
        } else {
            count(card, MODEL_DROP_TX_BAD_DESCRIPTOR);
            packet_free(freelist, packet);
        }
    }
}

/* ---- descriptors --------------------------------------------------------- */

uint64_t transmit_ring(const struct model_card *card, uint32_t queue)
{
    return get(card, tx_register(REG_TDBAL, queue)) |
           (uint64_t)get(card, tx_register(REG_TDBAH, queue)) << 32;
}

/* DD where RS asks for it, or the head is written instead (TDWBAL, 7.2.3.5.2). */
void transmit_complete(struct model_card *card, uint32_t queue, uint64_t address,
                       uint64_t high, uint32_t next)
{
    if (!(high & TX_RS))
        return;
    uint32_t low = get(card, tx_register(REG_TDWBAL, queue));
    if (unlikely(low & TDWBAL_ENABLE)) {
        uint64_t to = (low & ~3u) |
                      (uint64_t)get(card, tx_register(REG_TDWBAH, queue)) << 32;
        dma_write(card, to, &next, sizeof(next));
    } else {
        uint8_t status = (uint8_t)(high >> 32) | TX_DD;
        __atomic_thread_fence(__ATOMIC_RELEASE);
        dma_write(card, address + 12, &status, 1);
    }
    set_bit(card->tx_causes, queue, true);
}

/* Descriptors of the frame at the head, up to EOP. Returns false when it is not all
 * there, or cannot be read. */
static bool look_at(struct model_card *card, uint32_t queue, uint32_t n, uint32_t tail,
                    struct order *order)
{
    struct model_tx_queue *tx = &card->tx[queue];
    uint64_t base = transmit_ring(card, queue), descriptor[2];
    *order = (struct order){0};
    for (uint32_t at = tx->head; at != tail; at = at + 1 == n ? 0 : at + 1) {
        if (!dma_read(card, descriptor, base + 16 * (uint64_t)at, sizeof(descriptor))) {
            tx->refused = true;
            return false;
        }
        uint64_t high = descriptor[1];
        if (order->ndescriptors++ == 0) {
            order->high = high;
            order->is_legacy = !(high & TX_DEXT);
            order->context = &tx->contexts[field(high, 36, 1)];
        }
        /* 18 bits of PAYLEN at most: what is more is refused later */
        order->length = min_u32(order->length + field(high, 0, 16), MODEL_SCRATCH);
        if (high & TX_EOP)
            return true;
    }
    return false;
}

/* Copy the data of a frame. False: a part cannot be read. */
static bool gather(struct model_card *card, uint32_t queue, uint32_t n,
                   uint32_t ndescriptors, uint8_t *to)
{
    uint64_t base = transmit_ring(card, queue), descriptor[2];
    uint32_t at = card->tx[queue].head;
    /* The host may be writing to its descriptors: room is what look_at() has seen. */
    uint32_t room = MODEL_SCRATCH;
    for (uint32_t i = 0; i < ndescriptors; i++, at = at + 1 == n ? 0 : at + 1) {
        if (!dma_read(card, descriptor, base + 16 * (uint64_t)at, sizeof(descriptor)))
            return false;
        uint32_t length = field(descriptor[1], 0, 16);
        if (length > room || !dma_read(card, to, descriptor[0], length))
            return false;
        to += length;
        room -= length;
    }
    return true;
}

/* The whole frame is there: make it. */
static void send_frame(struct model_card *card, struct freelist *freelist,
                       struct link *out, uint32_t queue, uint32_t n,
                       const struct order *order, struct model_tally *sent)
{
    bool is_tso = !order->is_legacy && order->high & TX_TSE;
    if (!order->is_legacy && field(order->high, 20, 4) != TX_DATA) {
        count(card, MODEL_DROP_TX_BAD_DESCRIPTOR);
        return;
    }
    if (order->length < SHORTEST || order->length >= MODEL_SCRATCH ||
        (!is_tso && order->length > MODEL_FRAME_MAX - MODEL_FCS)) {
        count(card, MODEL_DROP_TX_BAD_LENGTH);
        return;
    }
    if (!gather(card, queue, n, order->ndescriptors, card->scratch)) {
        count(card, MODEL_DROP_TX_BAD_DESCRIPTOR);
        return;
    }
    if (is_tso) {
        segment(card, freelist, out, queue, order, sent);
        return;
    }
    struct packet *packet = packet_alloc(freelist, order->length);
    if (unlikely(!packet)) {
        count(card, MODEL_DROP_TX_NO_PACKET);
        return;
    }
    memcpy(packet->data, card->scratch, order->length);
    bool fits = true;
    if (order->is_legacy) {
        if (order->high & TX_IC)
            fits = fill_legacy_checksum(packet, order->high);
    } else {
        struct shape shape = shape_of(order);
        fits = fill_checksums(packet, &shape, 0);
    }
    if (fits) {
        emit(card, freelist, out, queue, order, packet, sent);
    } else {
        count(card, MODEL_DROP_TX_BAD_DESCRIPTOR);
        packet_free(freelist, packet);
    }
}

/* One descriptor, and nothing to be done to the frame. */
static bool send_simple(struct model_card *card, struct freelist *freelist,
                        struct link *out, uint32_t queue, const uint64_t *descriptor,
                        struct model_tally *sent)
{
    uint64_t high = descriptor[1];
    uint32_t length = field(high, 0, 16);
    if (!tx_is_plain(high) || length < SHORTEST || length > MODEL_FRAME_MAX - MODEL_FCS)
        return false;
    struct packet *packet = packet_alloc(freelist, length);
    if (unlikely(!packet))
        return false; /* the long way counts it */
    if (unlikely(!dma_read(card, packet->data, descriptor[0], length))) {
        count(card, MODEL_DROP_TX_BAD_DESCRIPTOR);
        packet_free(freelist, packet);
        return true;
    }
    struct order order = {.high = high, .ndescriptors = 1};
    emit(card, freelist, out, queue, &order, packet, sent);
    return true;
}

/* Up to `most` descriptors of a queue, while the wire takes frames. */
static uint32_t serve(struct model_card *card, struct freelist *freelist,
                      struct link *out, uint32_t queue, uint32_t most,
                      struct model_tally *sent)
{
    struct model_tx_queue *tx = &card->tx[queue];
    uint32_t n = get(card, tx_register(REG_TDLEN, queue)) / 16;
    uint32_t tail = get_tail(card, tx_register(REG_TDT, queue));
    if (tx->refused || !ring_is_sound(card, tx->head, tail, n, &tx->bad_tail) ||
        tx->waiting == tail + 1)
        return 0;
    uint64_t base = transmit_ring(card, queue), descriptor[2];
    uint32_t done = 0;
    bool plain = transmit_is_plain(card, queue, out);
    tx->waiting = 0;
    while (tx->head != tail && done < most && is_wire_free(card, tx)) {
        if (out && unlikely(!link_writable(out)))
            break;
        if (likely(plain)) {
            uint32_t sent_so = burst_transmit(card, out, queue, n, tail, most - done, sent);
            done += sent_so;
            if (likely(sent_so))
                continue;
        }
        uint64_t address = base + 16 * (uint64_t)tx->head;
        struct order order = {.ndescriptors = 1};
        if (unlikely(!dma_read(card, descriptor, address, sizeof(descriptor)))) {
            tx->refused = true;
            break;
        }
        uint64_t high = descriptor[1];
        if (high & TX_DEXT && field(high, 20, 4) == TX_CONTEXT) {
            tx->contexts[field(high, 36, 1)] =
                (struct model_tx_context){descriptor[0], high};
        } else if (!send_simple(card, freelist, out, queue, descriptor, sent)) {
            if (!look_at(card, queue, n, tail, &order)) {
                tx->waiting = tail + 1;
                break;
            }
            /* A super-frame waits for an empty link: it may fill it. */
            if (order.high & TX_TSE && out && link_writable(out) < SEGMENTS_MAX)
                break;
            send_frame(card, freelist, out, queue, n, &order, sent);
        }
        for (uint32_t i = 0; i < order.ndescriptors; i++) {
            address = base + 16 * (uint64_t)tx->head;
            if (order.ndescriptors > 1 &&
                !dma_read(card, descriptor, address, sizeof(descriptor)))
                break;
            tx->head = tx->head + 1 == n ? 0 : tx->head + 1;
            transmit_complete(card, queue, address, descriptor[1], tx->head);
        }
        done += order.ndescriptors;
    }
    *reg(card, tx_register(REG_TDH, queue)) = tx->head;
    return done;
}

static bool can_transmit(const struct model_card *card)
{
    return get(card, REG_DMATXCTL) & DMATXCTL_TE && model_is_master(card) &&
           !(get(card, REG_SECTXCTRL) & SECTXCTRL_TX_DIS);
}

/* A pool that may not send is not served (PFVFTE). */
static bool may_send(const struct model_card *card, uint32_t queue)
{
    uint32_t pool = pool_of(card, queue);
    return pool >= MODEL_NPOOLS || get(card, REG_PFVFTE + pool / 32 * 4) >> pool % 32 & 1;
}

static bool has_work(const struct model_card *card, uint32_t queue)
{
    const struct model_tx_queue *tx = &card->tx[queue];
    uint32_t tail = get_tail(card, tx_register(REG_TDT, queue));
    return tail != tx->head && !tx->refused && tx->waiting != tail + 1 &&
           tx->bad_tail != tail + 1 && may_send(card, queue);
}

/* Queues that have something to send, from the one whose turn it is on. */
static uint32_t busy_queues(const struct model_card *card, uint32_t *queues)
{
    uint32_t n = 0, first = 0;
    for (uint32_t half = 0; half < 2; half++)
        for (uint64_t left = card->tx_enabled[half]; left; left &= left - 1) {
            uint32_t queue = 64 * half + (uint32_t)__builtin_ctzll(left);
            if (!has_work(card, queue))
                continue;
            first += queue < card->tx_turn;
            queues[n++] = queue;
        }
    for (uint32_t i = 0; i < first; i++)
        queues[n + i] = queues[i];
    memmove(queues, queues + first, n * sizeof(*queues));
    return n;
}

/* Some descriptors of each queue in turn, until none has any or the wire is busy. */
uint32_t transmit_step(struct model_card *card, struct freelist *freelist,
                       struct link *out, struct model_tally *sent)
{
    uint32_t queues[2 * MODEL_NQUEUES];
    if (unlikely(!can_transmit(card)))
        return 0;
    uint32_t n = busy_queues(card, queues), done = 0, before;
    /* Frame by frame where queues share the wire: the end of a step cuts no turn short,
     * and a slowed queue finds its turn when its time has come. */
    uint32_t turn = n == 1 ? MOST : card->unpaced ? MANY : 1;
    do {
        before = done;
        for (uint32_t i = 0; i < n; i++) {
            uint32_t served = serve(card, freelist, out, queues[i], turn, sent);
            if (served)
                card->tx_turn = queues[i] + 1;
            done += served;
        }
    } while (done != before && done < MOST);
    return done;
}

void transmit_count(struct model_card *card, const struct model_tally *tally)
{
    stat_add(card, REG_TPT, tally->packets);
    stat_add(card, REG_GPTC, tally->packets);
    stat_add_pair(card, REG_GOTCL, tally->bytes);
    stat_add(card, REG_MPTC, tally->multicast);
    stat_add(card, REG_BPTC, tally->broadcast);
    for (uint32_t i = 0; i < 6; i++)
        stat_add(card, REG_PTC64 + 4 * i, tally->by_size[i]);
}

uint64_t transmit_next(const struct model_card *card)
{
    uint64_t next = UINT64_MAX;
    if (!can_transmit(card))
        return next;
    for (uint32_t queue = 0; queue < MODEL_NQUEUES; queue++) {
        if (!has_bit(card->tx_enabled, queue) || !has_work(card, queue))
            continue;
        const struct model_tx_queue *tx = &card->tx[queue];
        uint64_t at = card->wire_free;
        at = card->paused_until > at ? card->paused_until : at;
        at = tx->rate & RATE_ENABLE && tx->next > at ? tx->next : at;
        next = at < next ? at : next;
    }
    return next == UINT64_MAX ? next
                              : (next + MODEL_BITS_PER_NS - 1) / MODEL_BITS_PER_NS;
}
