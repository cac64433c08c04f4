/* Split virtqueues: see virtq_abi.h. */
#include "snabb_py/virtio/virtq.h"

enum { /* feature bits, virtio 1.2, 6 */
    INDIRECT_DESC = 28,
    EVENT_IDX = 29
};

/* ---- start and stop ------------------------------------------------------ */

static void interrupt(const struct virtq *q)
{
    if (q->call_fd >= 0)
        event_signal_send(q->signal, q->call_fd);
}

static void start(struct virtq *q)
{
    /* used.idx, and not the base that the front end names: we use in order, so that all
     * before it is done and nothing behind. A front end that lost us half way knows no
     * better number; DPDK's names 0. */
    q->next = q->seen = q->told = READ_ONCE(q->used[1]);
    q->broken = VIRTQ_OK;
    q->is_armed = 0;
    /* With an event index the guest compares with avail_event and does not look here. */
    __atomic_store_n(q->used, VIRTQ_NO_NOTIFY, __ATOMIC_RELAXED);
}

void virtq_apply(struct virtq *q, const struct virtq_setup *setup,
                 const struct guest_memory *memory, uint64_t features)
{
    bool is_new = setup->start != q->start;
    bool is_missing = setup->call_fd != q->call_fd;
    virtq_signal(q); /* in the memory and by the eventfd that it had */
    if (q->size && (is_new || !setup->size))
        /* Its successor may want to be kicked. */
        __atomic_store_n(q->used, 0, __ATOMIC_RELAXED);
    q->desc = setup->desc;
    q->avail = setup->avail;
    q->used = setup->used;
    q->memory = memory;
    q->hit = (struct guest_region){0};
    q->size = is_new || !q->broken ? setup->size : 0;
    q->enabled = setup->enabled;
    q->start = setup->start;
    q->call_fd = setup->call_fd;
    q->err_fd = setup->err_fd;
    q->has_event_index = features >> EVENT_IDX & 1;
    q->has_indirect = features >> INDIRECT_DESC & 1;
    if (q->size == 0)
        return;
    if (is_new)
        start(q);
    if (is_new || is_missing)
        /* What was used before may not have reached the guest. */
        interrupt(q);
}

/* ---- chains -------------------------------------------------------------- */

/* The region that has this address. */
static const struct guest_region *find_region(const struct guest_memory *memory,
                                              uint64_t address)
{
    uint32_t low = 0, high = memory->nregions;
    while (low < high) {
        uint32_t middle = (low + high) / 2;
        const struct guest_region *region = &memory->regions[middle];
        if (address < region->start)
            high = middle;
        else if (address - region->start >= region->size)
            low = middle + 1;
        else
            return region;
    }
    return NULL;
}

/* Add a range of the guest's memory; it may lie in several regions that adjoin
 * (CVE-2018-1059: all of it must be there, not its beginning alone). */
static uint32_t add_range(struct virtq *q, uint64_t address, uint32_t length,
                          struct virtq_pieces *pieces)
{
    while (length > 0) {
        const struct guest_region *region = find_region(q->memory, address);
        pieces->looks++;
        if (!region)
            return VIRTQ_BAD_ADDRESS;
        uint64_t offset = address - region->start, left = region->size - offset;
        uint32_t n = left < length ? (uint32_t)left : length;
        if (pieces->n == VIRTQ_PIECES_MAX)
            return VIRTQ_BAD_CHAIN;
        pieces->pieces[pieces->n++] =
            (struct virtq_piece){region->host + offset, n};
        pieces->length += n;
        q->hit = *region;
        address += n;
        length -= n;
        if (address == 0 && length > 0)
            return VIRTQ_BAD_ADDRESS; /* round the end of all addresses */
    }
    return VIRTQ_OK;
}

/* Where an indirect table is: the guest's memory, or the copy of one that does not lie
 * there in one piece. NULL: there is no such memory. */
static const struct virtq_desc *find_table(struct virtq *q,
                                           const struct virtq_desc *outer,
                                           struct virtq_desc *copy, uint32_t *looks)
{
    struct virtq_pieces pieces;
    uint8_t *data = virtq_peek(q, outer, outer->length), *to = (uint8_t *)copy;
    if (likely(data && (uintptr_t)data % sizeof(*outer) == 0))
        return (const struct virtq_desc *)(void *)data;
    virtq_begin(&pieces);
    if (add_range(q, outer->address, outer->length, &pieces))
        return NULL;
    *looks += pieces.looks;
    for (uint32_t i = 0; i < pieces.n; to += pieces.pieces[i++].length)
        memcpy(to, pieces.pieces[i].data, pieces.pieces[i].length);
    return copy;
}

static uint32_t add_desc(struct virtq *q, const struct virtq_desc *desc, bool write,
                         struct virtq_pieces *pieces)
{
    /* Net devices' buffers go one way as a whole. */
    pieces->looks++;
    if (!(desc->flags & VIRTQ_WRITE) == write)
        return VIRTQ_BAD_DIRECTION;
    return add_range(q, desc->address, desc->length, pieces);
}

