// A bitmask with int4 values as the dense matrix of the same values.
#pragma once

#include "formats/views.h"

namespace gossamer {

// Writes codes4[strips, quads / 2, 64] of an IntegerView of 4 bits, whose scales are the same; a removed weight is code 8,
// which stands for 0. Requires m.kind == Values::nibble.
void expand(const BitmaskView& m, uint8_t* codes4);

}  // namespace gossamer
