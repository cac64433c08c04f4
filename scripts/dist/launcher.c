/* The head of dist/snabb-py: unpacks what follows it into a cache, once, and runs that.
 *
 *     launcher (this, linked statically) | a tar archive, compressed by zstd |
 *     the archive's files with their sizes | trailer
 *
 * The cache is one directory for each content, $XDG_CACHE_HOME/snabb-py/unpacked/HASH
 * (or in ~/.cache, or in /var/tmp/snabb-py-UID where there is no home of ours: root
 * leaves nothing in a user's). What runs out of it holds a shared lock on it. One at a
 * time unpacks, beside it, and renames, so a directory with such a name is whole
 * whenever a process was killed; and removes what nobody has locked: what other versions
 * and the killed have left. Files get a time of their own: what was written to later, or
 * is missing, is unpacked anew.
 *
 * Nobody else's files are run: each directory must be ours, `snabb-py` closed to others
 * who would write, `unpacked` and what is in it closed to all others. */

#define _GNU_SOURCE

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zstd.h>

#define PROGRAM "snabb-py"
#define MAGIC "SNABBPY1"
/* Of the directory in it that nobody but us has anything in. */
#define UNPACKED "/unpacked"
#define UNFINISHED ".unpacking-"
#define DAMAGED ".damaged-"
/* When all that is unpacked was written: 2000-01-01, which every file system can say. */
#define UNTOUCHED 946684800
/* Of the path of all caches, so that what is put behind it fits. */
#define MAX_CACHES (PATH_MAX - 512)

/* At the end of the file; little-endian, as all machines that we run on. */
struct trailer {
    uint64_t size;          /* bytes of the archive */
    uint64_t manifest_size; /* of the manifest between the archive and this */
    char hash[64];  /* of the archive: SHA-256 in hexadecimal, the cache's name */
    char magic[8];
};

static _Noreturn void fail(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fputs(PROGRAM ": ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    exit(1);
}

static _Noreturn void fail_at(const char *step, const char *path)
{
    fail("cannot %s %s: %s; XDG_CACHE_HOME=DIR names another place", step, path,
         strerror(errno));
}

/* ---- the cache ----------------------------------------------------------- */

/* Open a directory that must be ours, -1: there is none. Refuse one with any of some
 * permissions that others might have. */
static int open_ours(const char *path, mode_t refused)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
    if (fd < 0 && errno == ENOENT)
        return -1;
    struct stat status;
    if (fd < 0 || fstat(fd, &status))
        fail_at("open", path);
    if (status.st_uid != geteuid())
        fail("%s belongs to user %u, not to user %u: not used; XDG_CACHE_HOME=DIR names "
             "another place", path, status.st_uid, geteuid());
    if (status.st_mode & refused)
        fail("%s has mode %04o, others may change or see it: not used; `chmod 700 %s`, "
             "or XDG_CACHE_HOME=DIR names another place", path,
             status.st_mode & 07777, path);
    return fd;
}

static void make(const char *path)
{
    if (mkdir(path, 0700) && errno != EEXIST)
        fail_at("make", path);
}

static void make_parents(char *path)
{
    for (char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        make(path);
        *slash = '/';
    }
}

/* Whether a path, or what it would be made in, belongs to a user that is not us. */
static bool is_another_user_s(const char *path)
{
    char above[PATH_MAX];
    snprintf(above, sizeof(above), "%s", path);
    struct stat status;
    for (char *slash; stat(above, &status); *slash = '\0')
        if (!(slash = strrchr(above, '/')) || slash == above)
            return false;
    return status.st_uid && status.st_uid != geteuid();
}

static bool is_our_home(const char *path)
{
    struct stat status;
    return path[0] == '/' && !stat(path, &status) && S_ISDIR(status.st_mode) &&
           status.st_uid == geteuid();
}

/* Write the path of all our caches, which is made if it is not there, and open it. */
static int find_caches(char path[MAX_CACHES])
{
    const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    int length;
    if (cache && cache[0] == '/' && (geteuid() || !is_another_user_s(cache)))
        length = snprintf(path, MAX_CACHES, "%s/" PROGRAM, cache);
    else if (home && home[1] && is_our_home(home))
        length = snprintf(path, MAX_CACHES, "%s/.cache/" PROGRAM, home);
    else
        length = snprintf(path, MAX_CACHES, "/var/tmp/" PROGRAM "-%u", geteuid());
    if (length >= MAX_CACHES - (int)sizeof(UNPACKED))
        fail("the path of the cache is too long");
    make_parents(path);
    make(path);
    /* Others of our programs have their things here, too. */
    close(open_ours(path, 022));
    strcat(path, UNPACKED);
    make(path);
    return open_ours(path, 077);
}

/* Whether nobody has written to what was unpacked.
 * manifest: of each file "SIZE NAME", and a 0 behind it; as many bytes of it. */
