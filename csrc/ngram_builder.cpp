#include "ngram_builder.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <utility>
#include <vector>

namespace voxformer {
namespace {

// The entries of one order, ascending by their words from last to first, so that the children of an
// entry of the order below are neighbours.
struct Level {
  NgramTable table;
  std::vector<std::uint32_t> source;  // place in the file, or kNoIndex for a blank
};

bool SameWords(const std::uint32_t* a, const std::uint32_t* b, std::size_t count) noexcept {
  return std::equal(a, a + count, b);
}

bool WordsBefore(const std::uint32_t* a, const std::uint32_t* b, std::size_t count) noexcept {
  return std::lexicographical_compare(a, a + count, b, b + count);
}

void Append(const NgramTable& from, std::size_t index, std::size_t order, NgramTable* to) {
  const auto begin = from.words.begin() + static_cast<std::ptrdiff_t>(index * order);
  to->words.insert(to->words.end(), begin, begin + static_cast<std::ptrdiff_t>(order));
  to->log10_probs.push_back(from.log10_probs[index]);
  if (!from.backoffs.empty()) to->backoffs.push_back(from.backoffs[index]);
}

Level Sorted(NgramTable table, std::size_t order) {
  // Most comparisons end at the first two words, which are kept beside the index.
  struct Key {
    std::uint64_t head;
    std::uint32_t index;
  };
  const std::uint32_t* words = table.words.data();
  std::vector<Key> keys(table.size());
  for (std::size_t i = 0; i < keys.size(); ++i) {
    keys[i] = {(std::uint64_t{words[i * order]} << 32) | words[i * order + 1],
               static_cast<std::uint32_t>(i)};
  }
  std::sort(keys.begin(), keys.end(), [words, order](const Key& a, const Key& b) {
    if (a.head != b.head) return a.head < b.head;
    const std::uint32_t* rest_a = words + a.index * order + 2;
    const std::uint32_t* rest_b = words + b.index * order + 2;
    if (!SameWords(rest_a, rest_b, order - 2)) return WordsBefore(rest_a, rest_b, order - 2);
    return a.index < b.index;
  });
  Level level;
  level.table.words.reserve(table.words.size());
  level.table.log10_probs.reserve(table.size());
  level.table.backoffs.reserve(table.backoffs.size());
  level.source.reserve(table.size());
  for (const Key& key : keys) {
    Append(table, key.index, order, &level.table);
    level.source.push_back(key.index);
  }
  return level;
}

// Adds to `lower` [order - 1] the suffixes of the entries of `upper` [order] that it lacks, as
// KenLM's blanks: steps that a query needs on its way to a longer n-gram. What they say is what
// backing off says, which is filled in when the orders below are complete.
void AddBlanks(const Level& upper, std::size_t order, Level* lower) {
  const std::size_t length = order - 1;
  const std::uint32_t* suffixes = upper.table.words.data();
  const std::uint32_t* listed = lower->table.words.data();
  const std::size_t num_listed = lower->table.size();
  Level merged;
  std::vector<std::uint32_t> missing;  // in `upper`
  std::size_t at = 0;
  for (std::size_t i = 0; i < upper.table.size(); ++i) {
    const std::uint32_t* suffix = suffixes + i * order;
    if (i > 0 && SameWords(suffix, suffix - order, length)) continue;
    while (at < num_listed && WordsBefore(listed + at * length, suffix, length)) ++at;
    if (at == num_listed || !SameWords(listed + at * length, suffix, length)) {
      missing.push_back(static_cast<std::uint32_t>(i));
    }
  }
  if (missing.empty()) return;
  at = 0;
  const auto take_listed = [&] {
    Append(lower->table, at, length, &merged.table);
    merged.source.push_back(lower->source[at++]);
  };
  for (const std::uint32_t i : missing) {
    const std::uint32_t* suffix = suffixes + i * order;
    while (at < num_listed && WordsBefore(listed + at * length, suffix, length)) take_listed();
    merged.table.words.insert(merged.table.words.end(), suffix, suffix + length);
    merged.table.log10_probs.push_back(0.0F);
    merged.table.backoffs.push_back(kNoExtension);
    merged.source.push_back(kNoIndex);
  }
  while (at < num_listed) take_listed();
  *lower = std::move(merged);
}

// Puts an image together and fills in what follows from several orders.
class Assembler {
 public:
  Assembler(const ArpaModel& arpa, std::vector<Level> levels);

