#include "fastest.h"

#include <algorithm>

#include "binomial.h"

namespace metagrad {
namespace {

// What has become of a segment's gradients.
enum class Gradients { none, being_kept, kept };

struct Segment {
  int64_t begin, end;  // steps
  int64_t again;       // how often they have been run for what lies to the right
  Gradients gradients;
  int64_t first;  // the step whose gradient lies in gradient slot 0
};

// Segments are reversed from right to left. The stack of them is explicit, and the start of each is
// in the state slot of its depth in the stack.
class Walk {
 public:
  Walk(int64_t steps, int64_t state_slots, const Decisions &decisions)
      : tables_(steps), slots_(state_slots), decisions_(decisions) {}

  PlanTables reverse() {
    stack_.push_back({0, tables_.steps, 0, Gradients::none, 0});
    tables_.begin_segment(0);
    while (!stack_.empty()) {
      if (!descend()) continue;
      reverse_held();
      stack_.pop_back();
      training_ = false;
      if (!stack_.empty()) tables_.begin_segment(top());
    }
    return std::move(tables_);
  }

 private:
  int64_t top() const { return static_cast<int64_t>(stack_.size()) - 1; }

  // Splits the segment on top until the free slots can hold all states of the one on top, and the
  // run stands at its start. False if the training run has ended instead.
  bool descend() {
    while (true) {
      Segment &whole = stack_.back();
      const int64_t n = whole.end - whole.begin, s = slots_ - top();
      if (whole.gradients == Gradients::none) {
        const int64_t part = training_ ? decisions_.first_part_training(n, s)
                                       : decisions_.first_part(n, s, whole.again);
        if (part == 0) {
          whole.gradients = Gradients::being_kept;
          whole.first = whole.begin;
        } else if (!split(part)) {
          return false;
        }
        continue;
      }
      const int64_t part = decisions_.first_part_kept(n, s, training_);
      if (part == 0) return true;
      if (!split(part)) return false;
    }
  }

  // Runs the first part of the segment on top and pushes the second. False if that has no steps.
  bool split(int64_t part) {
    const Segment whole = stack_.back();
    const int64_t middle = whole.begin + part;
    Segment left = whole;
    left.end = middle;
    left.again += 1;
    if (left.gradients == Gradients::being_kept) left.gradients = Gradients::kept;
    stack_.back() = left;
    if (middle == whole.end) {
      run(whole, whole.begin, middle, kNone);
      tables_.end_segment(kNone);
      training_ = false;
      tables_.begin_segment(top());
      return false;
    }
    Segment right = whole;
    right.begin = middle;
    stack_.push_back(right);
    // The VJP at a single step takes the state at which the run stands: it needs no slot.
    run(whole, whole.begin, middle, training_ || whole.end - middle > 1 ? top() : kNone);
    return true;
  }

  void run(const Segment &segment, int64_t begin, int64_t end, int64_t save) {
    const int64_t slot = begin - segment.first;
    tables_.run(end - begin, save, segment.gradients == Gradients::being_kept ? slot : kNone,
                segment.gradients == Gradients::kept ? slot : kNone);
  }

  // The segment on top: run through once, holding its states; then one VJP after the other.
  void reverse_held() {
    const Segment segment = stack_.back();
    const auto [begin, end, again, gradients, first] = segment;
    // The training run goes through the last step. A replay stops before it, where the VJP takes
    // the state: a gradient that is not kept is computed there, and the update is never run.
    const int64_t stop = training_ ? end : end - 1;
    for (int64_t t = begin; t < stop; ++t) {
      const bool save = training_ ? t + 1 < end : t + 1 < end - 1;
      run(segment, t, t + 1, save ? top() + (t + 1 - begin) : kNone);
    }
    tables_.end_segment(!training_ && gradients == Gradients::kept ? stop - first : kNone);
    for (int64_t t = stop - 1; t >= begin; --t) {
      tables_.begin_segment(top() + (t - begin));
      tables_.end_segment(t - first);
    }
  }

  PlanTables tables_;
  const int64_t slots_;
  const Decisions &decisions_;
  std::vector<Segment> stack_;
  bool training_ = true;
};

}  // namespace

int64_t Decisions::first_part_kept(int64_t n, int64_t s, bool training) const {
  std::vector<int64_t> parts;
  Binomial(s).split(n, 1, training, parts);
  return parts.empty() ? 0 : parts[0];
}

PlanTables reverse_tree(int64_t steps, int64_t state_slots, const Decisions &decisions) {
  return Walk(steps, state_slots, decisions).reverse();
}

}  // namespace metagrad
