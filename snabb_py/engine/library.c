/* The layouts that this extension was compiled with; see library.h. */
#include "snabb_py/engine/library.h"

const uint32_t engine_layouts[] = ENGINE_LAYOUTS;

_Static_assert(sizeof(engine_layouts) == ENGINE_NLAYOUTS * sizeof(*engine_layouts),
               "as many as are said");
