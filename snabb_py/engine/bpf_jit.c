/* Classic BPF to x86-64, an instruction at a time.
 *
 * A program comes here verified: jumps go forward and stay inside, memory words exist.
 * What is left to check while it runs is checked in the code: that a load lies within
 * the frame, that a divisor is not 0. The code calls nothing and writes only below its
 * stack pointer (the red zone of the System V ABI).
 *
 *     rdi frame   rsi length   eax A   ecx X   edx, r8 scratch   [rsp - 64] memory
 *
 * Every jump has 32 bits, so that an instruction's code has the same length wherever
 * it lies: a first pass measures, a second one writes. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "snabb_py/engine/bpf.h"

uint32_t bpf_jit_run(bpf_fn code, const uint8_t *frame, uint32_t length)
{
    return code(frame, length);
}

#if defined(__x86_64__)

enum { RED_ZONE = 64, CONDITION_B = 2, CONDITION_AE, CONDITION_E, CONDITION_NE,
       CONDITION_BE, CONDITION_A };

struct assembler {
    uint8_t *code;    /* NULL: only measure */
    uint32_t at;      /* bytes so far */
    uint32_t *starts; /* of each instruction, then of the answer 0 */
    uint32_t n;       /* instructions */
};

static void emit(struct assembler *as, const char *bytes, uint32_t n)
{
    if (as->code)
        memcpy(as->code + as->at, bytes, n);
    as->at += n;
}

#define EMIT(as, bytes) emit(as, bytes, sizeof(bytes) - 1)

static void emit_u32(struct assembler *as, uint32_t value)
{
    emit(as, (const char *)&value, sizeof(value));
}

static void emit_byte(struct assembler *as, uint32_t value)
{
    char byte = (char)value;
    emit(as, &byte, 1);
}

/* Where a jump goes to is known in the second pass. */
static void emit_target(struct assembler *as, uint32_t target)
{
    emit_u32(as, as->starts[target] - (as->at + 4));
}

static void jump(struct assembler *as, uint32_t target)
{
    EMIT(as, "\xe9"); /* jmp rel32 */
    emit_target(as, target);
}

static void jump_if(struct assembler *as, uint32_t condition, uint32_t target)
{
    EMIT(as, "\x0f"); /* jcc rel32 */
    emit_byte(as, 0x80 | condition);
    emit_target(as, target);
}

/* The lengths of frames fit 31 bits: whoever wants more gets the answer 0. */
static bool is_beyond(uint32_t offset)
{
    return offset > 0x7ffffff0u;
}

/* edx or the constant k: A becomes the number there. */
static void emit_load(struct assembler *as, uint32_t code, uint32_t k)
{
    uint32_t size = (code & 0x18u) == BPF_W ? 4 : (code & 0x18u) == BPF_H ? 2 : 1;
    if (is_beyond(k)) {
        jump(as, as->n);
        return;
    }
    if ((code & 0xe0u) == BPF_IND) {
        EMIT(as, "\x89\xca"         /* mov edx, ecx */
                 "\x4c\x8d\x82");   /* lea r8, [rdx + disp32] */
        emit_u32(as, k + size);
        EMIT(as, "\x49\x39\xf0");   /* cmp r8, rsi */
        jump_if(as, CONDITION_A, as->n);
        if (size == 4)
            EMIT(as, "\x8b\x84\x17"); /* mov eax, [rdi + rdx + disp32] */
        else if (size == 2)
            EMIT(as, "\x0f\xb7\x84\x17"); /* movzx eax, word [...] */
        else
            EMIT(as, "\x0f\xb6\x84\x17"); /* movzx eax, byte [...] */
    } else {
        EMIT(as, "\x81\xfe"); /* cmp esi, imm32 */
        emit_u32(as, k + size);
        jump_if(as, CONDITION_B, as->n);
        if (size == 4)
            EMIT(as, "\x8b\x87"); /* mov eax, [rdi + disp32] */
        else if (size == 2)
            EMIT(as, "\x0f\xb7\x87");
        else
            EMIT(as, "\x0f\xb6\x87");
    }
    emit_u32(as, k);
    if (size == 4)
        EMIT(as, "\x0f\xc8"); /* bswap eax */
    else if (size == 2)
        EMIT(as, "\x66\xc1\xc0\x08"); /* rol ax, 8 */
}

