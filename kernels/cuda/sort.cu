// A stable counting sort by eight bits of a key: one pass sends choices to experts, a few sort tokens for the gradient of the embedding.
// Counts are exact and ranks follow the order of the keys, so nothing depends on what runs when.

constexpr uint32_t DIGITS = 256;
constexpr uint32_t KEYS_PER_BLOCK = 2048;
constexpr uint32_t SORT_WARPS = 8;
constexpr uint32_t KEYS_PER_WARP = KEYS_PER_BLOCK / SORT_WARPS;

DEVICE uint32_t digit_of(uint32_t key, uint32_t shift) { return (key >> shift) % DIGITS; }

// counts[block, digit] of the block's keys.
KERNEL(sort_count, 256)(uint32_t* counts, const uint32_t* keys, uint32_t count, uint32_t shift) {
    SHARED_ARRAY(uint32_t, histogram, DIGITS);
    histogram[threadIdx.x] = 0;
    __syncthreads();
    const uint64_t first = uint64_t(blockIdx.x) * KEYS_PER_BLOCK;
    for (uint64_t at = first + threadIdx.x; at < count && at < first + KEYS_PER_BLOCK; at += blockDim.x) {
        atomicAdd(&histogram[digit_of(keys[at], shift)], 1u);
    }
    __syncthreads();
    counts[uint64_t(blockIdx.x) * DIGITS + threadIdx.x] = histogram[threadIdx.x];
}

// Turns counts into where each block's keys of each digit begin in the sorted order; `segments` [digits + 1], where asked for, becomes
// where each digit begins. One block, a thread per digit.
KERNEL(sort_offsets, 256)(uint32_t* counts, uint32_t* segments, uint32_t blocks, uint32_t digits) {
    SHARED_ARRAY(uint32_t, totals, DIGITS);
    const uint32_t digit = threadIdx.x;
    uint32_t total = 0;
    for (uint32_t at = 0; at < blocks; at++) total += counts[uint64_t(at) * DIGITS + digit];
    totals[digit] = total;
    __syncthreads();
    uint32_t start = 0;
    for (uint32_t before = 0; before < digit; before++) start += totals[before];
    if (segments && digit < digits) segments[digit] = start;
    if (segments && digit + 1 == digits) segments[digits] = start + total;
    for (uint32_t at = 0; at < blocks; at++) {
        const uint32_t here = counts[uint64_t(at) * DIGITS + digit];
        counts[uint64_t(at) * DIGITS + digit] = start;
        start += here;
    }
}

// Key `at` goes to its place p: positions[at] = p, sources[p] = values[at] (or `at` itself), sorted_keys[p] = keys[at]; each where asked
// for. A warp has a run of keys of its own, so that its keys' ranks follow from the runs before and a vote among the lanes.
KERNEL(sort_scatter, 256)(uint32_t* positions, uint32_t* sources, uint32_t* sorted_keys, const uint32_t* keys, const uint32_t* values,
                          const uint32_t* offsets, uint32_t count, uint32_t shift) {
    SHARED_ARRAY(uint32_t, next, SORT_WARPS * DIGITS);
    const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    for (uint32_t at = threadIdx.x; at < SORT_WARPS * DIGITS; at += blockDim.x) next[at] = 0;
    __syncthreads();
    const uint64_t first = uint64_t(blockIdx.x) * KEYS_PER_BLOCK + warp * KEYS_PER_WARP;
    for (uint64_t at = first + lane; at < count && at < first + KEYS_PER_WARP; at += 32) {
        atomicAdd(&next[warp * DIGITS + digit_of(keys[at], shift)], 1u);
    }
    __syncthreads();
    uint32_t start = offsets[uint64_t(blockIdx.x) * DIGITS + threadIdx.x];
    for (uint32_t other = 0; other < SORT_WARPS; other++) {
        const uint32_t here = next[other * DIGITS + threadIdx.x];
        next[other * DIGITS + threadIdx.x] = start;
        start += here;
    }
    __syncthreads();
    for (uint32_t step = 0; step < KEYS_PER_WARP; step += 32) {
        const uint64_t at = first + step + lane;
        const bool valid = at < count;
        const uint32_t key = valid ? keys[at] : 0;
        const uint32_t digit = valid ? digit_of(key, shift) : DIGITS;
        const uint32_t same = __match_any_sync(0xFFFFFFFFu, digit);
        const uint32_t rank = __popc(same & ((1u << lane) - 1));
        const uint32_t place = valid ? next[warp * DIGITS + digit] + rank : 0;
        __syncwarp();
        if (valid && rank == 0) next[warp * DIGITS + digit] += __popc(same);
        __syncwarp();
        if (!valid) continue;
        if (positions) positions[at] = place;
        if (sources) sources[place] = values ? values[at] : uint32_t(at);
        if (sorted_keys) sorted_keys[place] = key;
    }
}
