// The bytes of an n-gram model: the same in memory and in a .voxlm file, so that a file is mapped
// and used as it lies there.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>

namespace voxformer {

inline constexpr std::size_t kMaxNgramOrder = 6;

// Counts and positions in an image have 32 bits, and this one is "none".
inline constexpr std::uint32_t kNoIndex = 0xffffffffU;

// Everything before the sections. Their places follow from the counts, so that a file has no
// offsets that could point out of it.
struct NgramHeader {
  char magic[8];
  std::uint32_t byte_order;  // kByteOrder as the writer saw it
  std::uint32_t version;
  std::uint64_t checksum;  // of all other bytes
  std::uint64_t size;      // of the image
  std::uint64_t source_size;
  std::int64_t source_mtime_ns;
  std::uint32_t order;
  std::uint32_t has_unknown;             // the ARPA file lists <unk>
  std::uint32_t begin_id;                // <s>
  std::uint32_t end_id;                  // </s>
  std::uint64_t listed[kMaxNgramOrder];  // n-grams in the ARPA file
  std::uint64_t stored[kMaxNgramOrder];  // with those that were added as steps to longer ones
  std::uint64_t text_size;
  std::uint64_t num_buckets;  // a power of two, of which one at least is free
};

// An n-gram that longer ones can extend to the left. The children of node i are the entries
// [first_child of i, first_child of i + 1) of the next order; each order ends with a node that only
// closes the range of the last.
struct NgramNode {
  float log10_prob;
  float backoff;  // log10; kNoExtension where it can never matter
  std::uint32_t first_child;
};

// KenLM's convention: a backoff of -0.0 says that the n-gram is not the context of any other and
// that backing off from it costs nothing, so that a state need not keep it; +0.0 says the latter
// only.
inline bool MattersAsContext(float backoff) noexcept {
  std::uint32_t bits;
  std::memcpy(&bits, &backoff, sizeof(bits));
  return bits != 0x80000000U;
}
inline constexpr float kNoExtension = -0.0F;

// Offsets of the sections in bytes, each a multiple of 8. Entries of order n > 1 have their words
// in `words[n - 1]` and the rest in `nodes[n - 1]`, or in `longest` for the highest order: the
// words are searched and lie close together. The entries of order 1 are nodes alone, one for each
// word.
struct NgramLayout {
  explicit NgramLayout(const NgramHeader& header) noexcept;

  std::size_t word_begin;  // uint32 [words + 1]: where a word begins in the text
  std::size_t text;        // char [text_size]
  std::size_t buckets;     // uint32 [num_buckets]: word ids by hash, kNoIndex where free
  std::size_t nodes[kMaxNgramOrder];
  std::size_t words[kMaxNgramOrder];
  std::size_t longest;  // float: log10 probabilities
  std::size_t size;
};

// The words and how they are found: open addressing with linear probes.
struct VocabularyView {
  const char* text;
  const std::uint32_t* word_begin;
  const std::uint32_t* buckets;
  std::uint64_t mask;  // buckets - 1

  std::string_view word(std::uint32_t id) const noexcept {
    return {text + word_begin[id], word_begin[id + 1] - word_begin[id]};
  }
  // The bucket that holds `word`, or the free one where it would be put.
  std::uint64_t Bucket(std::string_view word) const noexcept;
};

// The entry among [begin, end) of the ascending `words` that is `word`, or kNoIndex. Without
// branches on what is compared: they would be mispredicted half of the time.
inline std::uint32_t FindChild(const std::uint32_t* words, std::uint32_t begin, std::uint32_t end,
                               std::uint32_t word) noexcept {
  if (begin == end) return kNoIndex;
  const std::uint32_t* base = words + begin;
  for (std::uint32_t size = end - begin; size > 1;) {
    const std::uint32_t half = size / 2;
    base += base[half] <= word ? half : 0;
    size -= half;
  }
  return *base == word ? static_cast<std::uint32_t>(base - words) : kNoIndex;
}

template <typename T>
T* Section(char* image, std::size_t offset) noexcept {
  return reinterpret_cast<T*>(image + offset);
}
template <typename T>
const T* Section(const char* image, std::size_t offset) noexcept {
  return reinterpret_cast<const T*>(image + offset);
}

// An image that is shared by all who use it.
struct NgramImage {
  std::shared_ptr<const char> bytes;
  std::size_t size = 0;
};

// Fills in what says that `header` is one and of which version.
void SignNgramHeader(NgramHeader* header) noexcept;

// Of all bytes of the image but NgramHeader::checksum. The image begins with a header.
std::uint64_t NgramChecksum(const char* image, std::size_t size) noexcept;

// Throws std::invalid_argument, in one line that begins with `name`, unless the image is whole and
// such that no query reads outside of it or gets a score that is not finite.
void CheckNgramImage(const char* image, std::size_t size, const std::string& name);

// Maps an open file read-only and shared with other processes. Throws what CheckNgramImage throws,
// and std::system_error where the system refuses. The descriptor may be closed afterwards. The file
// must not be changed in place while the image lives (replacing it by a rename is safe).
NgramImage MapNgramImage(int descriptor, const std::string& name);

}  // namespace voxformer
