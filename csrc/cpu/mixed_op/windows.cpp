// The windows for AVX2 and the baseline.
#include "cpu/mixed_op/windows.h"

namespace fastdarts {

FASTDARTS_OTHER_ENGINES(FASTDARTS_WINDOWS, template)

}  // namespace fastdarts
