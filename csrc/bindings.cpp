// The extension module voxformer._core: arrays in, plain tuples out. What users see of it is
// written in Python, in voxformer/decoding.

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "attention_beam_search.h"
#include "batch_decoder.h"
#include "bindings_language_model.h"
#include "ctc_stream.h"
#include "hypothesis.h"
#include "options.h"
#include "rescoring.h"

namespace py = pybind11;

namespace voxformer {
namespace {

using FloatArray = py::array_t<float, py::array::c_style | py::array::forcecast>;
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

IdArray ToArray(const std::vector<std::int64_t>& values) {
  return IdArray(static_cast<py::ssize_t>(values.size()), values.data());
}

// In the order of RawHypothesis in _core.pyi.
py::tuple ToTuple(const Hypothesis& hypothesis) {
  return py::make_tuple(py::tuple(py::cast(hypothesis.token_ids)), hypothesis.score,
                        hypothesis.ctc_score, hypothesis.attention_score, hypothesis.lm_score,
                        py::tuple(py::cast(hypothesis.timesteps)),
                        py::tuple(py::cast(hypothesis.token_confidences)), hypothesis.confidence,
                        hypothesis.truncated, py::tuple(py::cast(hypothesis.token_starts)),
                        py::tuple(py::cast(hypothesis.token_ends)));
}

py::list ToList(const std::vector<Hypothesis>& hypotheses) {
  py::list list;
  for (const Hypothesis& hypothesis : hypotheses) list.append(ToTuple(hypothesis));
  return list;
}

py::list Decode(const FloatArray& log_probs, const IdArray& lengths, const CtcBeamOptions& options,
                std::size_t num_threads) {
  CheckDimensions(log_probs, 3, "log_probs", "[batch, time, vocab]");
  CheckDimensions(lengths, 1, "lengths", "[batch]");
  const BatchView batch = {log_probs.data(), static_cast<std::size_t>(log_probs.shape(0)),
                           static_cast<std::size_t>(log_probs.shape(1)),
                           static_cast<std::size_t>(log_probs.shape(2))};
  const Span<const std::int64_t> length_view(lengths.data(),
                                             static_cast<std::size_t>(lengths.size()));
  std::vector<std::vector<Hypothesis>> results;
  {
    const py::gil_scoped_release release;
    results = DecodeBatch(batch, length_view, options, num_threads);
  }
  py::list list;
  for (const std::vector<Hypothesis>& hypotheses : results) list.append(ToList(hypotheses));
  return list;
}

py::tuple Align(const FloatArray& log_probs, TokenIds token_ids, std::int64_t blank_id) {
  const LogProbs view = AsMatrix(log_probs, "log_probs", "[time, vocab]");
  return ToTuple(AlignTokens(view, std::move(token_ids), blank_id));
}

py::tuple RescoreHypotheses(const std::vector<TokenIds>& token_ids,
                            const std::vector<double>& ctc_scores,
                            const std::vector<double>& lm_scores, const FloatArray& token_log_probs,
                            const RescoringOptions& options) {
  if (ctc_scores.size() != token_ids.size() || lm_scores.size() != token_ids.size()) {
    throw std::invalid_argument("every hypothesis needs a ctc_score and an lm_score");
  }
  std::vector<Hypothesis> hypotheses(token_ids.size());
  for (std::size_t i = 0; i < hypotheses.size(); ++i) {
    hypotheses[i].token_ids = token_ids[i];
    hypotheses[i].ctc_score = ctc_scores[i];
    hypotheses[i].lm_score = lm_scores[i];
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

void BindOptions(py::module_& module) {
  py::class_<CtcBeamOptions>(module, "CtcBeamOptions")
      .def(py::init([](std::int64_t beam_size, std::int64_t n_best, std::int64_t blank_id,
                       double length_bonus, double length_penalty) {
             const CtcBeamOptions options{beam_size, n_best, blank_id, length_bonus,
                                          length_penalty};
             options.Validate();
             return options;
           }),
           py::kw_only(), py::arg("beam_size"), py::arg("n_best"), py::arg("blank_id"),
           py::arg("length_bonus"), py::arg("length_penalty"));
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

}  // namespace

PYBIND11_MODULE(_core, module) {
  module.doc() = "The compiled decoder behind voxformer.decoding.";
  BindOptions(module);
  BindLanguageModel(module);
  module.def("decode", &Decode, py::arg("log_probs"), py::arg("lengths"), py::arg("options"),
             py::arg("num_threads"));
  module.def("align", &Align, py::arg("log_probs"), py::arg("token_ids"), py::arg("blank_id"));
  module.def("rescore", &RescoreHypotheses, py::arg("token_ids"), py::arg("ctc_scores"),
             py::arg("lm_scores"), py::arg("token_log_probs"), py::arg("options"));

  py::class_<CtcStream>(module, "CtcStream")
      .def(py::init<const CtcBeamOptions&>(), py::arg("options"))
      .def(
          "feed",
          [](CtcStream& stream, const FloatArray& log_probs) {
            const LogProbs view = AsMatrix(log_probs, "log_probs", "[time, vocab]");
            const py::gil_scoped_release release;
            stream.Feed(view);
          },
          py::arg("log_probs"))
      .def("partial", [](CtcStream& stream) {
        std::vector<Hypothesis> hypotheses;
        {
          const py::gil_scoped_release release;
          hypotheses = stream.Partial();
        }
        return ToList(hypotheses);
      });

  py::class_<AttentionBeamSearch>(module, "AttentionBeamSearch")
      .def(py::init<std::int64_t, std::int64_t, const AttentionOptions&, std::int64_t>(),
           py::arg("sos_eos_id"), py::arg("blank_id"), py::arg("options"), py::arg("max_tokens"))
      .def_property_readonly(
          "tokens", [](const AttentionBeamSearch& search) { return ToArray(search.tokens()); })
      .def_property_readonly("done", &AttentionBeamSearch::done)
      .def(
          "advance",
          [](AttentionBeamSearch& search, const FloatArray& log_probs) {
            return ToArray(search.Advance(AsMatrix(log_probs, "log_probs", "[active, vocab]")));
          },
          py::arg("log_probs"))
      .def("finish", [](const AttentionBeamSearch& search) { return ToList(search.Finish()); });
}

}  // namespace voxformer