static bool is_whole(int directory, const char *manifest, size_t size)
{
    for (const char *entry = manifest; entry < manifest + size;
         entry += strlen(entry) + 1) {
        char *name;
        unsigned long long length = strtoull(entry, &name, 10);
        struct stat status;
        if (fstatat(directory, name + 1, &status, AT_SYMLINK_NOFOLLOW) ||
            (unsigned long long)status.st_size != length ||
            status.st_mtim.tv_sec != UNTOUCHED)
            return false;
    }
    return true;
}

/* Lock an unpacked directory as long as this process lives, and what it becomes; -1: it
 * is not there. */
static int hold(const char *path)
{
    int fd = open_ours(path, 077);
    if (fd < 0)
        return -1;
    struct stat held, now;
    if (flock(fd, LOCK_SH) || fstat(fd, &held))
        fail_at("lock", path);
    /* Someone may have removed it before it was locked. */
    if (!lstat(path, &now) && now.st_ino == held.st_ino && now.st_dev == held.st_dev)
        return fd;
    close(fd);
    return -1;
}

/* The same for one that is whole. */
static bool hold_whole(const char *path, const char *manifest, size_t size)
{
    int fd = hold(path);
    if (fd >= 0 && is_whole(fd, manifest, size))
        return true;
    if (fd >= 0)
        close(fd);
    return false;
}

/* Get a damaged one out of the way; who runs out of it keeps it. */
static void put_aside(const char *caches, const char *path)
{
    char aside[PATH_MAX];
    snprintf(aside, sizeof(aside), "%s/" DAMAGED "%d", caches, getpid());
    if (rename(path, aside) && errno != ENOENT)
        fail_at("rename", path);
}

static int remove_entry(const char *path, const struct stat *status, int kind,
                        struct FTW *place)
{
    (void)status, (void)kind, (void)place;
    return remove(path);
}

