/* Filter: what an expression describes passes, and replies to it. */
#include "snabb_py/apps/filter.h"

enum { PREFETCH = 8 }; /* packets ahead */

static inline bool matches(const struct filter_config *config,
                           const struct packet *packet)
{
    if (likely(config->code != NULL))
        return config->code(packet->data, packet->length) != 0;
    return !config->program ||
           bpf_run(config->program, packet->data, packet->length) != 0;
}

/* The table is one worker's. Between two that change workers there may be a breath in
 * which both apps run, each on its own: the second one then does without. */
static struct connections *claim_table(struct app *app)
{
    const struct filter_config *config = app->config;
    struct connections *table = config->connections;
    struct worker *owner = NULL;
    if (!table)
        return NULL;
    /* Acquire, and release in filter_retire(): what the owner before has written to the
     * table is there. */
    if (__atomic_load_n(&table->owner, __ATOMIC_RELAXED) == app->worker ||
        __atomic_compare_exchange_n(&table->owner, &owner, app->worker, false,
                                    __ATOMIC_ACQUIRE, __ATOMIC_RELAXED))
        return table;
    return NULL;
}

/* Whether a packet passes, with what is known of its connection. */
static bool passes_with_state(struct app *app, struct connections *table,
                              const struct packet *packet)
{
    struct connection_flow flow;
    uint64_t now = app->worker->now;
    bool has_flow = connection_parse(packet->data, packet->length, &flow);
    if (!matches(app->config, packet)) {
        if (!has_flow || !connection_find(table, &flow, now))
            return false;
        app->counters[flow.is_related ? FILTER_PASSED_RELATED : FILTER_PASSED_REPLY]++;
        return true;
    }
    if (has_flow) {
        enum connection_note note = connection_note(table, &flow, now);
        app->counters[FILTER_CONNECTIONS] += note == CONNECTION_NEW;
        app->counters[FILTER_UNTRACKED_TABLE_FULL] += note == CONNECTION_NO_ROOM;
    }
    return true;
}

/* What does not fit waits on the input, as in front of any app that is held up. */
static uint32_t filter_push(struct app *app)
{
    const struct filter_config *config = app->config;
    struct link *in = app->input[0], *out = app->output[0];
    struct packet *burst[LINK_CAPACITY], *refused[LINK_CAPACITY];
    uint32_t n = link_receive_burst(in, burst, link_writable(out));
    if (n == 0)
        return 0;
    struct connections *table = claim_table(app);
    if (unlikely(config->connections && !table))
        app->counters[FILTER_UNTRACKED_OTHER_WORKER] += n;
    for (uint32_t i = 0; i < min_u32(n, PREFETCH); i++)
        __builtin_prefetch(burst[i]->data);
    uint32_t kept = 0, nrefused = 0;
    for (uint32_t i = 0; i < n; i++) {
        struct packet *packet = burst[i];
        if (i + 2 * PREFETCH < n)
            __builtin_prefetch(burst[i + 2 * PREFETCH]);
        if (i + PREFETCH < n)
            __builtin_prefetch(burst[i + PREFETCH]->data);
        bool passes = table ? passes_with_state(app, table, packet)
                            : matches(config, packet);
        /* Both written, one counted: what passes is anybody's guess. */
        burst[kept] = packet;
        refused[nrefused] = packet;
        kept += passes;
        nrefused += !passes;
    }
    packet_free_burst(in->freelist, refused, nrefused);
    app->counters[FILTER_DROP_FILTERED] += nrefused;
    link_transmit_burst(out, burst, kept);
    return n;
}

static uint32_t filter_retire(struct app *app)
{
    const struct filter_config *config = app->config;
    struct connections *table = config->connections;
    if (table && table->owner == app->worker)
        __atomic_store_n(&table->owner, NULL, __ATOMIC_RELEASE);
    return 0;
}

const struct app_ops filter_ops = {.push = filter_push, .retire = filter_retire};
