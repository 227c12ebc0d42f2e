// The fastest tree: how a run is split, and where its gradients are kept, so that the time is least
// for given numbers of slots.
#pragma once

#include <cstdint>
#include <limits>
#include <memory>
#include <vector>

#include "plan_tables.h"

namespace metagrad {

// Seconds. Beside them every plan pays the same for its VJPs and for one gradient of each step.
//
// A segment of n steps is reversed in one of two ways, with s state slots, that of its start
// included:
//
//   leaf   at most g + 1 steps (g gradient slots): run through once with its gradients kept, then
//          reversed as Revolve does, its states made again by updates alone;
//   split  its first j steps are run, the state after them is saved, and both parts are reversed,
//          the right one with a slot less, then the left one.
//
//   F(1, s) = 0
//   F(n, s) = min( (n - 1) (kept - update) + K(n, s),               n <= g + 1
//                  min_j  j advance + save + F(j, s) + F(n - j, s - 1) )
//   K(1, s) = 0
//   K(n, s) =      min_j  j update + save + K(j, s) + K(n - j, s - 1)
//
// The training run has the outer function behind its last step:
//
//   F0(0, s) = K0(0, s) = 0
//   F0(n, s) = min( n (kept - update) + K0(n, s),                   n <= g
//                   min_j  j advance + save + F(j, s) + F0(n - j, s - 1) )
//   K0(n, s) =      min_j  j update + save + K(j, s) + K0(n - j, s - 1)
//
// A second part of one step in a replay, and one of none, needs no slot: nothing is saved for it.
// Without the price of a save, K(n, s) is update * t(n, s), the count of Revolve.
struct Weights {
  double advance;  // a step with its gradient
  double kept;     // a step's update, with its gradient written to a slot and read for the VJP
  double update;   // a step from a kept gradient
  double save;     // a state written to a slot; counted in small runs alone
};

struct SlotCounts {
  int64_t states, gradients;
};

double leaf_seconds(int64_t n, int64_t s, const Weights &weights);
double training_leaf_seconds(int64_t n, int64_t s, const Weights &weights);

// What to do with a segment, as the length of its first part; 0: it is not split.
class Decisions {
 public:
  virtual ~Decisions() = default;
  // 0: the segment is a leaf. `again` is how often its steps have been run for segments to their
  // right.
  virtual int64_t first_part(int64_t n, int64_t s, int64_t again) const = 0;
  // The same on the way of the training run; n: it goes to its end without a further save.
  virtual int64_t first_part_training(int64_t n, int64_t s) const = 0;
  // Inside a leaf; 0: all states of the segment are held. As Revolve has it.
  virtual int64_t first_part_kept(int64_t n, int64_t s, bool training) const;
};

// F0(steps, s) and its decisions by the recursion. Time: O(steps^2 slots).
class ExactDecisions : public Decisions {
 public:
  ExactDecisions(int64_t steps, SlotCounts slots, const Weights &weights);
  // F0(steps, s) for s = 0, 1, ..
  std::vector<double> seconds() const;
  int64_t first_part(int64_t n, int64_t s, int64_t again) const override;
  int64_t first_part_training(int64_t n, int64_t s) const override;
  int64_t first_part_kept(int64_t n, int64_t s, bool training) const override;

 private:
  // The seconds of n = 0, 1, .. steps with s slots.
  using Table = std::vector<std::vector<double>>;
  void fill(int64_t n, int64_t s);
  double training_leaf(int64_t n, int64_t s) const;
  double leaf(int64_t n, int64_t s) const;

  int64_t steps_, gradients_;
  Weights weights_;
  Table plain_, plain_training_, kept_, kept_training_;
};

// The same for large runs, by Lagrange's multiplier: with a price of theta for each step reversed,
// the best tree of any length is found segment by segment, for (again, slots) instead of (steps,
// slots). `bound` is the dual's value: no tree of this kind is faster. The tree between the two
// prices around `steps` is within a leaf's updates of it.
class PricedDecisions : public Decisions {
 public:
  // `precision` is that of the price. Where only the bound is wanted, the search for the price may
  // end as soon as that is beyond `enough`.
  PricedDecisions(int64_t steps, SlotCounts slots, const Weights &weights, double precision = 1e-9,
                  double enough = std::numeric_limits<double>::infinity());
  double bound() const { return bounds_.back(); }
  // Lower bounds for 0 .. slots.states state slots, from the prices that were tried.
  const std::vector<double> &bounds() const { return bounds_; }
  int64_t first_part(int64_t n, int64_t s, int64_t again) const override;
  int64_t first_part_training(int64_t n, int64_t s) const override;

 private:
  // The best tree at one price: of each kind of segment, its length and whether it is split.
  struct Node {
    double value;  // seconds - price * steps
    int64_t steps;
    bool split;
  };
  struct Tree {
    double price = 0;
    int64_t rows = 0;            // segments that are run again more often are single steps
    std::vector<Node> nodes;     // [rows][slots + 1]
    std::vector<Node> training;  // [slots + 1]
  };

  void grow(Tree &tree, double price);
  Node leaf(double price, int64_t s, int64_t again) const;
  Node node(const Tree &tree, int64_t s, int64_t again) const;

  int64_t steps_;
  SlotCounts slots_;
  Weights weights_;
  std::vector<double> bounds_;
  Tree low_, high_;
};

// Whether the recursion is cheap: some 10 ms.
inline bool is_cheap(int64_t steps, SlotCounts slots) {
  return steps <= 1024 && steps * steps * slots.states <= 8'000'000;
}

// Whether the whole run is best one leaf: all gradients are kept, at less than a gradient's price.
// Any split of it is made there too, for less.
inline bool is_one_leaf(int64_t steps, SlotCounts slots, const Weights &weights) {
  return slots.gradients >= steps && weights.kept <= weights.advance;
}

// One leaf.
class NoDecisions : public Decisions {
 public:
  int64_t first_part(int64_t, int64_t, int64_t) const override { return 0; }
  int64_t first_part_training(int64_t, int64_t) const override { return 0; }
};

std::unique_ptr<Decisions> decisions(int64_t steps, SlotCounts slots, const Weights &weights);

double seconds_of(const Decisions &decisions, int64_t steps, int64_t state_slots,
                  const Weights &weights);

// The seconds of the tree that `decisions(..)` gives.
double tree_seconds(int64_t steps, SlotCounts slots, const Weights &weights);

// The plan of a tree.
PlanTables reverse_tree(int64_t steps, int64_t state_slots, const Decisions &decisions);

}  // namespace metagrad
