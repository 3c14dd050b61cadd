// The extension module voxformer._core: arrays in, plain tuples out. What users see of it is
// written in Python, in voxformer/decoding.

#include <pybind11/critical_section.h>
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "attention_beam_search.h"
#include "batch_decoder.h"
#include "bindings_language_model.h"
#include "ctc_log_probs.h"
#include "ctc_stream.h"
#include "fusion.h"
#include "hypothesis.h"
#include "options.h"
#include "release_gil.h"
#include "rescoring.h"

namespace py = pybind11;

namespace voxformer {
namespace {

using FloatArray = py::array_t<float, py::array::c_style | py::array::forcecast>;
using TokenArray = py::array_t<std::int32_t, py::array::c_style | py::array::forcecast>;
using IdArray = py::array_t<std::int64_t, py::array::c_style | py::array::forcecast>;
using TokenIds = std::vector<std::int32_t>;

void CheckDimensions(const py::array& array, py::ssize_t expected, const char* name,
                     const char* shape) {
  if (array.ndim() == expected) return;
  throw std::invalid_argument(std::string(name) + " has " + std::to_string(array.ndim()) +
                              " dimensions; expected " + shape);
}

MatrixView<const float> AsMatrix(const FloatArray& array, const char* name, const char* shape) {
  CheckDimensions(array, 2, name, shape);
  return {array.data(), static_cast<std::size_t>(array.shape(0)),
          static_cast<std::size_t>(array.shape(1))};
}

// `rows` rows of float32 or half precision from `offset` bytes on. Python makes sure of the type
// and that the values of a row have no gaps between them.
CtcLogProbs AsLogProbs(const py::array& array, std::size_t offset, py::ssize_t axis) {
  const auto* const bytes = static_cast<const char*>(array.data()) + offset;
  const std::size_t size = static_cast<std::size_t>(array.itemsize());
  const std::size_t rows = static_cast<std::size_t>(array.shape(axis));
  const std::size_t columns = static_cast<std::size_t>(array.shape(axis + 1));
  const std::size_t stride = static_cast<std::size_t>(array.strides(axis)) / size;
  if (array.dtype().kind() != 'f' || (size != sizeof(float) && size != sizeof(std::uint16_t))) {
    throw std::invalid_argument("log_probs must be float32 or float16");
  }
  if (size == sizeof(float)) {
    return {reinterpret_cast<const float*>(bytes), rows, columns, stride};
  }
  return {reinterpret_cast<const std::uint16_t*>(bytes), rows, columns, stride};
}

// The utterances of [batch, time, vocab].
std::vector<CtcLogProbs> AsBatch(const py::array& array) {
  CheckDimensions(array, 3, "log_probs", "[batch, time, vocab]");
  std::vector<CtcLogProbs> batch;
  for (py::ssize_t i = 0; i < array.shape(0); ++i) {
    batch.push_back(AsLogProbs(array, static_cast<std::size_t>(i * array.strides(0)), 1));
  }
  return batch;
}

CtcLogProbs AsUtterance(const py::array& array) {
  CheckDimensions(array, 2, "log_probs", "[time, vocab]");
  return AsLogProbs(array, 0, 0);
}

IdArray ToArray(const std::vector<std::int64_t>& values) {
  return IdArray(static_cast<py::ssize_t>(values.size()), values.data());
}

PyObject* ToNumber(double value) { return PyFloat_FromDouble(value); }
PyObject* ToNumber(std::int64_t value) { return PyLong_FromLongLong(value); }
PyObject* ToNumber(std::int32_t value) { return PyLong_FromLong(value); }

// Without the list that a cast makes on the way.
template <typename Value>
py::tuple ToTuple(const std::vector<Value>& values) {
  py::tuple tuple(values.size());
  for (std::size_t i = 0; i < values.size(); ++i) {
    PyObject* const number = ToNumber(values[i]);
    if (number == nullptr) throw py::error_already_set();
    PyTuple_SET_ITEM(tuple.ptr(), static_cast<py::ssize_t>(i), number);
  }
  return tuple;
}

py::list ToList(std::vector<Hypothesis> hypotheses) {
  py::list list;
  for (Hypothesis& hypothesis : hypotheses) list.append(py::cast(std::move(hypothesis)));
  return list;
}

py::list DecodeUtterances(CtcBatchDecoder* decoder, const std::vector<CtcLogProbs>& batch,
                          const IdArray& lengths, std::size_t num_threads) {
  CheckDimensions(lengths, 1, "lengths", "[batch]");
  const Span<const std::int64_t> length_view(lengths.data(),
                                             static_cast<std::size_t>(lengths.size()));
  std::vector<std::vector<Hypothesis>> results;
  {
    const ReleaseGil release;
    results = decoder->Decode(batch, length_view, num_threads);
  }
  py::list list;
  for (std::vector<Hypothesis>& hypotheses : results) list.append(ToList(std::move(hypotheses)));
  return list;
}

py::list Decode(CtcBatchDecoder* decoder, const py::array& log_probs, const IdArray& lengths,
                std::size_t num_threads) {
  return DecodeUtterances(decoder, AsBatch(log_probs), lengths, num_threads);
}

// ids and log_probs [batch, time, k], blanks [batch, time].
py::list DecodeTopK(CtcBatchDecoder* decoder, const TokenArray& ids, const FloatArray& log_probs,
                    const FloatArray& blanks, std::size_t vocab, const IdArray& lengths,
                    std::size_t num_threads) {
  CheckDimensions(ids, 3, "token_ids", "[batch, time, k]");
  CheckDimensions(log_probs, 3, "log_probs", "[batch, time, k]");
  CheckDimensions(blanks, 2, "blank_log_probs", "[batch, time]");
  for (py::ssize_t axis = 0; axis < 3; ++axis) {
    if (log_probs.shape(axis) != ids.shape(axis) ||
        (axis < 2 && blanks.shape(axis) != ids.shape(axis))) {
      throw std::invalid_argument(
          "token_ids, log_probs and blank_log_probs differ in batch, time or k");
    }
  }
  const std::int64_t blank_id = decoder->options().blank_id;
  if (blank_id < 0 || static_cast<std::size_t>(blank_id) >= vocab) {
    throw std::invalid_argument("blank_id is " + std::to_string(blank_id) +
                                ", but the vocabulary has " + std::to_string(vocab) + " tokens");
  }
  const std::size_t time = static_cast<std::size_t>(ids.shape(1));
  const std::size_t k = static_cast<std::size_t>(ids.shape(2));
  std::vector<CtcLogProbs> batch;
  for (std::size_t i = 0; i < static_cast<std::size_t>(ids.shape(0)); ++i) {
    batch.push_back(CtcLogProbs::TopK(ids.data() + i * time * k, log_probs.data() + i * time * k,
                                      blanks.data() + i * time, time, k, vocab,
                                      static_cast<std::int32_t>(blank_id)));
  }
  return DecodeUtterances(decoder, batch, lengths, num_threads);
}

Hypothesis Align(const py::array& log_probs, TokenIds token_ids, std::int64_t blank_id) {
  return AlignTokens(AsUtterance(log_probs), std::move(token_ids), blank_id);
}

// ln p of each hypothesis' tokens and of </s> out of the decoder's logits [n, positions, vocab].
FloatArray GatherTokenLogProbs(const std::vector<TokenIds>& token_ids, const FloatArray& logits,
                               std::int64_t end_id) {
  CheckDimensions(logits, 3, "logits", "[hypotheses, max_len + 1, vocab]");
  const std::size_t rows = static_cast<std::size_t>(logits.shape(0));
  const std::size_t positions = static_cast<std::size_t>(logits.shape(1));
  const std::size_t vocab = static_cast<std::size_t>(logits.shape(2));
  if (rows != token_ids.size()) {
    throw std::invalid_argument("logits has " + std::to_string(rows) + " rows for " +
                                std::to_string(token_ids.size()) + " hypotheses");
  }
  FloatArray token_log_probs({logits.shape(0), logits.shape(1)});
  float* const gathered = token_log_probs.mutable_data();
  std::fill(gathered, gathered + rows * positions, 0.0F);
  const float* const values = logits.data();
  {
    const ReleaseGil release;
    for (std::size_t i = 0; i < rows; ++i) {
      TokenLogProbs({values + i * positions * vocab, positions, vocab}, token_ids[i], end_id, i,
                    gathered + i * positions);
    }
  }
  return token_log_probs;
}

py::tuple RescoreHypotheses(const std::vector<TokenIds>& token_ids,
                            const std::vector<double>& ctc_scores,
                            const std::vector<double>& lm_scores,
                            const std::vector<double>& bonus_scores,
                            const FloatArray& token_log_probs, const RescoringOptions& options) {
  if (ctc_scores.size() != token_ids.size() || lm_scores.size() != token_ids.size() ||
      bonus_scores.size() != token_ids.size()) {
    throw std::invalid_argument("every hypothesis needs ctc_score, lm_score and bonus_score");
  }
  std::vector<Hypothesis> hypotheses(token_ids.size());
  for (std::size_t i = 0; i < hypotheses.size(); ++i) {
    hypotheses[i].token_ids = token_ids[i];
    hypotheses[i].ctc_score = ctc_scores[i];
    hypotheses[i].lm_score = lm_scores[i];
    hypotheses[i].bonus_score = bonus_scores[i];
  }
  const std::vector<std::size_t> order =
      Rescore(AsMatrix(token_log_probs, "token_log_probs", "[hypotheses, max_len + 1]"), options,
              &hypotheses);
  py::list attention_scores;
  py::list scores;
  for (const Hypothesis& hypothesis : hypotheses) {
    attention_scores.append(hypothesis.attention_score);
    scores.append(hypothesis.score);
  }
  return py::make_tuple(attention_scores, scores, order);
}

// What a hypothesis is in few numbers, and its numbers for each token: the latter are made for who
// asks, since making them would take longer than the search and keep Python's lock.
void BindHypothesis(py::module_& module) {
  py::class_<Hypothesis>(module, "RawHypothesis")
      .def("numbers",
           [](const Hypothesis& hypothesis) {
             return py::make_tuple(hypothesis.score, hypothesis.ctc_score,
                                   hypothesis.attention_score, hypothesis.lm_score,
                                   hypothesis.confidence, hypothesis.truncated,
                                   hypothesis.bonus_score);
           })
      .def("words",
           [](const Hypothesis& hypothesis) -> py::object {
             if (!hypothesis.has_words) return py::none();
             return py::tuple(py::cast(hypothesis.words));
           })
      .def("tokens", [](const Hypothesis& hypothesis) {
        return py::make_tuple(ToTuple(hypothesis.token_ids), ToTuple(hypothesis.timesteps),
                              ToTuple(hypothesis.token_confidences),
                              ToTuple(hypothesis.token_starts), ToTuple(hypothesis.token_ends));
      });
}

// One thread at a time, where Python itself does not see to that.
template <typename Call>
auto Locked(const py::object& self, const Call& call) {
  const py::scoped_critical_section lock(self);
  return call(self.cast<AttentionBeamSearch&>());
}

void BindAttentionBeamSearch(py::module_& module) {
  py::class_<AttentionBeamSearch>(module, "AttentionBeamSearch")
      .def(py::init<std::int64_t, std::int64_t, const AttentionOptions&, std::int64_t>(),
           py::arg("sos_eos_id"), py::arg("blank_id"), py::arg("options"), py::arg("max_tokens"))
      .def_property_readonly("tokens",
                             [](const py::object& self) {
                               return Locked(self, [](const AttentionBeamSearch& search) {
                                 return ToArray(search.tokens());
                               });
                             })
      .def_property_readonly(
          "done",
          [](const py::object& self) {
            return Locked(self, [](const AttentionBeamSearch& search) { return search.done(); });
          })
      .def(
          "advance",
          [](const py::object& self, const FloatArray& log_probs) {
            return Locked(self, [&](AttentionBeamSearch& search) {
              return ToArray(search.Advance(AsMatrix(log_probs, "log_probs", "[active, vocab]")));
            });
          },
          py::arg("log_probs"))
      .def("finish", [](const py::object& self) {
        return Locked(self,
                      [](const AttentionBeamSearch& search) { return ToList(search.Finish()); });
      });
}

void BindOptions(py::module_& module) {
  py::class_<CtcBeamOptions>(module, "CtcBeamOptions")
      .def(
          py::init([](std::int64_t beam_size, std::int64_t n_best, std::int64_t blank_id,
                      double length_bonus, double length_penalty, double beam_threshold,
                      double token_min_log_prob, std::int64_t prefixes_per_state, bool check_sums) {
            const CtcBeamOptions options{
                beam_size,      n_best,         blank_id,           length_bonus,
                length_penalty, beam_threshold, token_min_log_prob, prefixes_per_state,
                check_sums};
            options.Validate();
            return options;
          }),
          py::kw_only(), py::arg("beam_size"), py::arg("n_best"), py::arg("blank_id"),
          py::arg("length_bonus"), py::arg("length_penalty"), py::arg("beam_threshold"),
          py::arg("token_min_log_prob"), py::arg("prefixes_per_state"), py::arg("check_sums"));
  py::class_<AttentionOptions>(module, "AttentionOptions")
      .def(py::init([](std::int64_t beam_size, std::int64_t n_best, double length_penalty,
                       double repetition_penalty, std::int64_t no_repeat_ngram,
                       double length_bonus) {
             const AttentionOptions options{beam_size,          n_best,          length_penalty,
                                            repetition_penalty, no_repeat_ngram, length_bonus};
             options.Validate();
             return options;
           }),
           py::kw_only(), py::arg("beam_size"), py::arg("n_best"), py::arg("length_penalty"),
           py::arg("repetition_penalty"), py::arg("no_repeat_ngram"), py::arg("length_bonus"));
  py::class_<RescoringOptions>(module, "RescoringOptions")
      .def(py::init([](double ctc_weight, double lm_weight, double length_bonus,
                       double length_penalty, double repetition_penalty) {
             const RescoringOptions options{ctc_weight, lm_weight, length_bonus, length_penalty,
                                            repetition_penalty};
             options.Validate();
             return options;
           }),
           py::kw_only(), py::arg("ctc_weight"), py::arg("lm_weight"), py::arg("length_bonus"),
           py::arg("length_penalty"), py::arg("repetition_penalty"));
}

// What tokens that came from no search of this model spell by its lexicon.
std::vector<std::string> WordsOf(std::shared_ptr<FusionModel> model, const TokenIds& token_ids) {
  if (!model->has_lexicon()) throw std::invalid_argument("there is no lexicon");
  for (const std::int32_t token : token_ids) {
    if (token >= 0 && static_cast<std::size_t>(token) < model->num_tokens()) continue;
    throw std::invalid_argument("id " + std::to_string(token) + " is not in the vocabulary");
  }
  PrefixScorer scorer(std::move(model));
  for (std::size_t k = 0; k < token_ids.size(); ++k) {
    const PrefixScorer::Node node = static_cast<PrefixScorer::Node>(k);
    scorer.Enter(node + 1, node, token_ids[k]);
  }
  return scorer.Words(static_cast<PrefixScorer::Node>(token_ids.size()));
}

// Hotwords come as tuples (text, token_ids, boost); one of the first two is empty.
void BindFusion(py::module_& module) {
  py::class_<FusionOptions>(module, "FusionOptions")
      .def(py::init([](double lm_weight, double unknown_word_bonus, double word_bonus,
                       bool lm_over_tokens) {
             const FusionOptions options{lm_weight, unknown_word_bonus, word_bonus, lm_over_tokens};
             options.Validate();
             return options;
           }),
           py::kw_only(), py::arg("lm_weight"), py::arg("unknown_word_bonus"),
           py::arg("word_bonus"), py::arg("lm_over_tokens"));
  using EntryTuple = std::tuple<std::string, std::string>;
  py::class_<Lexicon, std::shared_ptr<Lexicon>>(module, "Lexicon")
      .def(py::init([](const std::vector<EntryTuple>& words) {
             std::vector<Lexicon::Entry> entries;
             entries.reserve(words.size());
             for (const auto& [word, spelling] : words) entries.push_back({word, spelling});
             return std::make_shared<Lexicon>(std::move(entries));
           }),
           py::arg("entries"));
  using HotwordTuple = std::tuple<std::string, TokenIds, double>;
  py::class_<FusionModel, std::shared_ptr<FusionModel>>(module, "FusionModel")
      .def(py::init([](std::shared_ptr<NgramModel> language_model,
                       const std::vector<std::string>& tokens,
                       const std::vector<HotwordTuple>& hotwords, const FusionOptions& options,
                       std::shared_ptr<Lexicon> lexicon) {
             std::vector<Hotword> phrases;
             for (const auto& [text, token_ids, boost] : hotwords) {
               phrases.push_back({text, token_ids, boost});
             }
             return std::make_shared<FusionModel>(std::move(language_model), tokens, phrases,
                                                  options, std::move(lexicon));
           }),
           py::kw_only(), py::arg("language_model"), py::arg("tokens"), py::arg("hotwords"),
           py::arg("options"), py::arg("lexicon") = nullptr)
      .def("words", &WordsOf, py::arg("token_ids"));
}

void BindBatchDecoder(py::module_& module) {
  py::class_<CtcBatchDecoder>(module, "CtcBatchDecoder")
      .def(py::init([](const CtcBeamOptions& options, std::shared_ptr<FusionModel> fusion) {
             return std::make_unique<CtcBatchDecoder>(options, std::move(fusion));
           }),
           py::arg("options"), py::arg("fusion") = nullptr)
      .def("decode", &Decode, py::arg("log_probs"), py::arg("lengths"), py::arg("num_threads"))
      .def("decode_top_k", &DecodeTopK, py::arg("token_ids"), py::arg("log_probs"),
           py::arg("blank_log_probs"), py::arg("vocab_size"), py::arg("lengths"),
           py::arg("num_threads"));
}

}  // namespace

// Free-threaded Python may run it without the GIL: what changes after it was made has a lock of its
// own (CtcBatchDecoder, CtcStream, FusionModel), is locked here, or is one thread's (NgramBuilder).
PYBIND11_MODULE(_core, module, py::mod_gil_not_used()) {
  module.doc() = "The compiled decoder behind voxformer.decoding.";
  BindHypothesis(module);
  BindOptions(module);
  BindLanguageModel(module);
  BindFusion(module);
  BindAttentionBeamSearch(module);
  BindBatchDecoder(module);
  module.def("token_log_probs", &GatherTokenLogProbs, py::arg("token_ids"), py::arg("logits"),
             py::arg("end_id"));
  module.def("align", &Align, py::arg("log_probs"), py::arg("token_ids"), py::arg("blank_id"));
  module.def("rescore", &RescoreHypotheses, py::arg("token_ids"), py::arg("ctc_scores"),
             py::arg("lm_scores"), py::arg("bonus_scores"), py::arg("token_log_probs"),
             py::arg("options"));

  py::class_<CtcStream>(module, "CtcStream")
      .def(py::init([](const CtcBeamOptions& options, std::shared_ptr<FusionModel> fusion) {
             return std::make_unique<CtcStream>(options, std::move(fusion));
           }),
           py::arg("options"), py::arg("fusion") = nullptr)
      .def(
          "feed",
          [](CtcStream& stream, const py::array& log_probs) {
            const CtcLogProbs view = AsUtterance(log_probs);
            const ReleaseGil release;
            stream.Feed(view);
          },
          py::arg("log_probs"))
      .def("partial", [](CtcStream& stream) {
        std::vector<Hypothesis> hypotheses;
        {
          const ReleaseGil release;
          hypotheses = stream.Partial();
        }
        return ToList(std::move(hypotheses));
      });
}

}  // namespace voxformer
