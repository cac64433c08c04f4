/* The software 82599: what the outside of the card can do with it.
 *
 * A card is reached from four sides:
 *   - its host, through registers and configuration space (model_read, model_access),
 *     which may happen on any thread;
 *   - the host's memory, which it reads and writes itself, and only where it is mapped;
 *   - its wire, which is the app `model82599_ops`: frames that arrive are on the input,
 *     frames that it sends go to the output. The worker that has the app steps it;
 *   - its interrupts, eventfds.
 * Every function takes the card's lock but model_registers(). Nothing that a host does
 * is an error here: it is a counter (MODEL_*), as it would be silence on real hardware.
 */

struct model_card;

enum {
    MODEL_BAR_SIZE = 131072, /* bytes of registers in BAR 0 */
    MODEL_IO_SIZE = 32,      /* BAR 2: IOADDR, IODATA */
    MODEL_MSIX_SIZE = 16384, /* BAR 4: table and pending bits */
    MODEL_CONFIG_SIZE = 4096,
    MODEL_MSIX_PBA = 8192, /* offset in BAR 4 */
    MODEL_NQUEUES = 128,   /* receive and transmit, each */
    MODEL_NPOOLS = 64,
    MODEL_NVECTORS = 64,
    MODEL_EEPROM_WORDS = 4096,
    MODEL_SFP_SIZE = 256,
    MODEL_FRAME_MAX = 16128, /* bytes with FCS: the most MAXFRS allows */
    MODEL_REGIONS_MAX = 65536,
    MODEL_PAGE = 4096 /* of which an offset in a file is a multiple */
};

enum { /* regions of model_access(): VFIO's indices */
    MODEL_BAR0 = 0,
    MODEL_BAR2 = 2,
    MODEL_BAR4 = 4,
    MODEL_CONFIG = 7
};

enum { MODEL_INTX = 0, MODEL_MSI = 1, MODEL_MSIX = 2 }; /* VFIO's indices */

enum { MODEL_DMA_READ = 1, MODEL_DMA_WRITE = 2 };

enum { /* how a register answers; the table in registers.py says which does */
    REGISTER_ABSENT = 0, /* reads 0, ignores writes */
    REGISTER_RW = 1,
    REGISTER_RO = 2,
    REGISTER_RC = 3, /* read clears */
    REGISTER_W1C = 4, /* write one clears */
    /* halves of a statistic of 64 bits: read low, then high, which clears both */
    REGISTER_PAIR_LOW = 5,
    REGISTER_PAIR_HIGH = 6
};

/* A card's counters, beside the statistics that its registers have. Names in
 * model82599.py. */
enum {
    MODEL_RX_PACKETS, /* arrived on the wire */
    MODEL_RX_BYTES,   /* without FCS, as all bytes here */
    MODEL_TX_PACKETS, /* left on the wire */
    MODEL_TX_BYTES,
    MODEL_HOST_PACKETS, /* copies written to the host's memory */
    MODEL_INTERRUPTS,
    MODEL_RESETS,
    MODEL_DROP_RX_LINK_DOWN,
    MODEL_DROP_RX_DISABLED, /* RXCTRL.RXEN is 0; or a reset found them waiting */
    MODEL_DROP_RX_BAD_LENGTH,
    MODEL_DROP_RX_FILTERED,
    MODEL_DROP_RX_FIFO_FULL,
    MODEL_DROP_RX_NO_DESCRIPTOR,
    MODEL_DROP_RX_QUEUE_DISABLED,
    MODEL_DROP_RX_BAD_OFFLOAD, /* super-frames that could not be cut on the wire */
    MODEL_DROP_TX_LINK_DOWN,
    MODEL_DROP_TX_BAD_DESCRIPTOR,
    MODEL_DROP_TX_BAD_LENGTH,
    MODEL_DROP_TX_SPOOFED,
    MODEL_DROP_TX_NO_PACKET,
    MODEL_DMA_READ_UNMAPPED,  /* accesses to host memory that was not mapped so */
    MODEL_DMA_WRITE_UNMAPPED,
    MODEL_BAD_RING, /* length 0 or no multiple of 128, tail or head beyond its end */
    MODEL_HEADER_SPLIT_REFUSED, /* SRRCTL.DESCTYPE of a kind that is not modelled */
    MODEL_MMIO_BAD_SIZE,
    MODEL_MMIO_OUTSIDE,
    MODEL_NCOUNTERS
};

