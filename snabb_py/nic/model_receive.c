/* Receive: filters, pools, RSS, the packet buffer, descriptors (data sheet 7.1, 7.10.3).
 *
 * A frame is checked, matched against the filters, which give the pools that want it,
 * and written to a queue of each. While a queue has no descriptors and does not ask for
 * its frames to be dropped, they wait in the packet buffer, and those behind them too;
 * what does not fit there is missed.
 */
#include "snabb_py/engine/offload.h"
#include "snabb_py/engine/wire.h"
#include "snabb_py/nic/model82599.h"
#include "snabb_py/nic/model_facts.h"

enum {
    RXCTRL_RXEN = 1 << 0,
    SECRXCTRL_RX_DIS = 1 << 1,
    HLREG0_RXCRCSTRP = 1 << 1,
    HLREG0_JUMBOEN = 1 << 2,
    HLREG0_LPBK = 1 << 15,
    FCTRL_SBP = 1 << 1,
    FCTRL_MPE = 1 << 8,
    FCTRL_UPE = 1 << 9,
    FCTRL_BAM = 1 << 10,
    VLNCTRL_CFI = 1 << 28,
    VLNCTRL_CFIEN = 1 << 29,
    VLNCTRL_VFE = 1 << 30,
    MCSTCTRL_MFE = 1 << 2,
    RAH_AV = 1u << 31,
    VTCTL_ENABLE = 1 << 0,
    VTCTL_NO_DEFAULT = 1 << 29,
    VTCTL_REPLICATE = 1 << 30,
    VMOLR_UPE = 1 << 22,
    VMOLR_VPE = 1 << 23,
    VMOLR_AUPE = 1 << 24,
    VMOLR_ROMPE = 1 << 25,
    VMOLR_ROPE = 1 << 26,
    VMOLR_BAM = 1 << 27,
    VMOLR_MPE = 1 << 28,
    VLVF_ENABLE = 1u << 31,
    SRRCTL_DROP = 1 << 28,
    RXDCTL_VME = 1 << 30,
    MFLCN_PMCF = 1 << 0,
    MFLCN_DPF = 1 << 1,
    MFLCN_RFCE = 1 << 3,
    FCCFG_TFCE = 1 << 3,
    FC_ENABLE = 1u << 31,
    FC_LEVEL = 0x7ffe0,
    EICR_RX_MISS = 1 << 17,
    QUANTUM_BITS = 512,
    PROTOCOL_SCTP = 132
};

/* ---- filters ------------------------------------------------------------- */

void receive_filters_changed(struct model_card *card)
{
    memset(card->filter_cache, 0, sizeof(card->filter_cache));
}

int32_t receive_tag(const struct model_card *card, const uint8_t *frame, uint32_t length)
{
    uint16_t type = (uint16_t)get(card, REG_VLNCTRL);
    if (likely(load_be16(frame + ETHERNET_TYPE) != type) ||
        !wire_has(length, WIRE_ETHERNET_SIZE, WIRE_TAG_SIZE))
        return -1;
    return load_be16(frame + WIRE_ETHERNET_SIZE);
}

static uint64_t pair(const struct model_card *card, uint32_t low)
{
    return get(card, low) | (uint64_t)get(card, low + 4) << 32;
}

/* Pools whose PFVML2FLT has one of these bits. */
static uint64_t pools_with(const struct model_card *card, uint32_t bits)
{
    uint64_t pools = 0;
    for (uint32_t i = 0; i < MODEL_NPOOLS; i++)
        if (get(card, REG_PFVML2FLT + 4 * i) & bits)
            pools |= 1ull << i;
    return pools;
}

/* Pools of the exact filters that match (7.10.3.2); *matched: one did. */
static uint64_t exact_pools(const struct model_card *card, const uint8_t *address,
                            bool *matched)
{
    uint32_t low;
    uint16_t high;
    uint64_t pools = 0;
    memcpy(&low, address, 4);
    memcpy(&high, address + 4, 2);
    *matched = false;
    for (uint32_t i = 0; i < 128; i++) {
        uint32_t rah = get(card, REG_RAH + 8 * i);
        if (rah & RAH_AV && (uint16_t)rah == high && get(card, REG_RAL + 8 * i) == low) {
            *matched = true;
            pools |= pair(card, REG_MPSAR_LO + 8 * i);
        }
    }
    return pools;
}

uint64_t receive_owners(const struct model_card *card, const uint8_t *address)
{
    bool matched;
    return exact_pools(card, address, &matched);
}

bool receive_owns(const struct model_card *card, const uint8_t *address, uint32_t pool)
{
    return receive_owners(card, address) >> pool & 1;
}

/* Bit of a 4096-bit table: 12 bits of the address, which ones says MCSTCTRL.MO. */
static bool hash_match(const struct model_card *card, uint32_t table,
                       const uint8_t *address)
{
    static const uint8_t shifts[4] = {4, 3, 2, 0}; /* 47:36, 46:35, 45:34, 43:32 */
    uint32_t high = address[4] | (uint32_t)address[5] << 8;
    uint32_t bit = high >> shifts[get(card, REG_MCSTCTRL) & 3] & 0xfff;
    return get(card, table + bit / 32 * 4) >> bit % 32 & 1;
}

