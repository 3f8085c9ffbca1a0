// The windows backwards, for AVX-512.
#include "cpu/mixed_op/windows_backward.h"

namespace fastdarts {

FASTDARTS_AVX512_ENGINES(FASTDARTS_BACKWARD_WINDOWS, template)
FASTDARTS_AVX512_HALF(template)

}  // namespace fastdarts
