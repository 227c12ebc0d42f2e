#include "reversal.h"

#include <algorithm>

namespace metagrad {
namespace {

struct Segment {
  int64_t begin, end;  // steps
};

class Reversal {
 public:
  Reversal(int64_t steps, const Splitter &splitter, const Options &options)
      : tables_(steps), splitter_(splitter), options_(options) {}

  PlanTables reverse() {
    stack_.push_back({0, tables_.steps});
    tables_.begin_segment(0);
    while (!stack_.empty()) {
      if (!descend()) continue;
      leaf();
      stack_.pop_back();
      training_ = false;
      if (!stack_.empty()) tables_.begin_segment(top_slot());
    }
    return std::move(tables_);
  }

 private:
  int64_t top_slot() const { return static_cast<int64_t>(stack_.size()) - 1; }

  // Splits the segment on top until a leaf is on top and the run stands at its start. False if the
  // training run has ended instead.
  bool descend() {
    while (true) {
      const Segment whole = stack_.back();
      parts_.clear();
      const int64_t length = (whole.end - whole.begin + options_.unit - 1) / options_.unit;
      splitter_.split(length, top_slot() + 1, training_, parts_);
      if (parts_.empty()) return true;
      stack_.pop_back();
      int64_t at = whole.begin;
      for (size_t i = 0; i < parts_.size(); ++i) {
        if (parts_[i] == 0) {
          end_of_training(whole.end - stack_.back().begin);
          return false;
        }
        const int64_t end = i + 1 == parts_.size()
                                ? whole.end
                                : std::min(whole.end, at + parts_[i] * options_.unit);
        stack_.push_back({at, end});
        if (i > 0) {
          // The VJP at a single step takes the state at which the run stands: it needs no slot.
          const bool save = training_ || i + 1 < parts_.size() || end - at > 1;
          tables_.run(at - stack_[stack_.size() - 2].begin, save ? top_slot() : kNone, kNone,
                      kNone);
        }
        at = end;
      }
    }
  }

  void end_of_training(int64_t steps) {
    tables_.run(steps, kNone, kNone, kNone);
    tables_.end_segment(kNone);
    training_ = false;
    tables_.begin_segment(top_slot());
  }

  // The leaf on top: run through once, holding its states and keeping its gradients; then one VJP
  // after the other.
  void leaf() {
    const auto [begin, end] = stack_.back();
    const int64_t slot = top_slot(), hold = options_.hold;
    const int64_t last_held = begin + (end - begin - 1) / hold * hold;
    // The training run goes through the last step. A replay stops before it, where the VJP takes
    // the state: the gradient there is computed on the spot, and the update after it is never run.
    const int64_t stop = training_ ? end : end - 1;
    for (int64_t at = begin; at < stop;) {
      const int64_t next = std::min(at + hold, stop);
      const bool save = next <= last_held && (training_ || next < end - 1);
      tables_.run(next - at, save ? slot + (next - begin) / hold : kNone,
                  options_.keep ? at - begin : kNone, kNone);
      at = next;
    }
    tables_.end_segment(kNone);
    for (int64_t t = stop - 1; t >= begin; --t) {
      const int64_t offset = t - begin, held = offset / hold;
      tables_.begin_segment(slot + held);
      tables_.run(offset - held * hold, kNone, kNone, held * hold);
      tables_.end_segment(options_.keep ? offset : kNone);
    }
  }

  PlanTables tables_;
  const Splitter &splitter_;
  const Options options_;
  std::vector<Segment> stack_;
  std::vector<int64_t> parts_;
  bool training_ = true;
};

}  // namespace

PlanTables reverse(int64_t steps, const Splitter &splitter, const Options &options) {
  return Reversal(steps, splitter, options).reverse();
}

}  // namespace metagrad