uint64_t receive_vlan_pools(const struct model_card *card, uint32_t vlan)
{
    uint64_t pools = 0;
    for (uint32_t i = 0; i < 64; i++) {
        uint32_t entry = get(card, REG_PFVLVF + 4 * i);
        if (entry & VLVF_ENABLE && (entry & 0xfff) == vlan)
            pools |= pair(card, REG_PFVLVFB + 8 * i);
    }
    return pools;
}

/* VLAN filter (7.1.2.3): the tag passes the card. */
static bool passes_vlan(const struct model_card *card, int32_t vlan)
{
    uint32_t vlnctrl = get(card, REG_VLNCTRL);
    if (vlan < 0 || !(vlnctrl & VLNCTRL_VFE))
        return true;
    if (vlnctrl & VLNCTRL_CFIEN && (vlan >> 12 & 1) != !!(vlnctrl & VLNCTRL_CFI))
        return false;
    uint32_t id = (uint32_t)vlan & 0xfff;
    return get(card, REG_VFTA + id / 32 * 4) >> id % 32 & 1;
}

static bool is_virtual(const struct model_card *card)
{
    return get(card, REG_PFVTCTL) & VTCTL_ENABLE;
}

/* 7.10.3.3: by address, then by VLAN, then the default pool. */
static uint64_t virtual_pools(const struct model_card *card, const uint8_t *address,
                              int32_t vlan)
{
    bool exact;
    uint32_t fctrl = get(card, REG_FCTRL), vtctl = get(card, REG_PFVTCTL);
    uint64_t pools = exact_pools(card, address, &exact);
    bool accepted = exact;
    if (is_broadcast(address)) {
        accepted |= !!(fctrl & FCTRL_BAM);
        pools |= pools_with(card, VMOLR_BAM);
    } else if (address[0] & 1) {
        bool hashed = get(card, REG_MCSTCTRL) & MCSTCTRL_MFE &&
                      hash_match(card, REG_MTA, address);
        accepted |= fctrl & FCTRL_MPE || hashed;
        pools |= pools_with(card, VMOLR_MPE | (hashed ? VMOLR_ROMPE : 0));
    } else if (!exact) {
        bool hashed = hash_match(card, REG_PFUTA, address);
        accepted |= fctrl & FCTRL_UPE || hashed;
        pools |= pools_with(card, VMOLR_UPE | (hashed ? VMOLR_ROPE : 0));
    }
    if (!accepted && !pools)
        return 0;
    if (vlan >= 0) {
        uint64_t members = receive_vlan_pools(card, (uint32_t)vlan & 0xfff);
        pools &= members | pools_with(card, VMOLR_VPE);
    } else {
        pools &= pools_with(card, VMOLR_AUPE);
    }
    if (!pools && !(vtctl & VTCTL_NO_DEFAULT))
        pools = 1ull << (vtctl >> 7 & 0x3f);
    pools &= pair(card, REG_PFVFRE);
    if (!(vtctl & VTCTL_REPLICATE))
        pools &= -pools; /* the first alone */
    return pools;
}

static bool is_accepted(const struct model_card *card, const uint8_t *address)
{
    bool exact;
    uint32_t fctrl = get(card, REG_FCTRL);
    exact_pools(card, address, &exact);
    if (exact)
        return true;
    if (is_broadcast(address))
        return fctrl & FCTRL_BAM;
    if (!(address[0] & 1))
        return fctrl & FCTRL_UPE;
    return fctrl & FCTRL_MPE || (get(card, REG_MCSTCTRL) & MCSTCTRL_MFE &&
                                 hash_match(card, REG_MTA, address));
}

/* No filter is the frame's own: a bit of a hash table let it in (PIF, 7.1.6.2). */
static bool is_inexact(const struct model_card *card, const uint8_t *address)
{
    bool exact, is_group = address[0] & 1;
    if (likely(!hash_match(card, is_group ? REG_MTA : REG_PFUTA, address)) ||
        get(card, REG_FCTRL) & (is_group ? FCTRL_MPE : FCTRL_UPE) ||
        is_broadcast(address))
        return false;
    exact_pools(card, address, &exact);
    return !exact;
}

void receive_ask_filters(struct model_card *card, struct model_filter_entry *entry,
                         uint64_t key, const uint8_t *frame, int32_t vlan)
{
    entry->key = key;
    entry->status = is_inexact(card, frame) ? STATUS_PIF : 0;
    entry->pools = !passes_vlan(card, vlan) ? 0
                   : is_virtual(card)       ? virtual_pools(card, frame, vlan)
                                            : is_accepted(card, frame);
}

uint64_t receive_pools(struct model_card *card, const uint8_t *frame, int32_t vlan)
{
    return receive_filter(card, frame, vlan)->pools;
}

