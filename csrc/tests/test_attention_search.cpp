#include <cmath>
#include <limits>
#include <stdexcept>
#include <vector>

#include "attention_beam_search.h"
#include "check.h"

namespace voxformer {
namespace {

constexpr std::int64_t kBlank = 0;
constexpr std::int64_t kEnd = 3;
constexpr std::size_t kVocab = 4;

// The same distribution at every step, for every active hypothesis.
std::vector<Hypothesis> Run(AttentionBeamSearch search, const std::vector<float>& row) {
  while (!search.done()) {
    std::vector<float> rows;
    for (std::size_t i = 0; i < search.tokens().size(); ++i) {
      rows.insert(rows.end(), row.begin(), row.end());
    }
    const std::vector<std::int64_t> parents =
        search.Advance({rows.data(), search.tokens().size(), kVocab});
    CHECK(parents.size() == search.tokens().size());
  }
  return search.Finish();
}

const std::vector<float> kLooping = {-2.0F, -0.2F, -3.0F, -5.0F};

void CapHoldsAndIsFlagged() {
  AttentionOptions options;
  options.beam_size = 4;
  options.n_best = 4;
  options.length_penalty = 2.0;
  for (const std::int64_t max_tokens : {0, 1, 6, 50}) {
    for (const Hypothesis& hypothesis : Run({kEnd, kBlank, options, max_tokens}, kLooping)) {
      const std::size_t length = hypothesis.token_ids.size();
      CHECK(length <= static_cast<std::size_t>(max_tokens));
      CHECK(hypothesis.truncated == (length == static_cast<std::size_t>(max_tokens)));
    }
  }
}

void GreedyStopsWhereTheEndIsMostProbable() {
  AttentionOptions options;
  options.beam_size = 1;
  AttentionBeamSearch search(kEnd, kBlank, options, 10);
  CHECK(search.tokens() == std::vector<std::int64_t>{kEnd});
  const std::vector<float> go_on = {0.0F, -1.0F, -0.5F, -2.0F};
  const std::vector<float> end = {0.0F, -1.0F, -3.0F, -0.25F};
  CHECK(search.Advance({go_on.data(), 1, kVocab}) == std::vector<std::int64_t>{0});
  CHECK(search.tokens() == std::vector<std::int64_t>{2});
  CHECK(search.Advance({end.data(), 1, kVocab}).empty());
  CHECK(search.done());
  const std::vector<Hypothesis> found = search.Finish();
  CHECK(found.size() == 1 && !found[0].truncated);
  CHECK(found[0].token_ids == std::vector<std::int32_t>{2});
  CHECK(Near(*found[0].attention_score, -0.75));
}

void NoNgramIsRepeated() {
  AttentionOptions options;
  options.beam_size = 1;
  options.no_repeat_ngram = 1;
  const std::vector<Hypothesis> found = Run({kEnd, kBlank, options, 10}, kLooping);
  CHECK((found[0].token_ids == std::vector<std::int32_t>{1, 2}));
}

void RefusesWhatDoesNotFit() {
  AttentionBeamSearch search(kEnd, kBlank, {}, 5);
  const std::vector<float> bad = {0.0F, std::numeric_limits<float>::quiet_NaN(), 0.0F, 0.0F};
  CHECK(Contains(Message<std::invalid_argument>([&] { search.Advance({bad.data(), 1, kVocab}); }),
                 "position 0"));
  CHECK(Contains(Message<std::invalid_argument>([&] { search.Advance({bad.data(), 1, 3}); }),
                 "sos_eos_id"));
  CHECK(
      Contains(Message<std::invalid_argument>([] { AttentionBeamSearch(1, 1, {}, 5); }), "differ"));
}

void ImpossibleContinuationsEndTheSearch() {
  AttentionBeamSearch search(kEnd, kBlank, {}, 5);
  const std::vector<float> nothing(kVocab, -std::numeric_limits<float>::infinity());
  CHECK(search.Advance({nothing.data(), 1, kVocab}).empty());
  CHECK(search.done());
  CHECK(search.Finish().size() == 1 && search.Finish()[0].truncated);
}

}  // namespace
}  // namespace voxformer

int main() {
  voxformer::CapHoldsAndIsFlagged();
  voxformer::GreedyStopsWhereTheEndIsMostProbable();
  voxformer::NoNgramIsRepeated();
  voxformer::RefusesWhatDoesNotFit();
  voxformer::ImpossibleContinuationsEndTheSearch();
  return 0;
}