/* X becomes the length of the IPv4 header at k. */
static void emit_header_length(struct assembler *as, uint32_t k)
{
    if (is_beyond(k)) {
        jump(as, as->n);
        return;
    }
    EMIT(as, "\x81\xfe"); /* cmp esi, imm32 */
    emit_u32(as, k + 1);
    jump_if(as, CONDITION_B, as->n);
    EMIT(as, "\x0f\xb6\x8f"); /* movzx ecx, byte [rdi + disp32] */
    emit_u32(as, k);
    EMIT(as, "\x83\xe1\x0f"   /* and ecx, 15 */
             "\xc1\xe1\x02"); /* shl ecx, 2 */
}

/* mov between A (0) or X (1) and a word of memory. */
static void emit_memory(struct assembler *as, bool is_store, uint32_t reg, uint32_t word)
{
    emit_byte(as, is_store ? 0x89 : 0x8b);
    emit_byte(as, 0x44 | reg << 3);
    EMIT(as, "\x24"); /* [rsp + disp8] */
    emit_byte(as, word * 4 - RED_ZONE);
}

static void emit_division(struct assembler *as, bool is_x, bool is_modulo, uint32_t k)
{
    if (is_x) {
        EMIT(as, "\x85\xc9"); /* test ecx, ecx */
        jump_if(as, CONDITION_E, as->n);
        EMIT(as, "\x41\x89\xc8"); /* mov r8d, ecx */
    } else {
        EMIT(as, "\x41\xb8"); /* mov r8d, imm32 */
        emit_u32(as, k);
    }
    EMIT(as, "\x31\xd2"       /* xor edx, edx */
             "\x41\xf7\xf0"); /* div r8d */
    if (is_modulo)
        EMIT(as, "\x89\xd0"); /* mov eax, edx */
}

/* The machine shifts by X modulo 32; BPF by 32 or more gives 0: a mask of ones where
 * X < 32 makes it so. */
static void emit_shift(struct assembler *as, bool is_x, bool is_left, uint32_t k)
{
    emit_byte(as, is_x ? 0xd3 : 0xc1);
    emit_byte(as, is_left ? 0xe0 : 0xe8);
    if (is_x)
        EMIT(as, "\x83\xf9\x20" /* cmp ecx, 32 */
                 "\x19\xd2"     /* sbb edx, edx */
                 "\x21\xd0");   /* and eax, edx */
    else
        emit_byte(as, k);
}

static void emit_alu(struct assembler *as, const struct bpf_instruction *i)
{
    /* Opcodes of op eax, imm32 and op eax, ecx. */
    static const struct { uint8_t k, x; } simple[] = {
        [BPF_ADD >> 4] = {0x05, 0x01}, [BPF_SUB >> 4] = {0x2d, 0x29},
        [BPF_OR >> 4] = {0x0d, 0x09},  [BPF_AND >> 4] = {0x25, 0x21},
        [BPF_XOR >> 4] = {0x35, 0x31},
    };
    uint32_t operation = i->code & 0xf0u;
    bool is_x = i->code & BPF_X;
    switch (operation) {
    case BPF_NEG: EMIT(as, "\xf7\xd8"); break; /* neg eax */
    case BPF_DIV:
    case BPF_MOD: emit_division(as, is_x, operation == BPF_MOD, i->k); break;
    case BPF_LSH:
    case BPF_RSH: emit_shift(as, is_x, operation == BPF_LSH, i->k); break;
    case BPF_MUL:
        if (is_x) {
            EMIT(as, "\x0f\xaf\xc1"); /* imul eax, ecx */
        } else {
            EMIT(as, "\x69\xc0"); /* imul eax, eax, imm32 */
            emit_u32(as, i->k);
        }
        break;
    default:
        emit_byte(as, is_x ? simple[operation >> 4].x : simple[operation >> 4].k);
        if (is_x)
            EMIT(as, "\xc8"); /* eax, ecx */
        else
            emit_u32(as, i->k);
    }
}

static void emit_jump(struct assembler *as, const struct bpf_instruction *i,
                      uint32_t next)
{
    uint32_t operation = i->code & 0xf0u;
    if (operation == BPF_JA) {
        jump(as, next + i->k);
        return;
    }
    uint32_t yes = operation == BPF_JEQ   ? CONDITION_E
                   : operation == BPF_JGT ? CONDITION_A
                   : operation == BPF_JGE ? CONDITION_AE
                                          : CONDITION_NE;
    if (i->code & BPF_X) {
        if (operation == BPF_JSET)
            EMIT(as, "\x85\xc8"); /* test eax, ecx */
        else
            EMIT(as, "\x39\xc8"); /* cmp eax, ecx */
    } else {
        emit_byte(as, operation == BPF_JSET ? 0xa9 : 0x3d);
        emit_u32(as, i->k);
    }
    if (i->jf == 0) {
        jump_if(as, yes, next + i->jt);
    } else {
        jump_if(as, yes ^ 1, next + i->jf); /* the opposite condition */
        if (i->jt)
            jump(as, next + i->jt);
    }
}

