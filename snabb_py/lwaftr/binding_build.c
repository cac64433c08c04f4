/* Building a binding table: count by address, lay out, fill in.
 *
 * All in one piece of memory, with huge pages behind it where the kernel has any to
 * give: a lookup in a large table would else miss the TLB, too. */

#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "snabb_py/engine/wire.h"
#include "snabb_py/lwaftr/softwires.h"

enum {
    HUGE_PAGE = 2 << 20,
    LINE = 64,
    MIN_BITS = 1, /* of a hash's slots: by all bits is no shift */
    MAX_PROBES = 64, /* for an address; then another multiplier is tried */
    MAX_MULTIPLIERS = 16,
    HOLES = 4     /* slots in a row for each softwire, at most; else they are hashed */
};

static const uint32_t GOLDEN = 0x9e3779b9; /* its fraction, times 2^32 */

struct builder {
    const struct softwire_list *list;
    struct text_error *error;
    bool compat;
    struct binding_table t; /* its addresses are ours until they are copied */
    uint32_t nmultipliers;  /* that were tried */
    uint32_t limit;         /* of addresses, before the hash grows */
    struct binding_address *last; /* of the entry before: mostly the same */
    uint64_t nrow;
    uint64_t nhashed;
};

/* While we count: first is how many softwires an address has, reserved the bits of that
 * name. */

static uint32_t bits_for(uint64_t n) /* of a hash that is at most half full */
{
    uint32_t bits = MIN_BITS;
    while ((1ull << bits) < 2 * n)
        bits++;
    return bits;
}

static uint64_t count_slots(const struct binding_table *t) /* of addresses */
{
    return 1ull << (32 - t->address_shift);
}

static struct binding_address *find_slot(const struct binding_table *t, uint32_t ipv4)
{
    const struct binding_address *a = binding_begin(t, binding_key(ipv4, 0));
    return &t->addresses[binding_probe(t, a, ipv4) - t->addresses];
}

/* Make a hash of addresses with 2^bits slots, of those that there are. */
static int resize(struct builder *b, uint32_t bits)
{
    struct binding_table old = b->t;
    struct binding_address *slots = malloc(sizeof(*slots) << bits);
    if (!slots)
        return text_no_memory(b->error);
    for (uint64_t i = 0; i < 1ull << bits; i++)
        slots[i] = binding_no_address;
    b->t.addresses = slots;
    b->t.address_shift = 32 - bits;
    b->limit = 1u << (bits - 1);
    b->last = NULL;
    if (!old.addresses)
        return 0;
    for (uint64_t i = 0; i < count_slots(&old); i++) {
        const struct binding_address *a = &old.addresses[i];
        if (a->psid_length != BINDING_NO_ADDRESS)
            *find_slot(&b->t, a->ipv4) = *a;
    }
    free(old.addresses);
    return 0;
}

static struct binding_address *find_address(struct builder *b, uint32_t ipv4)
{
    if (!b->last || b->last->ipv4 != ipv4)
        b->last = find_slot(&b->t, ipv4);
    return b->last;
}

/* RFC 7597, 5.1: of a shared address, not those whose first bits are all 0. Snabb: of
 * any address, not those below 2^bits. */
static uint32_t reserved_ports(const struct builder *b, const struct binding_address *a)
{
    uint32_t bits = a->reserved;
    if (bits == 0 || (a->psid_length == 0 && !b->compat))
        return 0;
    return b->compat ? 1u << bits : 1u << (16 - bits);
}

/* Whether a port leads to a softwire; compat mode takes others, too. */
static bool is_reachable(const struct builder *b, const struct binding_address *a,
                         const struct softwire *s)
{
    return s->psid >> a->psid_length == 0 && reserved_ports(b, a) < 65536;
}

static int refuse_psid(const struct builder *b, const struct softwire_entry *e)
{
    const struct softwire *s = &e->softwire;
    if (b->list->has_psid_map && !softwires_find_range(b->list, s->ipv4))
        return text_fail(b->error, TEXT_WRONG, e->at, 0,
                         "%s: psid %d, but psid_map does not have the address: without "
                         "it is not shared, and psid is 0",
                         softwires_show(s->ipv4).s, s->psid);
    return text_fail(b->error, TEXT_WRONG, e->at, 0,
                     "%s: psid %d has more bits than psid-length %d: 0 to %d",
                     softwires_show(s->ipv4).s, s->psid, e->psid_length,
                     (1 << e->psid_length) - 1);
}

/* Say why an address is nobody's who could be behind a tunnel; NULL: it may be. */
static const char *why_no_b4(const struct softwire_list *list, const uint8_t *b4)
{
    static const uint8_t zeros[15];
    if (b4[0] == 0xff)
        return "a multicast address";
    if (b4[15] <= 1 && memcmp(b4, zeros, sizeof(zeros)) == 0)
        return b4[15] ? "the loopback address" : "the unspecified address";
    if (softwires_has_br(list, b4))
        return "our own end of a softwire";
    for (uint64_t i = 0; i < list->nown; i++)
        if (memcmp(list->own[i], b4, 16) == 0)
            return "our own address";
    return NULL;
}

