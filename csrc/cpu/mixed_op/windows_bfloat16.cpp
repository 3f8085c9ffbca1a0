// The windows, forwards and backwards, for AVX-512 with units for bfloat16.
#include "cpu/mixed_op/windows.h"
#include "cpu/mixed_op/windows_backward.h"

namespace fastdarts {

FASTDARTS_BFLOAT16_ENGINES(FASTDARTS_WINDOWS, template)
FASTDARTS_BFLOAT16_ENGINES(FASTDARTS_BACKWARD_WINDOWS, template)

}  // namespace fastdarts