uint64_t receive_mirrors(const struct model_card *card, uint64_t pools, int32_t vlan,
                         uint32_t way)
{
    const uint32_t rules = MIRROR_POOL | MIRROR_UPLINK_IN | MIRROR_UPLINK_OUT | MIRROR_VLAN;
    uint64_t watchers = 0;
    if (likely(!((get(card, REG_PFMRCTL) | get(card, REG_PFMRCTL + 4) |
                  get(card, REG_PFMRCTL + 8) | get(card, REG_PFMRCTL + 12)) &
                 rules)))
        return 0;
    for (uint32_t rule = 0; rule < 4; rule++) {
        uint32_t control = get(card, REG_PFMRCTL + 4 * rule);
        bool match = control & way;
        if (control & MIRROR_POOL) {
            uint64_t watched = get(card, REG_PFMRVM + 4 * rule) |
                               (uint64_t)get(card, REG_PFMRVM + 4 * (rule + 4)) << 32;
            match |= (watched & pools) != 0;
        }
        if (control & MIRROR_VLAN && vlan >= 0) {
            uint64_t watched = get(card, REG_PFMRVLAN + 4 * rule) |
                               (uint64_t)get(card, REG_PFMRVLAN + 4 * (rule + 4)) << 32;
            for (uint32_t i = 0; i < 64; i++) {
                uint32_t entry = get(card, REG_PFVLVF + 4 * i);
                match |= watched >> i & 1 && entry & VLVF_ENABLE &&
                         (entry & 0xfff) == ((uint32_t)vlan & 0xfff);
            }
        }
        if (match)
            watchers |= 1ull << (control >> 8 & 0x3f);
    }
    return watchers & pair(card, REG_PFVFRE);
}

/* ---- RSS ----------------------------------------------------------------- */

/* The Toeplitz hash (7.1.2.8.1) as a table: what each byte at each place adds. */
void facts_rebuild_rss(struct model_card *card)
{
    uint8_t key[40];
    for (uint32_t i = 0; i < 10; i++) {
        uint32_t word = get(card, REG_RSSRK + 4 * i);
        memcpy(key + 4 * i, &word, 4);
    }
    for (uint32_t at = 0; at < 36; at++) {
        uint64_t window = (uint64_t)load_be32(key + at) << 8 | key[at + 4];
        for (uint32_t byte = 0; byte < 256; byte++) {
            uint32_t sum = 0;
            for (uint32_t bit = 0; bit < 8; bit++)
                if (byte & 0x80 >> bit)
                    sum ^= (uint32_t)(window >> (8 - bit));
            card->rss_table[at][byte] = sum;
        }
    }
    card->rss_stale = false;
}

static void hash_flow(struct model_card *card, const uint8_t *frame,
                      const struct wire_ip *ip, bool has_ports, struct facts *facts)
{
    uint32_t mrqc = get(card, REG_MRQC);
    uint32_t size = ip->version == 4 ? 4 : 16;
    bool is_tcp = has_ports && ip->protocol == WIRE_TCP;
    bool is_udp = has_ports && ip->protocol == WIRE_UDP;
    bool ports = true;
    if (ip->version == 4) {
        if (is_tcp && mrqc & MRQC_TCP4)
            facts->rss_type = HASH_TCP4;
        else if (is_udp && mrqc & MRQC_UDP4)
            facts->rss_type = HASH_UDP4;
        else if (ports = false, mrqc & MRQC_IP4)
            facts->rss_type = HASH_IP4;
    } else {
        if (is_tcp && mrqc & MRQC_TCP6)
            facts->rss_type = HASH_TCP6;
        else if (is_udp && mrqc & MRQC_UDP6)
            facts->rss_type = HASH_UDP6;
        else if (ports = false, mrqc & MRQC_IP6)
            facts->rss_type = HASH_IP6;
    }
    if (facts->rss_type == 0)
        return;
    if (unlikely(card->rss_stale))
        facts_rebuild_rss(card);
    facts->hash = toeplitz(card, 0, frame + ip->source, size) ^
                  toeplitz(card, size, frame + ip->destination, size);
    if (ports)
        facts->hash ^= toeplitz(card, 2 * size, frame + ip->payload, 4);
}

/* ---- parser -------------------------------------------------------------- */

/* The IPv4 header's checksum (7.1.11), its words summed. */
static void judge_ip(uint64_t sum, struct facts *facts)
{
    facts->status |= STATUS_IPCS;
    if (unlikely(!checksum_is_right(sum))) {
        facts->status |= ERROR_IP;
        facts->nwrong++;
    }
}

/* That of TCP or UDP; the sum has the pseudo header in it. */
static void judge_l4(const uint8_t *payload, bool is_udp, uint64_t sum,
                                  struct facts *facts)
{
    facts->status |= STATUS_L4I | (is_udp ? STATUS_UDPCS : 0);
    if (unlikely(!checksum_is_right(sum))) {
        facts->status |= ERROR_L4;
        facts->nwrong++;
        return;
    }
    /* Erratum 44: a UDP datagram without a checksum is said to be wrong. */
    if (is_udp && unlikely(load_be16(payload + UDP_CHECKSUM) == 0))
        facts->status |= ERROR_L4;
}