static int check_entry(const struct builder *b, const struct softwire_entry *e)
{
    if (e->psid_length + e->reserved > 16)
        return text_fail(b->error, TEXT_WRONG, e->at, 0,
                         "%s: psid-length %d and reserved-ports-bit-count %d are "
                         "more than the 16 bits of a port",
                         softwires_show(e->softwire.ipv4).s, e->psid_length,
                         e->reserved);
    if (b->compat)
        return 0;
    if (e->softwire.psid >> e->psid_length)
        return refuse_psid(b, e);
    if (ipv4_is_martian(e->softwire.ipv4))
        return text_fail(b->error, TEXT_WRONG, e->at, 0, "%s is the address of no host",
                         softwires_show(e->softwire.ipv4).s);
    const char *why = why_no_b4(b->list, e->softwire.b4);
    if (why)
        return text_fail(b->error, TEXT_WRONG, e->at, 0, "%s, psid %d: B4 %s is %s",
                         softwires_show(e->softwire.ipv4).s, e->softwire.psid,
                         softwires_show_ipv6(e->softwire.b4).s, why);
    return 0;
}

/* Say that an entry divides ports in another way than the first of its address. */
static int refuse_mixed(const struct builder *b, const struct softwire_entry *e)
{
    const struct softwire_entry *first = b->list->entries;
    while (first->softwire.ipv4 != e->softwire.ipv4)
        first++;
    text_fail(b->error, TEXT_REPEATS, e->at, 0,
              "%s: psid-length %d, reserved-ports-bit-count %d, but %d, %d before",
              softwires_show(e->softwire.ipv4).s, e->psid_length, e->reserved,
              first->psid_length, first->reserved);
    b->error->other = first->at;
    return -EINVAL;
}

/* Note that a slot was taken; the hash may have to become larger, or another one. */
static int note_address(struct builder *b, const struct binding_address *taken)
{
    uint32_t bits = 32 - b->t.address_shift;
    uint32_t home = binding_address_slot(&b->t, taken->ipv4);
    uint32_t slot = (uint32_t)(taken - b->t.addresses);
    if (++b->t.naddresses > b->limit)
        return resize(b, bits + 1);
    if (((slot - home) & binding_address_mask(&b->t)) <= MAX_PROBES ||
        b->nmultipliers == MAX_MULTIPLIERS)
        return 0;
    b->t.multiplier = (uint32_t)(binding_hash(b->t.seed, ++b->nmultipliers) >> 32) | 1;
    return resize(b, bits);
}

static int count_entry(struct builder *b, const struct softwire_entry *e)
{
    if (check_entry(b, e))
        return -EINVAL;
    struct binding_address *a = find_address(b, e->softwire.ipv4);
    if (a->psid_length == BINDING_NO_ADDRESS) {
        *a = (struct binding_address){
            .ipv4 = e->softwire.ipv4,
            .reserved = e->reserved,
            .psid_mask = (uint16_t)((1u << e->psid_length) - 1),
            .shift = (uint8_t)(16 - e->psid_length - e->reserved),
            .psid_length = e->psid_length};
        if (note_address(b, a))
            return -ENOMEM;
        a = find_address(b, e->softwire.ipv4);
    } else if (!b->compat &&
               (a->psid_length != e->psid_length || a->reserved != e->reserved)) {
        return refuse_mixed(b, e);
    }
    if (is_reachable(b, a, &e->softwire))
        a->first++;
    else
        b->nhashed++;
    return 0;
}

static int count(struct builder *b)
{
    int error = resize(b, bits_for(512));
    for (uint64_t i = 0; !error && i < b->list->nentries; i++)
        error = count_entry(b, &b->list->entries[i]);
    return error;
}

/* Decide where each address has its softwires. */
static void lay_out(struct builder *b)
{
    for (uint64_t i = 0; i < count_slots(&b->t); i++) {
        struct binding_address *a = &b->t.addresses[i];
        if (a->psid_length == BINDING_NO_ADDRESS)
            continue;
        uint32_t n = a->first, slots = 1u << a->psid_length;
        a->reserved = (uint16_t)reserved_ports(b, a);
        if (n == 0) {
            a->first = BINDING_NO_ROW;
        } else if (slots <= (uint64_t)HOLES * n) {
            a->first = (uint32_t)b->nrow;
            b->nrow += slots;
        } else {
            a->first = BINDING_HASHED;
            b->nhashed += n;
        }
    }
}

/* Take a part out of a piece of memory; without one, only count. */
static void *carve(uint8_t *memory, uint64_t *used, uint64_t size)
{
    uint64_t at = *used;
    *used += (size + LINE - 1) / LINE * LINE;
    return memory ? memory + at : NULL;
}

