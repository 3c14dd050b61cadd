// Words by how they are spelled with tokens: as letters, or as the phones of their pronunciation.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "span.h"

namespace voxformer {

// A trie over the bytes of the spellings. Words may share a spelling (homophones), and a word may
// have several. Never changed, so that any number of threads may share it.
class Lexicon {
 public:
  using Node = std::int32_t;
  static constexpr Node kRoot = 0;
  static constexpr Node kNone = -1;

  struct Entry {
    std::string word;
    std::string spelling;  // as the tokens of the word's texts joined, without spaces
  };

  // Throws std::invalid_argument that names the entry where a word or spelling is empty or has a
  // space, or where there are none.
  explicit Lexicon(std::vector<Entry> entries);

  // The node of the spelling at `node` followed by `text`; kNone where no spelling begins so.
  Node Follow(Node node, const std::string& text) const noexcept;

  // The entries that are spelled as `node`, in the order they were given in.
  Span<const std::int32_t> Ending(Node node) const noexcept;

  const std::string& word(std::int32_t entry) const noexcept {
    return entries_[static_cast<std::size_t>(entry)].word;
  }
  const std::string& spelling(std::int32_t entry) const noexcept {
    return entries_[static_cast<std::size_t>(entry)].spelling;
  }
  std::size_t num_entries() const noexcept { return entries_.size(); }
  // Nodes are numbered from the root on, children after their parents.
  std::size_t num_nodes() const noexcept { return labels_.size(); }
  Node parent(Node node) const noexcept { return parents_[static_cast<std::size_t>(node)]; }

 private:
  Node Next(Node node, char symbol) const noexcept;

  std::vector<Entry> entries_;
  std::vector<std::int32_t> sorted_;  // entries in the order of their spellings
  // By node. Its children are from first_child_ to the next node's, in the order of their labels;
  // the entries that end there are as many of sorted_ from first_ending_ on.
  std::vector<char> labels_;
  std::vector<Node> parents_;
  std::vector<Node> first_child_;
  std::vector<std::int32_t> first_ending_;
  std::vector<std::int32_t> num_ending_;
};

}  // namespace voxformer
