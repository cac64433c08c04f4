#ifndef SNABB_PY_APPS_PCAP_H
#define SNABB_PY_APPS_PCAP_H

#include "snabb_py/engine/engine.h"

#include "snabb_py/apps/pcap_abi.h"

enum { /* draft-ietf-opsawg-pcap, 4 and 5 */
       PCAP_MAGIC_MICROSECOND = 0xa1b2c3d4,
       PCAP_MAGIC_NANOSECOND = 0xa1b23c4d,
       PCAP_VERSION_MAJOR = 2,
       PCAP_VERSION_MINOR = 4,
       PCAP_FILE_HEADER = 24, /* bytes */
       PCAP_RECORD_HEADER =
           16 /* bytes: seconds, fraction, length captured, on the wire */
};

enum { /* draft-ietf-opsawg-pcapng, 4.3 */
       PCAPNG_PACKET = 6,  /* enhanced packet block */
       PCAPNG_HEADER = 28, /* bytes of it in front of the frame */
       PCAPNG_FLAGS = 2,   /* option: who it goes to */
       PCAPNG_TRAILER = 16 /* bytes of that option, the end of options, the length */
};

#endif
