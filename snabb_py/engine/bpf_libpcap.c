/* libpcap's compiler, loaded when somebody has an expression. */
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "snabb_py/engine/bpf.h"

enum {
    LINKTYPE_ETHERNET = 1, /* DLT_EN10MB */
    SNAPLEN = 262144,      /* what a match answers; anything but 0 */
    OPTIMIZE = 1
};
static const uint32_t NETMASK_UNKNOWN = 0xffffffff; /* PCAP_NETMASK_UNKNOWN */

/* As in pcap/bpf.h. */
struct compiled {
    unsigned length;
    struct bpf_instruction *program;
};

struct libpcap {
    void *(*open_dead)(int, int);
    int (*compile)(void *, struct compiled *, const char *, int, uint32_t);
    char *(*geterr)(void *);
    void (*freecode)(struct compiled *);
    void (*close)(void *);
};

/* dlsym() returns a data pointer; this is the way that POSIX gives from there. */
static int find(void *library, const char *name, void *function)
{
    void *symbol = dlsym(library, name);
    memcpy(function, &symbol, sizeof(symbol));
    return symbol != NULL;
}

/* Nothing is closed: the next call finds the library in memory. */
static int load_libpcap(struct libpcap *pcap, char *error, size_t size)
{
    /* Debian's soname is 0.8, everybody else's 1. */
    static const char *const names[] = {"libpcap.so.0.8", "libpcap.so.1", "libpcap.so"};
    void *library = NULL;
    for (size_t i = 0; !library && i < sizeof(names) / sizeof(*names); i++)
        library = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
    if (library && find(library, "pcap_open_dead", &pcap->open_dead) &&
        find(library, "pcap_compile", &pcap->compile) &&
        find(library, "pcap_geterr", &pcap->geterr) &&
        find(library, "pcap_freecode", &pcap->freecode) &&
        find(library, "pcap_close", &pcap->close))
        return 0;
    const char *why = dlerror();
    snprintf(error, size, "%s", why ? why : "not found");
    return -ENOENT;
}

int libpcap_compile(const char *expression, struct bpf_instruction *program,
                    uint32_t capacity, char *error, size_t size)
{
    struct libpcap pcap;
    struct compiled compiled = {0};
    int rc = load_libpcap(&pcap, error, size);
    if (rc)
        return rc;
    void *handle = pcap.open_dead(LINKTYPE_ETHERNET, SNAPLEN);
    if (!handle)
        return -ENOMEM;
    if (pcap.compile(handle, &compiled, expression, OPTIMIZE, NETMASK_UNKNOWN)) {
        snprintf(error, size, "%s", pcap.geterr(handle));
        pcap.close(handle);
        return -EINVAL;
    }
    if (compiled.length > capacity) {
        snprintf(error, size, "%u instructions, more than %u", compiled.length,
                 capacity);
        rc = -E2BIG;
    } else {
        memcpy(program, compiled.program, compiled.length * sizeof(*program));
        rc = (int)compiled.length;
    }
    pcap.freecode(&compiled);
    pcap.close(handle);
    return rc;
}
