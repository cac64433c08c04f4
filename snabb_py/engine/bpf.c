/* Classic BPF, verified and interpreted. */
#include <stdbool.h>

#include "snabb_py/engine/wire.h"

#include "snabb_py/engine/bpf.h"

/* ---- verification -------------------------------------------------------- */

static int verify_alu(const struct bpf_instruction *i)
{
    uint32_t operation = i->code & 0xf0u;
    bool is_constant = (i->code & BPF_X) == 0;
    if (operation > BPF_XOR)
        return BPF_UNKNOWN;
    if (operation == BPF_NEG)
        return is_constant ? BPF_OK : BPF_UNKNOWN;
    if ((operation == BPF_DIV || operation == BPF_MOD) && is_constant && i->k == 0)
        return BPF_DIVISION;
    if ((operation == BPF_LSH || operation == BPF_RSH) && is_constant && i->k > 31)
        return BPF_SHIFT;
    return BPF_OK;
}

/* left: instructions behind this one. */
static int verify_jump(const struct bpf_instruction *i, uint32_t left)
{
    if (i->code == (BPF_JMP | BPF_JA))
        return i->k < left ? BPF_OK : BPF_LEAVES;
    if ((i->code & 0xf0u) > BPF_JSET || (i->code & 0xf0u) == BPF_JA)
        return BPF_UNKNOWN;
    return i->jt < left && i->jf < left ? BPF_OK : BPF_LEAVES;
}

static int verify_one(const struct bpf_instruction *i, uint32_t left)
{
    if (i->code > 0xff)
        return BPF_UNKNOWN;
    switch (i->code & BPF_CLASS) {
    case BPF_ALU:
        return verify_alu(i);
    case BPF_JMP:
        return verify_jump(i, left);
    default:
        break;
    }
    switch (i->code) {
    case BPF_LD | BPF_MEM:
    case BPF_LDX | BPF_MEM:
    case BPF_ST:
    case BPF_STX:
        return i->k < BPF_MEMORY_WORDS ? BPF_OK : BPF_BAD_MEMORY;
    case BPF_LD | BPF_W | BPF_ABS:
    case BPF_LD | BPF_H | BPF_ABS:
    case BPF_LD | BPF_B | BPF_ABS:
    case BPF_LD | BPF_W | BPF_IND:
    case BPF_LD | BPF_H | BPF_IND:
    case BPF_LD | BPF_B | BPF_IND:
    case BPF_LD | BPF_IMM:
    case BPF_LD | BPF_LEN:
    case BPF_LDX | BPF_IMM:
    case BPF_LDX | BPF_LEN:
    case BPF_LDX | BPF_B | BPF_MSH:
    case BPF_RET | BPF_K:
    case BPF_RET | BPF_A:
    case BPF_MISC | BPF_TAX:
    case BPF_MISC | BPF_TXA:
        return BPF_OK;
    default:
        return BPF_UNKNOWN;
    }
}

int bpf_verify(const struct bpf_instruction *program, uint32_t n, uint32_t *at)
{
    *at = 0;
    if (n == 0)
        return BPF_EMPTY;
    if (n > BPF_MAX_INSTRUCTIONS)
        return BPF_TOO_LONG;
    for (; *at < n; ++*at) {
        int answer = verify_one(&program[*at], n - 1 - *at);
        if (answer != BPF_OK)
            return answer;
    }
    *at = n - 1;
    return (program[n - 1].code & BPF_CLASS) == BPF_RET ? BPF_OK : BPF_LEAVES;
}

/* ---- interpretation ------------------------------------------------------ */

/* The number at an offset. An answer of false ends the program: it is not all there. */
static inline bool load_word(const uint8_t *frame, uint32_t length, uint64_t offset,
                             uint32_t *a)
{
    if (offset + 4 > length)
        return false;
    *a = load_be32(frame + offset);
    return true;
}

static inline bool load_half(const uint8_t *frame, uint32_t length, uint64_t offset,
                             uint32_t *a)
{
    if (offset + 2 > length)
        return false;
    *a = load_be16(frame + offset);
    return true;
}

