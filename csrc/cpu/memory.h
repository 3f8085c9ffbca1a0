// Large blocks of memory, kept after use and handed out again. malloc's defaults return them to the system (from 32 MiB
// on each one, below that many) and fetch them anew, at a page fault per 4 KiB: a third to half of mixed_sum's time on
// tensors of 32 MiB.
//
// What is kept is bounded: live and cached blocks together stay within 3/2 of the most bytes that were live at once in
// the recent past; cached blocks give way, the longest unused first. The recent past is the time in which 16 to 32
// times that peak was handed out, a few search steps: when the work becomes smaller, the cache follows.
#pragma once

#include <cstddef>

namespace fastdarts::memory {

// `bytes` > 0 of uninitialised memory, 64-byte aligned. Any thread may take and give, also while the process forks or
// ends; a forked child keeps what is live and starts with an empty cache.
void* take(size_t bytes);
void give(void* data, size_t bytes);  // `bytes` as taken

struct Use {
  size_t live, cached, peak;  // bytes; peak: the most that were live at once since the start or the last release()
};
Use use();
void release();  // gives all cached blocks back to the system

}  // namespace fastdarts::memory
