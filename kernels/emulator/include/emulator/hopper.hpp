// Hopper's asynchronous instructions (sm_90a).
#pragma once

#include "cuda.hpp"

struct TensorMap { uint64_t words[16]; };