static uint64_t carve_all(const struct builder *b, struct binding_table *t,
                          uint8_t *memory)
{
    uint64_t used = 0;
    carve(memory, &used, sizeof(*t));
    t->addresses = carve(memory, &used, sizeof(*t->addresses) * count_slots(t));
    t->row = carve(memory, &used, sizeof(*t->row) * b->nrow);
    t->hashed = carve(memory, &used, sizeof(*t->hashed) << (64 - t->hashed_shift));
    t->br = carve(memory, &used, sizeof(*t->br) * b->list->nbr);
    t->ranges = carve(memory, &used, sizeof(*t->ranges) * b->list->nranges);
    return used;
}

static void *allocate(uint64_t size)
{
    void *memory;
    bool is_large = size >= HUGE_PAGE;
    if (posix_memalign(&memory, is_large ? HUGE_PAGE : LINE, size))
        return NULL;
    if (is_large)
        madvise(memory, size, MADV_HUGEPAGE);
    return memory;
}

static void clear(struct softwire *slots, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++)
        slots[i] = (struct softwire){.br = BINDING_NO_BR};
}

/* Move what has been laid out to its place, every slot of softwires empty. */
static struct binding_table *move(struct builder *b)
{
    b->t.hashed_shift = 64 - bits_for(b->nhashed);
    struct binding_table sizes = b->t;
    uint64_t size = carve_all(b, &sizes, NULL);
    struct binding_table *t = allocate(size);
    if (!t)
        return NULL;
    *t = b->t;
    carve_all(b, t, (uint8_t *)t);
    memcpy(t->addresses, b->t.addresses,
           sizeof(*t->addresses) * count_slots(t));
    clear(t->row, b->nrow);
    clear(t->hashed, 1ull << (64 - t->hashed_shift));
    if (b->list->nbr)
        memcpy(t->br, b->list->br, sizeof(*t->br) * b->list->nbr);
    t->nbr = (uint32_t)b->list->nbr;
    t->nrow = b->nrow;
    t->memory = size;
    return t;
}

const struct softwire *binding_table_slot(const struct binding_table *t,
                                          const struct binding_address *a,
                                          const struct softwire *s)
{
    if (s->psid <= a->psid_mask && a->first < BINDING_NO_ROW)
        return &t->row[a->first + s->psid];
    uint64_t key = binding_key(s->ipv4, s->psid);
    uint32_t slot = (uint32_t)(binding_hash(t->seed, key) >> t->hashed_shift);
    const struct softwire *place = &t->hashed[slot];
    while (place->br != BINDING_NO_BR && !softwire_has_key(place, key)) {
        slot = (slot + 1) & binding_hashed_mask(t);
        place = &t->hashed[slot];
    }
    return place;
}

static int refuse_double(const struct builder *b, const struct softwire_entry *e)
{
    const struct softwire_entry *first = b->list->entries;
    while (first->softwire.ipv4 != e->softwire.ipv4 ||
           first->softwire.psid != e->softwire.psid)
        first++;
    text_fail(b->error, TEXT_REPEATS, e->at, 0,
              "%s with psid %d has a softwire already",
              softwires_show(e->softwire.ipv4).s, e->softwire.psid);
    b->error->other = first->at;
    return -EINVAL;
}

static int fill(struct builder *b, struct binding_table *t)
{
    for (uint64_t i = 0; i < b->list->nentries; i++) {
        const struct softwire_entry *e = &b->list->entries[i];
        const struct binding_address *a = find_slot(t, e->softwire.ipv4);
        const struct softwire *place = binding_table_slot(t, a, &e->softwire);
        if (place->br != BINDING_NO_BR)
            return refuse_double(b, e);
        *(struct softwire *)place = e->softwire; /* the table is still ours */
    }
    t->nsoftwires = (uint32_t)b->list->nentries;
    return 0;
}

/* Note the ranges and in which /16 there is anything. */
static void fill_managed(const struct softwire_list *list, struct binding_table *t)
{
    for (uint64_t i = 0; i < count_slots(t); i++) {
        uint32_t net = t->addresses[i].ipv4 >> 16;
        if (t->addresses[i].psid_length != BINDING_NO_ADDRESS)
            t->managed[net >> 5] |= 1u << (net & 31);
    }
    t->nranges = (uint32_t)list->nranges;
    for (uint32_t i = 0; i < t->nranges; i++) {
        const struct softwire_range *range = &list->ranges[i];
        t->ranges[i] = (struct binding_range){range->first, range->last};
        for (uint32_t net = range->first >> 16; net <= range->last >> 16; net++)
            t->managed[net >> 5] |= 1u << (net & 31);
    }
}

struct binding_table *binding_table_build(struct softwire_list *list, bool compat,
                                          uint64_t seed, struct text_error *error)
{
    struct builder b = {
        .list = list, .error = error, .compat = compat, .t = {.seed = seed, .multiplier = GOLDEN}};
    struct binding_table *t = NULL;
    if (softwires_sort_ranges(list, error))
        return NULL;
    if (!count(&b)) {
        lay_out(&b);
        t = move(&b);
        if (!t)
            text_no_memory(error);
    }
    free(b.t.addresses);
    if (t && fill(&b, t)) {
        binding_table_free(t);
        return NULL;
    }
    if (t)
        fill_managed(list, t);
    return t;
}

void binding_table_free(struct binding_table *table)
{
    free(table);
}
