// The windows backwards, for AVX2 and the baseline.
#include "cpu/mixed_op/windows_backward.h"

namespace fastdarts {

FASTDARTS_OTHER_ENGINES(FASTDARTS_BACKWARD_WINDOWS, template)
FASTDARTS_OTHER_HALF(template)

}  // namespace fastdarts
