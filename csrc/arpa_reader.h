// Reads the ARPA format of back-off n-gram models, in pieces of any size.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "ngram_image.h"

namespace voxformer {

// The words of a model while it is read; ids in the order of the 1-grams, and 0 for <unk>.
class NgramVocabulary {
 public:
  NgramVocabulary();

  // The id of `word`, or kNoIndex. SRILM's <UNK> is <unk>, as in KenLM.
  std::uint32_t Find(std::string_view word) const noexcept;
  // The id of a word that is not there yet.
  std::uint32_t Add(std::string_view word);

  std::uint32_t size() const noexcept { return static_cast<std::uint32_t>(word_begin_.size() - 1); }
  const std::vector<char>& text() const noexcept { return text_; }
  const std::vector<std::uint32_t>& word_begin() const noexcept { return word_begin_; }
  const std::vector<std::uint32_t>& buckets() const noexcept { return buckets_; }

 private:
  VocabularyView view() const noexcept;
  void Grow();

  std::vector<char> text_;
  std::vector<std::uint32_t> word_begin_;
  std::vector<std::uint32_t> buckets_;
};

// The n-grams of one order, by place.
struct NgramTable {
  std::vector<std::uint32_t> words;  // ids, `order` for each n-gram, its last word first
  std::vector<float> log10_probs;
  std::vector<float> backoffs;  // log10; empty for the highest order

  std::size_t size() const noexcept { return log10_probs.size(); }
};

// What an ARPA file says, in its order.
struct ArpaModel {
  std::string name;  // of the file
  NgramVocabulary vocabulary;
  bool has_unknown = false;
  std::vector<std::uint64_t> counts;    // of each order, from the header
  std::vector<NgramTable> tables;       // of each order; that of order 1 is by word id
  std::vector<std::size_t> first_line;  // of each order's n-grams; they have a line each

  [[noreturn]] void Refuse(std::size_t line, const std::string& what) const;
};

// Takes what KenLM takes, and besides that spaces for tabs and models of order 1. Refuses what
// would leave a doubt: counts that are not so, words that are no 1-grams, numbers that are none,
// probabilities above 1, a file that ends before its end.
class ArpaReader {
 public:
  // `name` is that of the file, for messages.
  explicit ArpaReader(std::string name);

  // The next bytes of the file. Throws std::invalid_argument that names file and line.
  void Feed(std::string_view bytes);

  // The whole; the reader is then as new. Throws as Feed(), after which only a new one helps.
  ArpaModel Finish();

 private:
  enum class Expect { kData, kCount, kSection, kNgram, kEnd, kNothing };

  void ReadLine(std::string_view line);
  void ReadCount(std::string_view line);
  void ReadSection(std::string_view line);
  void ReadNgram(std::string_view line);
  void ReadUnigram(float log10_prob, float backoff);
  void BeginSections();
  void EndSection();
  float ReadNumber(std::string_view field, const char* what) const;
  [[noreturn]] void Refuse(const std::string& what) const { model_.Refuse(line_, what); }
  std::string Progress() const;

  ArpaModel model_;
  Expect expect_ = Expect::kData;
  std::string pending_;                   // a line whose end was not fed yet
  std::size_t line_ = 0;                  // of what is read now
  std::size_t order_ = 0;                 // of the section
  std::uint64_t read_ = 0;                // n-grams of the section
  std::vector<std::string_view> fields_;  // of the line
};

}  // namespace voxformer
