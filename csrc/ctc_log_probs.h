// CTC log-probs of one utterance, in whichever form an engine has them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "span.h"

namespace voxformer {

// A row of float32 that forms other than float32 are written to, one frame after the other.
class RowBuffer {
 public:
  RowBuffer() = default;

 private:
  friend class CtcLogProbs;
  std::vector<float> row_;
  bool is_top_k_ = false;
  std::vector<std::int32_t> written_;  // of a top-k row: what is not -inf
};

// [time, vocab] natural logarithms that somebody else owns: float32 or IEEE half precision in rows
// at any distance, or the k best tokens of every frame with the blank beside them, where all other
// tokens have a probability of zero. Of equal ids in a frame the last counts.
class CtcLogProbs {
 public:
  CtcLogProbs() noexcept = default;
  // Rows of float32 without gaps.
  CtcLogProbs(const float* data, std::size_t rows, std::size_t columns) noexcept
      : CtcLogProbs(data, rows, columns, columns) {}
  CtcLogProbs(MatrixView<const float> matrix) noexcept
      : CtcLogProbs(matrix.row(0).data(), matrix.rows(), matrix.columns()) {}
  CtcLogProbs(const float* data, std::size_t rows, std::size_t columns, std::size_t stride) noexcept
      : form_(Form::kFloat), values_(data), rows_(rows), columns_(columns), stride_(stride) {}
  // `data` has the bits of half-precision numbers.
  CtcLogProbs(const std::uint16_t* data, std::size_t rows, std::size_t columns,
              std::size_t stride) noexcept
      : form_(Form::kHalf), halves_(data), rows_(rows), columns_(columns), stride_(stride) {}
  // `ids` and `values` [rows, k], `blanks` [rows] for `blank_id`. Row() and At() need FirstBadId()
  // to find none.
  static CtcLogProbs TopK(const std::int32_t* ids, const float* values, const float* blanks,
                          std::size_t rows, std::size_t k, std::size_t columns,
                          std::int32_t blank_id) noexcept;

  std::size_t rows() const noexcept { return rows_; }
  std::size_t columns() const noexcept { return columns_; }

  // Whether some tokens are left out, so that a frame's probabilities need not add up to 1.
  bool IsTopK() const noexcept { return form_ == Form::kTopK; }
  struct BadId {
    std::size_t frame;
    std::int32_t id;
  };
  // The first id that is not below columns().
  std::optional<BadId> FirstBadId() const noexcept;

  // The first `rows` frames.
  CtcLogProbs First(std::size_t rows) const noexcept {
    CtcLogProbs shorter = *this;
    shorter.rows_ = rows;
    return shorter;
  }

  // The frames from `row` on.
  CtcLogProbs From(std::size_t row) const noexcept;

  // Frame `t` as float32 [vocab], which lives until the buffer is used again. One buffer serves one
  // utterance, or several of one vocabulary.
  Span<const float> Row(std::size_t t, RowBuffer* buffer) const {
    if (form_ == Form::kFloat) return {values_ + t * stride_, columns_};
    return Convert(t, buffer);
  }

  // One value. Slower than Row() for top-k, where the token is looked for.
  float At(std::size_t t, std::size_t token) const noexcept {
    return form_ == Form::kFloat ? values_[t * stride_ + token] : Find(t, token);
  }

 private:
  enum class Form { kFloat, kHalf, kTopK };

  Span<const float> Convert(std::size_t t, RowBuffer* buffer) const;
  float Find(std::size_t t, std::size_t token) const noexcept;

  Form form_ = Form::kFloat;
  const float* values_ = nullptr;
  const std::uint16_t* halves_ = nullptr;
  const std::int32_t* ids_ = nullptr;
  const float* blanks_ = nullptr;
  std::size_t rows_ = 0;
  std::size_t columns_ = 0;
  std::size_t stride_ = 0;  // values between the beginnings of two rows; k for top-k
  std::int32_t blank_id_ = 0;
};

}  // namespace voxformer
