/* Classic BPF (McCanne and Jacobson, "The BSD Packet Filter", 1993): expressions
 * compiled by libpcap, programs verified here, interpreted or turned into machine code. */

enum {
    BPF_MAX_INSTRUCTIONS = 4096, /* as many as the kernel takes */
    BPF_MEMORY_WORDS = 16
};

/* As in libpcap's struct bpf_insn. */
struct bpf_instruction {
    uint16_t code;
    uint8_t jt; /* instructions to skip */
    uint8_t jf;
    uint32_t k;
};

enum { /* bpf_verify() answers */
    BPF_OK = 0,
    BPF_EMPTY = 1,
    BPF_TOO_LONG = 2,
    BPF_UNKNOWN = 3,    /* no such instruction */
    BPF_LEAVES = 4,     /* a jump that ends outside, or no return at the end */
    BPF_DIVISION = 5,   /* by the constant 0 */
    BPF_BAD_MEMORY = 6, /* no such word of memory */
    BPF_SHIFT = 7       /* by 32 bits or more */
};

/* Check that a program ends and reaches nothing but itself and its memory. All jumps
 * are forward, so each instruction runs once at most. Sets *at to the offender. */
int bpf_verify(const struct bpf_instruction *program, uint32_t n, uint32_t *at);

/* What a verified program answers to a frame; 0: it does not match. A load behind the
 * frame's end and a division by zero answer 0. */
uint32_t bpf_run(const struct bpf_instruction *program, const uint8_t *frame,
                 uint32_t length);

/* A program in the machine's own language. */
typedef uint32_t (*bpf_fn)(const uint8_t *frame, uint32_t length);

/* Translate a verified program. Returns NULL where this machine is no x86-64 or does
 * not let us make code: bpf_run() does the same. *size is for bpf_jit_free(). */
bpf_fn bpf_jit(const struct bpf_instruction *program, uint32_t n, size_t *size);
void bpf_jit_free(bpf_fn code, size_t size);
uint32_t bpf_jit_run(bpf_fn code, const uint8_t *frame, uint32_t length);

/* Compile an expression of pcap-filter(7) for Ethernet frames with libpcap, which is
 * loaded at the first call and stays. Returns the number of instructions (at most
 * `capacity`), -ENOENT when there is no libpcap, -EINVAL when the expression is none,
 * -E2BIG when it is too long; `error` (`size` bytes) says why. */
int libpcap_compile(const char *expression, struct bpf_instruction *program,
                    uint32_t capacity, char *error, size_t size);