/* One's complement sum of the pseudo header without the length. */
static uint64_t pseudo_sum(const uint8_t *frame, const struct wire_ip *ip)
{
    uint32_t size = ip->version == 4 ? 4 : 16;
    uint64_t sum = checksum_add_small(0, frame + ip->source, size);
    sum = checksum_add_small(sum, frame + ip->destination, size);
    return sum + htobe16(ip->protocol);
}

/* TCP and UDP checksums (7.1.11): judged when the datagram is whole. */
static void check_l4(const uint8_t *frame, uint32_t end, const struct wire_ip *ip,
                     struct facts *facts)
{
    uint32_t n = end - ip->payload;
    uint64_t sum = pseudo_sum(frame, ip) + htobe16((uint16_t)n) + (n >> 16);
    sum = n <= 64 ? checksum_add_small(sum, frame + ip->payload, n)
                  : checksum_add(sum, frame + ip->payload, n);
    judge_l4(frame + ip->payload, ip->protocol == WIRE_UDP, sum, facts);
}

/* Where the IP packet ends by its own account, at most at the frame's end; 0: it says
 * that it is longer. */
static uint32_t ip_end(const uint8_t *frame, uint32_t length, const struct wire_ip *ip)
{
    uint32_t end =
        ip->version == 4
            ? ip->header + load_be16(frame + ip->header + IPV4_TOTAL_LENGTH)
            : ip->header + WIRE_IPV6_SIZE +
                  load_be16(frame + ip->header + IPV6_PAYLOAD_LENGTH);
    return end <= length && end >= ip->payload ? end : 0;
}

struct facts facts_of(struct model_card *card, const uint8_t *frame, uint32_t length)
{
    struct facts facts = {.vlan = receive_tag(card, frame, length)};
    struct wire_ethernet ethernet;
    struct wire_ip ip;
    if (!wire_parse_ethernet(frame, length, &ethernet) || ethernet.ntags > 2)
        return facts;
    if (ethernet.type == WIRE_IPV4) {
        if (!wire_parse_ipv4(frame, length, ethernet.payload, &ip))
            return facts;
        uint32_t size = ip.payload - ip.header;
        facts.type |= TYPE_IPV4 | (size > WIRE_IPV4_SIZE ? TYPE_IPV4_OPTIONS : 0);
        judge_ip(checksum_add_small(0, frame + ip.header, size), &facts);
    } else if (ethernet.type == WIRE_IPV6) {
        if (!wire_parse_ipv6(frame, length, ethernet.payload, &ip))
            return facts;
        facts.type |= TYPE_IPV6;
        if (ip.payload > ip.header + WIRE_IPV6_SIZE)
            facts.type |= TYPE_IPV6_EXTENSIONS;
    } else {
        return facts;
    }
    uint32_t end = ip_end(frame, length, &ip);
    bool is_whole = end && !ip.is_fragment;
    uint32_t room = is_whole ? end - ip.payload : 0;
    bool has_l4 = (ip.protocol == WIRE_TCP && room >= WIRE_TCP_SIZE) ||
                  (ip.protocol == WIRE_UDP && room >= WIRE_UDP_SIZE);
    if (has_l4) {
        facts.type |= ip.protocol == WIRE_TCP ? TYPE_TCP : TYPE_UDP;
        check_l4(frame, end, &ip, &facts);
    } else if (ip.protocol == PROTOCOL_SCTP && is_whole) {
        facts.type |= TYPE_SCTP;
    }
    if (facts_has_rss(card))
        hash_flow(card, frame, &ip, has_l4, &facts);
    return facts;
}

/* ---- descriptors --------------------------------------------------------- */

/* Write n bytes of a frame from byte `at` on, as if it had no tag when `strip`. */
static void write_piece(struct model_card *card, uint64_t address, const uint8_t *frame,
                        uint32_t at, uint32_t n, bool strip)
{
    const uint32_t addresses = 2 * 6;
    if (strip && at < addresses) {
        uint32_t first = min_u32(n, addresses - at);
        dma_write(card, address, frame + at, first);
        address += first;
        at += first;
        n -= first;
    }
    if (n > 0)
        dma_write(card, address, frame + at + (strip ? WIRE_TAG_SIZE : 0), n);
}

/* The first word, then the second with DD: whoever sees DD sees the rest. */
static void write_back(struct model_card *card, uint64_t address, uint64_t low,
                       uint64_t high)
{
    uint64_t room;
    uint8_t *to = dma_at(card, address, MODEL_DMA_WRITE, &room);
    if (unlikely(!to || room < 16)) {
        dma_write(card, address, &low, 8);
        __atomic_thread_fence(__ATOMIC_RELEASE);
        dma_write(card, address + 8, &high, 8);
        return;
    }
    memcpy(to, &low, 8);
    __atomic_thread_fence(__ATOMIC_RELEASE);
    memcpy(to + 8, &high, 8);
}

