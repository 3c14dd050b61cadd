// Work on several threads.
#pragma once

#include <cstddef>
#include <functional>

namespace voxformer {

// Calls `work(worker, index)` once for every index below `count`, on up to `num_threads` threads,
// the caller's among them; `worker` is below num_threads and no two threads share one, so that each
// may own buffers. Returns when all are done. If any call throws, no further index is begun and the
// exception of the lowest index is thrown here, which is the same one in every run.
//
// Threads live for one call: starting them costs microseconds beside the milliseconds that a batch
// takes, and a process that forks between two calls loses nothing.
void ParallelFor(std::size_t count, std::size_t num_threads,
                 const std::function<void(std::size_t worker, std::size_t index)>& work);

}  // namespace voxformer