  NgramImage Assemble(std::uint64_t source_size, std::int64_t source_mtime_ns);

 private:
  NgramNode* nodes(std::size_t length) {
    return Section<NgramNode>(image_, layout_.nodes[length - 1]);
  }
  std::uint32_t* words(std::size_t length) {
    return Section<std::uint32_t>(image_, layout_.words[length - 1]);
  }

  void MakeHeader(std::uint64_t source_size, std::int64_t source_mtime_ns);
  void PutVocabulary();
  void PutEntries(std::size_t length);
  void PutChildren(std::size_t length);
  void LinkContexts(std::size_t length);
  std::uint32_t FindNode(const std::uint32_t* words_back, std::size_t length);

  const ArpaModel& arpa_;
  std::vector<Level> levels_;
  std::size_t order_;
  NgramHeader header_{};
  NgramLayout layout_;
  char* image_ = nullptr;
};

Assembler::Assembler(const ArpaModel& arpa, std::vector<Level> levels)
    : arpa_(arpa), levels_(std::move(levels)), order_(levels_.size()), layout_(header_) {}

NgramImage Assembler::Assemble(std::uint64_t source_size, std::int64_t source_mtime_ns) {
  MakeHeader(source_size, source_mtime_ns);
  layout_ = NgramLayout(header_);
  header_.size = layout_.size;
  // Whole words, so that every section is aligned.
  const auto bytes = std::make_shared<std::vector<std::uint64_t>>(layout_.size / 8);
  image_ = reinterpret_cast<char*>(bytes->data());
  PutVocabulary();
  for (std::size_t length = 1; length <= order_; ++length) PutEntries(length);
  for (std::size_t length = 1; length < order_; ++length) PutChildren(length);
  for (std::size_t length = 2; length <= order_; ++length) LinkContexts(length);
  std::memcpy(image_, &header_, sizeof(header_));
  header_.checksum = NgramChecksum(image_, layout_.size);
  std::memcpy(image_, &header_, sizeof(header_));
  return {std::shared_ptr<const char>(bytes, image_), layout_.size};
}

void Assembler::MakeHeader(std::uint64_t source_size, std::int64_t source_mtime_ns) {
  SignNgramHeader(&header_);
  header_.source_size = source_size;
  header_.source_mtime_ns = source_mtime_ns;
  header_.order = static_cast<std::uint32_t>(order_);
  header_.has_unknown = arpa_.has_unknown ? 1 : 0;
  header_.begin_id = arpa_.vocabulary.Find("<s>");
  header_.end_id = arpa_.vocabulary.Find("</s>");
  for (std::size_t i = 0; i < order_; ++i) {
    header_.listed[i] = arpa_.counts[i];
    header_.stored[i] = levels_[i].table.size();
    if (header_.stored[i] >= kNoIndex) {
      throw std::invalid_argument(arpa_.name + ": the model has 2^32 or more n-grams of one order");
    }
  }
  header_.text_size = arpa_.vocabulary.text().size();
  header_.num_buckets = arpa_.vocabulary.buckets().size();
}

void Assembler::PutVocabulary() {
  const NgramVocabulary& vocabulary = arpa_.vocabulary;
  std::copy(vocabulary.word_begin().begin(), vocabulary.word_begin().end(),
            Section<std::uint32_t>(image_, layout_.word_begin));
  std::copy(vocabulary.text().begin(), vocabulary.text().end(), image_ + layout_.text);
  std::copy(vocabulary.buckets().begin(), vocabulary.buckets().end(),
            Section<std::uint32_t>(image_, layout_.buckets));
}

void Assembler::PutEntries(std::size_t length) {
  const NgramTable& table = levels_[length - 1].table;
  if (length > 1) {
    for (std::size_t i = 0; i < table.size(); ++i) {
      words(length)[i] = table.words[i * length + length - 1];
    }
    if (length == order_) {
      std::copy(table.log10_probs.begin(), table.log10_probs.end(),
                Section<float>(image_, layout_.longest));
      return;
    }
  }
  for (std::size_t i = 0; i < table.size(); ++i) {
    nodes(length)[i] = {table.log10_probs[i], table.backoffs[i], 0};
  }
  nodes(length)[table.size()] = {0.0F, kNoExtension, 0};
}

void Assembler::PutChildren(std::size_t length) {
  const NgramTable& table = levels_[length - 1].table;
  const NgramTable& longer = levels_[length].table;
  std::uint32_t child = 0;
  for (std::size_t i = 0; i < table.size(); ++i) {
    nodes(length)[i].first_child = child;
    const std::uint32_t unigram = static_cast<std::uint32_t>(i);
    const std::uint32_t* parent = length == 1 ? &unigram : &table.words[i * length];
    while (child < longer.size() &&
           SameWords(&longer.words[child * (length + 1)], parent, length)) {
      ++child;
    }
  }
  nodes(length)[table.size()].first_child = child;
}

// The node of the n-gram of `length` words that `words_back` has, last word first, or kNoIndex.
std::uint32_t Assembler::FindNode(const std::uint32_t* words_back, std::size_t length) {
  std::uint32_t node = words_back[0];
  for (std::size_t i = 1; i < length && node != kNoIndex; ++i) {
    const NgramNode* parent = nodes(i) + node;
    node = FindChild(words(i + 1), parent[0].first_child, parent[1].first_child, words_back[i]);
  }
  return node;
}

// Marks the contexts of all entries, and gives the blanks among these their probabilities. The
// orders below are done.
void Assembler::LinkContexts(std::size_t length) {
  const Level& level = levels_[length - 1];
  for (std::size_t i = 0; i < level.table.size(); ++i) {
    const std::uint32_t* entry = &level.table.words[i * length];
    const bool blank = level.source[i] == kNoIndex;
    const std::uint32_t context = FindNode(entry + 1, length - 1);
    float backoff = 0.0F;
    if (context != kNoIndex) {
      float* weight = &nodes(length - 1)[context].backoff;
      if (!MattersAsContext(*weight)) *weight = 0.0F;
      backoff = *weight;
    } else if (!blank) {
      arpa_.Refuse(arpa_.first_line[length - 1] + level.source[i],
                   "the first " + std::to_string(length - 1) + " words of this " +
                       std::to_string(length) + "-gram are not an n-gram of the file");
    }
    if (blank) {
      const std::uint32_t suffix = FindNode(entry, length - 1);
      nodes(length)[i].log10_prob = nodes(length - 1)[suffix].log10_prob + backoff;
    }
  }
}

void RefuseTwins(const ArpaModel& arpa, const Level& level, std::size_t order) {
  const std::uint32_t* words = level.table.words.data();
  for (std::size_t i = 1; i < level.table.size(); ++i) {
    if (!SameWords(words + (i - 1) * order, words + i * order, order)) continue;
    const std::size_t first_line = arpa.first_line[order - 1];
    arpa.Refuse(
        first_line + level.source[i],
        "this n-gram is on line " + std::to_string(first_line + level.source[i - 1]) + ", too");
  }
}

}  // namespace

NgramModel NgramBuilder::Finish(std::uint64_t source_size, std::int64_t source_mtime_ns) {
  ArpaModel arpa = reader_.Finish();
  const std::size_t order = arpa.tables.size();
  std::vector<Level> levels(order);
  levels[0].table = std::move(arpa.tables[0]);
  for (std::size_t length = 2; length <= order; ++length) {
    levels[length - 1] = Sorted(std::move(arpa.tables[length - 1]), length);
    RefuseTwins(arpa, levels[length - 1], length);
  }
  for (std::size_t length = order; length > 2; --length) {
    AddBlanks(levels[length - 1], length, &levels[length - 2]);
  }
  return NgramModel(Assembler(arpa, std::move(levels)).Assemble(source_size, source_mtime_ns));
}

}  // namespace voxformer