static void write_back_advanced(struct model_card *card, uint64_t address,
                                const struct facts *facts, uint32_t status, uint32_t n,
                                uint32_t tag)
{
    bool has_hash = facts->rss_type && get(card, REG_RXCSUM) & RXCSUM_PCSD;
    uint64_t low = facts->type | (has_hash ? facts->rss_type : 0);
    if (has_hash)
        low |= (uint64_t)facts->hash << 32;
    write_back(card, address, low, status | (uint64_t)n << 32 | (uint64_t)tag << 48);
}

/* The legacy form has a byte of status and one of errors (7.1.5). */
static void write_back_legacy(struct model_card *card, uint64_t address,
                              uint64_t descriptor, uint32_t status, uint32_t n,
                              uint32_t tag)
{
    uint64_t errors = (status & ERROR_L4 ? 1u << 6 : 0) | (status & ERROR_IP ? 1u << 7 : 0);
    uint64_t high = n | (uint64_t)(status & 0xff) << 32 | errors << 40 |
                    (uint64_t)tag << 48;
    write_back(card, address, descriptor, high);
}

enum verdict { WRITTEN, DROPPED, WAITS };

void receive_learn(const struct model_card *card, uint32_t queue,
                   struct model_rx_queue *rx)
{
    uint32_t srrctl = get(card, rx_register(REG_SRRCTL, queue));
    uint32_t kind = srrctl >> 25 & 7; /* DESCTYPE: 0 legacy, 1 advanced */
    rx->ring = get(card, rx_register(REG_RDBAL, queue)) |
               (uint64_t)get(card, rx_register(REG_RDBAH, queue)) << 32;
    rx->n = get(card, rx_register(REG_RDLEN, queue)) / 16;
    rx->size = kind > 1 ? 0 : (srrctl & 0x1f) * 1024;
    rx->slot = get(card, REG_RQSMR + queue / 4 * 4) >> queue % 4 * 8 & 0xf;
    rx->is_advanced = kind == 1;
    rx->strip = get(card, rx_register(REG_RXDCTL, queue)) & RXDCTL_VME;
    rx->drop = rx->qde || srrctl & SRRCTL_DROP;
    rx->known = true;
    rx->mapping = 0;
}

static enum verdict drop_at(struct model_card *card, const struct model_rx_queue *rx,
                            uint32_t reason)
{
    count(card, reason);
    stat_add(card, REG_QPRDC + 0x40 * rx->slot, 1);
    return DROPPED;
}

uint32_t receive_available(struct model_card *card, uint32_t queue,
                           struct model_rx_queue *rx)
{
    uint32_t tail = get_tail(card, rx_register(REG_RDT, queue));
    if (!ring_is_sound(card, rx->head, tail, rx->n, &rx->bad_tail))
        return 0;
    return tail >= rx->head ? tail - rx->head : tail + rx->n - rx->head;
}

/* Without descriptors a frame waits, unless the queue wants it dropped or could never
 * hold it. */
static enum verdict go_without(struct model_card *card, const struct model_rx_queue *rx,
                               uint32_t needed)
{
    if (rx->drop || (rx->n && needed >= rx->n))
        return drop_at(card, rx, MODEL_DROP_RX_NO_DESCRIPTOR);
    return WAITS;
}

static enum verdict write_frame(struct model_card *card, uint32_t queue,
                                const uint8_t *frame, uint32_t length,
                                const struct facts *facts, bool loopback)
{
    struct model_rx_queue *rx = &card->rx[queue];
    rx->step = 0;
    if (unlikely(!rx->known))
        receive_learn(card, queue, rx);
    if (unlikely(!has_bit(card->rx_enabled, queue)))
        return drop_at(card, rx, MODEL_DROP_RX_QUEUE_DISABLED);
    if (unlikely(rx->size == 0))
        return drop_at(card, rx, MODEL_HEADER_SPLIT_REFUSED);
    bool has_tag = facts->vlan >= 0, strip = rx->strip && has_tag;
    if (strip)
        length -= WIRE_TAG_SIZE;
    uint32_t needed =
        likely(length <= rx->size) ? 1 : (length + rx->size - 1) / rx->size;
    if (unlikely(receive_available(card, queue, rx) < needed))
        return go_without(card, rx, needed);
    uint32_t tag = strip ? (uint32_t)facts->vlan : 0;
    uint32_t status = facts->status | STATUS_DD | STATUS_EOP | (has_tag ? STATUS_VP : 0) |
                      (loopback && rx->is_advanced ? STATUS_LB : 0);
    for (uint32_t at = 0; at < length;) {
        uint64_t address = rx->ring + 16 * (uint64_t)rx->head, descriptor[2];
        uint32_t piece = min_u32(rx->size, length - at);
        if (unlikely(!dma_read(card, descriptor, address, sizeof(descriptor))))
            return drop_at(card, rx, MODEL_DROP_RX_NO_DESCRIPTOR);
        /* bit 0 of an advanced descriptor's address is NSE */
        write_piece(card, descriptor[0] & ~(uint64_t)rx->is_advanced, frame, at, piece,
                    strip);
        at += piece;
        uint32_t says = at == length ? status : STATUS_DD;
        if (rx->is_advanced)
            write_back_advanced(card, address, facts, says, piece, tag);
        else
            write_back_legacy(card, address, descriptor[0], says, piece, tag);
        rx->head = rx->head + 1 == rx->n ? 0 : rx->head + 1;
    }
    rx->packets++;
    rx->bytes += length;
    if (unlikely(loopback)) {
        stat_add(card, REG_RXDLPBKGPC, 1);
        stat_add_pair(card, REG_RXDLPBKGBCL, length);
    }
    set_bit(card->rx_causes, queue, true);
    return WRITTEN;
}

