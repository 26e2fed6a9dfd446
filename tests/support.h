// support.h: what every test includes: cmocka with its prerequisites, in the order that it needs.
#ifndef TESTS_SUPPORT_H
#define TESTS_SUPPORT_H

// clang-format off
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
// clang-format on

#endif
