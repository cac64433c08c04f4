/* Datagrams: a hash table with a secret key, and a queue for each subscriber (or a few),
 * in which they wait for their end: time, or want of room. All is done in a time that
 * does not depend on how many there are. */
#include "snabb_py/lwaftr/datagram_table.h"

enum { KEY_WORDS = 5, SUBSCRIBER_WORDS = 2, NONE = 0 /* index + 1 */ };

static struct datagram *entry_at(const struct datagram_table *table, uint32_t index)
{
    return (struct datagram *)(void *)(table->entries +
                                       (uint64_t)(index - 1) * table->stride);
}

static uint32_t *bucket_of(const struct datagram_table *table, const uint64_t *key)
{
    return &table->buckets[keyed_hash(table->seed, key, KEY_WORDS) & table->mask];
}

void *datagram_find(const struct datagram_table *table, const uint64_t *key)
{
    uint32_t index = *bucket_of(table, key);
    while (index != NONE) {
        struct datagram *entry = entry_at(table, index);
        if (memcmp(entry->key, key, sizeof(entry->key)) == 0)
            return entry;
        index = entry->next;
    }
    return NULL;
}

void datagram_remove(struct datagram_table *table, void *removed)
{
    struct datagram *entry = removed;
    uint32_t *link = bucket_of(table, entry->key);
    while (entry_at(table, *link) != entry)
        link = &entry_at(table, *link)->next;
    uint32_t index = *link;
    *link = entry->next;
    struct datagram_queue *queue = &table->queues[entry->queue];
    if (entry->older != NONE)
        entry_at(table, entry->older)->newer = entry->newer;
    else
        queue->oldest = entry->newer;
    if (entry->newer != NONE)
        entry_at(table, entry->newer)->older = entry->older;
    else
        queue->newest = entry->older;
    queue->n--;
    entry->next = table->free;
    table->free = index;
    table->n--;
}

/* Who has less than the average does not lose anything: when the queue that was the
 * longest has come to that, it is looked for. */
void *datagram_victim(struct datagram_table *table)
{
    const struct datagram_queue *queues = table->queues;
    if ((uint64_t)queues[table->longest].n * DATAGRAM_QUEUES < table->n)
        for (uint32_t i = 0; i < DATAGRAM_QUEUES; i++)
            if (queues[i].n > queues[table->longest].n)
                table->longest = i;
    return entry_at(table, queues[table->longest].oldest);
}

void *datagram_insert(struct datagram_table *table, const uint64_t *key,
                      const uint64_t *subscriber, uint64_t now)
{
    uint32_t index = table->free;
    if (index == NONE)
        index = ++table->nfresh;
    struct datagram *entry = entry_at(table, index);
    if (table->free != NONE)
        table->free = entry->next;
    memcpy(entry->key, key, sizeof(entry->key));
    uint32_t *bucket = bucket_of(table, key);
    entry->next = *bucket;
    *bucket = index;
    entry->queue = (uint32_t)(keyed_hash(table->seed, subscriber, SUBSCRIBER_WORDS) %
                              DATAGRAM_QUEUES);
    struct datagram_queue *queue = &table->queues[entry->queue];
    entry->newer = NONE;
    entry->older = queue->newest;
    if (queue->newest != NONE)
        entry_at(table, queue->newest)->newer = index;
    else
        queue->oldest = index;
    queue->newest = index;
    if (++queue->n > table->queues[table->longest].n)
        table->longest = entry->queue;
    entry->deadline = now + table->timeout;
    table->n++;
    return entry;
}

void *datagram_expired(struct datagram_table *table, uint64_t now, uint32_t *nqueues)
{
    if (table->timeout == 0 || table->n == 0)
        return NULL;
    for (; *nqueues > 0; --*nqueues, table->swept++) {
        const struct datagram_queue *queue =
            &table->queues[table->swept % DATAGRAM_QUEUES];
        if (queue->n > 0 && entry_at(table, queue->oldest)->deadline <= now)
            return entry_at(table, queue->oldest);
    }
    return NULL;
}

/* ---- life ---------------------------------------------------------------- */

static uint32_t count_buckets(uint32_t capacity)
{
    uint32_t n = 1;
    while (n < capacity && n < 1u << 31)
        n *= 2;
    return n;
}

uint64_t datagram_table_memory_needed(uint32_t stride, uint32_t capacity)
{
    return (uint64_t)capacity * stride +
           (uint64_t)count_buckets(capacity) * sizeof(uint32_t);
}

void datagram_table_init(struct datagram_table *table, uint8_t *memory, uint32_t stride,
                         uint32_t capacity, uint64_t timeout, const uint64_t *seed)
{
    *table = (struct datagram_table){
        .entries = memory,
        .buckets = (uint32_t *)(void *)(memory + (uint64_t)capacity * stride),
        .seed = {seed[0], seed[1]},
        .timeout = timeout,
        .stride = stride,
        .mask = count_buckets(capacity) - 1,
        .capacity = capacity,
    };
}
