// Options, log-probs of every form, hotwords and chunks out of arbitrary bytes. Beside what the
// sanitizers see, the results must be sorted, free of NaN, and the same for one call and for
// chunks.
#include <fuzzer/FuzzedDataProvider.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "attention_beam_search.h"
#include "batch_decoder.h"
#include "ctc_log_probs.h"
#include "ctc_stream.h"
#include "fusion.h"
#include "lexicon.h"
#include "ngram_builder.h"
#include "ngram_model.h"
#include "rescoring.h"

namespace voxformer {
namespace {

void Require(bool condition) {
  if (!condition) std::abort();
}

bool Same(double a, double b) { return a == b || (std::isnan(a) && std::isnan(b)); }

// Mostly log-probs, sometimes any float at all.
float AnyLogProb(FuzzedDataProvider* data) {
  const auto kind = data->ConsumeIntegral<std::uint8_t>();
  if (kind < 200) return -static_cast<float>(kind) * 0.1F;
  if (kind < 220) return -static_cast<float>(kind) * 50.0F;
  if (kind < 230) return -INFINITY;
  return data->ConsumeFloatingPoint<float>();
}

std::vector<float> Values(FuzzedDataProvider* data, std::size_t size) {
  std::vector<float> values(size);
  for (float& value : values) value = AnyLogProb(data);
  return values;
}

std::shared_ptr<const NgramModel> SomeLanguageModel() {
  static const auto model = [] {
    NgramBuilder builder("fuzz.arpa");
    builder.Feed(
        "\\data\\\nngram 1=6\nngram 2=3\n\n\\1-grams:\n-99\t<s>\t-0.3\n-1\t</s>\n-2\t<unk>\n"
        "-0.5\ta\t-0.2\n-0.7\tb\t-0.1\n-1.5\tab\t-0.4\n\n\\2-grams:\n-0.1\t<s> a\n"
        "-0.3\ta b\n-0.2\tab </s>\n\n\\end\\\n");
    return std::make_shared<const NgramModel>(builder.Finish());
  }();
  return model;
}

// Words of the language model and others, mostly as tokens spell them.
std::shared_ptr<const Lexicon> AnyLexicon(FuzzedDataProvider* data,
                                          const std::vector<std::string>& tokens) {
  std::vector<Lexicon::Entry> entries;
  for (int left = data->ConsumeIntegralInRange(0, 6); left > 0; --left) {
    Lexicon::Entry entry{data->PickValueInArray<std::string>({"a", "b", "ab", "other"}), ""};
    for (int parts = data->ConsumeIntegralInRange(0, 3); parts > 0; --parts) {
      std::string text = tokens[data->ConsumeIntegralInRange<std::size_t>(0, tokens.size() - 1)];
      if (!text.empty() && text[0] == ' ') text.erase(0, 1);
      entry.spelling += text;
    }
    entries.push_back(entry);
  }
  return std::make_shared<const Lexicon>(std::move(entries));
}

std::shared_ptr<const FusionModel> AnyFusion(FuzzedDataProvider* data, std::size_t vocab) {
  if (data->ConsumeBool()) return nullptr;
  std::vector<std::string> tokens;
  if (data->ConsumeBool()) {
    for (std::size_t i = 0; i < vocab; ++i) {
      tokens.push_back(data->ConsumeRandomLengthString(4));
    }
  }
  std::vector<Hotword> hotwords;
  for (int left = data->ConsumeIntegralInRange(0, 3); left > 0; --left) {
    Hotword hotword{data->ConsumeRandomLengthString(5), {}, 0.0};
    for (int ids = data->ConsumeIntegralInRange(0, 3); ids > 0; --ids) {
      hotword.token_ids.push_back(data->ConsumeIntegralInRange<std::int32_t>(0, 9));
    }
    hotword.boost = data->ConsumeFloatingPointInRange(0.1, 120.0);
    hotwords.push_back(hotword);
  }
  FusionOptions options;
  std::shared_ptr<const NgramModel> language_model;
  if (!tokens.empty()) {
    options.word_bonus = data->ConsumeFloatingPointInRange(-60.0, 60.0);
    options.unknown_word_bonus = data->ConsumeFloatingPointInRange(-300.0, 10.0);
    options.lm_over_tokens = data->ConsumeBool();
    if (data->ConsumeBool()) language_model = SomeLanguageModel();
  }
  std::shared_ptr<const Lexicon> lexicon;
  if (!tokens.empty() && data->ConsumeBool()) lexicon = AnyLexicon(data, tokens);
  return std::make_shared<FusionModel>(language_model, tokens, hotwords, options, lexicon);
}

void CheckHypotheses(const std::vector<Hypothesis>& hypotheses) {
  Require(!hypotheses.empty());
  for (std::size_t i = 0; i < hypotheses.size(); ++i) {
    const Hypothesis& hypothesis = hypotheses[i];
    Require(!std::isnan(hypothesis.score));
    Require(i == 0 || !RanksBefore(hypothesis, hypotheses[i - 1]));
    Require(hypothesis.timesteps.empty() ||
            hypothesis.timesteps.size() == hypothesis.token_ids.size());
  }
}

void Search(FuzzedDataProvider* data) {
  const std::size_t vocab = data->ConsumeIntegralInRange<std::size_t>(1, 20);
  const std::size_t frames = data->ConsumeIntegralInRange<std::size_t>(0, 24);
  CtcBeamOptions options;
  options.beam_size = data->ConsumeIntegralInRange<std::int64_t>(0, 9);
  options.n_best = data->ConsumeIntegralInRange<std::int64_t>(0, 9);
  options.blank_id = data->ConsumeIntegralInRange<std::int64_t>(-1, 20);
  options.length_bonus = data->ConsumeFloatingPointInRange(-70.0, 70.0);
  options.length_penalty = data->ConsumeFloatingPointInRange(0.0, 2.0);
  options.check_sums = data->ConsumeIntegralInRange(0, 9) == 0;
  if (data->ConsumeBool()) {
    options.beam_threshold = data->ConsumeFloatingPointInRange(0.0, 800.0);
    options.prefixes_per_state = data->ConsumeIntegralInRange(0, 3);
    options.token_min_log_prob = data->ConsumeFloatingPointInRange(-100.0, 0.0);
  }
  const std::shared_ptr<const FusionModel> fusion = AnyFusion(data, vocab);

  CtcLogProbs log_probs;
  std::vector<float> values;
  std::vector<std::uint16_t> halves;
  std::vector<std::int32_t> ids;
  std::vector<float> blanks;
  const std::size_t k = data->ConsumeIntegralInRange<std::size_t>(0, 4);
  switch (data->ConsumeIntegralInRange(0, 2)) {
    case 0:
      values = Values(data, frames * vocab);
      log_probs = CtcLogProbs(values.data(), frames, vocab);
      break;
    case 1:
      for (std::size_t i = 0; i < frames * (vocab + 1); ++i) {
        halves.push_back(data->ConsumeIntegral<std::uint16_t>());
      }
      log_probs = CtcLogProbs(halves.data(), frames, vocab, vocab + 1);
      break;
    default:
      if (options.blank_id < 0 || options.blank_id >= static_cast<std::int64_t>(vocab)) return;
      values = Values(data, frames * k);
      blanks = Values(data, frames);
      for (std::size_t i = 0; i < frames * k; ++i) {
        ids.push_back(data->ConsumeIntegralInRange<std::int32_t>(-1, 20));
      }
      log_probs = CtcLogProbs::TopK(ids.data(), values.data(), blanks.data(), frames, k, vocab,
                                    static_cast<std::int32_t>(options.blank_id));
  }

  const std::size_t cut = data->ConsumeIntegralInRange<std::size_t>(0, frames);
  const auto threads = data->ConsumeIntegralInRange<std::size_t>(1, 2);
  const auto found = CtcBatchDecoder(options, fusion).Decode({log_probs, log_probs}, {}, threads);
  CheckHypotheses(found[0]);
  CtcStream stream(options, fusion);
  stream.Feed(log_probs.First(cut));
  CheckHypotheses(stream.Partial());
  stream.Feed(log_probs.From(cut));
  const std::vector<Hypothesis> streamed = stream.Partial();
  Require(streamed.size() == found[1].size());
  for (std::size_t i = 0; i < streamed.size(); ++i) {
    Require(streamed[i].token_ids == found[1][i].token_ids);
    Require(Same(streamed[i].score, found[1][i].score));
    Require(streamed[i].timesteps == found[1][i].timesteps);
  }

  RescoringOptions rescoring;
  rescoring.ctc_weight = data->ConsumeFloatingPointInRange(0.0, 1.0);
  rescoring.repetition_penalty = data->ConsumeFloatingPointInRange(1.0, 3.0);
  std::size_t longest = 0;
  std::vector<Hypothesis> hypotheses = found[0];
  for (const Hypothesis& hypothesis : hypotheses) {
    longest = std::max(longest, hypothesis.token_ids.size());
  }
  const std::vector<float> scores = Values(data, hypotheses.size() * (longest + 1));
  Rescore({scores.data(), hypotheses.size(), longest + 1}, rescoring, &hypotheses);
}

void AttentionSearch(FuzzedDataProvider* data) {
  const std::size_t vocab = data->ConsumeIntegralInRange<std::size_t>(1, 8);
  AttentionOptions options;
  options.beam_size = data->ConsumeIntegralInRange<std::int64_t>(0, 5);
  options.n_best = data->ConsumeIntegralInRange<std::int64_t>(0, 5);
  options.length_penalty = data->ConsumeFloatingPointInRange(0.0, 2.0);
  options.repetition_penalty = data->ConsumeFloatingPointInRange(0.5, 3.0);
  options.no_repeat_ngram = data->ConsumeIntegralInRange<std::int64_t>(-1, 3);
  options.length_bonus = data->ConsumeFloatingPointInRange(-5.0, 5.0);
  const auto end = data->ConsumeIntegralInRange<std::int64_t>(0, 8);
  const auto blank = data->ConsumeIntegralInRange<std::int64_t>(0, 8);
  AttentionBeamSearch search(end, blank, options,
                             data->ConsumeIntegralInRange<std::int64_t>(0, 12));
  for (int step = 0; step < 20 && !search.done(); ++step) {
    const std::size_t rows = search.tokens().size();
    const std::vector<float> values = Values(data, rows * vocab);
    search.Advance({values.data(), rows, vocab});
  }
  for (const Hypothesis& hypothesis : search.Finish()) Require(!std::isnan(hypothesis.score));
}

}  // namespace
}  // namespace voxformer

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size) {
  FuzzedDataProvider data(bytes, size);
  try {
    if (data.ConsumeIntegralInRange(0, 3) > 0) {
      voxformer::Search(&data);
    } else {
      voxformer::AttentionSearch(&data);
    }
  } catch (const std::invalid_argument&) {
    // What is refused is refused with a message.
  }
  return 0;
}
