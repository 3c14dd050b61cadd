#include "ctc_alignment.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "log_math.h"

namespace voxformer {
namespace {

constexpr std::uint8_t kFromBlank = 1;
constexpr std::uint8_t kFromToken = 2;
constexpr std::uint8_t kTokenBits = 3;
constexpr std::uint8_t kBlankFromToken = 4;

std::size_t CommonLength(const std::vector<std::int32_t>& a, const std::vector<std::int32_t>& b) {
  const std::size_t size = std::min(a.size(), b.size());
  return static_cast<std::size_t>(
      std::mismatch(a.begin(), a.begin() + static_cast<std::ptrdiff_t>(size), b.begin()).first -
      a.begin());
}

}  // namespace

void CtcAligner::Start(const CtcLogProbs& log_probs, std::int64_t blank_id,
                       Span<const float> row_maxima) {
  log_probs_ = log_probs;
  blank_ = static_cast<std::size_t>(blank_id);
  rest_.resize(log_probs.rows() + 1);
  rest_.back() = 0.0;
  for (std::size_t t = log_probs.rows(); t-- > 0;) {
    rest_[t] = rest_[t + 1] + static_cast<double>(row_maxima[t]);
  }
}

void CtcAligner::Align(std::vector<Hypothesis>* hypotheses) {
  const std::size_t num_frames = log_probs_.rows();
  for (Hypothesis& hypothesis : *hypotheses) {
    hypothesis.timesteps.clear();
    hypothesis.token_starts.clear();
    hypothesis.token_ends.clear();
    hypothesis.token_confidences.clear();
    // Without a frame nothing was said and nothing could have been.
    hypothesis.confidence = num_frames == 0 && hypothesis.token_ids.empty() ? 1.0 : 0.0;
  }
  if (rest_[0] == kLogZero || num_frames == 0) return;

  order_.resize(hypotheses->size());
  std::iota(order_.begin(), order_.end(), std::size_t{0});
  std::sort(order_.begin(), order_.end(), [&](std::size_t a, std::size_t b) {
    return (*hypotheses)[a].token_ids < (*hypotheses)[b].token_ids;
  });
  // A path is worth no more than the sum over all of them, and the best one as a rule little less.
  double margin = 4.0;
  while (!order_.empty()) {
    double highest = rest_[0];
    for (const std::size_t h : order_) {
      highest = std::min(highest, (*hypotheses)[h].ctc_score.value_or(rest_[0]));
    }
    const double lowest = margin < 1e6 ? highest - margin : kLogZero;
    BuildTree(*hypotheses);
    double most = highest;
    if (PathsAbove(lowest, &most)) {
      std::size_t missing = 0;
      for (std::size_t i = 0; i < order_.size(); ++i) {
        const Prefix& end = prefixes_[leaf_[i]];
        // Of a path that is worth less a better one may have been passed over.
        const double best = std::max(end.in_token, end.in_blank);
        if (best < lowest_ || best == kLogZero) {
          order_[missing++] = order_[i];
          continue;
        }
        Trace(leaf_[i]);
        Fill(&(*hypotheses)[order_[i]]);
      }
      order_.resize(missing);
    }
    if (lowest == kLogZero) return;
    margin = std::max(4.0 * margin, highest - most);
  }
}

// The prefixes of the hypotheses in `order_`, and where each of these ends.
void CtcAligner::BuildTree(const std::vector<Hypothesis>& hypotheses) {
  struct Node {
    std::size_t parent;
    std::size_t length;
    std::int32_t token;
  };
  std::vector<Node> nodes = {{0, 0, 0}};  // in order of their tokens
  std::vector<std::size_t> line;          // the nodes of the last hypothesis, by length
  leaf_.clear();
  for (std::size_t i = 0; i < order_.size(); ++i) {
    const std::vector<std::int32_t>& token_ids = hypotheses[order_[i]].token_ids;
    const std::size_t common =
        i == 0 ? 0 : CommonLength(token_ids, hypotheses[order_[i - 1]].token_ids);
    line.resize(common);
    for (std::size_t k = common; k < token_ids.size(); ++k) {
      nodes.push_back({k == 0 ? 0 : line[k - 1], k + 1, token_ids[k]});
      line.push_back(nodes.size() - 1);
    }
    leaf_.push_back(token_ids.empty() ? 0 : line.back());
  }

  // By length, which keeps the order of tokens among equals: parents in order have their children
  // in order, so that the states that a frame can reach are a range.
  std::vector<std::size_t> sorted(nodes.size());
  std::iota(sorted.begin(), sorted.end(), std::size_t{0});
  std::stable_sort(sorted.begin(), sorted.end(),
                   [&](std::size_t a, std::size_t b) { return nodes[a].length < nodes[b].length; });
  std::vector<std::size_t> place(nodes.size());
  for (std::size_t i = 0; i < sorted.size(); ++i) place[sorted[i]] = i;
  prefixes_.resize(nodes.size());
  for (std::size_t i = 0; i < sorted.size(); ++i) {
    const Node& node = nodes[sorted[i]];
    const std::size_t parent = place[node.parent];
    prefixes_[i] = {kLogZero,
                    kLogZero,
                    static_cast<std::int32_t>(parent),
                    node.token,
                    static_cast<std::int32_t>(i) + 1,
                    i > 0 && (parent == 0 || node.token != prefixes_[parent].token)};
    if (i > 0) prefixes_[parent].reach = static_cast<std::int32_t>(i) + 1;
  }
  for (std::size_t i = 1; i < prefixes_.size(); ++i) {
    prefixes_[i].reach = std::max(prefixes_[i].reach, prefixes_[i - 1].reach);
  }
  for (std::size_t& leaf : leaf_) leaf = place[leaf];
}

// The best paths to all states that can lie on one of score `lowest` or more. False where there are
// none at some frame; `best_at_end` is then what the best of them would need at the end, if the
// frames to come lost as much as those before.
bool CtcAligner::PathsAbove(double lowest, double* best_at_end) {
  const std::size_t num_frames = log_probs_.rows();
  // The bound adds in another order than the scores.
  lowest_ = lowest - 1e-9 * (1.0 + std::fabs(rest_[0]));
  bands_.resize(num_frames);
  steps_.clear();
  Prefix* const prefixes = prefixes_.data();
  prefixes[0].in_blank = 0.0;
  std::size_t first = 0;
  std::size_t end = 1;
  for (std::size_t t = 0; t < num_frames; ++t) {
    end = std::max(end, static_cast<std::size_t>(prefixes[end - 1].reach));
    bands_[t] = {first, steps_.size()};
    steps_.resize(steps_.size() + end - first);
    std::uint8_t* const steps = steps_.data() + bands_[t].first_step;
    const float* const row = log_probs_.Row(t, &row_buffer_).data();
    const double blank = static_cast<double>(row[blank_]);
    double most = kLogZero;
    // From the last down: what a path comes from is before it and still as the last frame left it.
    for (std::size_t i = end; i-- > first;) {
      Prefix& prefix = prefixes[i];
      const Prefix& parent = prefixes[prefix.parent];
      double in_blank = prefix.in_blank;
      std::uint8_t step = 0;
      if (prefix.in_token > in_blank) {
        in_blank = prefix.in_token;
        step = kBlankFromToken;
      }
      prefix.in_blank = in_blank + blank;
      if (i > 0) {
        double in_token = prefix.in_token;
        std::uint8_t token_step = 0;
        if (parent.in_blank > in_token) {
          in_token = parent.in_blank;
          token_step = kFromBlank;
        }
        if (prefix.differs && parent.in_token > in_token) {
          in_token = parent.in_token;
          token_step = kFromToken;
        }
        step |= token_step;
        prefix.in_token = in_token + static_cast<double>(row[prefix.token]);
      }
      steps[i - first] = step;
      most = std::max(most, std::max(prefix.in_token, prefix.in_blank));
    }
    const double needed = lowest_ - rest_[t + 1];
    const auto is_lost = [&](Prefix* prefix) {
      const double best = std::max(prefix->in_token, prefix->in_blank);
      if (best >= needed && best != kLogZero) return false;
      prefix->in_token = prefix->in_blank = kLogZero;
      return true;
    };
    while (end > first && is_lost(&prefixes[end - 1])) --end;
    while (first < end && is_lost(&prefixes[first])) ++first;
    if (first == end) {
      const double lost = rest_[0] - rest_[t + 1] - most;
      *best_at_end = rest_[0] - lost * static_cast<double>(num_frames) / static_cast<double>(t + 1);
      return false;
    }
  }
  return true;
}

// The best path of the hypothesis that ends at `leaf`.
void CtcAligner::Trace(std::size_t leaf) {
  path_.resize(log_probs_.rows());
  std::size_t at = leaf;
  std::uint32_t length = 0;
  for (std::size_t up = leaf; up != 0; up = static_cast<std::size_t>(prefixes_[up].parent)) {
    ++length;
  }
  bool in_token =
      prefixes_[leaf].in_token != kLogZero && prefixes_[leaf].in_token >= prefixes_[leaf].in_blank;
  for (std::size_t t = log_probs_.rows(); t-- > 0;) {
    path_[t] = in_token ? length : 0;
    const std::uint8_t step = steps_[bands_[t].first_step + at - bands_[t].first];
    if (!in_token) {
      in_token = (step & kBlankFromToken) != 0;
    } else if ((step & kTokenBits) != 0) {
      in_token = (step & kTokenBits) == kFromToken;
      at = static_cast<std::size_t>(prefixes_[at].parent);
      --length;
    }
  }
}

// What the path says of the tokens.
void CtcAligner::Fill(Hypothesis* hypothesis) const {
  const std::vector<std::int32_t>& token_ids = hypothesis->token_ids;
  double sum = 0.0;
  if (token_ids.empty()) {
    for (std::size_t t = 0; t < log_probs_.rows(); ++t) {
      sum += static_cast<double>(log_probs_.At(t, blank_));
    }
    hypothesis->confidence = std::min(1.0, std::exp(sum / static_cast<double>(log_probs_.rows())));
    return;
  }
  hypothesis->timesteps.assign(token_ids.size(), -1);
  hypothesis->token_starts.resize(token_ids.size());
  hypothesis->token_ends.resize(token_ids.size());
  hypothesis->token_confidences.resize(token_ids.size());
  for (std::size_t t = 0; t < log_probs_.rows(); ++t) {
    if (path_[t] == 0) continue;
    const std::size_t k = path_[t] - 1;
    const double log_prob =
        static_cast<double>(log_probs_.At(t, static_cast<std::size_t>(token_ids[k])));
    std::int64_t& peak = hypothesis->timesteps[k];
    double& peak_log_prob = hypothesis->token_confidences[k];
    if (peak < 0) hypothesis->token_starts[k] = static_cast<std::int64_t>(t);
    hypothesis->token_ends[k] = static_cast<std::int64_t>(t + 1);
    if (peak < 0 || log_prob > peak_log_prob) {
      peak = static_cast<std::int64_t>(t);
      peak_log_prob = log_prob;
    }
  }
  for (double& confidence : hypothesis->token_confidences) {
    const double log_prob = std::min(0.0, confidence);
    confidence = std::exp(log_prob);
    sum += log_prob;
  }
  hypothesis->confidence = std::exp(sum / static_cast<double>(token_ids.size()));
}

}  // namespace voxformer
