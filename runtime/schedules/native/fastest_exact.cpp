#include <algorithm>
#include <limits>

#include "fastest.h"

namespace metagrad {
namespace {

constexpr double kNever = std::numeric_limits<double>::infinity();

// Seconds of a split of n steps after the first j, with what is the same for all j left out.
double split_seconds(const double *left, const double *right, int64_t n, int64_t j, double step) {
  return static_cast<double>(j) * step + left[j] + right[n - j];
}

// The least of all splits after first .. last steps. Four at a time: this is where the time goes.
double least(const double *left, const double *right, int64_t n, int64_t first, int64_t last,
             double step) {
  double best[4] = {kNever, kNever, kNever, kNever};
  int64_t j = first;
  for (; j + 3 <= last; j += 4)
    for (int k = 0; k < 4; ++k) {
      const double seconds = split_seconds(left, right, n, j + k, step);
      best[k] = seconds < best[k] ? seconds : best[k];
    }
  for (; j <= last; ++j) best[0] = std::min(best[0], split_seconds(left, right, n, j, step));
  return std::min(std::min(best[0], best[1]), std::min(best[2], best[3]));
}

// What of a second part is not saved: one of `rest` steps, 1 in a replay, 0 in the training run.
double least_of_all(const std::vector<double> &left, const std::vector<double> &right, int64_t n,
                    int64_t rest, double step, double save) {
  const int64_t unsaved = n - rest;
  const double last =
      unsaved >= 1 ? split_seconds(left.data(), right.data(), n, unsaved, step) : kNever;
  return std::min(last, save + least(left.data(), right.data(), n, 1, unsaved - 1, step));
}

// The split that takes the least. Of equal ones the longest first part: it leaves the most
// gradients kept.
int64_t best_part(const std::vector<double> &left, const std::vector<double> &right, int64_t n,
                  int64_t rest, double step, double save) {
  int64_t part = n - rest;
  double best = split_seconds(left.data(), right.data(), n, part, step);
  for (int64_t j = part - 1; j >= 1; --j) {
    const double seconds = save + split_seconds(left.data(), right.data(), n, j, step);
    if (seconds < best) best = seconds, part = j;
  }
  return part;
}

}  // namespace

ExactDecisions::ExactDecisions(int64_t steps, SlotCounts slots, const Weights &weights)
    : steps_(steps), gradients_(slots.gradients), weights_(weights) {
  const std::vector<double> none(steps + 1, kNever);
  for (Table *table : {&plain_, &plain_training_, &kept_, &kept_training_})
    table->assign(slots.states + 1, none);
  for (int64_t s = 0; s <= slots.states; ++s) {
    plain_[s][1] = kept_[s][1] = 0;
    plain_training_[s][0] = kept_training_[s][0] = 0;
    for (int64_t n = 1; s > 0 && n <= steps; ++n) fill(n, s);
  }
}

void ExactDecisions::fill(int64_t n, int64_t s) {
  const Weights &w = weights_;
  if (n > 1) {
    kept_[s][n] = least_of_all(kept_[s], kept_[s - 1], n, 1, w.update, w.save);
    plain_[s][n] =
        std::min(leaf(n, s), least_of_all(plain_[s], plain_[s - 1], n, 1, w.advance, w.save));
  }
  kept_training_[s][n] = least_of_all(kept_[s], kept_training_[s - 1], n, 0, w.update, w.save);
  plain_training_[s][n] =
      std::min(training_leaf(n, s),
               least_of_all(plain_[s], plain_training_[s - 1], n, 0, w.advance, w.save));
}

double ExactDecisions::leaf(int64_t n, int64_t s) const {
  if (n > gradients_ + 1) return kNever;
  return static_cast<double>(n - 1) * (weights_.kept - weights_.update) + kept_[s][n];
}

double ExactDecisions::training_leaf(int64_t n, int64_t s) const {
  if (n > gradients_) return kNever;
  return static_cast<double>(n) * (weights_.kept - weights_.update) + kept_training_[s][n];
}

std::vector<double> ExactDecisions::seconds() const {
  std::vector<double> all;
  for (const std::vector<double> &of_slots : plain_training_) all.push_back(of_slots[steps_]);
  return all;
}

int64_t ExactDecisions::first_part(int64_t n, int64_t s, int64_t) const {
  if (n == 1 || leaf(n, s) <= plain_[s][n]) return 0;
  return best_part(plain_[s], plain_[s - 1], n, 1, weights_.advance, weights_.save);
}

int64_t ExactDecisions::first_part_training(int64_t n, int64_t s) const {
  if (training_leaf(n, s) <= plain_training_[s][n]) return 0;
  return best_part(plain_[s], plain_training_[s - 1], n, 0, weights_.advance, weights_.save);
}

int64_t ExactDecisions::first_part_kept(int64_t n, int64_t s, bool training) const {
  if (training)
    return best_part(kept_[s], kept_training_[s - 1], n, 0, weights_.update, weights_.save);
  return n == 1 ? 0 : best_part(kept_[s], kept_[s - 1], n, 1, weights_.update, weights_.save);
}

}  // namespace metagrad
