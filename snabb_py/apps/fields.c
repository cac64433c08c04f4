/* Header fields that vary: the loops that make them. What is the same for each packet of a
 * burst is done for all of them at once, in vectors.
 */
#include "snabb_py/engine/wire.h"

#include "snabb_py/apps/fields.h"

/* ---- flows --------------------------------------------------------------- */

static void seek(const struct field_cycle *cycle, struct field_count *count, uint64_t step)
{
    uint64_t round = step / cycle->period % cycle->rounds;
    uint64_t within = step % cycle->period;
    *count = (struct field_count){
        .index = (within + round) % cycle->n,
        .left = cycle->period - within,
        .round = round,
    };
}

/* Set all ranges to where they are in the flow. */
static void enter(const struct fields *fields, struct fields_state *state)
{
    for (uint32_t i = 0; i < fields->nranges; i++)
        seek(&fields->ranges[i].cycle, &state->counts[i], state->flow.index);
}

void fields_seek(const struct fields *fields, struct fields_state *state, uint64_t number)
{
    seek(&fields->flows, &state->flow, number);
    enter(fields, state);
}

/* ---- the loops ----------------------------------------------------------- */

/* Into the clones that the loader chooses from. */
#define INLINE static inline __attribute__((always_inline))

/* What varies in some packets. */
struct fields_burst {
    uint64_t bytes[FIELD_SOURCES][FIELDS_BURST]; /* as they lie in a frame */
    uint32_t ip_sums[FIELDS_BURST];              /* less than 2^22 */
    uint32_t l4_sums[FIELDS_BURST];
};

/* Begin with what templates have. */
INLINE void burst_begin(struct fields_burst *burst, struct fields_words *made,
                        const struct field_layout *const *layouts, uint32_t nlayouts,
                        uint32_t turn, uint32_t n)
{
    const struct field_layout *layout = layouts[0];
    if (nlayouts == 1) {
        for (uint32_t i = 0; i < n; i++) {
            burst->ip_sums[i] = layout->ip_sum;
            burst->l4_sums[i] = layout->l4_sum;
        }
        for (uint32_t k = 0; k < layout->nwindows; k++)
            for (uint32_t i = 0; i < n; i++)
                made->words[k][i] = layout->windows[k].base;
        return;
    }
    for (uint32_t i = 0; i < n; i++) {
        layout = layouts[turn];
        burst->ip_sums[i] = layout->ip_sum;
        burst->l4_sums[i] = layout->l4_sum;
        for (uint32_t k = 0; k < layout->nwindows; k++)
            made->words[k][i] = layout->windows[k].base;
        if (++turn == nlayouts)
            turn = 0;
    }
}

/* How many steps, `most` at most, only count on. */
INLINE uint32_t field_run(const struct field_cycle *cycle,
                          const struct field_count *count, uint32_t most)
{
    uint64_t to_end = cycle->n - count->index;
    uint64_t run = to_end < count->left ? to_end : count->left;
    return run < most ? (uint32_t)run : most;
}

/* Go on by so many steps of field_run(). */
INLINE void field_step(const struct field_cycle *cycle, struct field_count *count,
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

/* Numbers that follow each other, as a frame has them. */
INLINE void count_up(uint64_t *to, uint64_t value, uint32_t shift, uint32_t n)
{
    uint64_t at = value << shift, step = 1ull << shift;
    for (uint32_t i = 0; i < n; i++, at += step)
        to[i] = htobe64(at);
}

/* The values of a range in n packets, flows that follow each other. */
INLINE void range_fill(const struct field_range *range, struct field_count *count,
                       uint64_t *bytes, uint32_t n)
{
    uint32_t shift = 64 - 8 * range->size;
    for (uint32_t done = 0; done < n;) {
        uint32_t run = field_run(&range->cycle, count, n - done);
        uint64_t value = range->first + count->index;
        if (likely(run == FIELDS_BURST))
            count_up(bytes, value, shift, FIELDS_BURST);
        else
            count_up(bytes + done, value, shift, run);
        field_step(&range->cycle, count, run);
        done += run;
    }
}

/* What a range adds to the sums that cover it: that of IPv4 headers is never the only one. */
INLINE void add_to_sums(struct fields_burst *burst, const struct field_range *range,
                        const uint64_t *restrict bytes, uint32_t n)
{
    uint32_t ip = range->sums & FIELD_IN_IP_SUM ? UINT32_MAX : 0;
    if (range->size <= 4) {
        for (uint32_t i = 0; i < n; i++) {
            uint32_t sum = ((uint32_t)bytes[i] & 0xffff) + ((uint32_t)bytes[i] >> 16);
            burst->ip_sums[i] += sum & ip;
            burst->l4_sums[i] += sum;
        }
        return;
    }
    for (uint32_t i = 0; i < n; i++) {
        uint64_t two = (bytes[i] & 0xffff0000ffff) + (bytes[i] >> 16 & 0xffff0000ffff);
        uint32_t sum = (uint32_t)two + (uint32_t)(two >> 32);
        burst->ip_sums[i] += sum & ip;
        burst->l4_sums[i] += sum;
    }
}

/* The next n packets' fields, n <= FIELDS_BURST. */
INLINE void fields_fill(const struct fields *fields, struct fields_state *state,
                        struct fields_burst *burst, uint32_t n)
{
    for (uint32_t done = 0; done < n;) {
        uint32_t run = field_run(&fields->flows, &state->flow, n - done);
        for (uint32_t i = 0; i < fields->nranges; i++)
            range_fill(&fields->ranges[i], &state->counts[i], &burst->bytes[i][done], run);
        uint64_t next = state->flow.index + run;
        field_step(&fields->flows, &state->flow, run);
        if (unlikely(state->flow.index != next))
            enter(fields, state);
        done += run;
    }
    for (uint32_t i = 0; i < fields->nranges; i++)
        if (fields->ranges[i].sums)
            add_to_sums(burst, &fields->ranges[i], burst->bytes[i], n);
}

/* The checksums of n frames whose sums are these, without it. Zero is the one of two zeros
 * that all but UDP may have. */
INLINE void fields_finish(uint64_t *restrict checksums, const uint32_t *restrict sums,
                          bool is_udp, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        /* checksum_fold(): the upper half of what its halves are together, with the
         * lower one's carry. */
        uint32_t sum = ~(sums[i] + (sums[i] << 16 | sums[i] >> 16)) >> 16;
        checksums[i] = is_udp && sum == 0 ? 0xffff : sum;
    }
}

