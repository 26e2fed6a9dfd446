// tables.h: the instruction sets whose kernels must agree; a host and a build have some of them.
#ifndef TESTS_TABLES_H
#define TESTS_TABLES_H

static const char *const tables[] = {"portable", "avx2", "avx512", "avx512bf16", "amx"};

enum { TABLES = sizeof(tables) / sizeof(*tables) };

#endif