void receive_settle(struct model_card *card)
{
    for (uint32_t half = 0; half < 2; half++)
        for (uint64_t left = card->rx_causes[half]; left; left &= left - 1) {
            uint32_t queue = 64 * half + (uint32_t)__builtin_ctzll(left);
            struct model_rx_queue *rx = &card->rx[queue];
            *reg(card, rx_register(REG_RDH, queue)) = rx->head;
            stat_add(card, REG_QPRC + 0x40 * rx->slot, rx->packets);
            stat_add_pair(card, REG_QBRC_L + 0x40 * rx->slot, rx->bytes);
            stat_add(card, REG_RXDGPC, rx->packets);
            stat_add_pair(card, REG_RXDGBCL, rx->bytes);
            card->counters[MODEL_HOST_PACKETS] += rx->packets;
            rx->packets = 0;
            rx->bytes = 0;
        }
}

/* The queue of a pool (7.1.2.2); MODEL_NQUEUES: the pool has none in this mode. */
static uint32_t queue_of(const struct model_card *card, uint32_t pool,
                         const struct facts *facts)
{
    uint32_t mode = get(card, REG_MRQC) & MRQC_MODE, index = 0;
    if (facts->rss_type)
        index = facts_queue(card, facts->hash);
    if (mode == MRQC_RSS)
        return index;
    if (mode == MRQC_VMDQ || mode == MRQC_VMDQ_RSS64 || mode == MRQC_VMDQ_RSS32) {
        uint32_t most = mode == MRQC_VMDQ_RSS32 ? 4 : 2;
        uint32_t wanted = 1u << (get(card, REG_PSRTYPE + 4 * pool) >> 29);
        index &= min_u32(wanted, most) - 1;
        return mode == MRQC_VMDQ ? pool * 2
                                 : min_u32(pool * most + index, MODEL_NQUEUES);
    }
    return 0;
}

/* Write a frame to all pools; returns those that it must wait for. */
static uint64_t deliver(struct model_card *card, const struct packet *packet,
                        uint64_t pools, bool loopback)
{
    if (get(card, REG_SECRXCTRL) & SECRXCTRL_RX_DIS || !model_is_master(card))
        return pools;
    struct facts facts = facts_of(card, packet->data, packet->length);
    facts.status |= (uint32_t)receive_filter(card, packet->data, facts.vlan)->status;
    uint64_t left = 0;
    for (; pools; pools &= pools - 1) {
        uint32_t pool = (uint32_t)__builtin_ctzll(pools);
        uint32_t queue = queue_of(card, pool, &facts);
        if (unlikely(queue >= MODEL_NQUEUES)) {
            count(card, MODEL_DROP_RX_QUEUE_DISABLED);
            continue;
        }
        if (write_frame(card, queue, packet->data, packet->length, &facts, loopback) ==
            WAITS)
            left |= 1ull << pool;
    }
    if (unlikely(facts.nwrong) && !left) /* once, however often it was tried */
        stat_add(card, REG_XEC, facts.nwrong);
    return left;
}

/* ---- packet buffer ------------------------------------------------------- */

static uint32_t fifo_size(const struct model_card *card)
{
    return (get(card, REG_RXPBSIZE) >> 10 & 0x3ff) * 1024;
}

static bool fifo_put(struct model_card *card, struct packet *packet, uint64_t pools,
                     bool loopback)
{
    uint32_t size = packet->length + MODEL_FCS;
    if (fifo_waiting(card) == MODEL_FIFO_ENTRIES ||
        card->fifo_bytes + size > fifo_size(card))
        return false;
    card->fifo[card->fifo_write++ % MODEL_FIFO_ENTRIES] =
        (struct model_fifo_entry){packet, pools, loopback};
    card->fifo_bytes += size;
    return true;
}

static void fifo_pop(struct model_card *card, struct freelist *freelist)
{
    struct packet *packet = card->fifo[card->fifo_read++ % MODEL_FIFO_ENTRIES].packet;
    card->fifo_bytes -= packet->length + MODEL_FCS;
    packet_free(freelist, packet);
}

uint32_t receive_waiting(struct model_card *card, struct freelist *freelist)
{
    uint32_t n = 0;
    while (unlikely(fifo_waiting(card))) {
        struct model_fifo_entry *entry =
            &card->fifo[card->fifo_read % MODEL_FIFO_ENTRIES];
        uint64_t left = deliver(card, entry->packet, entry->pools, entry->loopback);
        n += left != entry->pools;
        entry->pools = left;
        if (left)
            break;
        fifo_pop(card, freelist);
    }
    return n;
}

