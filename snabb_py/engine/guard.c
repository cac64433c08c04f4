/* Pages that go away under us: see guard_abi.h. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <linux/magic.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "snabb_py/engine/guard.h"

enum {
    NONE = 0, /* chains hold index + 1 */
    /* After so many pages one by one the range is replaced as a whole, and every range
     * after so many of all ranges: a page may cost two mappings, and the process has but
     * 65530 (vm.max_map_count), most of which a client may have taken. */
    PAGES_MAX = 64,
    ALL_PAGES_MAX = 4096
};

struct range {
    /* Odd while the rest is being changed. The handler skips such a range: the one
     * that it looks for is in use, hence not changing. */
    uint32_t sequence;
    uint32_t next; /* in its bucket, or among the unused */
    uintptr_t start, end;
    size_t page_size;
    uint64_t hits;
    uint64_t pages; /* replaced one by one */
};

/* All of it zero pages until it is used. */
static struct {
    pthread_mutex_t lock; /* for all but the handler */
    struct range ranges[GUARD_RANGES_MAX];
    uint32_t buckets[GUARD_RANGES_MAX];
    uint32_t unused;  /* ranges that were removed */
    uint32_t nranges; /* those below have been used; only grows */
    uint64_t total;
    uint64_t pages; /* of all ranges that there are */
    int is_installed;
    struct sigaction previous;
} guard = {.lock = PTHREAD_MUTEX_INITIALIZER};

static uint32_t *bucket_of(uintptr_t start)
{
    uint64_t hash = (uint64_t)start * 0x9e3779b97f4a7c15u; /* golden ratio, Knuth */
    return &guard.buckets[(hash >> 32) % GUARD_RANGES_MAX];
}

/* The link that leads to the range, or the end of the chain. */
static uint32_t *find(uintptr_t start)
{
    uint32_t *link = bucket_of(start);
    while (*link != NONE && guard.ranges[*link - 1].start != start)
        link = &guard.ranges[*link - 1].next;
    return link;
}

static void change(struct range *range, uintptr_t start, uintptr_t end,
                   size_t page_size)
{
    __atomic_store_n(&range->sequence, range->sequence + 1, __ATOMIC_RELAXED);
    /* Release: whoever sees a new value sees the odd number, too. */
    __atomic_thread_fence(__ATOMIC_RELEASE);
    __atomic_store_n(&range->start, start, __ATOMIC_RELAXED);
    __atomic_store_n(&range->end, end, __ATOMIC_RELAXED);
    __atomic_store_n(&range->page_size, page_size, __ATOMIC_RELAXED);
    __atomic_store_n(&range->hits, 0, __ATOMIC_RELAXED);
    __atomic_sub_fetch(&guard.pages, range->pages, __ATOMIC_RELAXED);
    __atomic_store_n(&range->pages, 0, __ATOMIC_RELAXED);
    __atomic_store_n(&range->sequence, range->sequence + 1, __ATOMIC_RELEASE);
}

static int replace(uintptr_t start, size_t size)
{
    /* Writable even where the file was not: what is written is lost either way. */
    void *page = mmap((void *)start, size, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0);
    return page != MAP_FAILED;
}

/* Runs in the signal handler: no lock, no allocation. */
static int heal(uintptr_t address)
{
    uint32_t n = __atomic_load_n(&guard.nranges, __ATOMIC_ACQUIRE);
    for (uint32_t i = 0; i < n; i++) {
        struct range *range = &guard.ranges[i];
        uint32_t sequence = __atomic_load_n(&range->sequence, __ATOMIC_ACQUIRE);
        uintptr_t start = __atomic_load_n(&range->start, __ATOMIC_RELAXED);
        uintptr_t end = __atomic_load_n(&range->end, __ATOMIC_RELAXED);
        size_t page_size = __atomic_load_n(&range->page_size, __ATOMIC_RELAXED);
        /* Acquire: the number is read after the values that it vouches for. */
        __atomic_thread_fence(__ATOMIC_ACQUIRE);
        uint32_t later = __atomic_load_n(&range->sequence, __ATOMIC_RELAXED);
        if (sequence % 2 || later != sequence || address < start || address >= end)
            continue;
        uint64_t hits = __atomic_add_fetch(&range->hits, 1, __ATOMIC_RELAXED);
        __atomic_add_fetch(&guard.total, 1, __ATOMIC_RELAXED);
        if (hits <= PAGES_MAX &&
            __atomic_load_n(&guard.pages, __ATOMIC_RELAXED) < ALL_PAGES_MAX) {
            __atomic_add_fetch(&range->pages, 1, __ATOMIC_RELAXED);
            __atomic_add_fetch(&guard.pages, 1, __ATOMIC_RELAXED);
            if (replace(address & ~(page_size - 1), page_size))
                return 1;
        }
        return replace(start, end - start);
    }
    return 0;
}

static void take_usual_course(int number, siginfo_t *info, void *context)
{
    const struct sigaction *previous = &guard.previous;
    if (previous->sa_flags & SA_SIGINFO) {
        previous->sa_sigaction(number, info, context);
    } else if (previous->sa_handler != SIG_DFL && previous->sa_handler != SIG_IGN) {
        previous->sa_handler(number);
    } else {
        /* A fault comes again when we return, then with its own siginfo in the core
         * file; a signal that somebody sent does not. */
        signal(number, SIG_DFL);
        if (info->si_code <= 0)
            raise(number);
    }
}

