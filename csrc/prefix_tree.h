// Token sequences that share their beginnings, as nodes {parent, token}.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace voxformer {

// A sequence has one node for as long as the tree lives: Child() returns the node that it returned
// before. A prefix that the beam dropped and finds again is thus the same prefix, also for the
// longer ones that still hang below it.
class PrefixTree {
 public:
  using Node = std::int32_t;
  static constexpr Node kRoot = 0;
  static constexpr std::int32_t kNoToken = -1;

  // Forgets all but the empty sequence.
  void Reset();

  // The node of `parent`'s sequence followed by `token`, made if it is not there.
  Node Child(Node parent, std::int32_t token);

  Node parent(Node node) const noexcept { return nodes_[static_cast<std::size_t>(node)].parent; }
  std::int32_t token(Node node) const noexcept {
    return nodes_[static_cast<std::size_t>(node)].token;
  }
  std::int32_t depth(Node node) const noexcept {
    return nodes_[static_cast<std::size_t>(node)].depth;
  }
  std::size_t size() const noexcept { return nodes_.size(); }

  // The tokens from the root to `node`.
  void Sequence(Node node, std::vector<std::int32_t>* token_ids) const;

  // Whether the sequence of `a` followed by `token_a` comes before that of `b` followed by
  // `token_b`, in lexicographic order; kNoToken stands for nothing. Takes time in the length of the
  // sequences, so callers compare scores first.
  bool Before(Node a, std::int32_t token_a, Node b, std::int32_t token_b) const noexcept;

 private:
  struct Entry {
    Node parent;
    std::int32_t token;
    std::int32_t depth;
  };

  std::size_t Bucket(Node parent, std::int32_t token) const noexcept;
  void Grow(std::size_t buckets);

  std::vector<Entry> nodes_;
  // Open addressing over node numbers; -1 is a free bucket. The size is a power of two.
  std::vector<Node> buckets_;
};

}  // namespace voxformer