/* Put a part into n words. */
INLINE void words_add(uint64_t *restrict words, const uint64_t *restrict bytes,
                      int32_t shift, uint32_t n)
{
    if (shift >= 0)
        for (uint32_t i = 0; i < n; i++)
            words[i] |= bytes[i] << shift;
    else
        for (uint32_t i = 0; i < n; i++)
            words[i] |= bytes[i] >> -shift;
}

/* Put two in at once, whose begin is not in front of the words. */
INLINE void words_add_two(uint64_t *restrict words, const uint64_t *restrict a,
                          int32_t a_shift, const uint64_t *restrict b, int32_t b_shift,
                          uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        words[i] |= a[i] << a_shift | b[i] << b_shift;
}

/* Make the words of n frames that have windows in the same places, from the i-th on. */
INLINE void words_make(struct fields_burst *burst, const struct field_layout *layout,
                       struct fields_words *made, uint32_t i, uint32_t n)
{
    if (layout->ip_checksum)
        fields_finish(burst->bytes[FIELD_IP_CHECKSUM] + i, burst->ip_sums + i, false, n);
    if (layout->l4_checksum)
        fields_finish(burst->bytes[FIELD_L4_CHECKSUM] + i, burst->l4_sums + i,
                      layout->is_udp, n);
    for (uint32_t k = 0; k < layout->nwindows; k++) {
        uint64_t *words = made->words[k] + i;
        const struct field_part *part = layout->windows[k].parts;
        uint32_t nparts = layout->windows[k].nparts;
        if (nparts == 2 && part[0].shift >= 0 && part[1].shift >= 0) {
            words_add_two(words, burst->bytes[part[0].source] + i, part[0].shift,
                          burst->bytes[part[1].source] + i, part[1].shift, n);
            continue;
        }
        for (uint32_t j = 0; j < nparts; j++)
            words_add(words, burst->bytes[part[j].source] + i, part[j].shift, n);
    }
}

INLINE void burst_make(const struct fields *fields, struct fields_state *state,
                       const struct field_layout *const *layouts, uint32_t nlayouts,
                       uint32_t turn, uint32_t n, struct fields_words *made)
{
    struct fields_burst burst;
    burst_begin(&burst, made, layouts, nlayouts, turn, n);
    fields_fill(fields, state, &burst, n);
    if (likely(fields->is_uniform)) {
        words_make(&burst, layouts[0], made, 0, n);
        return;
    }
    for (uint32_t i = 0; i < n; i++) {
        words_make(&burst, layouts[turn], made, i, 1);
        if (++turn == nlayouts)
            turn = 0;
    }
}

/* Loops of a length that the compiler knows are a few vectors, without a rest. */
HOT void fields_make(const struct fields *fields, struct fields_state *state,
                     const struct field_layout *const *layouts, uint32_t nlayouts,
                     uint32_t turn, uint32_t n, struct fields_words *made)
{
    if (likely(n == FIELDS_BURST && nlayouts == 1))
        burst_make(fields, state, layouts, 1, 0, FIELDS_BURST, made);
    else
        burst_make(fields, state, layouts, nlayouts, turn, n, made);
}

void fields_begin(const struct fields *fields, const struct field_layout *layout,
                  uint8_t *frame)
{
    struct fields_state state;
    struct fields_words made;
    fields_seek(fields, &state, 0);
    fields_make(fields, &state, &layout, 1, 0, 1, &made);
    fields_put(layout, &made, 0, frame);
}
