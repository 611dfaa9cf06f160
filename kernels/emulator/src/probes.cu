// Small kernels that each use one thing of the emulator, for its own tests. A device never sees them.

// product[16, 8] = left[16, 16] * right[16, 8], through shared memory.
KERNEL(probe_product, 32)(float* product, const uint16_t* left, const uint16_t* right) {
    DYNAMIC_SHARED(uint16_t, tile);
    const unsigned lane = threadIdx.x;
    for (unsigned at = lane; at < 256; at += 32) tile[at] = left[at];
    for (unsigned at = lane; at < 128; at += 32) tile[256 + at] = right[at];
    __syncwarp();
    uint32_t left_fragment[4], right_fragment[2], single;
    ldmatrix_x4(left_fragment, tile + (lane % 16) * 16 + lane / 16 * 8);
    ldmatrix_x2_transposed(right_fragment, tile + 256 + (lane % 16) * 8);
    ldmatrix_x1_transposed(single, tile + 256 + (lane % 8) * 8);
    float sum[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    if (single == right_fragment[0]) mma_m16n8k16(sum, left_fragment, right_fragment);
    for (unsigned at = 0; at < 4; at++) product[(lane / 4 + 8 * (at / 2)) * 8 + lane % 4 * 2 + at % 2] = sum[at];
}

// All threads but the first wait for ever, with more on their stacks than a thread of the host has of its own.
KERNEL(probe_given_up, 1024)(uint32_t* seen) {
    if (threadIdx.x == 0) return;
    {
        uint32_t numbers[16384];
        for (unsigned at = 0; at < 16384; at++) numbers[at] = seen[0] + at;
        seen[1] = numbers[(seen[0] + threadIdx.x) % 16384];
    }
    __syncthreads();
}

// copied[16, 16] = source, by ldmatrix and stmatrix.
KERNEL(probe_matrix_store, 32)(uint16_t* copied, const uint16_t* source) {
    SHARED_ARRAY(uint16_t, from, 256);
    SHARED_ARRAY(uint16_t, to, 256);
    const unsigned lane = threadIdx.x, at = (lane % 16) * 16 + lane / 16 * 8;
    for (unsigned i = lane; i < 256; i += 32) from[i] = source[i];
    __syncwarp();
    uint32_t fragment[4];
    ldmatrix_x4(fragment, from + at);
    stmatrix_x4(to + at, fragment);
    __syncwarp();
    for (unsigned i = lane; i < 256; i += 32) copied[i] = to[i];
}

// seen[0] and seen[1]: before and after the wait for the first of two groups; seen[2]: the second then; seen[3]: its end, 4 bytes long.
KERNEL(probe_copy, 32)(float* seen, const float* source) {
    DYNAMIC_SHARED(float, tile);
    if (threadIdx.x > 0) return;
    cp_async_16(tile, source);
    cp_async_commit();
    cp_async_16(tile + 4, source + 4, 4);
    cp_async_commit();
    seen[0] = tile[0];
    cp_async_wait<1>();
    seen[1] = tile[0];
    seen[2] = tile[4];
    cp_async_wait<0>();
    seen[3] = tile[4];
    seen[4] = tile[5];
}

KERNEL(probe_shuffles, 32)(uint32_t* seen) {
    const unsigned lane = threadIdx.x;
    seen[lane] = __shfl_xor_sync(~0u, lane, 5);
    seen[32 + lane] = __shfl_up_sync(~0u, lane, 3);
    seen[64 + lane] = __shfl_down_sync(~0u, lane, 3, 8);
    seen[96 + lane] = __shfl_sync(~0u, lane, 9, 8);
    seen[128 + lane] = __ballot_sync(~0u, lane % 3 == 0);
    seen[160 + lane] = __match_any_sync(~0u, lane % 16);
    seen[192 + lane] = __any_sync(~0u, lane == 7) * 4 + __all_sync(~0u, lane < 32) * 2 + __all_sync(~0u, lane < 31);
    seen[224 + lane] = __popc(lane) + 100 * __clz(int(lane)) + 10000 * __ffs(int(lane));
}

// The sum over a block of two warps and what static shared memory held before.
KERNEL(probe_atomics, 64)(uint32_t* seen) {
    SHARED_ARRAY(uint32_t, count, 1);
    SHARED_ARRAY(uint32_t, largest, 1);
    if (threadIdx.x == 0) {
        seen[0] = *count;
        *count = *largest = 0;
    }
    __syncthreads();
    atomicAdd(count, threadIdx.x);
    atomicMax(largest, threadIdx.x);
    __syncthreads();
    if (threadIdx.x == 0) {
        seen[1] = *count;
        seen[2] = *largest;
    }
}

// The last thread does not come to the barrier.
KERNEL(probe_deadlock, 64)(uint32_t* seen) {
    if (threadIdx.x < 63) __syncthreads();
    seen[0] = 1;
}

KERNEL(probe_divergence, 32)(uint32_t* seen) {
    if (threadIdx.x % 2 == 0) seen[0] = __ballot_sync(~0u, 1);
    else seen[1] = __shfl_sync(~0u, threadIdx.x, 0);
}

// The second warp works on what the first has made, then the first on what the second has; 7 is what both barriers let through.
KERNEL(probe_named_barriers, 64)(uint32_t* seen) {
    SHARED_ARRAY(uint32_t, value, 2);
    if (threadIdx.x < 32) {
        if (threadIdx.x == 0) value[0] = 3;
        barrier_arrive(1, 64);
        barrier_sync(2, 64);
        if (threadIdx.x == 0) seen[0] = value[1];
    } else {
        barrier_sync(1, 64);
        if (threadIdx.x == 32) value[1] = value[0] + 4;
        barrier_sync(2, 64);
    }
}

// Each thread reads what its neighbour writes; the barrier between is left out when `careless`.
KERNEL(probe_race, 64)(float* seen, uint32_t careless) {
    SHARED_ARRAY(float, value, 64);
    value[threadIdx.x] = 1.0f;
    if (careless == 0) __syncthreads();
    seen[threadIdx.x] = value[threadIdx.x ^ 63];
}

KERNEL(probe_misaligned, 32)(float* seen) {
    DYNAMIC_SHARED(unsigned char, tile);
    uint32_t loaded;
    ldmatrix_x1(loaded, tile + 8 * threadIdx.x);
    seen[threadIdx.x] = float(loaded);
}

KERNEL(probe_outside, 32)(float* seen) {
    DYNAMIC_SHARED(unsigned char, tile);
    uint32_t loaded;
    ldmatrix_x1(loaded, tile + 16 * threadIdx.x);
    seen[threadIdx.x] = float(loaded);
}