static void handle(int number, siginfo_t *info, void *context)
{
    int saved = errno;
    /* BUS_ADRERR alone: a new page cures neither an unaligned access nor a broken
     * memory module. */
    if (info->si_code != BUS_ADRERR || !heal((uintptr_t)info->si_addr))
        take_usual_course(number, info, context);
    errno = saved;
}

/* Every time, since others (faulthandler) may have come later and put themselves
 * first. What was there at the beginning stays the one behind us: two handlers that
 * each hold the other for the previous one would call each other for ever. */
static int install(void)
{
    struct sigaction current;
    if (sigaction(SIGBUS, NULL, &current) != 0)
        return -errno;
    if ((current.sa_flags & SA_SIGINFO) && current.sa_sigaction == handle)
        return 0;
    if (!guard.is_installed)
        guard.previous = current;
    guard.is_installed = 1;
    struct sigaction ours = {.sa_sigaction = handle,
                             .sa_flags = SA_SIGINFO | SA_ONSTACK};
    return sigaction(SIGBUS, &ours, NULL) == 0 ? 0 : -errno;
}

static int add(uintptr_t start, uintptr_t end, size_t page_size)
{
    uint32_t *link = find(start);
    if (*link != NONE)
        return -EEXIST;
    int rc = install();
    if (rc < 0)
        return rc;
    uint32_t number = guard.unused;
    if (number != NONE)
        guard.unused = guard.ranges[number - 1].next;
    else if (guard.nranges < GUARD_RANGES_MAX)
        number = guard.nranges + 1;
    else
        return -ENOSPC;
    struct range *range = &guard.ranges[number - 1];
    range->next = NONE;
    change(range, start, end, page_size);
    if (number > guard.nranges)
        /* Release: the handler sees no range that is not written. */
        __atomic_store_n(&guard.nranges, number, __ATOMIC_RELEASE);
    *link = number;
    return 0;
}

int guard_add(void *address, size_t size, size_t page_size)
{
    uintptr_t start = (uintptr_t)address, mask = page_size - 1;
    if (page_size == 0 || (page_size & mask) || start == 0 || (start & mask) ||
        size == 0 || size > UINTPTR_MAX - start - mask)
        return -EINVAL;
    pthread_mutex_lock(&guard.lock);
    int rc = add(start, (start + size + mask) & ~mask, page_size);
    pthread_mutex_unlock(&guard.lock);
    return rc;
}

void guard_remove(void *address)
{
    pthread_mutex_lock(&guard.lock);
    uint32_t *link = find((uintptr_t)address), number = *link;
    if (number != NONE) {
        struct range *range = &guard.ranges[number - 1];
        *link = range->next;
        change(range, 0, 0, 0);
        range->next = guard.unused;
        guard.unused = number;
    }
    pthread_mutex_unlock(&guard.lock);
}

uint64_t guard_hits(const void *address)
{
    pthread_mutex_lock(&guard.lock);
    uint32_t number = *find((uintptr_t)address);
    uint64_t hits = 0;
    if (number != NONE)
        hits = __atomic_load_n(&guard.ranges[number - 1].hits, __ATOMIC_RELAXED);
    pthread_mutex_unlock(&guard.lock);
    return hits;
}

uint64_t guard_total(void)
{
    return __atomic_load_n(&guard.total, __ATOMIC_RELAXED);
}

size_t guard_page_size(int fd)
{
    struct statfs fs;
    /* Not st_blksize: tmpfs with transparent huge pages says 2 MiB there, too. */
    if (fstatfs(fd, &fs) == 0 && fs.f_type == HUGETLBFS_MAGIC)
        return (size_t)fs.f_bsize;
    return (size_t)sysconf(_SC_PAGESIZE);
}

int guard_map(struct guard_mapping *mapping, int fd, uint64_t offset, uint64_t size,
              int protection)
{
    struct stat file;
    *mapping = (struct guard_mapping){0};
    if (fstat(fd, &file))
        return -errno;
    if (!S_ISREG(file.st_mode) || file.st_size < 0 || size == 0)
        return -EINVAL;
    /* Behind the end of a file there are no pages, but mmap() does not say so. */
    if (offset > (uint64_t)file.st_size || size > (uint64_t)file.st_size - offset)
        return -EFBIG;
    /* Whole pages of the file's size: of a huge page no part can be mapped, nor be
     * given back. */
    uint64_t page = guard_page_size(fd), before = offset & (page - 1);
    uint64_t whole = (before + size + page - 1) & ~(page - 1);
    uint8_t *start = mmap(NULL, whole, protection, MAP_SHARED | MAP_NORESERVE, fd,
                          (off_t)(offset - before));
    if (start == MAP_FAILED)
        return -errno;
    int error = guard_add(start, whole, page);
    if (error) {
        munmap(start, whole);
        return error;
    }
    madvise(start, whole, MADV_DONTDUMP);
    *mapping = (struct guard_mapping){start + before, start, whole};
    return 0;
}

void guard_unmap(struct guard_mapping *mapping)
{
    if (mapping->size == 0)
        return;
    guard_remove(mapping->start);
    munmap(mapping->start, mapping->size);
    *mapping = (struct guard_mapping){0};
}
