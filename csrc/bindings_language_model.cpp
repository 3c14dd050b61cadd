#include "bindings_language_model.h"

#include <pybind11/stl.h>

#include <cerrno>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include "ngram_builder.h"
#include "ngram_image.h"
#include "ngram_model.h"
#include "release_gil.h"

namespace py = pybind11;

namespace voxformer {
namespace {

using SharedModel = std::shared_ptr<NgramModel>;

// What `call` returns. Its errors quote files, whose bytes need not be text: pybind11 would turn
// such a message into one about UTF-8.
template <typename Call>
auto WithReadableErrors(const Call& call) {
  try {
    return call();
  } catch (const std::invalid_argument& error) {
    const std::string_view message = error.what();
    const py::object text = py::reinterpret_steal<py::object>(PyUnicode_DecodeUTF8(
        message.data(), static_cast<py::ssize_t>(message.size()), "backslashreplace"));
    PyErr_SetObject(PyExc_ValueError, text.ptr());
    throw py::error_already_set();
  } catch (const std::system_error& error) {
    errno = error.code().value();
    PyErr_SetFromErrno(PyExc_OSError);
    throw py::error_already_set();
  }
}

SharedModel Map(int descriptor, const std::string& name) {
  return WithReadableErrors([&] {
    const ReleaseGil release;
    return std::make_shared<NgramModel>(MapNgramImage(descriptor, name));
  });
}

void Feed(NgramBuilder& builder, const py::bytes& bytes) {
  const std::string_view view = bytes;
  WithReadableErrors([&] {
    const ReleaseGil release;
    builder.Feed(view);
  });
}

SharedModel Finish(NgramBuilder& builder, std::uint64_t source_size, std::int64_t source_mtime_ns) {
  return WithReadableErrors([&] {
    const ReleaseGil release;
    return std::make_shared<NgramModel>(builder.Finish(source_size, source_mtime_ns));
  });
}

// ln p, n-gram length and whether the word is unknown, for each word and then for </s> if `eos`.
py::list ScoreWords(const NgramModel& model, const std::vector<std::string>& words, bool bos,
                    bool eos) {
  std::vector<NgramModel::WordId> ids;
  ids.reserve(words.size() + 1);
  for (const std::string& word : words) ids.push_back(model.Find(word));
  if (eos) ids.push_back(model.end_id());
  NgramModel::State state = bos ? model.BeginState() : model.EmptyState();
  py::list list;
  for (const NgramModel::WordId id : ids) {
    const NgramModel::WordScore score = model.FullScore(state, id, &state);
    list.append(py::make_tuple(score.log_prob, score.ngram_length, id == NgramModel::kUnknown));
  }
  return list;
}

py::tuple StateWords(const NgramModel::State& state) {
  py::tuple words(state.length);
  for (std::uint32_t i = 0; i < state.length; ++i) words[i] = state.words[i];
  return words;
}

}  // namespace

void BindLanguageModel(py::module_& module) {
  py::class_<NgramBuilder>(module, "NgramBuilder")
      .def(py::init([](const py::bytes& name) { return NgramBuilder(std::string(name)); }),
           py::arg("name"))
      .def("feed", &Feed, py::arg("data"))
      .def("finish", &Finish, py::arg("source_size"), py::arg("source_mtime_ns"));

  py::class_<NgramModel::State>(module, "NgramState")
      .def_property_readonly("words", &StateWords)
      .def(
          "__eq__", [](const NgramModel::State& a, const NgramModel::State& b) { return a == b; },
          py::is_operator())
      .def("__hash__", [](const NgramModel::State& state) { return py::hash(StateWords(state)); });

  py::class_<NgramModel, SharedModel>(module, "NgramModel", py::buffer_protocol())
      .def_static("map", &Map, py::arg("descriptor"), py::arg("name"))
      .def_buffer([](NgramModel& model) {
        return py::buffer_info(reinterpret_cast<const std::uint8_t*>(model.image().bytes.get()),
                               static_cast<py::ssize_t>(model.image().size));
      })
      .def_property_readonly("order", &NgramModel::order)
      .def_property_readonly("num_words", &NgramModel::num_words)
      .def_property_readonly("num_ngrams",
                             [](const NgramModel& model) {
                               py::tuple counts(model.order());
                               for (int n = 1; n <= model.order(); ++n) {
                                 counts[static_cast<std::size_t>(n - 1)] = model.num_ngrams(n);
                               }
                               return counts;
                             })
      .def_property_readonly("has_unknown", &NgramModel::has_unknown)
      .def_property_readonly("source",
                             [](const NgramModel& model) {
                               return py::make_tuple(model.source_size(), model.source_mtime_ns());
                             })
      .def(
          "find", [](const NgramModel& model, const py::bytes& word) { return model.Find(word); },
          py::arg("word"))
      .def("begin_state", &NgramModel::BeginState)
      .def("empty_state", &NgramModel::EmptyState)
      .def(
          "score",
          [](const NgramModel& model, const NgramModel::State& context, NgramModel::WordId word) {
            NgramModel::State next{};
            const double log_prob = model.Score(context, word, &next);
            return py::make_tuple(log_prob, next);
          },
          py::arg("context"), py::arg("word"))
      .def("score_words", &ScoreWords, py::arg("words"), py::arg("bos"), py::arg("eos"));
}

}  // namespace voxformer