void receive_flush(struct model_card *card, struct freelist *freelist)
{
    while (fifo_waiting(card))
        fifo_pop(card, freelist);
    card->fifo_flush = false;
}

/* ---- arrival ------------------------------------------------------------- */

/* MAC control (802.3 annex 31B): XOFF and XON, and what is neither. True: it ends
 * here. */
static bool take_pause(struct model_card *card, const struct packet *packet)
{
    static const uint8_t group[6] = {0x01, 0x80, 0xc2, 0, 0, 0x01};
    const uint8_t *frame = packet->data;
    if (likely(load_be16(frame + ETHERNET_TYPE) != MODEL_MAC_CONTROL))
        return false;
    bool own = memcmp(frame, card->mac, 6) == 0;
    if ((!own && memcmp(frame, group, 6) != 0) || load_be16(frame + 14) != 1) {
        if (get(card, REG_MFLCN) & MFLCN_PMCF)
            return false;
        count(card, MODEL_DROP_RX_FILTERED);
        return true;
    }
    uint32_t quanta = load_be16(frame + 16);
    stat_add(card, quanta ? REG_LXOFFRXCNT : REG_LXONRXCNT, 1);
    if (get(card, REG_MFLCN) & MFLCN_RFCE)
        card->paused_until =
            card->now * MODEL_BITS_PER_NS + (uint64_t)quanta * QUANTUM_BITS;
    return get(card, REG_MFLCN) & MFLCN_DPF;
}

uint32_t receive_longest(const struct model_card *card)
{
    if (likely(!(get(card, REG_HLREG0) & HLREG0_JUMBOEN)))
        return WIRE_ETHERNET_SIZE + 1500;
    uint32_t most = get(card, REG_MAXFRS) >> 16;
    return most > MODEL_FCS ? min_u32(most, MODEL_FRAME_MAX) - MODEL_FCS : 0;
}

static bool is_too_long(const struct model_card *card, const struct packet *packet)
{
    uint32_t most = receive_longest(card);
    if (likely(packet->length <= most))
        return false;
    /* a tag is not counted (8.2.3.22.13) */
    most += receive_tag(card, packet->data, packet->length) >= 0 ? WIRE_TAG_SIZE : 0;
    return packet->length > most;
}

/* Why a frame ends before the filters; MODEL_NCOUNTERS: it does not. */
static uint32_t refuse(struct model_card *card, const struct packet *packet)
{
    if (unlikely(!model_link_is_up(card)))
        return MODEL_DROP_RX_LINK_DOWN;
    if (unlikely(packet->length < WIRE_ETHERNET_SIZE ||
                 packet->length > MODEL_FRAME_MAX - MODEL_FCS))
        return MODEL_DROP_RX_BAD_LENGTH;
    if (unlikely(!(get(card, REG_RXCTRL) & RXCTRL_RXEN)))
        return MODEL_DROP_RX_DISABLED;
    return MODEL_NCOUNTERS;
}

/* What the MAC lets through, counted; false: it ends here. */
static bool pass_mac(struct model_card *card, struct packet *packet,
                     struct model_tally *received)
{
    received->all_packets++;
    received->all_bytes += packet->length + MODEL_FCS;
    if (unlikely(is_too_long(card, packet))) {
        stat_add(card, REG_ROC, 1);
        if (get(card, REG_FCTRL) & FCTRL_SBP)
            return true;
        count(card, MODEL_DROP_RX_BAD_LENGTH);
        return false;
    }
    return !take_pause(card, packet);
}

/* To the queues, or into the packet buffer, or missed. */
static void store(struct model_card *card, struct freelist *freelist,
                  struct packet *packet, uint64_t pools, bool loopback)
{
    if (unlikely(!(get(card, REG_HLREG0) & HLREG0_RXCRCSTRP)) &&
        packet_tailroom(packet) >= MODEL_FCS) {
        /* drivers let it be stripped: it is made for those that do not (802.3, 3.2.9) */
        uint32_t fcs = crc32_of(packet->data, packet->length, 0xedb88320);
        memcpy(packet->data + packet->length, &fcs, MODEL_FCS);
        packet->length += MODEL_FCS;
    }
    if (likely(!fifo_waiting(card)))
        pools = deliver(card, packet, pools, loopback);
    if (likely(!pools)) {
        packet_free(freelist, packet);
    } else if (!fifo_put(card, packet, pools, loopback)) {
        count(card, MODEL_DROP_RX_FIFO_FULL);
        stat_add(card, REG_RXMPC, 1);
        interrupt_other(card, EICR_RX_MISS);
        packet_free(freelist, packet);
    }
}

bool receive_is_plain(const struct model_card *card)
{
    return model_link_is_up(card) && model_is_master(card) && !is_virtual(card) &&
           get(card, REG_RXCTRL) & RXCTRL_RXEN &&
           (get(card, REG_HLREG0) & (HLREG0_RXCRCSTRP | HLREG0_LPBK)) ==
               HLREG0_RXCRCSTRP &&
           !(get(card, REG_SECRXCTRL) & SECRXCTRL_RX_DIS) &&
           (get(card, REG_MRQC) & MRQC_MODE) <= MRQC_RSS;
}

