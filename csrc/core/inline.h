// Functions that several instruction sets compile must never exist as one shared copy: the linker would keep any of
// them, perhaps one with instructions that this machine lacks. So they are always inlined.
#pragma once

#define GOSSAMER_INLINE inline __attribute__((always_inline))
#define GOSSAMER_LAMBDA __attribute__((always_inline))
