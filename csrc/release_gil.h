#pragma once

#include <Python.h>
#include <unistd.h>

namespace voxformer {

// Lets other Python threads run while it lives.
//
// A thread that wants the lock back once the interpreter is going does not get it. Until
// Python 3.14 it ends by pthread_exit(), which unwinds the stack through this destructor, that is
// to say std::terminate(): a server with daemon threads would leave with SIGABRT. As from 3.14 on,
// the thread sleeps instead until the process is gone.
class ReleaseGil {
 public:
  ReleaseGil() : state_(PyEval_SaveThread()) {}
  ReleaseGil(const ReleaseGil&) = delete;
  ReleaseGil& operator=(const ReleaseGil&) = delete;
  ~ReleaseGil() {
    try {
      PyEval_RestoreThread(state_);
    } catch (...) {  // to leave this block would go on with the unwinding
      for (;;) pause();
    }
  }

 private:
  PyThreadState* const state_;
};

}  // namespace voxformer
