/* The softwires of a binding table, as they were configured. */
#include <stdlib.h>

#include "snabb_py/lwaftr/softwires.h"

static int compare_entries(const void *left, const void *right)
{
    const struct softwire *a = &((const struct softwire_entry *)left)->softwire;
    const struct softwire *b = &((const struct softwire_entry *)right)->softwire;
    uint64_t x = binding_key(a->ipv4, a->psid), y = binding_key(b->ipv4, b->psid);
    return (x > y) - (x < y);
}

static struct softwire_entry *copy_out(const struct binding_table *t,
                                       const struct softwire *slots, uint64_t n,
                                       struct softwire_entry *out)
{
    for (uint64_t i = 0; i < n; i++) {
        if (slots[i].br == BINDING_NO_BR)
            continue;
        const struct binding_address *a = binding_table_address(t, slots[i].ipv4);
        *out++ = (struct softwire_entry){
            .softwire = slots[i],
            .psid_length = a->psid_length,
            .reserved = (uint8_t)(16 - a->psid_length - a->shift)};
    }
    return out;
}

void binding_table_entries(const struct binding_table *table,
                           struct softwire_entry *entries)
{
    struct softwire_entry *out = copy_out(table, table->row, table->nrow, entries);
    copy_out(table, table->hashed, 1ull << (64 - table->hashed_shift), out);
    qsort(entries, table->nsoftwires, sizeof(*entries), compare_entries);
}

/* ---- two tables ---------------------------------------------------------- */

struct tables {
    const struct binding_table *before;
    const struct binding_table *after;
    uint64_t nsame; /* address and PSID are in both */
    uint64_t nchanged;
};

static bool are_same(const struct tables *tables, const struct softwire *a,
                     const struct binding_address *a_at, const struct softwire *b,
                     const struct binding_address *b_at)
{
    return memcmp(a->b4, b->b4, sizeof(a->b4)) == 0 &&
           memcmp(tables->before->br[a->br], tables->after->br[b->br], 16) == 0 &&
           a_at->psid_length == b_at->psid_length && a_at->shift == b_at->shift;
}

static void compare(struct tables *tables, const struct softwire *slots, uint64_t n)
{
    for (const struct softwire *a = slots; a < slots + n; a++) {
        if (a->br == BINDING_NO_BR)
            continue;
        const struct binding_address *at = binding_table_address(tables->after, a->ipv4);
        const struct softwire *b = at ? binding_table_slot(tables->after, at, a) : NULL;
        if (!b || b->br == BINDING_NO_BR)
            continue;
        tables->nsame++;
        tables->nchanged += !are_same(
            tables, a, binding_table_address(tables->before, a->ipv4), b, at);
    }
}

struct binding_difference binding_table_compare(const struct binding_table *before,
                                                const struct binding_table *after)
{
    struct tables tables = {.before = before, .after = after};
    compare(&tables, before->row, before->nrow);
    compare(&tables, before->hashed, 1ull << (64 - before->hashed_shift));
    return (struct binding_difference){
        .added = after->nsoftwires - tables.nsame,
        .removed = before->nsoftwires - tables.nsame,
        .changed = tables.nchanged,
        .is_managed = before->nranges != after->nranges ||
                      (before->nranges &&
                       memcmp(before->ranges, after->ranges,
                              before->nranges * sizeof(*before->ranges)) != 0)};
}
