// The windows for AVX-512.
#include "cpu/mixed_op/windows.h"

namespace fastdarts {

FASTDARTS_AVX512_ENGINES(FASTDARTS_WINDOWS, template)

}  // namespace fastdarts
