#include "tests/tile_unit.h"

#include <string.h>

#if defined(__x86_64__)
#include "common/base/check.h"
#include "common/tensor/amx.h"

#include <signal.h>
#include <ucontext.h>

extern const struct kernels avx512bf16_bf16_amx;

// struct code is one instruction, as the manual's chapter on VEX prefixes takes it apart.
struct code {
    const uint8_t *at;
    int opcode, prefix;
    int mod, reg, rm, other;
    int base, index, scale; // of the memory operand; base -1: what follows the instruction
    bool has_index;
    int32_t offset;
    int size;
};

enum { LOAD_OR_STORE = 0x4B, CONFIGURE = 0x49, DOT = 0x5C };
enum { NO_PREFIX = 0, PREFIX_F3 = 2, PREFIX_F2 = 3 };
enum { REGISTER = 3, HAS_SCALED = 4, HAS_NO_BASE = 5, NO_INDEX = 4 };

static int32_t read_offset(const uint8_t *at, int size)
{
    int32_t offset = size == 1 ? (int8_t)*at : 0;
    if (size == 4) {
        memcpy(&offset, at, sizeof(offset));
    }
    return offset;
}

// memory_read reads what follows the ModRM byte of a memory operand.
static void memory_read(struct code *code, const uint8_t *next, bool x, bool b)
{
    code->base = code->rm;
    if (code->rm == HAS_SCALED) {
        const int sib = *next++;
        code->scale = sib >> 6;
        code->index = (sib >> 3 & 7) | (x ? 8 : 0);
        code->has_index = code->index != NO_INDEX;
        code->base = sib & 7;
    }
    CHECK(code->base != HAS_NO_BASE || code->mod != 0 || code->rm != HAS_SCALED); // none is made
    const bool relative = code->mod == 0 && code->rm == HAS_NO_BASE;
    const int size = relative || code->mod == 2 ? 4 : code->mod;
    code->offset = read_offset(next, size);
    code->base = relative ? -1 : code->base | (b ? 8 : 0);
    code->size = (int)(next + size - code->at);
}

static struct code code_read(const uint8_t *at)
{
    enum { VEX = 0xC4, MAP_0F38 = 2 };
    CHECK(at[0] == VEX && (at[1] & 31) == MAP_0F38); // else it is not the unit's: a real fault
    struct code code = {.at = at,
                        .opcode = at[3],
                        .prefix = at[2] & 3,
                        .other = ~at[2] >> 3 & 15,
                        .mod = at[4] >> 6,
                        .reg = at[4] >> 3 & 7,
                        .rm = at[4] & 7,
                        .size = 5};
    if (code.mod != REGISTER) {
        memory_read(&code, at + 5, (at[1] & 0x40) == 0, (at[1] & 0x20) == 0);
    }
    return code;
}

static uint64_t register_of(const ucontext_t *context, int number)
{
    static const int where[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP,
                                  REG_RSI, REG_RDI, REG_R8,  REG_R9,  REG_R10, REG_R11,
                                  REG_R12, REG_R13, REG_R14, REG_R15};
    return (uint64_t)context->uc_mcontext.gregs[where[number]];
}

// shape_check holds a configuration against what amx.h's tiles are: sixteen rows of 64 bytes.
static void shape_check(const uint8_t *config)
{
    enum { PALETTE = 0, ROW_BYTES = 16, ROWS = 48 };
    CHECK(config[PALETTE] == 1);
    for (int tile = 0; tile < 8; tile++) {
        uint16_t bytes = 0;
        memcpy(&bytes, config + ROW_BYTES + 2L * tile, sizeof(bytes));
        CHECK(bytes == TILE * sizeof(float) && config[ROWS + tile] == TILE);
    }
}

// code_run does what an instruction says. The unit's shape is the one of amx.h.
static void code_run(const struct code *code, const ucontext_t *context)
{
    const uint64_t base = code->base < 0 ? (uint64_t)(uintptr_t)(code->at + code->size)
                                         : register_of(context, code->base);
    const uint64_t address = base + (uint64_t)(int64_t)code->offset;
    float *memory = (float *)(uintptr_t)address; // NOLINT(performance-no-int-to-ptr)
    const int64_t stride =
        code->has_index ? (int64_t)(register_of(context, code->index) << code->scale) : 0;
    const bool in_memory = code->mod != REGISTER;
    if (code->opcode == LOAD_OR_STORE && code->prefix == PREFIX_F2 && in_memory) {
        amx_load(code->reg, memory, stride);
    } else if (code->opcode == LOAD_OR_STORE && code->prefix == PREFIX_F3 && in_memory) {
        amx_store(code->reg, memory, stride);
    } else if (code->opcode == CONFIGURE && code->prefix == PREFIX_F2 && !in_memory) {
        amx_zero(code->reg);
    } else if (code->opcode == DOT && code->prefix == PREFIX_F3 && !in_memory) {
        amx_dot(code->reg, code->rm, code->other);
    } else {
        CHECK(code->opcode == CONFIGURE && code->prefix == NO_PREFIX && in_memory);
        shape_check((const uint8_t *)memory);
    }
}

static void on_illegal(int signal, siginfo_t *info, void *context)
{
    (void)signal;
    ucontext_t *at = context;
    const struct code code = code_read(info->si_addr);
    code_run(&code, at);
    at->uc_mcontext.gregs[REG_RIP] += code.size;
}

static const struct kernels *pretended(enum compute compute)
{
    if (compute != COMPUTE_BF16_AMX || kernels_find("avx512bf16", COMPUTE_BF16) == NULL) {
        return NULL;
    }
    const struct sigaction action = {.sa_sigaction = on_illegal, .sa_flags = SA_SIGINFO};
    CHECK(sigaction(SIGILL, &action, NULL) == 0);
    return &avx512bf16_bf16_amx;
}
#else
static const struct kernels *pretended(enum compute compute)
{
    (void)compute;
    return NULL;
}
#endif

const struct kernels *kernels_of(const char *name, enum compute compute)
{
    const struct kernels *kernels = kernels_find(name, compute);
    return kernels == NULL && strcmp(name, "amx") == 0 ? pretended(compute) : kernels;
}
