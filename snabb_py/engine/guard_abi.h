/* Memory of other processes that may go away while we touch it.
 *
 * A guest's memory is a file that the client has handed to us and can shrink at any
 * moment; touching a page that the file no longer has raises SIGBUS. Within a guarded
 * range the page is replaced by zeros of our own, the access goes on, and the event is
 * counted. A SIGBUS anywhere else takes its usual course.
 *
 * The table of ranges is the one mutable global of this code, since signal dispositions
 * belong to the process too. A thread that touches guarded memory must not block
 * SIGBUS: the kernel kills a process rather than deliver a blocked fault.
 */

enum { GUARD_RANGES_MAX = 65536 };

/* Guard a mapping, whole pages of page_size (of the file system, for huge pages) from
 * address on. Installs the handler where that is not ours. Returns 0; -EINVAL for what
 * is no such mapping, -EEXIST, -ENOSPC. */
int guard_add(void *address, size_t size, size_t page_size);
/* Before the mapping goes, with nobody touching it; unknown addresses are ignored. */
void guard_remove(void *address);
/* How often a page had gone, of the range that starts at address; 0: no such range. */
uint64_t guard_hits(const void *address);
/* The same of all ranges there have ever been. */
uint64_t guard_total(void);
/* The page size of a mapping of this file, for guard_add. */
size_t guard_page_size(int fd);

/* A part of a file, mapped and guarded. No file descriptor belongs to it. */
struct guard_mapping {
    uint8_t *data; /* of the part */
    uint8_t *start;
    uint64_t size; /* whole pages; 0: there is none */
};

/* Map and guard so many bytes of a regular file. `protection` is mmap()'s; what is
 * mapped is not in core files, for it is another's. Returns 0; -EINVAL for no such file
 * or nothing, -EFBIG where the file ends before, or the error of a system call. */
int guard_map(struct guard_mapping *mapping, int fd, uint64_t offset, uint64_t size,
              int protection);
/* With nobody touching it. */
void guard_unmap(struct guard_mapping *mapping);