static void remove_tree(const char *path)
{
    nftw(path, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

/* Remove what nobody has locked. */
static void sweep(const char *caches)
{
    DIR *directory = opendir(caches);
    if (!directory)
        return;
    for (struct dirent *entry; (entry = readdir(directory));) {
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
            continue;
        char path[PATH_MAX + sizeof(entry->d_name)];
        snprintf(path, sizeof(path), "%s/%s", caches, entry->d_name);
        int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (fd >= 0 && !flock(fd, LOCK_EX | LOCK_NB))
            remove_tree(path);
        if (fd >= 0)
            close(fd);
    }
    closedir(directory);
}

/* ---- the archive --------------------------------------------------------- */

struct archive {
    int fd;
    uint64_t left; /* bytes of it that were not read yet */
    ZSTD_DCtx *context;
    ZSTD_inBuffer in;
    bool is_done; /* all was taken, and its checksum is right */
    uint8_t buffer[1 << 17];
};

/* Fill a buffer with what comes next, false: there is less. */
static bool take(struct archive *archive, void *data, size_t size)
{
    ZSTD_outBuffer out = {data, size, 0};
    while (out.pos < out.size && !archive->is_done) {
        size_t before = out.pos;
        size_t result = ZSTD_decompressStream(archive->context, &out, &archive->in);
        if (ZSTD_isError(result))
            fail("this file is damaged: %s", ZSTD_getErrorName(result));
        archive->is_done = result == 0;
        if (archive->is_done || out.pos > before)
            continue;
        size_t wanted = sizeof(archive->buffer);
        if (wanted > archive->left)
            wanted = archive->left;
        ssize_t got = wanted ? read(archive->fd, archive->buffer, wanted) : 0;
        if (got <= 0)
            fail("this file is damaged: it ends too early");
        archive->left -= (uint64_t)got;
        archive->in = (ZSTD_inBuffer){archive->buffer, (size_t)got, 0};
    }
    return out.pos == out.size;
}

/* A header of POSIX's ustar; numbers are octal. */
struct ustar {
    char name[100], mode[8], uid[8], gid[8], size[12], time[12], checksum[8], kind;
    char link[100], magic[6], version[2], user[32], group[32], devices[16];
    char prefix[155], padding[12];
};
_Static_assert(sizeof(struct ustar) == 512, "a block");

static void take_file(struct archive *archive, int fd, uint64_t size)
{
    static uint8_t data[1 << 17];
    for (uint64_t left = (size + 511) / 512 * 512; left;) {
        size_t part = left < sizeof(data) ? left : sizeof(data);
        if (!take(archive, data, part))
            fail("this file is damaged: half a file in it");
        left -= part;
        size_t wanted = part < size ? part : size;
        for (size_t done = 0; done < wanted;) {
            ssize_t written = write(fd, data + done, wanted - done);
            if (written < 0)
                fail_at("write to", "the cache");
            done += (size_t)written;
        }
        size -= wanted;
    }
}

/* Put one entry in its place, false: there is no more. What fills the last record, all
 * zeros, is passed over. */
static bool take_entry(struct archive *archive, int directory)
{
    struct ustar header = {0};
    while (!header.name[0])
        if (!take(archive, &header, sizeof(header)))
            return false;
    char name[sizeof(header.prefix) + 1 + sizeof(header.name) + 1];
    snprintf(name, sizeof(name), "%.155s%s%.100s", header.prefix,
             header.prefix[0] ? "/" : "", header.name);
    int error;
    if (header.kind == '5') {
        error = mkdirat(directory, name, 0700);
    } else if (header.kind == '2') {
        char target[sizeof(header.link) + 1];
        snprintf(target, sizeof(target), "%.100s", header.link);
        error = symlinkat(target, directory, name);
    } else {
        mode_t mode = (mode_t)strtoul(header.mode, NULL, 8) & 0700;
        int fd = openat(directory, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
        if ((error = fd < 0) == 0) {
            take_file(archive, fd, strtoull(header.size, NULL, 8));
            error = close(fd);
        }
    }
    const struct timespec times[2] = {{UNTOUCHED, 0}, {UNTOUCHED, 0}};
    if (!error && header.kind != '5')
        error = utimensat(directory, name, times, AT_SYMLINK_NOFOLLOW);
    if (error)
        fail_at("unpack", name);
    return true;
}

/* Where a failure leaves an unfinished directory. */
static char unfinished[PATH_MAX];

static void remove_unfinished(void)
{
    if (unfinished[0])
        remove_tree(unfinished);
}

static void unpack(int self, const struct trailer *trailer, uint64_t begin,
                   const char *caches, const char *path)
{
    static struct archive archive;
    archive.fd = self;
    archive.left = trailer->size;
    archive.context = ZSTD_createDCtx();
    if (!archive.context || lseek(self, (off_t)begin, SEEK_SET) < 0)
        fail("cannot read the archive: %s", strerror(errno));
    snprintf(unfinished, sizeof(unfinished), "%s/" UNFINISHED "%d", caches, getpid());
    remove_tree(unfinished); /* of a dead process with our number */
    if (mkdir(unfinished, 0700))
        fail_at("make", unfinished);
    atexit(remove_unfinished);
    int directory = open_ours(unfinished, 077);
    if (directory < 0)
        fail_at("open", unfinished);
    while (take_entry(&archive, directory))
        ;
    ZSTD_freeDCtx(archive.context);
    if (rename(unfinished, path))
        fail_at("make", path);
    unfinished[0] = '\0';
    close(directory);
}

/* ---- the program --------------------------------------------------------- */

static uint64_t find_archive(int self, struct trailer *trailer)
{
    struct stat status;
    if (fstat(self, &status) || status.st_size < (off_t)sizeof(*trailer) ||
        pread(self, trailer, sizeof(*trailer), status.st_size - (off_t)sizeof(*trailer)) !=
            sizeof(*trailer) ||
        memcmp(trailer->magic, MAGIC, sizeof(trailer->magic)))
        fail("this file is damaged: what it should run is not at its end");
    uint64_t size = (uint64_t)status.st_size - sizeof(*trailer);
    if (trailer->size > size || trailer->manifest_size > size - trailer->size)
        fail("this file is damaged: it is shorter than it says");
    return size - trailer->manifest_size - trailer->size;
}

/* Return the manifest; see `is_whole`. */
static char *read_manifest(int self, const struct trailer *trailer, uint64_t begin)
{
    size_t size = trailer->manifest_size;
    char *manifest = calloc(1, size + 1);
    if (!manifest ||
        pread(self, manifest, size, (off_t)(begin + trailer->size)) != (ssize_t)size)
        fail("cannot read the manifest: %s", strerror(errno));
    return manifest;
}

int main(int count, char **arguments)
{
    (void)count;
    if (getauxval(AT_SECURE))
        fail("started with the rights of a file (set-user-ID or capabilities), which "
             "end where it unpacks itself: give them to the process");
    int self = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    if (self < 0)
        fail("cannot open /proc/self/exe: %s; is /proc mounted?", strerror(errno));
    struct trailer trailer;
    uint64_t begin = find_archive(self, &trailer);
    char *manifest = read_manifest(self, &trailer, begin);
    char caches[MAX_CACHES], path[MAX_CACHES + 80], program[PATH_MAX];
    mode_t mask = umask(077); /* what we make is as we say, whatever the user's is */
    int all = find_caches(caches);
    snprintf(path, sizeof(path), "%s/%.64s", caches, trailer.hash);
    if (!hold_whole(path, manifest, trailer.manifest_size)) {
        if (all < 0 || flock(all, LOCK_EX))
            fail_at("lock", caches);
        /* Someone else may have been quicker. */
        if (!hold_whole(path, manifest, trailer.manifest_size)) {
            put_aside(caches, path);
            sweep(caches);
            unpack(self, &trailer, begin, caches, path);
            if (hold(path) < 0)
                fail("%s was removed at once", path);
        }
    }
    close(all);
    free(manifest);
    umask(mask);
    snprintf(program, sizeof(program), "%s/" PROGRAM, path);
    execv(program, arguments);
    fail_at("run", program);
}