void receive_frame(struct model_card *card, struct freelist *freelist,
                   struct packet *packet, struct model_tally *received)
{
    count(card, MODEL_RX_PACKETS);
    card->counters[MODEL_RX_BYTES] += packet->length;
    uint32_t reason = refuse(card, packet);
    if (unlikely(reason != MODEL_NCOUNTERS)) {
        count(card, reason);
        packet_free(freelist, packet);
        return;
    }
    fill_up(packet);
    if (unlikely(!pass_mac(card, packet, received))) {
        packet_free(freelist, packet);
        return;
    }
    int32_t vlan = receive_tag(card, packet->data, packet->length);
    uint64_t pools = receive_pools(card, packet->data, vlan);
    if (unlikely(is_virtual(card)))
        pools |= receive_mirrors(card, pools, vlan, MIRROR_UPLINK_IN);
    if (unlikely(!pools)) {
        count(card, MODEL_DROP_RX_FILTERED);
        packet_free(freelist, packet);
        return;
    }
    tally_frame(received, packet->data, packet->length);
    store(card, freelist, packet, pools, false);
}

void receive_switched(struct model_card *card, struct freelist *freelist,
                      struct packet *packet, uint64_t pools)
{
    if (unlikely(!(get(card, REG_RXCTRL) & RXCTRL_RXEN))) {
        count(card, MODEL_DROP_RX_DISABLED);
        packet_free(freelist, packet);
        return;
    }
    fill_up(packet);
    stat_add(card, REG_RXLPBKGPC, 1);
    stat_add_pair(card, REG_RXLPBKGBCL, packet->length);
    store(card, freelist, packet, pools, true);
}

void receive_count(struct model_card *card, const struct model_tally *tally)
{
    stat_add(card, REG_TPR, tally->all_packets);
    stat_add_pair(card, REG_TORL, tally->all_bytes);
    stat_add(card, REG_RXNFGPC, tally->all_packets);
    stat_add_pair(card, REG_RXNFGBCL, tally->all_bytes);
    stat_add(card, REG_GPRC, tally->packets);
    stat_add_pair(card, REG_GORCL, tally->bytes);
    stat_add(card, REG_MPRC, tally->multicast);
    stat_add(card, REG_BPRC, tally->broadcast);
    for (uint32_t i = 0; i < 6; i++)
        stat_add(card, REG_PRC64 + 4 * i, tally->by_size[i]);
}

/* ---- flow control -------------------------------------------------------- */

static struct packet *make_pause(struct model_card *card, struct freelist *freelist,
                                 uint16_t quanta)
{
    static const uint8_t head[18] = {0x01, 0x80, 0xc2, 0, 0, 0x01, 0,    0,    0,
                                     0,    0,    0,    0x88, 0x08, 0, 0x01, 0, 0};
    struct packet *packet = packet_alloc(freelist, MODEL_MIN_FRAME);
    if (!packet)
        return NULL;
    memset(packet->data, 0, MODEL_MIN_FRAME);
    memcpy(packet->data, head, sizeof(head));
    memcpy(packet->data + 6, card->mac, 6);
    store_be16(packet->data + 16, quanta);
    return packet;
}

/* Above FCRTH the partner is told to stop, below FCRTL to go on (3.7.7.3). */
uint32_t receive_flow_control(struct model_card *card, struct freelist *freelist,
                              struct link *out, struct model_tally *sent)
{
    uint32_t high = get(card, REG_FCRTH), low = get(card, REG_FCRTL);
    if (likely(!(get(card, REG_FCCFG) & FCCFG_TFCE) || !(high & FC_ENABLE)))
        return 0;
    uint32_t quanta = get(card, REG_FCTTV) & 0xffff;
    bool stop = card->fifo_bytes > (high & FC_LEVEL);
    bool go = card->xoff_sent && card->fifo_bytes <= (low & FC_LEVEL);
    bool again = card->xoff_sent && !go && card->now >= card->xoff_again;
    if (!(stop && !card->xoff_sent) && !go && !again)
        return 0;
    struct packet *packet = NULL;
    if (!go || low & FC_ENABLE) {
        if (!out || !link_writable(out) || !model_link_is_up(card))
            return 0;
        packet = make_pause(card, freelist, go ? 0 : (uint16_t)quanta);
        if (!packet)
            return 0;
    }
    /* FCRTV: how much before its end a pause is asked for anew (8.2.3.3.6). */
    uint32_t before = min_u32(get(card, REG_FCRTV), quanta);
    card->xoff_sent = !go;
    card->xoff_again =
        card->now + (uint64_t)(quanta - before) * QUANTUM_BITS / MODEL_BITS_PER_NS;
    if (!packet)
        return 0;
    stat_add(card, go ? REG_LXONTXC : REG_LXOFFTXC, 1);
    tally_frame(sent, packet->data, packet->length);
    count(card, MODEL_TX_PACKETS);
    card->counters[MODEL_TX_BYTES] += packet->length;
    link_transmit(out, packet);
    return 1;
}
