/* Configurations, states and counters of PcapReader and PcapWriter; ports in
 * pcap.py, PcapReader in pcap.c, PcapWriter and PcapngWriter in pcap_writer.c. */

enum {
    PCAP_BUFFER_SIZE = 262144, /* bytes that are read from a file at once */
    PCAP_BUFFER_SLACK = 64,    /* allocated behind: packet_copy_data() may read it */
    /* Most bytes of a record that are looked at as one piece: a large slot's worth of
     * packet and its header fit. Half the buffer, so that a read brings in at least
     * the other half. */
    PCAP_PIECE_SIZE = 131072,
    PCAP_MAX_SNAPLEN = 262144, /* bytes; no writer captures more of a frame */
    PCAP_MAX_INTERFACES = 256, /* of one pcapng section */
    PCAP_LINKTYPE_ETHERNET = 1
};

/* ---- PcapReader ---------------------------------------------------------- */

enum { /* pcap_reader_start() answers, beside -errno */
    PCAP_OK = 0,
    PCAP_EMPTY = 1,     /* the file has no byte */
    PCAP_SHORT = 2,     /* it ends inside of its header */
    PCAP_FOREIGN = 3,   /* neither pcap nor pcapng; detail: the first four bytes, in
                           network order */
    PCAP_VERSION = 4,   /* detail: major << 16 | minor */
    PCAP_LINK_TYPE = 5, /* no Ethernet in it; detail: what instead */
    PCAP_CORRUPT = 6    /* the first block of a pcapng file contradicts itself */
};

enum { PCAP_UNKNOWN = 0, PCAP_CLASSIC = 1, PCAP_NG = 2 };

enum { /* pcap_reader_state.ending */
    PCAP_NOT_ENDED = 0,
    PCAP_ENDED = 1,     /* behind the last record */
    PCAP_CUT_OFF = 2,   /* inside of a record */
    PCAP_SENSELESS = 3, /* at something that is no record */
    PCAP_UNREADABLE = 4 /* the system could not read on: error */
};

struct pcap_reader_config {
    uint32_t rounds; /* through all files; 0: without end */
    uint32_t timing; /* keep the distances of the timestamps */
};

/* A pcapng interface, or the one of a classic file. A timestamp is
 * ticks * multiplier / divisor >> shift, in ns, plus offset. */
struct pcap_interface {
    uint32_t link_type;
    uint32_t snaplen; /* 0: no limit */
    uint32_t fcs;     /* bytes of FCS behind each frame */
    uint32_t shift;
    uint64_t multiplier;
    uint64_t divisor;
    int64_t offset; /* s */
};

/* buffer holds the bytes offset..offset + end of the file; those before begin are
 * dealt with. begin <= end <= PCAP_BUFFER_SIZE. */
struct pcap_reader_state {
    int fd;
    uint32_t format;  /* PCAP_CLASSIC, PCAP_NG; PCAP_UNKNOWN: before the header */
    uint32_t swapped; /* the file has the other byte order */
    uint32_t detail;
    uint32_t error;  /* errno of a failed read */
    uint32_t done;   /* nothing more will come; Python may look */
    uint32_t ending; /* how reading last ended */
    uint32_t begin;
    uint32_t end;
    uint32_t ninterfaces;
    uint64_t offset;
    uint64_t ended_at; /* position in the file */
    const int *fds;    /* of all files */
    uint32_t nfiles;
    uint32_t file;       /* the one that fd is of */
    uint32_t ended_file; /* the one that ending is of */
    uint32_t rounds;     /* that are over */
    uint64_t in_round;   /* packets of this round's files before this one */
    uint8_t *buffer;
    uint64_t npackets;   /* sent since the file was last begun */
    uint64_t first_time; /* ns since 1970, timestamp of the first one */
    uint64_t first_now;  /* ns, when it was sent */
    struct pcap_interface interfaces[256];
};

enum {
    PCAP_READER_SHORT_CAPTURE,
    PCAP_READER_OVER_SNAPLEN,
    PCAP_READER_DROP_EMPTY,
    PCAP_READER_DROP_TOO_LONG,
    PCAP_READER_DROP_LINK_TYPE,
    PCAP_READER_DROP_NO_INTERFACE,
    PCAP_READER_DROP_BAD_RECORD,
    PCAP_READER_DROP_TRUNCATED_FILE,
    PCAP_READER_DROP_DAMAGED_FILE,
    PCAP_READER_END_READ_ERROR,
    PCAP_READER_NCOUNTERS
};

extern const struct app_ops pcap_reader_ops;

/* Go to the beginning of a file, and look at it up to its first packet; state: zeros but
 * for fds (read with pread() alone) and buffer (PCAP_BUFFER_SIZE and PCAP_BUFFER_SLACK
 * bytes). Returns PCAP_*, or -errno. */
int pcap_reader_start(struct pcap_reader_state *state, uint32_t file);

/* ---- PcapWriter, PcapngWriter -------------------------------------------- */

enum {
    PCAP_OUTPUT_SIZE = 1048576, /* bytes that wait to be written at most */
    PCAP_OUTPUT_PIECE = 262144  /* written at the latest when so many wait */
};

struct pcap_writer_config {
    uint32_t nanosecond; /* of timestamps; else microseconds */
    uint32_t snaplen;    /* bytes kept of each frame */
    const uint8_t *blocks; /* that a pcapng file begins with; NULL: classic pcap */
    uint32_t blocks_size;
};

/* The file and what waits to be written to it; an app's successor goes on with both.
 * buffer[0..used) is whole records, the file's header before them while has_header;
 * `written` bytes of the first piece are in the file already, never all of them. */
struct pcap_output {
    int fd;
    uint32_t is_regular;
    uint32_t begun; /* the old file is cut off, the header on its way */
    uint32_t has_header;
    uint32_t header_size; /* bytes */
    uint32_t is_ng;       /* records are blocks of pcapng */
    uint32_t used;
    uint32_t written;
    uint32_t stuck;  /* the last write did not take everything: no more until a tick */
    uint32_t error;  /* errno of the last failed write; 0 once one succeeds */
    uint64_t size;   /* bytes in the file */
    int64_t realtime; /* ns from CLOCK_MONOTONIC to CLOCK_REALTIME */
    uint8_t *buffer;
};

enum {
    PCAP_WRITER_TRUNCATED,
    PCAP_WRITER_DROP_WRITE_ERROR,
    PCAP_WRITER_DROP_OUTPUT_FULL,
    PCAP_WRITER_DROP_NO_PACKET,
    PCAP_WRITER_DROP_BAD_OFFLOAD,
    PCAP_WRITER_NCOUNTERS
};

extern const struct app_ops pcap_writer_ops; /* state: struct pcap_output */

/* Packets that are not wholly in the file yet; their worker stands still. */
uint32_t pcap_output_waiting(const struct pcap_output *output);
/* Write what still waits, for at most timeout_ms, and leave whole records. Call it
 * when no worker has the output any more. Returns how many packets were lost. */
uint32_t pcap_output_finish(struct pcap_output *output, int timeout_ms);
