#include "ngram_model.h"

#include <algorithm>
#include <utility>

namespace voxformer {
namespace {

constexpr double kLn10 = 2.302585092994045684;

}  // namespace

NgramModel::NgramModel(NgramImage image) noexcept : image_(std::move(image)) {
  const char* bytes = image_.bytes.get();
  header_ = Section<NgramHeader>(bytes, 0);
  order_ = header_->order;
  num_words_ = static_cast<std::uint32_t>(header_->stored[0]);
  const NgramLayout layout(*header_);
  vocabulary_ = {Section<char>(bytes, layout.text),
                 Section<std::uint32_t>(bytes, layout.word_begin),
                 Section<std::uint32_t>(bytes, layout.buckets), header_->num_buckets - 1};
  for (std::size_t i = 0; i < kMaxOrder; ++i) {
    nodes_[i] = Section<NgramNode>(bytes, layout.nodes[i]);
    words_[i] = Section<std::uint32_t>(bytes, layout.words[i]);
  }
  longest_ = Section<float>(bytes, layout.longest);
}

NgramModel::WordId NgramModel::Find(std::string_view word) const noexcept {
  const WordId id = vocabulary_.buckets[vocabulary_.Bucket(word)];
  return id == kNoIndex ? kUnknown : id;
}

NgramModel::State NgramModel::BeginState() const noexcept {
  State state{};
  if (order_ == 1) return state;
  state.words[0] = begin_id();
  state.backoffs[0] = nodes_[0][begin_id()].backoff;
  state.length = 1;
  return state;
}

NgramModel::WordScore NgramModel::FullScore(const State& context, WordId word,
                                            State* next) const noexcept {
  if (word >= num_words_) word = kUnknown;
  const std::uint32_t available = std::min(context.length, order_ - 1);
  const NgramNode* node = &nodes_[0][word];
  double log10_prob = static_cast<double>(node->log10_prob);
  std::uint32_t found = 1;  // words of the longest n-gram
  std::uint32_t keep = MattersAsContext(node->backoff) && order_ > 1 ? 1 : 0;
  float backoffs[kMaxOrder];
  backoffs[0] = node->backoff;
  while (found <= available) {
    const std::uint32_t entry = FindChild(words_[found], node[0].first_child, node[1].first_child,
                                          context.words[found - 1]);
    if (entry == kNoIndex) break;
    if (found + 1 == order_) {
      log10_prob = static_cast<double>(longest_[entry]);
      ++found;
      break;
    }
    node = &nodes_[found][entry];
    log10_prob = static_cast<double>(node->log10_prob);
    backoffs[found] = node->backoff;
    ++found;
    if (MattersAsContext(node->backoff)) keep = found;
  }
  for (std::uint32_t i = found - 1; i < available; ++i) {
    log10_prob += static_cast<double>(context.backoffs[i]);
  }
  if (next != nullptr) {
    // From the back, so that `next` may be the context itself.
    for (std::uint32_t i = keep; i-- > 0;) {
      next->words[i] = i == 0 ? word : context.words[i - 1];
      next->backoffs[i] = backoffs[i];
    }
    next->length = keep;
  }
  return {log10_prob * kLn10, found};
}

std::size_t NgramModel::num_ngrams() const noexcept {
  std::size_t total = 0;
  for (int length = 1; length <= order(); ++length) total += num_ngrams(length);
  return total;
}

}  // namespace voxformer
