#include "ctc_log_probs.h"

#include <cstring>

#include "log_math.h"

namespace voxformer {
namespace {

// Without a branch, so that a compiler turns a loop over it into vectors. The exponent of a half is
// five bits with a bias of 15: moved to the place of a float's, it is 112 too small, which a
// product mends for normal and subnormal numbers alike.
inline float FromHalf(std::uint16_t half) noexcept {
  const std::uint32_t magnitude = static_cast<std::uint32_t>(half & 0x7fffU) << 13;
  const std::uint32_t sign = static_cast<std::uint32_t>(half & 0x8000U) << 16;
  float scaled;
  std::memcpy(&scaled, &magnitude, sizeof scaled);
  scaled *= 0x1p112F;
  std::uint32_t bits;
  std::memcpy(&bits, &scaled, sizeof bits);
  // Infinity and NaN keep all ones in the exponent.
  bits |= magnitude >= (0x7c00U << 13) ? 0x7f800000U : 0U;
  bits |= sign;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

}  // namespace

CtcLogProbs CtcLogProbs::TopK(const std::int32_t* ids, const float* values, const float* blanks,
                              std::size_t rows, std::size_t k, std::size_t columns,
                              std::int32_t blank_id) noexcept {
  CtcLogProbs log_probs(values, rows, columns, k);
  log_probs.form_ = Form::kTopK;
  log_probs.ids_ = ids;
  log_probs.blanks_ = blanks;
  log_probs.blank_id_ = blank_id;
  return log_probs;
}

std::optional<CtcLogProbs::BadId> CtcLogProbs::FirstBadId() const noexcept {
  if (form_ != Form::kTopK) return std::nullopt;
  for (std::size_t i = 0; i < rows_ * stride_; ++i) {
    if (ids_[i] < 0 || static_cast<std::size_t>(ids_[i]) >= columns_) {
      return BadId{i / stride_, ids_[i]};
    }
  }
  return std::nullopt;
}

CtcLogProbs CtcLogProbs::From(std::size_t row) const noexcept {
  CtcLogProbs later = *this;
  later.rows_ -= row;
  if (values_ != nullptr) later.values_ += row * stride_;
  if (halves_ != nullptr) later.halves_ += row * stride_;
  if (ids_ != nullptr) later.ids_ += row * stride_;
  if (blanks_ != nullptr) later.blanks_ += row;
  return later;
}

Span<const float> CtcLogProbs::Convert(std::size_t t, RowBuffer* buffer) const {
  constexpr float kImpossible = static_cast<float>(kLogZero);
  std::vector<float>& row = buffer->row_;
  if (form_ == Form::kHalf) {
    row.resize(columns_);
    buffer->is_top_k_ = false;
    const std::uint16_t* const halves = halves_ + t * stride_;
    float* const values = row.data();
    for (std::size_t i = 0; i < columns_; ++i) values[i] = FromHalf(halves[i]);
    return {values, columns_};
  }
  if (!buffer->is_top_k_ || row.size() != columns_) {
    row.assign(columns_, kImpossible);
    buffer->written_.clear();
    buffer->is_top_k_ = true;
  }
  for (const std::int32_t id : buffer->written_) row[static_cast<std::size_t>(id)] = kImpossible;
  const std::int32_t* const ids = ids_ + t * stride_;
  buffer->written_.assign(ids, ids + stride_);
  buffer->written_.push_back(blank_id_);
  for (std::size_t k = 0; k < stride_; ++k) {
    row[static_cast<std::size_t>(ids[k])] = values_[t * stride_ + k];
  }
  row[static_cast<std::size_t>(blank_id_)] = blanks_[t];
  return {row.data(), columns_};
}

float CtcLogProbs::Find(std::size_t t, std::size_t token) const noexcept {
  if (form_ == Form::kHalf) return FromHalf(halves_[t * stride_ + token]);
  if (token == static_cast<std::size_t>(blank_id_)) return blanks_[t];
  for (std::size_t k = stride_; k-- > 0;) {
    if (static_cast<std::size_t>(ids_[t * stride_ + k]) == token) return values_[t * stride_ + k];
  }
  return static_cast<float>(kLogZero);
}

}  // namespace voxformer
