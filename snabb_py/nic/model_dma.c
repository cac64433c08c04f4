/* The host's memory, as far as it is mapped for the card.
 *
 * Regions are kept in the order of their addresses: a strict IOMMU maps and unmaps
 * pages by the thousand, and every access is looked up. The last one is tried first.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "snabb_py/nic/model82599.h"
#include "snabb_py/nic/model_lock.h"

/* The first region that does not lie wholly before iova. */
static uint32_t find_region(const struct model_card *card, uint64_t iova)
{
    uint32_t low = 0, high = card->nregions;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (card->regions[middle].last < iova)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* A region that has all addresses has no size; it is found anew each time. */
static void open_window(struct model_card *card, const struct model_region *region,
                        uint32_t flags)
{
    card->windows[flags == MODEL_DMA_WRITE] = (struct model_window){
        region->iova, region->last - region->iova + 1, region->address};
}

static void close_windows(struct model_card *card)
{
    memset(card->windows, 0, sizeof(card->windows));
    card->mapping++;
}

uint8_t *dma_piece(struct model_card *card, uint64_t iova, uint64_t n, uint32_t flags)
{
    uint32_t at = find_region(card, iova);
    const struct model_region *region = &card->regions[at];
    if (at == card->nregions || iova < region->iova || region->last - iova < n - 1 ||
        (region->flags & flags) != flags)
        return NULL;
    if (flags == MODEL_DMA_READ || flags == MODEL_DMA_WRITE)
        open_window(card, region, flags);
    return region->address + (iova - region->iova);
}

uint8_t *dma_find(struct model_card *card, uint64_t iova, uint32_t flags, uint64_t *room)
{
    uint32_t at = find_region(card, iova);
    const struct model_region *region = &card->regions[at];
    if (at < card->nregions && iova >= region->iova && region->flags & flags) {
        open_window(card, region, flags);
        *room = region->last - iova + 1;
        return region->address + (iova - region->iova);
    }
    count(card, flags == MODEL_DMA_WRITE ? MODEL_DMA_WRITE_UNMAPPED
                                         : MODEL_DMA_READ_UNMAPPED);
    return NULL;
}

/* Piece by piece: neighbours for the card may lie anywhere in our memory. */
bool dma_read_slow(struct model_card *card, void *to, uint64_t iova, uint32_t n)
{
    uint8_t *bytes = to;
    while (n > 0) {
        uint64_t room;
        const uint8_t *from = dma_at(card, iova, MODEL_DMA_READ, &room);
        if (!from)
            return false;
        uint32_t part = room < n ? (uint32_t)room : n;
        memcpy(bytes, from, part);
        bytes += part;
        iova += part;
        n -= part;
    }
    return true;
}

bool dma_write_slow(struct model_card *card, uint64_t iova, const void *from, uint32_t n)
{
    const uint8_t *bytes = from;
    while (n > 0) {
        uint64_t room;
        uint8_t *to = dma_at(card, iova, MODEL_DMA_WRITE, &room);
        if (!to)
            return false;
        uint32_t part = room < n ? (uint32_t)room : n;
        memcpy(to, bytes, part);
        bytes += part;
        iova += part;
        n -= part;
    }
    return true;
}

/* ---- map and unmap ------------------------------------------------------- */

static int check_region(uint64_t iova, uint64_t size, uint32_t flags)
{
    if (size == 0 || iova + (size - 1) < iova)
        return -EINVAL;
    if (flags == 0 || flags & ~(uint32_t)(MODEL_DMA_READ | MODEL_DMA_WRITE))
        return -EINVAL;
    return 0;
}

static int insert_region(struct model_card *card, const struct model_region *region)
{
    uint32_t at = find_region(card, region->iova);
    if (at < card->nregions && card->regions[at].iova <= region->last)
        return -EEXIST;
    if (card->nregions == MODEL_REGIONS_MAX)
        return -ENOSPC;
    if (card->nregions == card->region_room) {
        uint32_t room = card->region_room ? 2 * card->region_room : 16;
        struct model_region *regions =
            realloc(card->regions, room * sizeof(*card->regions));
        if (!regions)
            return -ENOMEM;
        card->regions = regions;
        card->region_room = room;
    }
    memmove(&card->regions[at + 1], &card->regions[at],
            (card->nregions - at) * sizeof(*card->regions));
    card->regions[at] = *region;
    card->nregions++;
    close_windows(card);
    return 0;
}

/* Takes regions away, and lets go of the lock: to give thousands of them back to the
 * system takes longer than a worker can wait (30000: 75 ms). */
static void remove_regions(struct model_card *card, uint32_t first, uint32_t end)
{
    uint32_t n = end - first;
    struct model_region *gone = n ? malloc(n * sizeof(*gone)) : NULL;
    for (uint32_t i = 0; i < n; i++)
        if (gone)
            gone[i] = card->regions[first + i];
        else
            guard_unmap(&card->regions[first + i].mapping);
    if (n)
        memmove(&card->regions[first], &card->regions[end],
                (card->nregions - end) * sizeof(*card->regions));
    card->nregions -= n;
    close_windows(card);
    model_unlock(card);
    for (uint32_t i = 0; gone && i < n; i++)
        guard_unmap(&gone[i].mapping);
    free(gone);
}

int model_map(struct model_card *card, uint64_t iova, uint64_t size, void *address,
              uint32_t flags)
{
    int error = check_region(iova, size, flags);
    if (error)
        return error;
    struct model_region region = {
        .iova = iova, .last = iova + (size - 1), .address = address, .flags = flags};
    model_lock(card);
    error = insert_region(card, &region);
    model_unlock(card);
    return error;
}

int model_map_file(struct model_card *card, uint64_t iova, uint64_t size, int fd,
                   uint64_t offset, uint32_t flags)
{
    int error = check_region(iova, size, flags);
    if (error)
        return error;
    if (offset % MODEL_PAGE)
        return -EINVAL;
    int protection = (flags & MODEL_DMA_READ ? PROT_READ : 0) |
                     (flags & MODEL_DMA_WRITE ? PROT_READ | PROT_WRITE : 0);
    struct guard_mapping mapping;
    error = guard_map(&mapping, fd, offset, size, protection);
    if (error)
        return error;
    struct model_region region = {.iova = iova,
                                  .last = iova + (size - 1),
                                  .address = mapping.data,
                                  .mapping = mapping,
                                  .flags = flags};
    model_lock(card);
    error = insert_region(card, &region);
    model_unlock(card);
    if (error)
        guard_unmap(&mapping);
    return error;
}

int model_unmap(struct model_card *card, uint64_t iova, uint64_t size)
{
    if (check_region(iova, size, MODEL_DMA_READ))
        return -EINVAL;
    uint64_t last = iova + (size - 1);
    model_lock(card);
    uint32_t first = find_region(card, iova), end = first;
    while (end < card->nregions && card->regions[end].last <= last)
        end++;
    if ((first < end && card->regions[first].iova < iova) ||
        (end < card->nregions && card->regions[end].iova <= last)) {
        model_unlock(card);
        return -EINVAL;
    }
    remove_regions(card, first, end);
    return (int)(end - first);
}

void model_unmap_all(struct model_card *card)
{
    model_lock(card);
    remove_regions(card, 0, card->nregions);
}

uint32_t model_regions(struct model_card *card)
{
    model_lock(card);
    uint32_t n = card->nregions;
    model_unlock(card);
    return n;
}
