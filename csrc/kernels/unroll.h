// Loops whose index is a compile-time constant.
#pragma once

#include <type_traits>
#include <utility>

#include "core/inline.h"

namespace gossamer {
namespace {

template <int v> using Const = std::integral_constant<int, v>;

template <int... i, class F> GOSSAMER_INLINE void unroll_sequence(std::integer_sequence<int, i...>,
                                                                  const F& f) {
  (f(Const<i>{}), ...);
}
template <int n, class F> GOSSAMER_INLINE void unroll(const F& f) {
  unroll_sequence(std::make_integer_sequence<int, n>{}, f);
}

}  // namespace
}  // namespace gossamer
