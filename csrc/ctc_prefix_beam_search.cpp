#include "ctc_prefix_beam_search.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <utility>

#include "beam_numbers.h"
#include "fast_exp.h"
#include "log_math.h"
#include "penalties.h"

namespace voxformer {
namespace {

// Limits of what is computed with probabilities, see beam_numbers.h.
constexpr double kLowestMass = 1e-20;
constexpr double kHighestMass = 1e20;
// Frames before probabilities are tried again: the change costs as much as a frame.
constexpr int kFramesInLogarithms = 16;
// Where no more tokens pass, a better bound costs more than it saves.
constexpr std::size_t kFewTokens = 6;

// A gain as what masses are multiplied by, and a margin for the rounding of factors.
template <class Numbers>
double GainBound(double log_gain) noexcept {
  return Numbers::kLogarithms ? log_gain + 1e-9 * (1.0 + std::fabs(log_gain))
                              : Factor(log_gain) * (1.0 + 1e-9);
}

// Whether `token` is one of `boosted`, which are in ascending order.
bool Holds(Span<const BoostedToken> boosted, std::int32_t token) noexcept {
  const auto found =
      std::lower_bound(boosted.begin(), boosted.end(), token,
                       [](const BoostedToken& a, std::int32_t id) { return a.token < id; });
  return found != boosted.end() && found->token == token;
}

}  // namespace

void CtcPrefixBeamSearch::Beam::Resize(std::size_t capacity) {
  total.resize(capacity);
  blank.resize(capacity);
  non_blank.resize(capacity);
  gain.resize(capacity);
  log_gain.resize(capacity);
  faint.resize(capacity);
  node.resize(capacity);
  last.resize(capacity);
  parent.resize(capacity);
  child.resize(capacity);
  sibling.resize(capacity);
}

// Room for `size` prefixes; both beams have the same, for their arrays change places.
void CtcPrefixBeamSearch::MakeRoom(std::size_t size) {
  if (size <= beam_.total.size()) return;
  const std::size_t capacity = std::min(beam_size_, 2 * size);
  beam_.Resize(capacity);
  next_.Resize(capacity);
}

CtcPrefixBeamSearch::CtcPrefixBeamSearch(const CtcBeamOptions& options,
                                         std::shared_ptr<const FusionModel> fusion)
    : options_(options),
      scan_(FastestScan()),
      beam_size_(0),
      log_gain_(options.length_bonus),
      gain_(std::exp(std::clamp(log_gain_, -kLargestBonus, kLargestBonus))),
      largest_gain_(log_gain_),
      beam_factor_(std::exp(-options.beam_threshold)) {
  options_.Validate();
  beam_size_ = static_cast<std::size_t>(options_.beam_size);
  if (fusion) {
    scorer_.emplace(std::move(fusion));
    largest_gain_ += scorer_->largest_gain();
    lm_weight_ = scorer_->lm_weight();
    holds_states_ = options_.prefixes_per_state > 0;
  }
  Start();
}

void CtcPrefixBeamSearch::Start() {
  tree_.Reset();
  if (scorer_) scorer_->Start();
  place_.assign(1, 0);
  row_maxima_.clear();
  MakeRoom(1);
  beam_.size = 1;
  beam_.total[0] = beam_.blank[0] = 1.0;
  beam_.non_blank[0] = 0.0;
  beam_.faint[0] = kLogZero;
  beam_.gain[0] = 1.0;
  beam_.log_gain[0] = 0.0;
  beam_.node[0] = PrefixTree::kRoot;
  beam_.last[0] = static_cast<std::int32_t>(options_.blank_id);
  beam_.parent[0] = beam_.child[0] = beam_.sibling[0] = -1;
  logarithms_ = false;
  exponent_ = 0;
  best_ = least_ = 1.0;
  // Bonuses that no probability holds.
  if (std::fabs(largest_gain_) > kLargestBonus) ToLogarithms();
}

std::optional<std::size_t> CtcPrefixBeamSearch::Feed(const CtcLogProbs& log_probs) {
  if (tokens_.size() < log_probs.columns() + kScanPadding) {
    tokens_.resize(log_probs.columns() + kScanPadding);
  }
  row_maxima_.reserve(row_maxima_.size() + log_probs.rows());
  for (std::size_t t = 0; t < log_probs.rows(); ++t) {
    if (!Step(log_probs.Row(t, &row_buffer_))) return t;
  }
  return std::nullopt;
}

bool CtcPrefixBeamSearch::Step(Span<const float> row) {
  bool sound = true;
  if (logarithms_ && ++frames_in_logarithms_ > kFramesInLogarithms && Narrow()) ToProbabilities();
  if (!logarithms_) {
    if (Advance<Probabilities>(row, &sound)) {
      if (!sound || beam_.size == 0) return sound;
      if (!(least_ >= best_ * kWidest)) {
        ToLogarithms();
      } else if (best_ < kLowestMass || best_ > kHighestMass) {
        Rescale();
      }
      return true;
    }
    ToLogarithms();
  }
  Advance<Logarithms>(row, &sound);
  return sound;
}

// One frame. Returns false, with nothing changed, where `Numbers` cannot hold what it needs.
template <class Numbers>
bool CtcPrefixBeamSearch::Advance(Span<const float> row, bool* sound) {
  if (!Weigh<Numbers>(row)) return false;
  Stay<Numbers>();

  double floor = Numbers::kZero;
  double least = std::numeric_limits<double>::infinity();
  double most = Numbers::kZero;
  for (std::size_t i = 0; i < beam_.size; ++i) {
    // All that is left of a prefix may be what is too faint for a probability.
    if (!Numbers::kLogarithms && next_.total[i] == 0.0 && next_.faint[i] != kLogZero) return false;
    least = std::min(least, next_.total[i]);
    most = std::max(most, next_.total[i]);
  }
  const bool complete = beam_.size > 0 && least > Numbers::kZero;
  if (complete && beam_.size == beam_size_) floor = least;
  const double cut = Cut<Numbers>(most);
  floor = std::max(floor, cut);

  const float asked = static_cast<float>(options_.token_min_log_prob);
  float threshold = std::max(Threshold<Numbers>(floor), asked);
  RowScan scanned = scan_(row.data(), row.size(), threshold, tokens_.data());
  if (scanned.bad) {
    *sound = false;
    return true;
  }
  least_log_prob_ = std::min(asked, scanned.max);
  if (scanned.max < asked) {
    threshold = std::max(Threshold<Numbers>(floor), least_log_prob_);
    scanned = scan_(row.data(), row.size(), threshold, tokens_.data());
  }
  // That bound counts prefixes which prefixes_per_state may leave out.
  if (scanned.count > kFewTokens && !holds_states_) {
    const double higher = FloorWithBestToken<Numbers>(row, scanned.max);
    floor = std::max(floor, higher);
    threshold = std::max(Threshold<Numbers>(floor), least_log_prob_);
    scanned = scan_(row.data(), row.size(), threshold, tokens_.data());
  }

  SortPassed(row, scanned.count);
  if constexpr (!Numbers::kLogarithms) {
    if (!Weights(passed_log_probs_, passed_.size(), &passed_weights_)) return false;
  }
  if (!passed_.empty() || !complete || least < cut || (scorer_ && scorer_->has_hotwords())) {
    candidates_.clear();
    for (std::size_t i = 0; i < beam_.size; ++i) {
      if (next_.total[i] > Numbers::kZero) {
        candidates_.emplace_back(next_.total[i], 0.0, i, PrefixTree::kNoToken);
      }
    }
    if (!Collect<Numbers>(row, floor)) return false;
    DropFarBelow<Numbers>();
    KeepFewOfEachState();
    if (candidates_.size() > beam_size_) KeepBest();
    const bool all_stay =
        candidates_.size() == beam_.size &&
        std::all_of(candidates_.begin(), candidates_.end(),
                    [](const Candidate& c) { return c.token == PrefixTree::kNoToken; });
    if (!all_stay) {
      Adopt<Numbers>();
      row_maxima_.push_back(scanned.max);
      return true;
    }
  }

  row_maxima_.push_back(scanned.max);
  // The same prefixes in the same places.
  beam_.total.swap(next_.total);
  beam_.blank.swap(next_.blank);
  beam_.non_blank.swap(next_.non_blank);
  beam_.faint.swap(next_.faint);
  best_ = most;
  least_ = least;
  return true;
}

// At most the least log-prob that takes a prefix of this mass to `floor` with the most that a token
// earns without hotwords: what passes is weighed again.
template <class Numbers>
double CtcPrefixBeamSearch::NeededLogProb(double mass, double floor) const noexcept {
  if (!(floor > Numbers::kZero)) return kLogZero;
  // This adds in another order than the masses that it stands for are made; ties must pass.
  if constexpr (Numbers::kLogarithms) {
    return floor - mass - largest_gain_ - 1e-9 * (std::fabs(floor) + std::fabs(mass));
  } else {
    const double ratio = floor / mass;
    if (ratio < std::numeric_limits<double>::min()) return kLogZero;
    return LogBelow(ratio) - largest_gain_ - 1e-9;
  }
}

// The same for any prefix of the beam.
template <class Numbers>
float CtcPrefixBeamSearch::Threshold(double floor) const noexcept {
  return FloatBelow(NeededLogProb<Numbers>(best_, floor));
}

// What lies below this is too far below `best` to stay in the beam.
template <class Numbers>
double CtcPrefixBeamSearch::Cut(double best) const noexcept {
  return Numbers::kLogarithms ? best - options_.beam_threshold : best * beam_factor_;
}

template <class Numbers>
void CtcPrefixBeamSearch::DropFarBelow() {
  double best = Numbers::kZero;
  for (const Candidate& candidate : candidates_) best = std::max(best, candidate.mass);
  const double cut = Cut<Numbers>(best);
  if (cut > Numbers::kZero) KeepFrom(cut);
}

// The least mass of a beam filled from the prefixes as they are and from those that the frame's
// most probable token makes, or what the best of these leaves in it. Where that token is spoken,
// what stays is worth little, and this is a far better bound. Zero where it bounds nothing.
template <class Numbers>
double CtcPrefixBeamSearch::FloorWithBestToken(Span<const float> row, float max) {
  const RowScan top = scan_(row.data(), row.size(), max, tokens_.data());
  std::size_t first = 0;
  while (first < top.count && tokens_[first] == options_.blank_id) ++first;
  const double log_prob = static_cast<double>(max);
  if (first == top.count || std::fabs(log_prob) > kLargestLogProb) return Numbers::kZero;
  const std::int32_t token = tokens_[first];
  const double weight = Numbers::kLogarithms ? log_prob : FastExp(log_prob);
  masses_.clear();
  for (std::size_t i = 0; i < beam_.size; ++i) {
    masses_.push_back(next_.total[i]);
    if (HasChild(i, token)) continue;
    double gain = Numbers::kLogarithms ? log_gain_ : gain_;
    if (scorer_) {
      gain = log_gain_ + scorer_->Gain(beam_.node[i], token);
      if constexpr (!Numbers::kLogarithms) {
        if (std::fabs(gain) > kLargestBonus) continue;
        gain = Factor(gain);
      }
    }
    const double mass = token == beam_.last[i] ? beam_.blank[i] : beam_.total[i];
    masses_.push_back(Numbers::Times(Numbers::Times(mass, weight), gain));
  }
  if (masses_.empty()) return Numbers::kZero;
  const double cut = Cut<Numbers>(*std::max_element(masses_.begin(), masses_.end()));
  if (masses_.size() < beam_size_) return cut;
  const auto least = masses_.begin() + static_cast<std::ptrdiff_t>(beam_size_ - 1);
  std::nth_element(masses_.begin(), least, masses_.end(), std::greater<double>());
  return std::max(cut, *least);
}

// Whether the beam holds prefix `place` followed by `token`.
bool CtcPrefixBeamSearch::HasChild(std::size_t place, std::int32_t token) const noexcept {
  std::int32_t child = beam_.child[place];
  while (child >= 0 && beam_.last[static_cast<std::size_t>(child)] != token) {
    child = beam_.sibling[static_cast<std::size_t>(child)];
  }
  return child >= 0;
}

// The weights of the blank and of each prefix's last token.
template <class Numbers>
bool CtcPrefixBeamSearch::Weigh(Span<const float> row) {
  const std::size_t size = beam_.size;
  if (log_probs_.size() < size + 1) {
    log_probs_.resize(size + 1);
    weights_.resize(size + 1);
  }
  for (std::size_t i = 0; i < size; ++i) {
    log_probs_[i] = static_cast<double>(row[static_cast<std::size_t>(beam_.last[i])]);
  }
  log_probs_[size] = static_cast<double>(row[static_cast<std::size_t>(options_.blank_id)]);
  if constexpr (Numbers::kLogarithms) {
    blank_weight_ = log_probs_[size];
  } else {
    if (!Weights(log_probs_, size + 1, &weights_)) return false;
    blank_weight_ = weights_[size];
  }
  return true;
}

// The masses of the prefixes that are there, each with what comes to it from its parent.
template <class Numbers>
void CtcPrefixBeamSearch::Stay() {
  const std::vector<double>& weights = Numbers::kLogarithms ? log_probs_ : weights_;
  const std::vector<double>& gains = Numbers::kLogarithms ? beam_.log_gain : beam_.gain;
  for (std::size_t i = 0; i < beam_.size; ++i) {
    const double weight = weights[i];
    double non_blank = Numbers::Times(beam_.non_blank[i], weight);
    if constexpr (!Numbers::kLogarithms) {
      double faint = kLogZero;
      if (!(non_blank >= kFaint)) {
        // Too small to be kept as it is, and too small to matter until all else is gone.
        faint = beam_.non_blank[i] > 0.0 ? std::log(beam_.non_blank[i]) + Offset() : beam_.faint[i];
        faint += log_probs_[i];
        non_blank = 0.0;
        if (faint - Offset() > std::log(kFaint)) {
          non_blank = std::exp(faint - Offset());
          faint = kLogZero;
        }
      }
      next_.faint[i] = faint;
    }
    if (beam_.parent[i] >= 0) {
      const std::size_t parent = static_cast<std::size_t>(beam_.parent[i]);
      // After the same token only the alignments that end with blank go on; the others repeat it.
      const double mass =
          beam_.last[parent] == beam_.last[i] ? beam_.blank[parent] : beam_.total[parent];
      non_blank = Numbers::Plus(non_blank, Numbers::Times(Numbers::Times(mass, weight), gains[i]));
    }
    next_.non_blank[i] = non_blank;
    next_.blank[i] = Numbers::Times(beam_.total[i], blank_weight_);
    next_.total[i] = Numbers::Plus(next_.blank[i], non_blank);
  }
}

// The tokens that passed, the most probable first, but for the blank. In the row of any prefix
// beam_size tokens come before the last of beam_size + 1, one of which may be the prefix's own last
// token and weigh less; so no more are needed. Equals are in order of ids for the same reason. What
// a fusion model gives goes by the prefix, and then all are needed.
void CtcPrefixBeamSearch::SortPassed(Span<const float> row, std::size_t count) {
  passed_.clear();
  for (std::size_t k = 0; k < count; ++k) {
    const std::int32_t token = tokens_[k];
    if (token == options_.blank_id) continue;
    passed_.push_back({row[static_cast<std::size_t>(token)], token});
  }
  if (passed_.empty()) return;
  const auto before = [](const Passed& a, const Passed& b) {
    return a.log_prob != b.log_prob ? a.log_prob > b.log_prob : a.token < b.token;
  };
  if (passed_.size() > beam_size_ + 1 && !scorer_) {
    const auto cut = passed_.begin() + static_cast<std::ptrdiff_t>(beam_size_ + 1);
    std::nth_element(passed_.begin(), cut, passed_.end(), before);
    passed_.erase(cut, passed_.end());
  }
  std::sort(passed_.begin(), passed_.end(), before);
  if (passed_log_probs_.size() < passed_.size()) {
    passed_log_probs_.resize(passed_.size());
    passed_weights_.resize(passed_.size());
  }
  for (std::size_t k = 0; k < passed_.size(); ++k) {
    passed_log_probs_[k] = static_cast<double>(passed_[k].log_prob);
  }
}

// Adds the extensions of mass `floor` or more to the candidates. Returns false where `Numbers`
// cannot hold one of them.
template <class Numbers>
bool CtcPrefixBeamSearch::Collect(Span<const float> row, double floor) {
  const std::vector<double>& weights = Numbers::kLogarithms ? passed_log_probs_ : passed_weights_;
  double largest_gain = Numbers::kLogarithms ? log_gain_ : gain_;
  if (scorer_) largest_gain = GainBound<Numbers>(largest_gain_);
  for (std::size_t i = 0; i < beam_.size; ++i) {
    const Span<const BoostedToken> boosted =
        scorer_ ? scorer_->BoostedTokens(beam_.node[i]) : Span<const BoostedToken>();
    double largest = largest_gain;
    if (scorer_ && scorer_->has_lexicon()) {
      largest = GainBound<Numbers>(log_gain_ + scorer_->LargestGain(beam_.node[i]));
    }
    for (std::size_t k = 0; k < passed_.size(); ++k) {
      // The most that this token or any after it can have.
      const double most = Numbers::Times(Numbers::Times(beam_.total[i], weights[k]), largest);
      if (most < floor) break;
      const std::int32_t token = passed_[k].token;
      if (Holds(boosted, token)) continue;
      const double log_gain = log_gain_ + (scorer_ ? scorer_->Gain(beam_.node[i], token) : 0.0);
      if (!Extend<Numbers>(i, token, weights[k], log_gain, &floor)) return false;
    }
    if (boosted.empty() || !(beam_.total[i] > Numbers::kZero)) continue;
    const double needed = NeededLogProb<Numbers>(beam_.total[i], floor);
    for (const BoostedToken& candidate : boosted) {
      const std::int32_t token = candidate.token;
      if (static_cast<std::size_t>(token) >= row.size() || token == options_.blank_id) continue;
      const float log_prob = row[static_cast<std::size_t>(token)];
      if (log_prob == -std::numeric_limits<float>::infinity() || log_prob < least_log_prob_) {
        continue;
      }
      double weight = static_cast<double>(log_prob);
      if (weight + candidate.gain < needed) continue;
      if constexpr (!Numbers::kLogarithms) {
        if (std::fabs(weight) > kLargestLogProb) return false;
        weight = FastExp(weight);
      }
      const double log_gain = log_gain_ + scorer_->Gain(beam_.node[i], candidate);
      if (!Extend<Numbers>(i, token, weight, log_gain, &floor)) return false;
    }
  }
  return true;
}

// Offers prefix `place` followed by `token`, which earns `log_gain`. Returns false where `Numbers`
// cannot hold it.
template <class Numbers>
bool CtcPrefixBeamSearch::Extend(std::size_t place, std::int32_t token, double weight,
                                 double log_gain, double* floor) {
  if (log_gain == kLogZero) return true;  // the lexicon has no such word
  const double before = token == beam_.last[place] ? beam_.blank[place] : beam_.total[place];
  double gain = log_gain;
  if constexpr (!Numbers::kLogarithms) {
    if (log_gain > kLargestBonus) return false;
    gain = scorer_ ? Factor(log_gain) : gain_;
  }
  // Multiplied in Stay()'s order, so that equal masses are equal bits.
  const double mass = Numbers::Times(Numbers::Times(before, weight), gain);
  if (mass < *floor || !(mass > Numbers::kZero)) return true;
  if (!Numbers::kLogarithms && log_gain < -kLargestBonus) return false;
  // Stay() has added this mass where the longer prefix is in the beam already.
  if (HasChild(place, token)) return true;
  candidates_.emplace_back(mass, log_gain, place, token);
  // At most a few times the beam; what is below the least of a full one cannot enter.
  if (candidates_.size() >= 2 * beam_size_ + 32) {
    KeepFewOfEachState();
    if (candidates_.size() > beam_size_) *floor = std::max(*floor, KeepBest());
  }
  return true;
}

// Makes the candidates the beam.
template <class Numbers>
void CtcPrefixBeamSearch::Adopt() {
  // Those that stay come first and in order, so that their masses, which are in `next_` at their
  // old places, can be moved within it: none of these is before its new one.
  MakeRoom(candidates_.size());
  for (std::size_t i = 0; i < beam_.size; ++i) {
    place_[static_cast<std::size_t>(beam_.node[i])] = -1;
  }
  double least = std::numeric_limits<double>::infinity();
  double most = -least;
  for (std::size_t i = 0; i < candidates_.size(); ++i) {
    const Candidate& candidate = candidates_[i];
    const std::size_t place = static_cast<std::size_t>(candidate.place);
    if (candidate.token == PrefixTree::kNoToken) {
      next_.total[i] = next_.total[place];
      next_.blank[i] = next_.blank[place];
      next_.non_blank[i] = next_.non_blank[place];
      next_.faint[i] = next_.faint[place];
      next_.gain[i] = beam_.gain[place];
      next_.log_gain[i] = beam_.log_gain[place];
      next_.node[i] = beam_.node[place];
      next_.last[i] = beam_.last[place];
    } else {
      next_.total[i] = next_.non_blank[i] = candidate.mass;
      next_.blank[i] = Numbers::kZero;
      next_.faint[i] = kLogZero;
      next_.log_gain[i] = candidate.log_gain;
      next_.gain[i] = scorer_ ? Factor(candidate.log_gain) : gain_;
      const std::size_t known = tree_.size();
      next_.node[i] = tree_.Child(beam_.node[place], candidate.token);
      next_.last[i] = candidate.token;
      if (scorer_ && tree_.size() > known) {
        scorer_->Enter(next_.node[i], beam_.node[place], candidate.token);
      }
    }
    least = std::min(least, next_.total[i]);
    most = std::max(most, next_.total[i]);
  }
  place_.resize(tree_.size(), -1);
  next_.size = candidates_.size();
  for (std::size_t i = 0; i < next_.size; ++i) {
    place_[static_cast<std::size_t>(next_.node[i])] = static_cast<std::int32_t>(i);
    next_.child[i] = -1;
  }
  for (std::size_t i = 0; i < next_.size; ++i) {
    const PrefixTree::Node parent = tree_.parent(next_.node[i]);
    next_.parent[i] = parent < 0 ? -1 : place_[static_cast<std::size_t>(parent)];
    if (next_.parent[i] < 0) continue;
    std::int32_t& first = next_.child[static_cast<std::size_t>(next_.parent[i])];
    next_.sibling[i] = first;
    first = static_cast<std::int32_t>(i);
  }
  std::swap(beam_, next_);
  best_ = most;
  least_ = least;
}

std::vector<Hypothesis> CtcPrefixBeamSearch::Results() {
  if (beam_.size == 0) {
    Hypothesis impossible;
    impossible.score = kLogZero;
    impossible.ctc_score = kLogZero;
    impossible.has_words = scorer_ && scorer_->has_lexicon();
    return {impossible};
  }
  struct Scored {
    double score;
    double ctc_score;
    PrefixScorer::Parts earned;
    PrefixTree::Node node;
  };
  std::vector<Scored> scored(beam_.size);
  for (std::size_t i = 0; i < beam_.size; ++i) {
    const PrefixTree::Node node = beam_.node[i];
    const std::size_t tokens = static_cast<std::size_t>(tree_.depth(node));
    const double total = logarithms_ ? beam_.total[i] : std::log(beam_.total[i]) + Offset();
    Scored& hypothesis = scored[i];
    hypothesis.node = node;
    hypothesis.ctc_score = total - options_.length_bonus * static_cast<double>(tokens);
    if (scorer_ && !row_maxima_.empty()) {  // without a frame nothing was said, not even </s>
      hypothesis.ctc_score -= scorer_->Sum(node);
      hypothesis.earned = scorer_->AtEnd(node);
    }
    hypothesis.score = FinalScore(hypothesis.ctc_score + hypothesis.earned.bonus_score,
                                  lm_weight_ * hypothesis.earned.lm_score, tokens,
                                  options_.length_bonus, options_.length_penalty);
  }
  const std::size_t n_best = std::min(scored.size(), static_cast<std::size_t>(options_.n_best));
  std::partial_sort(scored.begin(), scored.begin() + static_cast<std::ptrdiff_t>(n_best),
                    scored.end(), [this](const Scored& a, const Scored& b) {
                      if (a.score != b.score) return a.score > b.score;
                      return tree_.Before(a.node, PrefixTree::kNoToken, b.node,
                                          PrefixTree::kNoToken);
                    });
  std::vector<Hypothesis> hypotheses(n_best);
  for (std::size_t i = 0; i < n_best; ++i) {
    tree_.Sequence(scored[i].node, &hypotheses[i].token_ids);
    hypotheses[i].ctc_score = scored[i].ctc_score;
    hypotheses[i].score = scored[i].score;
    hypotheses[i].lm_score = scored[i].earned.lm_score;
    hypotheses[i].bonus_score = scored[i].earned.bonus_score;
    if (scorer_ && scorer_->has_lexicon()) {
      hypotheses[i].words = scorer_->Words(scored[i].node);
      hypotheses[i].has_words = true;
    }
  }
  return hypotheses;
}

}  // namespace voxformer
