// Which of the prefixes that may be in the next beam are.
#include <algorithm>
#include <functional>
#include <limits>

#include "ctc_prefix_beam_search.h"
#include "log_math.h"

namespace voxformer {

// Throws out all candidates but the best few of each state, and leaves these in their order.
void CtcPrefixBeamSearch::KeepFewOfEachState() {
  if (!holds_states_) return;
  stated_.clear();
  for (std::size_t i = 0; i < candidates_.size(); ++i) {
    const Candidate& candidate = candidates_[i];
    const PrefixTree::Node node = beam_.node[static_cast<std::size_t>(candidate.place)];
    stated_.push_back({candidate.token == PrefixTree::kNoToken
                           ? scorer_->State(node)
                           : scorer_->StateAfter(node, candidate.token),
                       i});
  }
  std::sort(stated_.begin(), stated_.end(), [this](const Stated& a, const Stated& b) {
    if (a.state != b.state) return a.state < b.state;
    const Candidate& one = candidates_[a.candidate];
    const Candidate& other = candidates_[b.candidate];
    return one.mass != other.mass ? one.mass > other.mass : Before(one, other);
  });
  std::int64_t kept = 0;
  for (std::size_t i = 0; i < stated_.size(); ++i) {
    kept = i > 0 && stated_[i].state == stated_[i - 1].state ? kept + 1 : 1;
    if (kept > options_.prefixes_per_state) candidates_[stated_[i].candidate].mass = kLogZero;
  }
  KeepFrom(std::numeric_limits<double>::lowest());
}

// Throws out all candidates but the best `beam_size_`, of which there are more, and leaves these in
// their order. Returns the least mass that stays.
double CtcPrefixBeamSearch::KeepBest() {
  masses_.clear();
  for (const Candidate& candidate : candidates_) masses_.push_back(candidate.mass);
  const auto last = masses_.begin() + static_cast<std::ptrdiff_t>(beam_size_ - 1);
  std::nth_element(masses_.begin(), last, masses_.end(), std::greater<double>());
  const double least = *last;
  tied_.clear();
  std::size_t room = beam_size_;
  for (std::size_t i = 0; i < candidates_.size(); ++i) {
    if (candidates_[i].mass == least) tied_.push_back(i);
    if (candidates_[i].mass > least) --room;
  }
  if (tied_.size() > room) {
    std::sort(tied_.begin(), tied_.end(), [this](std::size_t a, std::size_t b) {
      return Before(candidates_[a], candidates_[b]);
    });
    for (std::size_t i = room; i < tied_.size(); ++i) candidates_[tied_[i]].mass = kLogZero;
  }
  KeepFrom(least);
  return least;
}

void CtcPrefixBeamSearch::KeepFrom(double least) {
  candidates_.erase(std::remove_if(candidates_.begin(), candidates_.end(),
                                   [least](const Candidate& c) { return c.mass < least; }),
                    candidates_.end());
}

// Whether the ids of `a` come before those of `b`.
bool CtcPrefixBeamSearch::Before(const Candidate& a, const Candidate& b) const noexcept {
  return tree_.Before(beam_.node[static_cast<std::size_t>(a.place)], a.token,
                      beam_.node[static_cast<std::size_t>(b.place)], b.token);
}

}  // namespace voxformer
