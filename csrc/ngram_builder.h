// Makes a model from an ARPA file.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include "arpa_reader.h"
#include "ngram_model.h"

namespace voxformer {

class NgramBuilder {
 public:
  // `name` is that of the file, for messages.
  explicit NgramBuilder(std::string name) : reader_(std::move(name)) {}

  // The next bytes of the file, in pieces of any size. Throws std::invalid_argument that names file
  // and line.
  void Feed(std::string_view bytes) { reader_.Feed(bytes); }

  // The model, after the last piece. Size and time of change of the file are kept in it, for those
  // who must know whether it still is the model of that file. Throws as Feed(); an n-gram that is
  // listed twice is refused, and one whose context (all but its last word) is no n-gram, as in
  // KenLM.
  NgramModel Finish(std::uint64_t source_size = 0, std::int64_t source_mtime_ns = 0);

 private:
  ArpaReader reader_;
};

}  // namespace voxformer
