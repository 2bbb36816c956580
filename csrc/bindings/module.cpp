// gossamer.kernels._native: packed matrices, and the engine that runs whole models.
#include "bindings/matrices.h"
#include "core/machine.h"
#include "core/thread_pool.h"
#include "kernels/table.h"

using namespace nanobind::literals;

namespace gossamer {

void bind_engine(nb::module_& module);
void bind_solve(nb::module_& module);

namespace {

template <class M>
nb::class_<M> bind_matrix(nb::module_& module, const char* name, const char* doc) {
  nb::class_<M> matrix(module, name, doc);
  matrix.def("matmul", &M::multiply, "x_ptr"_a, "num_tokens"_a, "y_ptr"_a, "int8_activations"_a);
  matrix.def("unpack", &M::unpack_to, "w_ptr"_a);
  return matrix;
}

std::vector<std::string> available_isas() {
  std::vector<std::string> names;
  for (Isa isa : usable_isas()) names.emplace_back(isa_name(isa));
  return names;
}

}  // namespace
}  // namespace gossamer

NB_MODULE(_native, m) {
  using namespace gossamer;
  namespace nb = nanobind;
  // At exit, caches of the interpreter may still hold matrices: harmless, and no message for users.
  nb::set_leak_warnings(false);
  m.doc() = "Kernels for packed matrices and the engine; layouts and promises: csrc/README.md.";
  bind_matrix<IntegerMatrix>(m, "IntegerMatrix", "Integer codes of 2 to 8 bits in groups.")
      .def(nb::init<std::pair<int64_t, int64_t>, int, int64_t, OptionalArray, OptionalArray, OptionalArray,
                    OptionalArray, OptionalArray, OptionalArray>(),
           "shape"_a, "bits"_a, "group_size"_a, "scale"_a, "minimum"_a.none() = nb::none(),
           "codes8"_a.none() = nb::none(), "codes4"_a.none() = nb::none(), "codes2"_a.none() = nb::none(),
           "codes1"_a.none() = nb::none());
  bind_matrix<BitmaskMatrix>(m, "BitmaskMatrix", "Kept values and one bit for each weight.")
      .def(nb::init<std::pair<int64_t, int64_t>, const std::string&, OptionalArray, OptionalArray,
                    OptionalArray, OptionalArray, std::optional<int64_t>>(),
           "shape"_a, "values_kind"_a, "mask"_a, "offsets"_a, "values"_a, "scale"_a.none() = nb::none(),
           "group_size"_a.none() = nb::none())
      .def("expand", &BitmaskMatrix::expand_to, "codes4_ptr"_a);
  bind_matrix<NMMatrix>(m, "NMMatrix", "At most N weights in each window of 4, 8 or 16 columns.")
      .def(nb::init<std::pair<int64_t, int64_t>, int, const std::string&, OptionalArray, OptionalArray,
                    OptionalArray, OptionalArray, OptionalArray, std::optional<int64_t>, int>(),
           "shape"_a, "keep"_a, "values_kind"_a, "codes"_a.none() = nb::none(), "index"_a.none() = nb::none(),
           "mask"_a.none() = nb::none(), "values"_a.none() = nb::none(), "scale"_a.none() = nb::none(),
           "group_size"_a.none() = nb::none(), "window"_a = 16);
  bind_matrix<DenseMatrix>(m, "DenseMatrix", "Rows of floats.")
      .def(nb::init<std::pair<int64_t, int64_t>, const std::string&, OptionalArray>(), "shape"_a,
           "values_kind"_a, "weight"_a);
  bind_engine(m);
  bind_solve(m);
  m.def("isa", [] { return std::string(isa_name(active_isa())); }, "The instruction set in use.");
  m.def("available_isas", &available_isas, "What this machine can run, slowest first.");
  m.def("set_isa", &set_isa, "name"_a, "For tests and benchmarks; users set GOSSAMER_ISA.");
  m.def("num_threads", &num_threads);
  m.def("set_num_threads", &set_num_threads, "count"_a);
}