/* What a card is made of; read once, by model_new(). */
struct model_identity {
    const uint8_t *access;  /* REGISTER_* of each of the 32768 registers */
    const uint32_t *alias;  /* offset of the register that answers at each offset */
    const uint32_t *reset;  /* value after a reset */
    const uint32_t *mask;   /* bits that can be written */
    const uint8_t *config;  /* MODEL_CONFIG_SIZE bytes */
    const uint8_t *config_mask;
    const uint16_t *eeprom; /* MODEL_EEPROM_WORDS, in host order */
    const uint8_t *sfp;     /* MODEL_SFP_SIZE bytes at I2C address 0xa0; NULL: no module */
    uint8_t mac[6];
    uint8_t unpaced; /* the wire takes frames as fast as they come, not at 10 Gb/s */
    uint8_t waits;   /* frames wait on the wire while the packet buffer holds any */
    uint8_t one_by_one; /* no bursts: each frame goes the long way, for comparison */
};

/* NULL: out of memory or file descriptors. */
struct model_card *model_new(const struct model_identity *identity);
/* Unmaps what is mapped; no app may have the card any more. */
void model_free(struct model_card *card);

/* One register, as the host reads and writes it: with side effects. offset: a multiple
 * of 4 below MODEL_BAR_SIZE; others read 0, do nothing and are counted. */
uint32_t model_read(struct model_card *card, uint32_t offset);
void model_write(struct model_card *card, uint32_t offset, uint32_t value);
/* The same for any region, offset and size, as it comes from a foreign program.
 * Returns 0, or -EINVAL when it lies outside of the region or has no size that a bus
 * knows (1, 2, 4 or 8 bytes, of configuration space any). */
int model_access(struct model_card *card, uint32_t region, uint64_t offset,
                 uint8_t *data, uint32_t count, int is_write);
/* The register file itself, for the ring tails of a driver in this process: plain
 * stores there are seen at the next step. The card cannot be waited for any more. */
volatile uint32_t *model_registers(struct model_card *card);
/* Function level reset; keeps what is mapped. */
void model_reset(struct model_card *card);

/* Let the card reach memory of this process. Returns 0; -EEXIST when it overlaps what
 * is mapped, -EINVAL, -ENOSPC after MODEL_REGIONS_MAX. */
int model_map(struct model_card *card, uint64_t iova, uint64_t size, void *address,
              uint32_t flags);
/* The same with a file of another process, mapped here; the file stays the caller's.
 * Of a file on huge pages any part. Also -errno of mmap(), and -EFBIG when the file ends before. */
int model_map_file(struct model_card *card, uint64_t iova, uint64_t size, int fd,
                   uint64_t offset, uint32_t flags);
/* Take away all that lies within. Returns how many regions; -EINVAL, and nothing is
 * taken away, when one lies across the border. */
int model_unmap(struct model_card *card, uint64_t iova, uint64_t size);
void model_unmap_all(struct model_card *card);
uint32_t model_regions(struct model_card *card);

/* The eventfd of an interrupt, the caller's; -1: none. Out of range: ignored. */
void model_set_interrupt(struct model_card *card, uint32_t index, uint32_t vector,
                         int fd);
/* Signal an interrupt's eventfd, whatever the card has to say. Never waits. */
void model_trigger(struct model_card *card, uint32_t index, uint32_t vector);
/* INTx was taken: it may come again while its cause lasts. */
void model_unmask_intx(struct model_card *card);
/* The cable is in (1) or out (0). */
void model_set_cable(struct model_card *card, int plugged);
void model_get_counters(struct model_card *card, uint64_t *counters);

/* The app; its state is the card. Input 0: frames that come on the wire, output 0:
 * frames that go. */
extern const struct app_ops model82599_ops;
