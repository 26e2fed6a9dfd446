// tile_unit.h: the kernels that a test compares, and a tile unit for hosts that have none.
//
// A host with AVX512-BF16 but no tile unit (AMD's) runs the very instructions that others run: each
// is caught as an illegal one and done in portable C, as amx.h defines it. So what a compiler made
// of the kernels for the unit is tested there too.
#ifndef TESTS_TILE_UNIT_H
#define TESTS_TILE_UNIT_H

#include "common/tensor/kernels.h"

// kernels_of is the table of this name and compute type, with the unit pretended where that is what
// the host lacks; NULL when the host lacks more.
const struct kernels *kernels_of(const char *name, enum compute compute);

#endif
