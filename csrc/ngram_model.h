// A back-off n-gram language model over words.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "ngram_image.h"

namespace voxformer {

// Scores as KenLM does (Heafield 2011): the probability of the longest n-gram that the model has,
// and the back-off weights of the contexts that it does not have it for (Katz 1987).
//
// The n-grams form a trie over their words from last to first, each order a sorted array: a query
// walks it once, from the word into its context. A model is a view of an image in memory or in a
// mapped file, cheap to copy and never changed, so that any number of threads may share it.
class NgramModel {
 public:
  using WordId = std::uint32_t;
  static constexpr WordId kUnknown = 0;  // <unk>
  static constexpr std::size_t kMaxOrder = kMaxNgramOrder;

  // The words that can still matter for what follows, the most recent one first. Two hypotheses
  // with equal states get equal scores for all continuations.
  struct State {
    WordId words[kMaxOrder - 1];
    float backoffs[kMaxOrder - 1];  // log10, of the context of i + 1 words; follows from the words
    std::uint32_t length;

    friend bool operator==(const State& a, const State& b) noexcept {
      if (a.length != b.length) return false;
      for (std::uint32_t i = 0; i < a.length; ++i) {
        if (a.words[i] != b.words[i]) return false;
      }
      return true;
    }
    friend bool operator!=(const State& a, const State& b) noexcept { return !(a == b); }
  };

  // What FullScore() says of a word.
  struct WordScore {
    double log_prob;             // natural logarithm
    std::uint32_t ngram_length;  // words of the longest n-gram that was found, `word` included
  };

  // `image` must have passed CheckNgramImage().
  explicit NgramModel(NgramImage image) noexcept;

  // kUnknown if the model does not have the word.
  WordId Find(std::string_view word) const noexcept;
  // The text of an id below num_words(). Lives as long as the model.
  std::string_view word(WordId id) const noexcept { return vocabulary_.word(id); }

  State BeginState() const noexcept;  // after <s>
  State EmptyState() const noexcept { return {}; }

  // ln p(word | context), and in `next` the state after the word. `next` may be null or `&context`.
  // An id that the model does not have counts as kUnknown. Always finite.
  double Score(const State& context, WordId word, State* next) const noexcept {
    return FullScore(context, word, next).log_prob;
  }
  WordScore FullScore(const State& context, WordId word, State* next) const noexcept;

  WordId begin_id() const noexcept { return header().begin_id; }
  WordId end_id() const noexcept { return header().end_id; }
  int order() const noexcept { return static_cast<int>(order_); }
  // With <unk>, which every model has.
  std::size_t num_words() const noexcept { return num_words_; }
  // The n-grams of the ARPA file: all, or those of `length` words, from 1 to order().
  std::size_t num_ngrams() const noexcept;
  std::size_t num_ngrams(int length) const noexcept {
    return static_cast<std::size_t>(header().listed[length - 1]);
  }
  // Whether the ARPA file lists <unk>. If not, it has KenLM's log10 probability of -100.
  bool has_unknown() const noexcept { return header().has_unknown != 0; }

  // What the model was made from; its size, and when it was last changed.
  std::uint64_t source_size() const noexcept { return header().source_size; }
  std::int64_t source_mtime_ns() const noexcept { return header().source_mtime_ns; }
  // The bytes of the model: what a .voxlm file holds.
  NgramImage image() const noexcept { return image_; }

 private:
  const NgramHeader& header() const noexcept { return *header_; }

  NgramImage image_;
  const NgramHeader* header_;
  std::uint32_t order_;
  std::uint32_t num_words_;
  VocabularyView vocabulary_;
  const NgramNode* nodes_[kMaxOrder];
  const std::uint32_t* words_[kMaxOrder];
  const float* longest_;
};

}  // namespace voxformer
