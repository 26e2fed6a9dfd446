// The first data of an image: it shifts the addresses of all that follows, CPython's types among
// them.
#include <stdint.h>

extern uint8_t runtime_layout_pad[LAYOUT_PAD];
uint8_t runtime_layout_pad[LAYOUT_PAD] __attribute__((aligned(16))) = {1};
