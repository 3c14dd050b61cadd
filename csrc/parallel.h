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
// Threads are the process's: they are started when there are too few, wait between two calls (awake
// for some microseconds, since a batch may take less than waking a thread), and end when nothing
// came for seconds. Any number of threads may call at once. In a child that was forked the first
// call starts threads of its own.
void ParallelFor(std::size_t count, std::size_t num_threads,
                 const std::function<void(std::size_t worker, std::size_t index)>& work);

}  // namespace voxformer
