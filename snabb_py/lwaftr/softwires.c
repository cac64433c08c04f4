/* The list of configured softwires: appending, our own addresses, ranges. */

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "snabb_py/lwaftr/softwires.h"

enum { BR_SLOT_BITS = 17 }; /* twice SOFTWIRES_MAX_BR: the hash is half full at most */

struct softwire_list *softwires_new(void)
{
    struct softwire_list *list = calloc(1, sizeof(*list));
    if (!list)
        return NULL;
    list->br_slots = calloc(1u << BR_SLOT_BITS, sizeof(*list->br_slots));
    if (!list->br_slots) {
        free(list);
        return NULL;
    }
    return list;
}

void softwires_free(struct softwire_list *list)
{
    free(list->entries);
    free(list->ranges);
    free(list->br);
    free(list->br_slots);
    free(list);
}

struct ipv4_text softwires_show(uint32_t ipv4)
{
    struct ipv4_text text;
    snprintf(text.s, sizeof(text.s), "%u.%u.%u.%u", ipv4 >> 24, ipv4 >> 16 & 255,
             ipv4 >> 8 & 255, ipv4 & 255);
    return text;
}

struct ipv6_text softwires_show_ipv6(const uint8_t *ipv6)
{
    struct ipv6_text text;
    inet_ntop(AF_INET6, ipv6, text.s, sizeof(text.s));
    return text;
}

/* Return `items` with room for one more than n, moved or not; NULL: no memory. */
static void *make_room(void *items, uint64_t n, uint64_t *room, size_t size)
{
    if (n < *room)
        return items;
    uint64_t wanted = *room ? 2 * *room : 64;
    void *moved = realloc(items, wanted * size);
    if (moved)
        *room = wanted;
    return moved;
}

int softwires_append(struct softwire_list *list, const struct softwire_entry *entry,
                     struct text_error *error)
{
    if (list->nentries == SOFTWIRES_MAX)
        return text_fail(error, TEXT_WRONG, entry->at, 0, "more than %d softwires", SOFTWIRES_MAX);
    void *entries = make_room(list->entries, list->nentries, &list->entries_room,
                              sizeof(*list->entries));
    if (!entries)
        return text_no_memory(error);
    list->entries = entries;
    list->entries[list->nentries++] = *entry;
    return 0;
}

int softwires_add(struct softwire_list *list, const struct softwire_entry *entry,
                  const uint8_t *br, struct text_error *error)
{
    int64_t index = softwires_intern_br(list, br, entry->at, error);
    if (index < 0)
        return (int)index;
    struct softwire_entry with_br = *entry;
    with_br.softwire.br = (uint16_t)index;
    return softwires_append(list, &with_br, error);
}

int softwires_add_range(struct softwire_list *list, const struct softwire_range *range,
                        struct text_error *error)
{
    if (range->last < range->first)
        return text_fail(error, TEXT_WRONG, range->at, 0, "a range that ends, at %s, before it begins",
                      softwires_show(range->last).s);
    if (list->nranges == SOFTWIRES_MAX)
        return text_fail(error, TEXT_WRONG, range->at, 0, "more than %d ranges", SOFTWIRES_MAX);
    void *ranges = make_room(list->ranges, list->nranges, &list->ranges_room,
                             sizeof(*list->ranges));
    if (!ranges)
        return text_no_memory(error);
    list->ranges = ranges;
    list->ranges[list->nranges++] = *range;
    return 0;
}

/* The slot that has an address, or the one for it. */
static uint16_t *find_br(const struct softwire_list *list, const uint8_t *br)
{
    uint64_t halves[2];
    memcpy(halves, br, sizeof(halves));
    uint64_t slot = binding_hash(halves[0], halves[1]) >> (64 - BR_SLOT_BITS);
    for (uint16_t known; (known = list->br_slots[slot]);) {
        if (memcmp(list->br[known - 1], br, 16) == 0)
            break;
        slot = (slot + 1) & ((1u << BR_SLOT_BITS) - 1);
    }
    return &list->br_slots[slot];
}

bool softwires_has_br(const struct softwire_list *list, const uint8_t *address)
{
    return *find_br(list, address) != 0;
}

int64_t softwires_intern_br(struct softwire_list *list, const uint8_t *br, uint64_t at,
                            struct text_error *error)
{
    uint16_t *slot = find_br(list, br);
    if (*slot)
        return *slot - 1;
    if (list->nbr == SOFTWIRES_MAX_BR)
        return text_fail(error, TEXT_WRONG, at, 0, "more than %d different addresses of our own",
                      SOFTWIRES_MAX_BR);
    void *moved = make_room(list->br, list->nbr, &list->br_room, sizeof(*list->br));
    if (!moved)
        return text_no_memory(error);
    list->br = moved;
    memcpy(list->br[list->nbr], br, 16);
    *slot = (uint16_t)++list->nbr;
    return (int64_t)list->nbr - 1;
}

static int compare_ranges(const void *left, const void *right)
{
    const struct softwire_range *a = left, *b = right;
    if (a->first != b->first)
        return a->first < b->first ? -1 : 1;
    return (a->at > b->at) - (a->at < b->at);
}

int softwires_sort_ranges(struct softwire_list *list, struct text_error *error)
{
    if (list->nranges == 0)
        return 0;
    qsort(list->ranges, list->nranges, sizeof(*list->ranges), compare_ranges);
    for (uint64_t i = 1; i < list->nranges; i++) {
        const struct softwire_range *a = &list->ranges[i - 1], *b = &list->ranges[i];
        if (b->first > a->last)
            continue;
        text_fail(error, TEXT_WRONG, a->at > b->at ? a->at : b->at, 0, "%s is in a range already",
               softwires_show(b->first).s);
        error->kind = TEXT_REPEATS;
        error->other = a->at > b->at ? b->at : a->at;
        return -EINVAL;
    }
    return 0;
}

const struct softwire_range *softwires_find_range(const struct softwire_list *list,
                                                  uint32_t ipv4)
{
    uint64_t low = 0, high = list->nranges; /* the first range that ends behind it */
    while (low < high) {
        uint64_t middle = low + (high - low) / 2;
        if (list->ranges[middle].last < ipv4)
            low = middle + 1;
        else
            high = middle;
    }
    bool is_in = low < list->nranges && list->ranges[low].first <= ipv4;
    return is_in ? &list->ranges[low] : NULL;
}