static inline bool load_byte(const uint8_t *frame, uint32_t length, uint64_t offset,
                             uint32_t *a)
{
    if (offset >= length)
        return false;
    *a = frame[offset];
    return true;
}

/* The operand is X or k. An answer of false: a division by zero. */
static inline bool calculate(uint32_t operation, uint32_t *a, uint32_t b)
{
    switch (operation) {
    case BPF_ADD: *a += b; break;
    case BPF_SUB: *a -= b; break;
    case BPF_MUL: *a *= b; break;
    case BPF_OR: *a |= b; break;
    case BPF_AND: *a &= b; break;
    case BPF_XOR: *a ^= b; break;
    case BPF_LSH: *a = b < 32 ? *a << b : 0; break;
    case BPF_RSH: *a = b < 32 ? *a >> b : 0; break;
    case BPF_NEG: *a = 0u - *a; break;
    default:
        if (b == 0)
            return false;
        *a = operation == BPF_DIV ? *a / b : *a % b;
    }
    return true;
}

uint32_t bpf_run(const struct bpf_instruction *program, const uint8_t *frame,
                 uint32_t length)
{
    uint32_t a = 0, x = 0, memory[BPF_MEMORY_WORDS] = {0};
    for (const struct bpf_instruction *i = program;; i++) {
        uint64_t k = i->k;
        bool is_sound = true;
        switch (i->code) {
        case BPF_LD | BPF_W | BPF_ABS: is_sound = load_word(frame, length, k, &a); break;
        case BPF_LD | BPF_H | BPF_ABS: is_sound = load_half(frame, length, k, &a); break;
        case BPF_LD | BPF_B | BPF_ABS: is_sound = load_byte(frame, length, k, &a); break;
        case BPF_LD | BPF_W | BPF_IND:
            is_sound = load_word(frame, length, x + k, &a);
            break;
        case BPF_LD | BPF_H | BPF_IND:
            is_sound = load_half(frame, length, x + k, &a);
            break;
        case BPF_LD | BPF_B | BPF_IND:
            is_sound = load_byte(frame, length, x + k, &a);
            break;
        case BPF_LDX | BPF_B | BPF_MSH: /* the length of an IPv4 header */
            is_sound = load_byte(frame, length, k, &x);
            x = (x & 15) * 4;
            break;
        case BPF_LD | BPF_IMM: a = i->k; break;
        case BPF_LD | BPF_LEN: a = length; break;
        case BPF_LD | BPF_MEM: a = memory[k]; break;
        case BPF_LDX | BPF_IMM: x = i->k; break;
        case BPF_LDX | BPF_LEN: x = length; break;
        case BPF_LDX | BPF_MEM: x = memory[k]; break;
        case BPF_ST: memory[k] = a; break;
        case BPF_STX: memory[k] = x; break;
        case BPF_MISC | BPF_TAX: x = a; break;
        case BPF_MISC | BPF_TXA: a = x; break;
        case BPF_RET | BPF_K: return i->k;
        case BPF_RET | BPF_A: return a;
        case BPF_JMP | BPF_JA: i += k; break;
        case BPF_JMP | BPF_JEQ | BPF_K: i += a == k ? i->jt : i->jf; break;
        case BPF_JMP | BPF_JGT | BPF_K: i += a > k ? i->jt : i->jf; break;
        case BPF_JMP | BPF_JGE | BPF_K: i += a >= k ? i->jt : i->jf; break;
        case BPF_JMP | BPF_JSET | BPF_K: i += a & k ? i->jt : i->jf; break;
        case BPF_JMP | BPF_JEQ | BPF_X: i += a == x ? i->jt : i->jf; break;
        case BPF_JMP | BPF_JGT | BPF_X: i += a > x ? i->jt : i->jf; break;
        case BPF_JMP | BPF_JGE | BPF_X: i += a >= x ? i->jt : i->jf; break;
        case BPF_JMP | BPF_JSET | BPF_X: i += a & x ? i->jt : i->jf; break;
        default: /* all that is left is arithmetic */
            is_sound = calculate(i->code & 0xf0u, &a, i->code & BPF_X ? x : i->k);
        }
        if (!is_sound)
            return 0;
    }
}
