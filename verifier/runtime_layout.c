// The first data and the first code of an image: they shift the addresses of all that follows,
// CPython's types and functions among them.
#include <stdint.h>

#define TEXT_OF(x) #x
#define TEXT(x)    TEXT_OF(x)
__asm__(".text\n.skip " TEXT(LAYOUT_PAD) "\n");

extern uint8_t runtime_layout_pad[LAYOUT_PAD];
uint8_t runtime_layout_pad[LAYOUT_PAD] __attribute__((aligned(16))) = {1};
