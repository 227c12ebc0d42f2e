#include "simulate.h"

#include <algorithm>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace metagrad {
namespace {

constexpr int32_t kNothing = -1;

template <typename... Parts>
[[noreturn]] void fail(const Parts &...parts) {
  std::ostringstream message;
  (message << ... << parts);
  throw std::invalid_argument(message.str());
}

// The slots of one kind: the step that each holds, and for the peak the times at which that content
// was written and last read.
class Slots {
 public:
  Slots(const char *kind, const char *symbol, int64_t count, int64_t times)
      : kind_(kind),
        symbol_(symbol),
        holds_(count, kNothing),
        written_(count, 0),
        read_(count, kNothing),
        change_(times + 2, 0) {}

  int64_t count() const { return static_cast<int64_t>(holds_.size()); }

  bool inside(int64_t slot) const { return slot >= 0 && slot < count(); }

  void write(int64_t slot, int32_t step, int64_t time) {
    retire(slot);
    holds_[slot] = step;
    written_[slot] = time;
    read_[slot] = kNothing;
  }

  // The step that the slot holds, kNothing before the first write.
  int32_t read(int64_t slot, int64_t time) {
    read_[slot] = time;
    return holds_[slot];
  }

  std::string content(int64_t slot) const {
    if (holds_[slot] == kNothing) return "nothing has been written to that slot";
    return "that slot holds " + std::string(symbol_) + std::to_string(holds_[slot]);
  }

  std::string budget() const {
    const std::string have = "the plan has " + std::to_string(count()) + " " + kind_ +
                             (count() == 1 ? " slot" : " slots");
    return count() == 0 ? have : have + " (0 .. " + std::to_string(count() - 1) + ")";
  }

  int64_t peak() {
    for (int64_t slot = 0; slot < count(); ++slot) retire(slot);
    int64_t now = 0, most = 0;
    for (const int64_t change : change_) most = std::max(most, now += change);
    return most;
  }

 private:
  // A content that was never read is not in use.
  void retire(int64_t slot) {
    if (read_[slot] == kNothing) return;
    ++change_[written_[slot]];
    --change_[read_[slot] + 1];
  }

  const char *kind_, *symbol_;
  std::vector<int32_t> holds_;
  std::vector<int64_t> written_, read_;
  std::vector<int32_t> change_;
};

class Simulator {
 public:
  explicit Simulator(const PlanView &plan)
      : plan_(plan),
        states_("state", "s_", plan.state_slots, plan.runs + plan.steps + 1),
        gradients_("gradient", "G_", plan.gradient_slots, plan.runs + plan.steps + 1) {}

  Peak simulate() {
    check_segments();
    states_.write(0, 0, 0);
    for (segment_ = 0; segment_ <= plan_.steps; ++segment_) {
      load();
      for (run_ = plan_.segment[segment_]; run_ < plan_.segment[segment_ + 1]; ++run_) advance();
      finish();
    }
    return {states_.peak(), gradients_.peak()};
  }

 private:
  void check_segments() const {
    const int32_t *segment = plan_.segment;
    if (segment[0] != 0)
      fail("segment[0] is ", segment[0], ", but the training run starts with run 0");
    for (int64_t r = 0; r <= plan_.steps; ++r)
      if (segment[r + 1] < segment[r])
        fail("segment ", r, " ends at run ", segment[r + 1], " before it starts at run ",
             segment[r]);
    if (segment[plan_.steps + 1] != plan_.runs)
      fail("the segments hold ", segment[plan_.steps + 1], " runs, but the tables of runs have ",
           plan_.runs);
    if (plan_.load[0] != 0)
      fail("segment 0 loads state slot ", plan_.load[0], ", but s_0 is in state slot 0");
    if (plan_.gradient[0] != kNothing)
      fail("gradient[0] is ", plan_.gradient[0], ", but segment 0 has no VJP of a step (-1)");
  }