static uint32_t gather_indirect(struct virtq *q, const struct virtq_desc *outer,
                                bool write, struct virtq_pieces *pieces)
{
    struct virtq_desc copy[VIRTQ_CHAIN_MAX];
    uint32_t n = outer->length / (uint32_t)sizeof(*outer), i = 0;
    if (!q->has_indirect || (outer->flags & VIRTQ_NEXT) || n == 0 ||
        n > VIRTQ_CHAIN_MAX || outer->length % sizeof(*outer))
        return VIRTQ_BAD_INDIRECT;
    const struct virtq_desc *table = find_table(q, outer, copy, &pieces->looks);
    if (!table)
        return VIRTQ_BAD_ADDRESS;
    for (uint32_t count = 0; count < n; count++) {
        struct virtq_desc desc = virtq_read(&table[i]);
        if (desc.flags & VIRTQ_INDIRECT)
            return VIRTQ_BAD_INDIRECT;
        uint32_t wrong = add_desc(q, &desc, write, pieces);
        if (wrong)
            return wrong;
        if (!(desc.flags & VIRTQ_NEXT))
            return VIRTQ_OK;
        if (desc.next >= n)
            return VIRTQ_BAD_NEXT;
        i = desc.next;
    }
    return VIRTQ_BAD_CHAIN;
}

static uint32_t gather(struct virtq *q, uint32_t head, bool write,
                       struct virtq_pieces *pieces)
{
    if (head >= q->size)
        return VIRTQ_BAD_HEAD;
    /* Each descriptor once at most: what is longer goes round in circles. And no more
     * than are good for a frame: in a ring of 32768 each buffer could cost us as many. */
    uint32_t most = min_u32(q->size, VIRTQ_CHAIN_MAX);
    for (uint32_t count = 0, i = head; count < most; count++) {
        struct virtq_desc desc = virtq_read(&q->desc[i]);
        if (desc.flags & VIRTQ_INDIRECT)
            return count ? VIRTQ_BAD_INDIRECT
                         : gather_indirect(q, &desc, write, pieces);
        uint32_t wrong = add_desc(q, &desc, write, pieces);
        if (wrong)
            return wrong;
        if (!(desc.flags & VIRTQ_NEXT))
            return VIRTQ_OK;
        if (desc.next >= q->size)
            return VIRTQ_BAD_NEXT;
        i = desc.next;
    }
    return VIRTQ_BAD_CHAIN;
}

bool virtq_gather(struct virtq *q, uint32_t head, bool write,
                  struct virtq_pieces *pieces)
{
    uint32_t wrong = gather(q, head, write, pieces);
    if (unlikely(wrong))
        virtq_break(q, wrong);
    return !wrong;
}

/* ---- notification -------------------------------------------------------- */

static uint16_t *avail_event(const struct virtq *q)
{
    return q->used + 2 + 4 * q->size;
}

/* The guest asked to be told when buffer `event` is used: was it one of [old, new)?
 * All three run round modulo 2^16 (virtio 1.2, 2.7.10). */
static bool has_passed(uint16_t event, uint16_t old, uint16_t new)
{
    return (uint16_t)(new - event - 1) < (uint16_t)(new - old);
}

/* avail.idx lies beside the flags, and that line is on its way to us anyway. Nonsense in
 * it is virtq_ready()'s to find. */
static void look_ahead(struct virtq *q)
{
    uint16_t seen = __atomic_load_n(&q->avail[1], __ATOMIC_ACQUIRE);
    if ((uint16_t)(seen - q->next) <= q->size)
        q->seen = seen;
}

void virtq_decide(struct virtq *q)
{
    uint16_t old = q->told;
    q->told = q->next;
    /* Between the write of used.idx and the read of what the guest wants: it writes that
     * and then looks at used.idx, and one of us must see the other. */
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    look_ahead(q);
    if (q->has_event_index) {
        if (!has_passed(READ_ONCE(q->avail[2 + q->size]), old, q->next))
            return;
    } else if (READ_ONCE(q->avail[0]) & VIRTQ_NO_INTERRUPT) {
        return;
    }
    interrupt(q);
    q->ncalls += q->call_fd >= 0;
}

bool virtq_arm(struct virtq *q)
{
    if (q->has_event_index)
        __atomic_store_n(avail_event(q), q->next, __ATOMIC_RELAXED);
    else
        __atomic_store_n(q->used, 0, __ATOMIC_RELAXED);
    q->is_armed = 1;
    /* As in virtq_signal(), the other way round. */
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    q->seen = __atomic_load_n(&q->avail[1], __ATOMIC_ACQUIRE);
    if (q->seen == q->next)
        return true;
    virtq_disarm(q);
    return false;
}

void virtq_disarm(struct virtq *q)
{
    q->is_armed = 0;
    if (!q->has_event_index)
        __atomic_store_n(q->used, VIRTQ_NO_NOTIFY, __ATOMIC_RELAXED);
}
