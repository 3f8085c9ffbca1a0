// A cache of large memory blocks: a block that is given back is kept and handed out again. Under its defaults malloc
// returns large blocks to the system: every block from 32 MiB on, and many smaller ones. Fetching them anew costs a
// page fault per 4 KiB, a third to half of mixed_sum's time on tensors of 32 MiB.
//
// The cache is bounded. Live and cached blocks together stay within 3/2 of the recent peak, the most bytes that were
// live at once. Cached blocks give way, the longest unused first. "Recent" is the time in which 16 to 32 times the peak
// was handed out, a few search steps. So the cache shrinks when the work does.
#pragma once

#include <cstddef>

namespace fastdarts::block_cache {

// `bytes` > 0 of uninitialised memory, 64-byte aligned. Any thread may take a block and give it back, also while the
// process forks or ends. A forked child keeps the live blocks and starts with an empty cache.
void* take(size_t bytes);
void give_back(void* data, size_t bytes);  // `bytes` as taken

struct Usage {
  size_t live, cached, peak;  // bytes; peak: the most that were live at once since the start or the last release()
};
Usage usage();
void release();  // gives all cached blocks back to the system

}  // namespace fastdarts::block_cache