  void load() {
    const int32_t slot = plan_.load[segment_];
    if (!states_.inside(slot))
      fail(where(), " loads state slot ", slot, ", but ", states_.budget());
    loaded_ = step_ = states_.read(slot, time_);
    if (step_ == kNothing)
      fail(where(), " loads state slot ", slot, " before a state has been saved in it");
  }

  void advance() {
    ++time_;
    const int32_t steps = plan_.run_steps[run_], save = plan_.run_save[run_];
    if (steps < 1) fail(where_run(), " advances ", steps, " steps; a run advances at least one");
    if (step_ + static_cast<int64_t>(steps) > plan_.steps)
      fail(where_run(), " advances ", steps, " steps from s_", step_,
           ", but the training run ends at s_", plan_.steps);
    const int32_t keep = plan_.run_keep[run_], reuse = plan_.run_reuse[run_];
    if (keep != kNothing && reuse != kNothing)
      fail(where_run(),
           " both keeps and reuses gradients; a gradient that is reused is kept already");
    if (keep != kNothing) this->keep(keep, steps);
    if (reuse != kNothing) this->reuse(reuse, steps);
    step_ += steps;
    if (save == kNothing) return;
    if (!states_.inside(save))
      fail(where_run(), " saves s_", step_, " in state slot ", save, ", but ", states_.budget());
    states_.write(save, step_, time_);
  }

  void keep(int32_t first, int32_t steps) {
    check_range("keeps", first, steps);
    for (int32_t i = 0; i < steps; ++i) gradients_.write(first + i, step_ + i, time_);
  }

  void reuse(int32_t first, int32_t steps) {
    check_range("reuses", first, steps);
    for (int32_t i = 0; i < steps; ++i)
      if (gradients_.read(first + i, time_) != step_ + i)
        fail(where_run(), " reuses gradient slot ", first + i, " for the step from s_", step_ + i,
             ", but ", gradients_.content(first + i));
  }

  void check_range(const char *verb, int32_t first, int32_t steps) const {
    if (gradients_.inside(first) && gradients_.inside(static_cast<int64_t>(first) + steps - 1))
      return;
    fail(where_run(), " ", verb, " gradient slots ", first, " .. ",
         static_cast<int64_t>(first) + steps - 1, ", but ", gradients_.budget());
  }

  void finish() {
    const int64_t t = segment_ == 0 ? plan_.steps : plan_.steps - segment_;
    if (step_ != t)
      fail(where(), " ends at s_", step_, ", but ",
           segment_ == 0 ? "the outer function" : "the VJP of the step", " needs s_", t,
           "; it loaded state slot ", plan_.load[segment_], ", which held s_", loaded_,
           ", and advanced ", step_ - loaded_, step_ - loaded_ == 1 ? " step" : " steps");
    const int32_t slot = plan_.gradient[segment_];
    if (slot != kNothing) {
      if (!gradients_.inside(slot))
        fail(where(), ": the VJP at s_", t, " takes its gradient from gradient slot ", slot,
             ", but ", gradients_.budget());
      if (gradients_.read(slot, time_) != t)
        fail(where(), ": the VJP at s_", t, " takes its gradient from gradient slot ", slot,
             ", but ", gradients_.content(slot));
    }
    ++time_;
  }

  std::string where() const {
    return "segment " + std::to_string(segment_) +
           (segment_ == 0 ? " (the training run)"
                          : " (VJP at t = " + std::to_string(plan_.steps - segment_) + ")");
  }

  std::string where_run() const {
    return where() + ": run " + std::to_string(run_ - plan_.segment[segment_]);
  }

  const PlanView &plan_;
  Slots states_, gradients_;
  int64_t segment_ = 0, run_ = 0, time_ = 0;
  int32_t step_ = 0, loaded_ = 0;
};

}  // namespace

Peak simulate(const PlanView &plan) { return Simulator(plan).simulate(); }

}  // namespace metagrad
