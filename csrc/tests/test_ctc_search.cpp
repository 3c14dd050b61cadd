#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "batch_decoder.h"
#include "check.h"
#include "ctc_log_probs.h"
#include "ctc_prefix_beam_search.h"
#include "ctc_stream.h"
#include "fusion.h"
#include "lexicon.h"
#include "log_math.h"
#include "rescoring.h"

namespace voxformer {
namespace {

using Ids = std::vector<std::int32_t>;

std::vector<float> RandomLogProbs(unsigned seed, std::size_t frames, std::size_t vocab) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal(0.0F, 2.0F);
  std::vector<float> values(frames * vocab);
  for (std::size_t t = 0; t < frames; ++t) {
    double sum = 0.0;
    for (std::size_t i = 0; i < vocab; ++i) {
      values[t * vocab + i] = normal(generator);
      sum += std::exp(static_cast<double>(values[t * vocab + i]));
    }
    for (std::size_t i = 0; i < vocab; ++i) {
      values[t * vocab + i] -= static_cast<float>(std::log(sum));
    }
  }
  return values;
}

CtcBeamOptions Beam(std::int64_t beam_size, std::int64_t n_best) {
  CtcBeamOptions options;
  options.beam_size = beam_size;
  options.n_best = n_best;
  return options;
}

std::vector<Hypothesis> SearchAll(CtcPrefixBeamSearch* search, LogProbs log_probs) {
  search->Start();
  CHECK(!search->Feed(log_probs));
  return search->Results();
}

// Adds up every alignment, one by one.
std::map<Ids, double> BruteForce(LogProbs log_probs) {
  std::map<Ids, double> masses;
  const std::size_t frames = log_probs.rows();
  const std::size_t vocab = log_probs.columns();
  std::vector<std::size_t> path(frames, 0);
  for (bool more = true; more;) {
    double score = 0.0;
    Ids ids;
    for (std::size_t t = 0; t < frames; ++t) {
      score += static_cast<double>(log_probs(t, path[t]));
      if (path[t] != 0 && (t == 0 || path[t] != path[t - 1])) {
        ids.push_back(static_cast<std::int32_t>(path[t]));
      }
    }
    const auto place = masses.emplace(ids, kLogZero).first;
    place->second = LogAdd(place->second, score);
    std::size_t t = 0;
    while (t < frames && ++path[t] == vocab) path[t++] = 0;
    more = t < frames;
  }
  return masses;
}

void EqualsBruteForceOverAllAlignments() {
  for (unsigned seed = 0; seed < 20; ++seed) {
    const std::size_t frames = 1 + seed % 6;
    const std::size_t vocab = 2 + seed % 3;
    const std::vector<float> values = RandomLogProbs(seed, frames, vocab);
    const LogProbs log_probs(values.data(), frames, vocab);
    const std::map<Ids, double> expected = BruteForce(log_probs);
    CtcPrefixBeamSearch search(Beam(5000, 5000));
    const std::vector<Hypothesis> found = SearchAll(&search, log_probs);
    CHECK(found.size() == expected.size());
    for (const Hypothesis& hypothesis : found) {
      CHECK(Near(expected.at(hypothesis.token_ids), *hypothesis.ctc_score, 1e-9));
    }
    CHECK(std::is_sorted(found.begin(), found.end(), [](const Hypothesis& a, const Hypothesis& b) {
      return RanksBefore(a, b);
    }));
  }
}

void SearchIsReusableAcrossUtterances() {
  CtcPrefixBeamSearch reused(Beam(4, 4));
  for (unsigned seed = 0; seed < 10; ++seed) {
    const std::size_t frames = 40 - 3 * seed;
    const std::vector<float> values = RandomLogProbs(seed, frames, 9);
    const LogProbs log_probs(values.data(), frames, 9);
    const std::vector<Hypothesis> again = SearchAll(&reused, log_probs);
    CtcPrefixBeamSearch unused(Beam(4, 4));
    const std::vector<Hypothesis> fresh = SearchAll(&unused, log_probs);
    CHECK(again.size() == fresh.size());
    for (std::size_t i = 0; i < fresh.size(); ++i) {
      CHECK(again[i].token_ids == fresh[i].token_ids);
      CHECK(again[i].score == fresh[i].score);
    }
  }
}

void ChunksDoNotChangeTheResult() {
  const std::vector<float> values = RandomLogProbs(3, 40, 7);
  const std::vector<Hypothesis> whole =
      CtcBatchDecoder(Beam(5, 5)).Decode({{values.data(), 40, 7}}, {}, 1)[0];
  for (const std::size_t chunk : {1U, 3U, 40U}) {
    CtcStream stream(Beam(5, 5));
    for (std::size_t t = 0; t < 40; t += chunk) {
      stream.Feed({values.data() + t * 7, std::min<std::size_t>(chunk, 40 - t), 7});
    }
    const std::vector<Hypothesis> found = stream.Partial();
    CHECK(found.size() == whole.size());
    for (std::size_t i = 0; i < whole.size(); ++i) {
      CHECK(found[i].token_ids == whole[i].token_ids && found[i].score == whole[i].score);
      CHECK(found[i].token_starts == whole[i].token_starts);
    }
  }
}

// The utterances of a padded batch [batch, time, vocab].
std::vector<CtcLogProbs> Batch(const std::vector<float>& values, std::size_t batch,
                               std::size_t time, std::size_t vocab) {
  std::vector<CtcLogProbs> utterances;
  for (std::size_t i = 0; i < batch; ++i) {
    utterances.emplace_back(values.data() + i * time * vocab, time, vocab);
  }
  return utterances;
}

void ThreadsDoNotChangeTheResult(const std::shared_ptr<const FusionModel>& fusion) {
  constexpr std::size_t kBatch = 16;
  constexpr std::size_t kTime = 30;
  constexpr std::size_t kVocab = 12;
  const std::vector<float> values = RandomLogProbs(1, kBatch * kTime, kVocab);
  std::vector<std::int64_t> lengths;
  for (std::size_t i = 0; i < kBatch; ++i) lengths.push_back(static_cast<std::int64_t>(2 * i));
  const std::vector<CtcLogProbs> batch = Batch(values, kBatch, kTime, kVocab);
  CtcBatchDecoder decoder(Beam(8, 4), fusion);
  const auto one = decoder.Decode(batch, lengths, 1);
  for (const std::size_t threads : {2U, 4U, 32U}) {
    const auto many = decoder.Decode(batch, lengths, threads);
    CHECK(many.size() == one.size());
    for (std::size_t i = 0; i < kBatch; ++i) {
      CHECK(many[i].size() == one[i].size());
      for (std::size_t k = 0; k < one[i].size(); ++k) {
        CHECK(many[i][k].token_ids == one[i][k].token_ids);
        CHECK(many[i][k].score == one[i][k].score);
        CHECK(many[i][k].timesteps == one[i][k].timesteps);
      }
    }
  }
  CHECK(one[0].size() == 1 && one[0][0].token_ids.empty() && one[0][0].score == 0.0);
}

// Whichever thread comes first to a part of a hotword finds out, for all, what goes on from there.
void ThreadsMayShareHotwords() {
  const std::vector<std::string> tokens = {"<blank>", " a", "b",  " ab", "c",  " c",
                                           "a",       "d",  " b", "e",   " e", "f"};
  const std::vector<Hotword> hotwords = {{"ab c", {}, 3.0}, {"bad", {}, 2.0}, {"face", {}, 5.0}};
  ThreadsDoNotChangeTheResult(
      std::make_shared<FusionModel>(nullptr, tokens, hotwords, FusionOptions()));
}

// Homophones, words that begin others, a token that only marks a beginning, hotwords; no word but
// those of the lexicon is found, except that the last may be unfinished.
void WordsAreThoseOfTheLexicon() {
  const std::vector<std::string> tokens = {"<blank>", " a", "b",  " ab", "c", " c",
                                           "a",       "d",  " b", "e",   " ", "f"};
  const std::vector<Lexicon::Entry> entries = {{"one", "ab"},   {"two", "ab"},    {"three", "abc"},
                                               {"four", "bad"}, {"five", "face"}, {"six", "c"}};
  const auto lexicon = std::make_shared<const Lexicon>(entries);
  FusionOptions options;
  options.word_bonus = 0.5;
  const auto fusion = std::make_shared<FusionModel>(
      nullptr, tokens, std::vector<Hotword>{{"bad", {}, 4.0}}, options, lexicon);
  ThreadsDoNotChangeTheResult(fusion);
  const std::vector<float> values = RandomLogProbs(7, 40, tokens.size());
  const auto found =
      CtcBatchDecoder(Beam(30, 30), fusion).Decode({{values.data(), 40, tokens.size()}}, {}, 1);
  CHECK(!found[0].empty());
  for (const Hypothesis& hypothesis : found[0]) {
    CHECK(hypothesis.has_words);
    for (const std::string& word : hypothesis.words) {
      CHECK(word != "two");  // without a language model the earlier one
      CHECK(std::any_of(entries.begin(), entries.end(),
                        [&](const Lexicon::Entry& entry) { return entry.word == word; }));
    }
  }
  CHECK(Contains(Message<std::invalid_argument>([] { Lexicon({{"a", "b"}, {"a b", "c"}}); }),
                 "entry 1"));
}

void ErrorsNameUtteranceAndFrameAndCrossThreads() {
  std::vector<float> values = RandomLogProbs(2, 6 * 5, 4);
  values[(3 * 5 + 2) * 4 + 1] = std::numeric_limits<float>::quiet_NaN();
  values[(5 * 5 + 0) * 4 + 0] = std::numeric_limits<float>::infinity();
  const std::vector<CtcLogProbs> batch = Batch(values, 6, 5, 4);
  CtcBatchDecoder decoder(Beam(4, 1));
  for (int run = 0; run < 20; ++run) {
    const std::string message =
        Message<std::invalid_argument>([&] { decoder.Decode(batch, {}, 3); });
    CHECK(Contains(message, "utterance 3, frame 2"));
    CHECK(Contains(message, "NaN"));
    CHECK(decoder.Decode({batch[0]}, {}, 1).size() == 1);
  }
  const std::vector<std::int64_t> lengths = {5, 5, 5, 2, 6, 0};
  CHECK(Contains(Message<std::invalid_argument>([&] { decoder.Decode(batch, lengths, 2); }),
                 "utterance 4"));
}

void ImpossibleFramesGiveOneEmptyHypothesis() {
  std::vector<float> values = RandomLogProbs(3, 4, 3);
  std::fill(values.begin() + 6, values.begin() + 9, -std::numeric_limits<float>::infinity());
  const auto found = CtcBatchDecoder(Beam(4, 4)).Decode({{values.data(), 4, 3}}, {}, 1);
  CHECK(found[0].size() == 1);
  CHECK(found[0][0].token_ids.empty() && found[0][0].score == kLogZero);
  CHECK(found[0][0].timesteps.empty() && found[0][0].confidence == 0.0);
}

// Found by fuzzing: no prefix was left to take the bound of.
void ThresholdsBearAFrameThatNoPrefixSurvives() {
  constexpr std::size_t kVocab = 12;
  std::vector<float> values(3 * kVocab, std::log(1.0F / kVocab));
  std::fill_n(values.begin() + kVocab, kVocab, -std::numeric_limits<float>::infinity());
  CtcBeamOptions options = Beam(4, 4);
  options.beam_threshold = 5.0;
  options.token_min_log_prob = -9.0;
  CtcPrefixBeamSearch search(options);
  const std::vector<Hypothesis> found = SearchAll(&search, {values.data(), 3, kVocab});
  CHECK(found.size() == 1 && found[0].token_ids.empty() && found[0].score == kLogZero);
}

void AlignmentPeaksWhereTokensAreMostProbable() {
  const float low = -9.0F;
  const std::vector<float> values = {
      low,   -0.5F, low,    //
      low,   -0.1F, low,    //
      -0.1F, low,   low,    //
      low,   -0.2F, -3.0F,  //
      low,   low,   -0.3F,  //
      low,   low,   -0.3F,
  };
  const Hypothesis aligned = AlignTokens(CtcLogProbs(values.data(), 6, 3), {1, 1, 2}, 0);
  CHECK((aligned.timesteps == std::vector<std::int64_t>{1, 3, 4}));
  CHECK(Near(aligned.confidence, std::exp(-0.2), 1e-6));
  CHECK(AlignTokens(CtcLogProbs(values.data(), 2, 3), {1, 1}, 0).timesteps.empty());
}

void RescoringFollowsTheFormula() {
  std::vector<Hypothesis> hypotheses(2);
  hypotheses[0].token_ids = {1, 2};
  hypotheses[0].ctc_score = -2.0;
  hypotheses[1].token_ids = {1, 1, 1};
  hypotheses[1].ctc_score = -1.0;
  const std::vector<float> rows = {-0.5F, -0.5F,  -1.0F,  std::nanf(""),  //
                                   -0.5F, -0.25F, -0.25F, -1.0F};
  RescoringOptions options;
  options.ctc_weight = 0.25;
  options.repetition_penalty = 2.0;
  options.length_bonus = 0.5;
  options.length_penalty = 1.0;
  const std::vector<std::size_t> order = Rescore({rows.data(), 2, 4}, options, &hypotheses);
  CHECK((order == std::vector<std::size_t>{1, 0}));
  CHECK(Near(*hypotheses[1].attention_score, -2.5));
  CHECK(Near(hypotheses[1].score, -0.46875));
  CHECK(Near(hypotheses[0].score, -6.0 / 7.0));
}

}  // namespace
}  // namespace voxformer

int main() {
  voxformer::EqualsBruteForceOverAllAlignments();
  voxformer::SearchIsReusableAcrossUtterances();
  voxformer::ChunksDoNotChangeTheResult();
  voxformer::ThreadsDoNotChangeTheResult(nullptr);
  voxformer::ThreadsMayShareHotwords();
  voxformer::WordsAreThoseOfTheLexicon();
  voxformer::ErrorsNameUtteranceAndFrameAndCrossThreads();
  voxformer::ImpossibleFramesGiveOneEmptyHypothesis();
  voxformer::ThresholdsBearAFrameThatNoPrefixSurvives();
  voxformer::AlignmentPeaksWhereTokensAreMostProbable();
  voxformer::RescoringFollowsTheFormula();
  return 0;
}
