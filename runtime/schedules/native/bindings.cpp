// metagrad._native: the planner and the simulator for Python. Arguments are checked by the Python
// callers.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include "binomial.h"
#include "lazy_kary.h"
#include "periodic.h"
#include "simulate.h"

namespace py = pybind11;
using namespace metagrad;

namespace {

using Table = py::array_t<int32_t, py::array::c_style>;

// The vector's memory becomes the array's; nothing is copied.
Table table(std::vector<int32_t> &&values) {
  auto *owned = new std::vector<int32_t>(std::move(values));
  return Table(owned->size(), owned->data(),
               py::capsule(owned, [](void *p) { delete static_cast<std::vector<int32_t> *>(p); }));
}

// The fields of metagrad.runtime.plan.Plan, by name.
py::dict plan(int64_t steps, const Splitter &splitter, const Options &options) {
  PlanTables tables = [&] {
    py::gil_scoped_release release;
    return reverse(steps, splitter, options);
  }();
  py::dict fields;
  fields["steps"] = tables.steps;
  fields["state_slots"] = tables.state_slots;
  fields["gradient_slots"] = tables.gradient_slots;
  fields["load"] = table(std::move(tables.load));
  fields["segment"] = table(std::move(tables.segment));
  fields["run_steps"] = table(std::move(tables.run_steps));
  fields["run_save"] = table(std::move(tables.run_save));
  fields["run_keep"] = table(std::move(tables.run_keep));
  fields["run_reuse"] = table(std::move(tables.run_reuse));
  fields["gradient"] = table(std::move(tables.gradient));
  return fields;
}

std::pair<int64_t, int64_t> simulated(int64_t steps, int64_t state_slots, int64_t gradient_slots,
                                      const Table &load, const Table &segment,
                                      const Table &run_steps, const Table &run_save,
                                      const Table &run_keep, const Table &run_reuse,
                                      const Table &gradient) {
  const PlanView view{steps,           state_slots,      gradient_slots,   run_steps.size(),
                      load.data(),     segment.data(),   run_steps.data(), run_save.data(),
                      run_keep.data(), run_reuse.data(), gradient.data()};
  py::gil_scoped_release release;
  const Peak peak = simulate(view);
  return {peak.state_slots, peak.gradient_slots};
}

}  // namespace

PYBIND11_MODULE(_native, m) {
  m.doc() = "The native planner and the native simulator of plans.";
  m.def(
      "plan_lazy_kary",
      [](int64_t steps, int64_t k, int64_t rebuild, bool keep) {
        return plan(steps, LazyKary(k), {rebuild, rebuild, keep});
      },
      py::arg("steps"), py::arg("k"), py::arg("rebuild"), py::arg("keep"));
  m.def(
      "plan_binomial",
      [](int64_t steps, int64_t slots, int64_t rebuild, bool keep) {
        return plan(steps, Binomial(slots), {rebuild, rebuild, keep});
      },
      py::arg("steps"), py::arg("slots"), py::arg("rebuild"), py::arg("keep"));
  m.def(
      "plan_periodic",
      [](int64_t steps, int64_t every, int64_t rebuild, bool keep) {
        return plan(steps, Periodic(every), {1, rebuild, keep});
      },
      py::arg("steps"), py::arg("every"), py::arg("rebuild"), py::arg("keep"));
  m.def("simulate", &simulated, py::arg("steps"), py::arg("state_slots"), py::arg("gradient_slots"),
        py::arg("load"), py::arg("segment"), py::arg("run_steps"), py::arg("run_save"),
        py::arg("run_keep"), py::arg("run_reuse"), py::arg("gradient"));
}
