// CTC prefix beam search over the full vocabulary.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "ctc_log_probs.h"
#include "fusion.h"
#include "hypothesis.h"
#include "options.h"
#include "prefix_tree.h"
#include "row_scan.h"
#include "span.h"

namespace voxformer {

// Finds the token sequences with the largest sum over their alignments (Graves et al. 2006, section
// 3.2; Hannun et al. 2014, algorithm 1), in double precision and without a cut of the vocabulary: a
// token is passed over only where no prefix followed by it can be among the beam_size best.
//
// A frame costs one pass over its row and little else. Let `floor` be the least mass that the full
// beam has if nothing new enters and `best` its largest mass before the frame: only a token of
// probability floor / best or more can change the beam, and in most frames that is the blank alone.
// Masses are probabilities times a common power of two. Where those would lose what a logarithm
// keeps (log-probs or prefixes hundreds of nats apart), frames are taken in logarithms.
//
// With a fusion model, what a prefix earns from it (fusion.h) is a factor on its mass like the
// length bonus. A token then passes if it can change the beam with the most that one can earn; the
// few that hotwords give more are looked at whatever their probability.
//
// Prefixes that differ only in what has no say in what follows can be held to a few of the best
// (prefixes_per_state), which leaves room for others.
//
// One object searches one utterance at a time and keeps its buffers for the next.
class CtcPrefixBeamSearch {
 public:
  explicit CtcPrefixBeamSearch(const CtcBeamOptions& options,
                               std::shared_ptr<const FusionModel> fusion = nullptr);

  // Forgets what was fed.
  void Start();

  // Goes on by the frames of `log_probs` [time, vocab]: natural logarithms. Returns the first row
  // that has NaN or +inf, after which only Start() may follow; nothing where all are sound.
  std::optional<std::size_t> Feed(const CtcLogProbs& log_probs);

  // The n_best hypotheses of all that was fed since Start(), with token_ids, ctc_score and score,
  // sorted. Where no alignment is possible, that is one empty hypothesis with score -inf.
  std::vector<Hypothesis> Results();

  // The largest log-prob of each frame fed.
  const std::vector<float>& row_maxima() const noexcept { return row_maxima_; }

 private:
  // The prefixes of the beam, an array for each property. Masses are those of the alignments that
  // end with blank, that do not, and of both, each times e^(what its tokens earned).
  struct Beam {
    std::vector<double> total;
    std::vector<double> blank;
    std::vector<double> non_blank;
    // ln of the non-blank mass where it is too small beside the others; else -inf.
    std::vector<double> faint;
    std::vector<double> gain;  // what its last token earned, as a factor
    std::vector<double> log_gain;
    std::vector<PrefixTree::Node> node;
    std::vector<std::int32_t> last;     // token; blank_id for the empty prefix, whose mass it bears
    std::vector<std::int32_t> parent;   // place in the beam of the prefix without `last`, or -1
    std::vector<std::int32_t> child;    // the first place whose `parent` this is, or -1
    std::vector<std::int32_t> sibling;  // the next place with the same parent, or -1
    std::size_t size = 0;

    void Resize(std::size_t capacity);
  };
  // What may be in the next beam: a prefix as it is (token is kNoToken), or followed by a token.
  struct Candidate {
    // So that it is made where it is kept: copying two halves as one stalls the store buffer.
    Candidate(double mass, double log_gain, std::size_t place, std::int32_t token) noexcept
        : mass(mass), log_gain(log_gain), place(static_cast<std::int32_t>(place)), token(token) {}

    double mass;
    double log_gain;
    std::int32_t place;
    std::int32_t token;
  };
  // A candidate and what its prefix's future goes by.
  struct Stated {
    std::uint64_t state;
    std::size_t candidate;
  };
  struct Passed {
    float log_prob;
    std::int32_t token;
  };

  void MakeRoom(std::size_t size);
  bool Step(Span<const float> row);
  template <class Numbers>
  bool Advance(Span<const float> row, bool* sound);
  template <class Numbers>
  double NeededLogProb(double mass, double floor) const noexcept;
  template <class Numbers>
  float Threshold(double floor) const noexcept;
  template <class Numbers>
  double Cut(double best) const noexcept;
  template <class Numbers>
  double FloorWithBestToken(Span<const float> row, float max);
  bool HasChild(std::size_t place, std::int32_t token) const noexcept;
  template <class Numbers>
  bool Weigh(Span<const float> row);
  template <class Numbers>
  void Stay();
  template <class Numbers>
  bool Collect(Span<const float> row, double floor);
  template <class Numbers>
  bool Extend(std::size_t place, std::int32_t token, double weight, double log_gain, double* floor);
  template <class Numbers>
  void Adopt();
  void SortPassed(Span<const float> row, std::size_t count);
  template <class Numbers>
  void DropFarBelow();
  double KeepBest();
  void KeepFewOfEachState();
  void KeepFrom(double least);
  bool Before(const Candidate& a, const Candidate& b) const noexcept;
  void Rescale();
  bool Narrow() const noexcept;
  void ToLogarithms();
  void ToProbabilities();
  double Offset() const noexcept;

  CtcBeamOptions options_;
  ScanRow scan_;
  std::size_t beam_size_;
  double log_gain_;      // of a token without fusion: the length bonus
  double gain_;          // e^log_gain_
  double largest_gain_;  // of any token but those that hotwords favour
  double beam_factor_;   // e^-beam_threshold
  double lm_weight_ = 0.0;
  bool holds_states_ = false;  // to prefixes_per_state, which fusion models have
  std::optional<PrefixScorer> scorer_;
  PrefixTree tree_;
  Beam beam_;
  Beam next_;
  std::vector<std::int32_t> place_;  // by node: its place in beam_, or -1
  bool logarithms_ = false;
  int frames_in_logarithms_ = 0;
  std::int64_t exponent_ = 0;  // masses are probabilities times 2^-exponent_
  double best_ = 1.0;          // largest total
  double least_ = 1.0;         // smallest total
  double blank_weight_ = 0.0;
  float least_log_prob_ = 0.0F;    // of a token that may be taken at this frame
  std::vector<double> log_probs_;  // of each prefix's last token
  std::vector<double> weights_;    // the same as masses
  std::vector<double> masses_;
  std::vector<Candidate> candidates_;  // first those that stay, in order of their places
  std::vector<std::size_t> tied_;
  std::vector<Stated> stated_;
  std::vector<std::int32_t> tokens_;
  std::vector<Passed> passed_;
  std::vector<double> passed_log_probs_;
  std::vector<double> passed_weights_;
  std::vector<float> row_maxima_;
  RowBuffer row_buffer_;
};

}  // namespace voxformer
