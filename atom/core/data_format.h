// DataFormat lives with the kernels, which read it; this header is its name for the engine.
#pragma once

#include "kernels/common/data_format.h"