static void emit_instruction(struct assembler *as, const struct bpf_instruction *i,
                             uint32_t next)
{
    uint32_t mode = i->code & 0xe0u;
    uint32_t reg = (i->code & BPF_CLASS) == BPF_LDX;
    switch (i->code & BPF_CLASS) {
    case BPF_LD:
    case BPF_LDX:
        if (mode == BPF_ABS || mode == BPF_IND) {
            emit_load(as, i->code, i->k);
        } else if (mode == BPF_MSH) {
            emit_header_length(as, i->k);
        } else if (mode == BPF_MEM) {
            emit_memory(as, false, reg, i->k);
        } else if (mode == BPF_LEN) {
            EMIT(as, "\x89"); /* mov eax or ecx, esi */
            emit_byte(as, 0xf0 | reg);
        } else {
            emit_byte(as, 0xb8 | reg); /* mov eax or ecx, imm32 */
            emit_u32(as, i->k);
        }
        break;
    case BPF_ST: emit_memory(as, true, 0, i->k); break;
    case BPF_STX: emit_memory(as, true, 1, i->k); break;
    case BPF_ALU: emit_alu(as, i); break;
    case BPF_JMP: emit_jump(as, i, next); break;
    case BPF_MISC:
        if (i->code & BPF_TXA)
            EMIT(as, "\x89\xc8"); /* mov eax, ecx */
        else
            EMIT(as, "\x89\xc1"); /* mov ecx, eax */
        break;
    default:
        if (!(i->code & BPF_A)) {
            EMIT(as, "\xb8"); /* mov eax, imm32 */
            emit_u32(as, i->k);
        }
        EMIT(as, "\xc3"); /* ret */
    }
}

static void assemble(struct assembler *as, const struct bpf_instruction *program)
{
    bool has_memory = false;
    for (uint32_t i = 0; i < as->n; i++)
        has_memory |= program[i].code == (BPF_LD | BPF_MEM) ||
                      program[i].code == (BPF_LDX | BPF_MEM);
    as->at = 0;
    EMIT(as, "\xf3\x0f\x1e\xfa" /* endbr64: who calls through a pointer may insist */
             "\x31\xc0"         /* xor eax, eax */
             "\x31\xc9"         /* xor ecx, ecx */
             "\x89\xf6");       /* mov esi, esi: the upper half of an argument is junk */
    for (uint32_t word = 0; has_memory && word < BPF_MEMORY_WORDS; word++)
        emit_memory(as, true, 0, word);
    for (uint32_t i = 0; i < as->n; i++) {
        as->starts[i] = as->at;
        emit_instruction(as, &program[i], i + 1);
    }
    as->starts[as->n] = as->at;
    EMIT(as, "\x31\xc0"  /* xor eax, eax */
             "\xc3");    /* ret */
}

bpf_fn bpf_jit(const struct bpf_instruction *program, uint32_t n, size_t *size)
{
    struct assembler as = {.n = n, .starts = calloc(n + 1, sizeof(uint32_t))};
    bpf_fn function = NULL;
    if (!as.starts)
        return NULL;
    assemble(&as, program);
    *size = as.at;
    /* Written first, then made executable and never written again. */
    void *memory = mmap(NULL, *size, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory != MAP_FAILED) {
        as.code = memory;
        assemble(&as, program);
        if (mprotect(memory, *size, PROT_READ | PROT_EXEC) == 0)
            memcpy(&function, &memory, sizeof(function));
        else
            munmap(memory, *size);
    }
    free(as.starts);
    return function;
}

void bpf_jit_free(bpf_fn code, size_t size)
{
    void *memory;
    memcpy(&memory, &code, sizeof(memory));
    munmap(memory, size);
}

#else

bpf_fn bpf_jit(const struct bpf_instruction *program, uint32_t n, size_t *size)
{
    (void)program, (void)n, (void)size;
    return NULL;
}

void bpf_jit_free(bpf_fn code, size_t size)
{
    (void)code, (void)size;
}

#endif
