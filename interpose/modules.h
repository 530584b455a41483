/* modules.h - which library an address lies in, as the loader knows it. */
#pragma once
#include <stdbool.h>

#include "../runtime/unwind.h"

/* At the start. False where the loader cannot be asked without its locks (glibc 2.34). */
bool weft_modules_init(const char *program);
weft_module_find_fn weft_module_find;
