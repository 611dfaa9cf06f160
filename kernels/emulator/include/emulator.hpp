// Runs CUDA kernels on a CPU: what ptx.cuh includes where it is compiled for the host. docs/kernels.md says what this can show.
#pragma once

#include "emulator/cuda.hpp"
#include "emulator/tensor_core.hpp"
#include "emulator/hopper.hpp"

// In the emulator a kernel is a plain function; the build enters it into the table of kernels.
#define KERNEL(name, threads) static void name
#define DEVICE inline

// Dynamic and static arrays in the block's shared memory. Poisoned when the block starts.
#define DYNAMIC_SHARED(type, name) type* name = reinterpret_cast<type*>(emulator::block->shared)
#define SHARED_ARRAY(type, name, count)                                                                   \
    static const char name##_key = 0;                                                                     \
    type* name = static_cast<type*>(emulator::static_shared(&name##_key, sizeof(type) * (count), alignof(type)))
