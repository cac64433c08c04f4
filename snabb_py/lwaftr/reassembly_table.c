/* The datagrams of a reassembler: a hash table with a secret key, and a queue for each
 * subscriber (or a few), in which they wait for their end: time, or want of room. All is
 * done in a time that does not depend on how many there are. */
#include "snabb_py/lwaftr/reassembly_table.h"

enum { KEY_WORDS = 5, SUBSCRIBER_WORDS = 2 };

/* Multiplied to 128 bits and folded, a word at a time, as in wyhash (Wang Yi). */
static uint64_t mix(uint64_t a, uint64_t b)
{
    unsigned __int128 product = (unsigned __int128)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

static uint64_t hash_words(const struct reassembler *r, const uint64_t *words, uint32_t n)
{
    uint64_t hash = r->seed[0];
    for (uint32_t i = 0; i < n; i++)
        hash = mix(words[i] ^ hash, r->seed[1] ^ 0xa0761d6478bd642fu);
    return mix(hash, r->seed[0] ^ 0xe7037ed1a0b428dbu);
}

static uint32_t index_of(const struct reassembler *r, const struct reassembly *entry)
{
    return (uint32_t)(entry - r->entries) + 1;
}

static uint32_t *bucket_of(const struct reassembler *r, const uint64_t *key)
{
    return &r->buckets[hash_words(r, key, KEY_WORDS) & r->mask];
}

struct reassembly *reassembly_find(const struct reassembler *r, const uint64_t *key)
{
    uint32_t index = *bucket_of(r, key);
    while (index != REASSEMBLY_NONE) {
        struct reassembly *entry = reassembly_at(r, index);
        if (memcmp(entry->key, key, sizeof(entry->key)) == 0)
            return entry;
        index = entry->next;
    }
    return NULL;
}

struct packet *reassembly_remove(struct reassembler *r, struct reassembly *entry)
{
    uint32_t index = index_of(r, entry);
    uint32_t *link = bucket_of(r, entry->key);
    while (*link != index)
        link = &reassembly_at(r, *link)->next;
    *link = entry->next;
    struct reassembly_queue *queue = &r->queues[entry->queue];
    if (entry->older != REASSEMBLY_NONE)
        reassembly_at(r, entry->older)->newer = entry->newer;
    else
        queue->oldest = entry->newer;
    if (entry->newer != REASSEMBLY_NONE)
        reassembly_at(r, entry->newer)->older = entry->older;
    else
        queue->newest = entry->older;
    queue->n--;
    entry->next = r->free;
    r->free = index;
    r->nentries--;
    return entry->packet;
}

/* Who has less than the average does not lose anything: when the queue that was the
 * longest has come to that, it is looked for. */
struct reassembly *reassembly_victim(struct reassembler *r)
{
    if ((uint64_t)r->queues[r->longest].n * REASSEMBLY_QUEUES < r->nentries)
        for (uint32_t i = 0; i < REASSEMBLY_QUEUES; i++)
            if (r->queues[i].n > r->queues[r->longest].n)
                r->longest = i;
    return reassembly_at(r, r->queues[r->longest].oldest);
}

struct reassembly *reassembly_insert(struct reassembler *r, const uint64_t *key,
                                     const uint64_t *subscriber, uint64_t now)
{
    uint32_t index = r->free;
    if (index == REASSEMBLY_NONE)
        index = ++r->nfresh;
    struct reassembly *entry = reassembly_at(r, index);
    if (r->free != REASSEMBLY_NONE)
        r->free = entry->next;
    memcpy(entry->key, key, sizeof(entry->key));
    uint32_t *bucket = bucket_of(r, key);
    entry->next = *bucket;
    *bucket = index;
    entry->queue =
        (uint16_t)(hash_words(r, subscriber, SUBSCRIBER_WORDS) % REASSEMBLY_QUEUES);
    struct reassembly_queue *queue = &r->queues[entry->queue];
    entry->newer = REASSEMBLY_NONE;
    entry->older = queue->newest;
    if (queue->newest != REASSEMBLY_NONE)
        reassembly_at(r, queue->newest)->newer = index;
    else
        queue->oldest = index;
    queue->newest = index;
    if (++queue->n > r->queues[r->longest].n)
        r->longest = entry->queue;
    entry->deadline = now + r->timeout;
    r->nentries++;
    return entry;
}

/* ---- life ---------------------------------------------------------------- */

static uint32_t count_buckets(uint32_t capacity)
{
    uint32_t n = 1;
    while (n < capacity && n < 1u << 31)
        n *= 2;
    return n;
}

uint64_t reassembler_memory_needed(uint32_t capacity)
{
    return (uint64_t)capacity * sizeof(struct reassembly) +
           (uint64_t)count_buckets(capacity) * sizeof(uint32_t);
}

void reassembler_init(struct reassembler *reassembler, uint8_t *memory, uint32_t kind,
                      uint32_t capacity, uint32_t max_fragments, uint64_t timeout,
                      const uint64_t *seed, bool compat)
{
    *reassembler = (struct reassembler){
        .entries = (struct reassembly *)(void *)memory,
        .seed = {seed[0], seed[1]},
        .timeout = timeout,
        .mask = count_buckets(capacity) - 1,
        .capacity = capacity,
        .max_fragments = min_u32(max_fragments, REASSEMBLY_MAX_FRAGMENTS),
        .kind = kind,
        .compat = compat,
    };
    reassembler->buckets = (uint32_t *)(void *)&reassembler->entries[capacity];
}

uint32_t reassembler_retire(struct reassembler *reassembler, struct freelist *freelist)
{
    uint32_t n = reassembler->nentries;
    while (reassembler->nentries > 0)
        packet_free(freelist,
                    reassembly_remove(reassembler, reassembly_victim(reassembler)));
    return n;
}

uint32_t reassembler_held(const struct reassembler *reassembler)
{
    return reassembler->nentries;
}
