/* Header fields that vary: the inner loops. What is the same for each packet of a burst is
 * done for all of them at once, in vectors.
 */
#ifndef SNABB_PY_APPS_FIELDS_H
#define SNABB_PY_APPS_FIELDS_H

#include "snabb_py/engine/engine.h"
#include "snabb_py/engine/offload.h"

#include "snabb_py/apps/fields_abi.h"

_Static_assert(sizeof(((struct fields *)0)->ranges) ==
                   FIELD_KINDS * sizeof(struct field_range),
               "a range of each kind");

enum { FIELDS_BURST = 32 };

/* The fields of some packets. */
struct fields_burst {
    uint64_t bytes[FIELD_KINDS][FIELDS_BURST]; /* of each range, as they lie in a frame */
    uint64_t ip_sums[FIELDS_BURST]; /* what they add to checksums */
    uint64_t l4_sums[FIELDS_BURST];
};

/* How many steps, `most` at most, only count on. */
static inline uint32_t field_run(const struct field_cycle *cycle,
                                 const struct field_count *count, uint32_t most)
{
    uint64_t to_end = cycle->n - count->index;
    uint64_t run = to_end < count->left ? to_end : count->left;
    return run < most ? (uint32_t)run : most;
}

/* Go on by so many steps of field_run(). */
static inline void field_step(const struct field_cycle *cycle, struct field_count *count,
                              uint32_t run)
{
    count->index += run;
    count->left -= run;
    if (count->left == 0) {
        count->left = cycle->period;
        count->index++;
        if (++count->round == cycle->rounds) {
            count->round = 0;
            count->index = 0;
        }
    }
    if (count->index >= cycle->n)
        count->index -= cycle->n;
}

/* Set all ranges to where they are in the flow. */
void fields_enter(const struct fields *fields, struct fields_state *state);

/* The values of a range in n packets, flows that follow each other. */
static inline void range_fill(const struct field_range *range, struct field_count *count,
                              uint64_t *bytes, uint32_t n)
{
    uint32_t shift = 64 - 8 * range->size;
    for (uint32_t done = 0; done < n;) {
        uint32_t run = field_run(&range->cycle, count, n - done);
        uint64_t value = range->first + count->index;
        for (uint32_t i = 0; i < run; i++)
            bytes[done + i] = htobe64((value + i) << shift);
        field_step(&range->cycle, count, run);
        done += run;
    }
}

static inline void add_to_sums(uint64_t *restrict sums, const uint64_t *restrict bytes,
                               uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        sums[i] += checksum_word(bytes[i]);
}

/* The next n packets' fields, n <= FIELDS_BURST. */
static inline void fields_fill(const struct fields *fields, struct fields_state *state,
                               struct fields_burst *burst, uint32_t n)
{
    for (uint32_t done = 0; done < n;) {
        uint32_t run = field_run(&fields->flows, &state->flow, n - done);
        for (uint32_t i = 0; i < fields->nranges; i++)
            range_fill(&fields->ranges[i], &state->counts[i], &burst->bytes[i][done], run);
        uint64_t next = state->flow.index + run;
        field_step(&fields->flows, &state->flow, run);
        if (unlikely(state->flow.index != next))
            fields_enter(fields, state);
        done += run;
    }
    memset(burst->ip_sums, 0, n * sizeof(uint64_t));
    memset(burst->l4_sums, 0, n * sizeof(uint64_t));
    for (uint32_t i = 0; i < fields->nranges; i++) {
        if (fields->ranges[i].sums & FIELD_IN_IP_SUM)
            add_to_sums(burst->ip_sums, burst->bytes[i], n);
        if (fields->ranges[i].sums & FIELD_IN_L4_SUM)
            add_to_sums(burst->l4_sums, burst->bytes[i], n);
    }
}

static inline void field_store(uint8_t *to, uint32_t size, uint64_t bytes)
{
    uint32_t word = (uint32_t)bytes;
    uint16_t half = (uint16_t)bytes;
    switch (size) {
    case 2:
        memcpy(to, &half, 2);
        break;
    case 4:
        memcpy(to, &word, 4);
        break;
    case 6:
        half = (uint16_t)(bytes >> 32);
        memcpy(to, &word, 4);
        memcpy(to + 4, &half, 2);
        break;
    default:
        memcpy(to, &bytes, 8);
    }
}

/* The checksum of what adds up to a sum that is not 0: a remainder takes less time than
 * checksum_fold(). 0 is the one of two zeros that all but UDP may have. */
static inline void field_store_checksum(uint8_t *to, uint64_t sum, bool is_udp)
{
    uint16_t value = (uint16_t)(0xffff - sum % 0xffff);
    if (!is_udp && unlikely(value == 0xffff))
        value = 0;
    memcpy(to, &value, sizeof(value));
}

/* Make a copy of a template the i-th packet of a burst. */
static inline void fields_write(const struct fields_burst *burst, uint32_t i,
                                const struct fields *fields,
                                const struct field_layout *layout, uint8_t *frame)
{
    for (uint32_t k = 0; k < fields->nranges; k++)
        field_store(frame + layout->places[k].offset, layout->places[k].size,
                    burst->bytes[k][i]);
    if (layout->ip_checksum)
        field_store_checksum(frame + layout->ip_checksum,
                             layout->ip_sum + burst->ip_sums[i], false);
    if (layout->l4_checksum)
        field_store_checksum(frame + layout->l4_checksum,
                             layout->l4_sum + burst->l4_sums[i], layout->is_udp);
}

#endif
