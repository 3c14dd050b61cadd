#include <sched.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <limits>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "check.h"
#include "fast_exp.h"
#include "log_math.h"
#include "options.h"
#include "parallel.h"
#include "penalties.h"
#include "prefix_tree.h"
#include "row_scan.h"

namespace voxformer {
namespace {

using Ids = std::vector<std::int32_t>;

void LogAddIsSymmetricAndKeepsZero() {
  CHECK(LogAdd(kLogZero, kLogZero) == kLogZero);
  CHECK(LogAdd(kLogZero, -3.0) == -3.0);
  CHECK(Near(LogAdd(std::log(0.25), std::log(0.5)), std::log(0.75), 1e-15));
  CHECK(LogAdd(-1.25, -700.5) == LogAdd(-700.5, -1.25));
  CHECK(LogAdd(-1.0, -2000.0) == -1.0);
}

void SequencesHaveOneNodeEach() {
  PrefixTree tree;
  tree.Reset();
  std::mt19937 generator(0);
  std::vector<PrefixTree::Node> nodes = {PrefixTree::kRoot};
  std::vector<Ids> sequences = {{}};
  for (int i = 0; i < 3000; ++i) {
    const std::size_t parent = generator() % nodes.size();
    const std::int32_t token = static_cast<std::int32_t>(generator() % 5);
    Ids sequence = sequences[parent];
    sequence.push_back(token);
    const auto before = std::find(sequences.begin(), sequences.end(), sequence);
    const PrefixTree::Node child = tree.Child(nodes[parent], token);
    CHECK(tree.Child(nodes[parent], token) == child);
    if (before != sequences.end()) {
      CHECK(nodes[static_cast<std::size_t>(before - sequences.begin())] == child);
      continue;
    }
    nodes.push_back(child);
    sequences.push_back(sequence);
  }
  CHECK(tree.size() == nodes.size());
  Ids ids;
  for (std::size_t i = 0; i < nodes.size(); ++i) {
    tree.Sequence(nodes[i], &ids);
    CHECK(ids == sequences[i]);
  }
}

void OrderIsLexicographic() {
  PrefixTree tree;
  tree.Reset();
  std::mt19937 generator(1);
  std::vector<PrefixTree::Node> nodes = {PrefixTree::kRoot};
  for (int i = 0; i < 60; ++i) {
    nodes.push_back(
        tree.Child(nodes[generator() % nodes.size()], static_cast<std::int32_t>(generator() % 3)));
  }
  const auto sequence = [&](PrefixTree::Node node, std::int32_t token) {
    Ids ids;
    tree.Sequence(node, &ids);
    if (token != PrefixTree::kNoToken) ids.push_back(token);
    return ids;
  };
  for (const PrefixTree::Node a : nodes) {
    for (const PrefixTree::Node b : nodes) {
      for (std::int32_t token_a = -1; token_a < 2; ++token_a) {
        for (std::int32_t token_b = -1; token_b < 2; ++token_b) {
          CHECK(tree.Before(a, token_a, b, token_b) ==
                (sequence(a, token_a) < sequence(b, token_b)));
        }
      }
    }
  }
}

void ScanKernelsAgree() {
  std::size_t count = 0;
  const ScanKernel* kernels = ScanKernels(&count);
  CHECK(count >= 1);
  std::mt19937 generator(2);
  std::normal_distribution<float> normal(0.0F, 3.0F);
  const float infinity = std::numeric_limits<float>::infinity();
  for (std::size_t size = 0; size < 150; ++size) {
    std::vector<float> row(size);
    for (float& value : row) value = generator() % 8 == 0 ? -infinity : normal(generator);
    for (const float threshold : {-infinity, std::numeric_limits<float>::lowest(), -1.0F, 4.0F}) {
      std::vector<std::int32_t> expected;
      float max = -infinity;
      for (std::size_t i = 0; i < size; ++i) {
        if (row[i] >= threshold) expected.push_back(static_cast<std::int32_t>(i));
        max = std::max(max, row[i]);
      }
      for (std::size_t k = 0; k < count; ++k) {
        std::vector<std::int32_t> tokens(size + kScanPadding);
        const RowScan scanned = kernels[k].scan(row.data(), size, threshold, tokens.data());
        tokens.resize(scanned.count);
        CHECK(tokens == expected && scanned.max == max && !scanned.bad);
      }
    }
    for (const float wrong : {infinity, std::nanf(""), -std::nanf("")}) {
      if (size == 0) continue;
      std::vector<float> spoilt = row;
      spoilt[generator() % size] = wrong;
      for (std::size_t k = 0; k < count; ++k) {
        std::vector<std::int32_t> tokens(size + kScanPadding);
        CHECK(kernels[k].scan(spoilt.data(), size, 0.0F, tokens.data()).bad);
      }
    }
  }
}

// Printed, too: whoever runs this under an emulator wants to know which kernels were tested.
void ScanKernelsAreThoseOfTheCpu() {
  std::size_t count = 0;
  const ScanKernel* kernels = ScanKernels(&count);
  std::string names;
  for (std::size_t k = 0; k < count; ++k) names += std::string(" ") + kernels[k].name;
  std::printf("scan kernels:%s\n", names.c_str());
  std::string expected;
#if defined(__x86_64__)
#if defined(__clang__)
  return;  // its runtime library may be a stub that says no to everything
#else
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f")) expected += " avx512";
  if (__builtin_cpu_supports("avx2")) expected += " avx2";
#endif
#endif
  CHECK(names == expected + " portable");
}

void FastExpIsWithinTwoUnits() {
  for (double x = -700.0; x <= 700.0; x += 0.0137) {
    CHECK(std::fabs(FastExp(x) / std::exp(x) - 1.0) <= 4.5e-16);
  }
  CHECK(FastExp(0.0) == 1.0);
}

void PenaltiesFollowTheirDefinitions() {
  CHECK(RepetitionPenalty(-2.0, 1.5) == -3.0);
  CHECK(RepetitionPenalty(3.0, 1.5) == 2.0);
  CHECK(LengthNorm(7, 0.0) == 1.0);
  CHECK(Near(LengthNorm(7, 2.0), 4.0, 1e-12));
  CHECK(Near(FinalScore(-6.0, -1.0, 7, 0.5, 1.0), -3.5 / 2.0, 1e-12));

  const auto bans = [](const Ids& ids, std::int64_t order) {
    Ids banned;
    AppendNgramBans(ids, order, &banned);
    return banned;
  };
  CHECK(bans({1, 2, 1, 3, 1}, 0).empty());
  CHECK((bans({1, 2, 1}, 1) == Ids{1, 2, 1}));
  CHECK((bans({1, 2, 1, 3, 1}, 2) == Ids{2, 3}));
  CHECK((bans({1, 2, 3, 1, 2}, 3) == Ids{3}));
  CHECK(bans({1, 2}, 3).empty());
  CHECK(bans({}, 1).empty());
}

void OptionsOutOfRangeAreNamed() {
  CtcBeamOptions options;
  options.beam_size = 2;
  options.n_best = 3;
  CHECK(Contains(Message<std::invalid_argument>([&] { options.Validate(); }), "n_best is 3"));
  AttentionOptions attention;
  attention.repetition_penalty = std::numeric_limits<double>::quiet_NaN();
  CHECK(Contains(Message<std::invalid_argument>([&] { attention.Validate(); }),
                 "repetition_penalty is nan"));
}

void ParallelForDoesAllAndReportsTheFirstFailure() {
  for (const std::size_t threads : {0U, 1U, 2U, 7U}) {
    std::vector<std::atomic<int>> done(100);
    ParallelFor(done.size(), threads, [&](std::size_t, std::size_t i) { ++done[i]; });
    for (const std::atomic<int>& count : done) CHECK(count == 1);
    const std::string message = Message<std::runtime_error>([&] {
      ParallelFor(50, threads, [](std::size_t, std::size_t i) {
        if (i % 7 == 5) throw std::runtime_error("index " + std::to_string(i));
      });
    });
    CHECK(message == "index 5");
  }
  ParallelFor(0, 4, [](std::size_t, std::size_t) { CHECK(false); });
}

void WorkersOfACallHaveTheirOwnNumbers() {
  for (int run = 0; run < 200; ++run) {
    std::vector<std::atomic<int>> inside(4);
    ParallelFor(40, inside.size(), [&](std::size_t worker, std::size_t) {
      CHECK(++inside[worker] == 1);
      --inside[worker];
    });
  }
}

void ParallelForMayBeCalledFromManyThreadsAndFromInside() {
  std::vector<std::thread> callers;
  std::atomic<int> done{0};
  for (int caller = 0; caller < 6; ++caller) {
    callers.emplace_back([&done] {
      for (int run = 0; run < 50; ++run) {
        ParallelFor(3, 3, [&done](std::size_t, std::size_t) {
          ParallelFor(2, 2, [&done](std::size_t, std::size_t) { ++done; });
        });
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  CHECK(done == 6 * 50 * 3 * 2);
}

cpu_set_t Affinity() {
  cpu_set_t cpus;
  CHECK(sched_getaffinity(0, sizeof cpus, &cpus) == 0);
  return cpus;
}

// Also where they slept and were woken somewhere else.
void WorkersRunWhereTheirCallerMay() {
  const cpu_set_t before = Affinity();
  cpu_set_t one;
  CPU_ZERO(&one);
  for (std::size_t cpu = 0; CPU_COUNT(&one) == 0; ++cpu) {
    if (CPU_ISSET(cpu, &before)) CPU_SET(cpu, &one);
  }
  for (const cpu_set_t& cpus : {before, one, before}) {
    CHECK(sched_setaffinity(0, sizeof cpus, &cpus) == 0);
    for (int run = 0; run < 3; ++run) {
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
      ParallelFor(6, 3, [&cpus](std::size_t, std::size_t) {
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
        const cpu_set_t mine = Affinity();
        CHECK(CPU_EQUAL(&mine, &cpus));
      });
    }
  }
}

}  // namespace
}  // namespace voxformer

int main() {
  voxformer::LogAddIsSymmetricAndKeepsZero();
  voxformer::SequencesHaveOneNodeEach();
  voxformer::OrderIsLexicographic();
  voxformer::ScanKernelsAgree();
  voxformer::ScanKernelsAreThoseOfTheCpu();
  voxformer::FastExpIsWithinTwoUnits();
  voxformer::PenaltiesFollowTheirDefinitions();
  voxformer::OptionsOutOfRangeAreNamed();
  voxformer::ParallelForDoesAllAndReportsTheFirstFailure();
  voxformer::WorkersOfACallHaveTheirOwnNumbers();
  voxformer::WorkersRunWhereTheirCallerMay();
  voxformer::ParallelForMayBeCalledFromManyThreadsAndFromInside();
  return 0;
}
