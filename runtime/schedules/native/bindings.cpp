// metagrad._native: the planner and the simulator for Python. Arguments are checked by the Python
// callers.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include "binomial.h"
#include "lazy_kary.h"
#include "periodic.h"
#include "search.h"
#include "simulate.h"
#include "two_level.h"

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
py::dict fields_of(PlanTables &&tables) {
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

template <typename Planner>
py::dict without_gil(const Planner &planner) {
  return fields_of([&] {
    py::gil_scoped_release release;
    return planner();
  }());
}

py::dict plan(int64_t steps, const Splitter &splitter, const Options &options) {
  return without_gil([&] { return reverse(steps, splitter, options); });
}

py::dict tree(int64_t steps, int64_t state_slots, int64_t gradient_slots, double advance,
              double kept, double update, double save) {
  return without_gil([&] {
    const auto chosen =
        decisions(steps, {state_slots, gradient_slots}, {advance, kept, update, save});
    return reverse_tree(steps, state_slots, *chosen);
  });
}

// What the tree for a large run takes, and the least that any tree takes.
std::pair<double, double> priced(int64_t steps, int64_t state_slots, int64_t gradient_slots,
                                 double advance, double kept, double update, double save) {
  py::gil_scoped_release release;
  const Weights weights{advance, kept, update, save};
  const PricedDecisions decisions(steps, {state_slots, gradient_slots}, weights);
  return {seconds_of(decisions, steps, state_slots, weights), decisions.bound()};
}

std::pair<int64_t, int64_t> searched(int64_t steps, double advance, double kept, double update,
                                     double save, double rest, int64_t bytes, int64_t state_bytes,
                                     int64_t gradient_bytes, bool keep, double slack) {
  py::gil_scoped_release release;
  const SlotCounts slots = search(steps, {advance, kept, update, save}, rest,
                                  {bytes, state_bytes, gradient_bytes, keep}, slack);
  return {slots.states, slots.gradients};
}

// The advances, writes and reads of a run in two levels, in units of an advance.
double two_levels(int64_t steps, int64_t fast_slots, int64_t slow_slots, double write, double read,
                  double reverse, bool overlap, bool copies) {
  py::gil_scoped_release release;
  return TwoLevels(steps, {fast_slots, slow_slots, write, read, reverse, overlap, copies})
      .seconds();
}

// The plan, and how many of its slots are slow; these come first.
std::pair<py::dict, int64_t> two_level_plan(int64_t steps, int64_t fast_slots, int64_t slow_slots,
                                            double write, double read, double reverse,
                                            bool overlap) {
  int64_t slow = 0;
  py::dict fields = without_gil([&] {
    TwoLevels levels(steps, {fast_slots, slow_slots, write, read, reverse, overlap, false});
    PlanTables tables = levels.plan();
    slow = levels.slow_slots();
    return tables;
  });
  return {fields, slow};
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
  m.def("plan_tree", &tree, py::arg("steps"), py::arg("state_slots"), py::arg("gradient_slots"),
        py::arg("advance"), py::arg("kept"), py::arg("update"), py::arg("save"));
  m.def("priced_tree_seconds", &priced, py::arg("steps"), py::arg("state_slots"),
        py::arg("gradient_slots"), py::arg("advance"), py::arg("kept"), py::arg("update"),
        py::arg("save"));
  m.def("search", &searched, py::arg("steps"), py::arg("advance"), py::arg("kept"),
        py::arg("update"), py::arg("save"), py::arg("rest"), py::arg("bytes"),
        py::arg("state_bytes"), py::arg("gradient_bytes"), py::arg("keep"), py::arg("slack"));
  m.def("two_level_seconds", &two_levels, py::arg("steps"), py::arg("fast_slots"),
        py::arg("slow_slots"), py::arg("write"), py::arg("read"), py::arg("reverse"),
        py::arg("overlap"), py::arg("copies"));
  m.def("plan_two_levels", &two_level_plan, py::arg("steps"), py::arg("fast_slots"),
        py::arg("slow_slots"), py::arg("write"), py::arg("read"), py::arg("reverse"),
        py::arg("overlap"));
  m.def("simulate", &simulated, py::arg("steps"), py::arg("state_slots"), py::arg("gradient_slots"),
        py::arg("load"), py::arg("segment"), py::arg("run_steps"), py::arg("run_save"),
        py::arg("run_keep"), py::arg("run_reuse"), py::arg("gradient"));
}
