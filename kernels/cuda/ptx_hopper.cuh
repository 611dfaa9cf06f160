// Wrappers of Hopper's asynchronous instructions, for units that are compiled for sm_90a alone. Put after ptx.cuh; the emulator's bodies
// are in kernels/emulator/include/emulator/hopper.hpp.

#ifndef OSLER_EMULATOR

// A block has a multiprocessor to itself: only then does the compiler know how many registers its warpgroups begin with.
#undef KERNEL
#define KERNEL(name, threads) extern "C" __global__ void __launch_bounds__(threads, 1) name

// The driver's CUtensorMap: a row-major bf16 matrix and the box of it, 64 columns wide, that one copy moves.
struct __align__(64) TensorMap {
    uint64_t words[16];
};

// A parameter of a kernel that copies by it.
#define TENSOR_MAP(name) const __grid_constant__ TensorMap name

// A barrier in shared memory: a phase ends when `arrivals` threads have arrived and all bytes that they expect have landed.
DEVICE void mbarrier_init(uint64_t* barrier, unsigned arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals) : "memory");
}
DEVICE void mbarrier_arrive(uint64_t* barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
}
DEVICE void mbarrier_arrive_expect(uint64_t* barrier, unsigned bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes) : "memory");
}
// Until the phase of this parity has ended.
DEVICE void mbarrier_wait(uint64_t* barrier, unsigned parity) {
    asm volatile(
        "{\n"
        ".reg .pred done;\n"
        "again_%=:\n"
        "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
        "@!done bra again_%=;\n"
        "}" ::"r"(shared_address(barrier)),
        "r"(parity)
        : "memory");
}
// Makes initialised barriers known to the copying unit.
DEVICE void fence_mbarrier_init() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
// Makes what threads wrote to shared memory known to copies and products.
DEVICE void fence_proxy_async() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// The box from (row, column) on into shared memory, 128-byte swizzle; rows and columns outside the matrix become zero. Its bytes count
// on `barrier`.
DEVICE void tma_load(void* to, const TensorMap* map, uint64_t* barrier, int column, int row) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];" ::"r"(
            shared_address(to)),
        "l"(map), "r"(shared_address(barrier)), "r"(column), "r"(row)
        : "memory");
}
// The other way; what is outside the matrix is not stored.
DEVICE void tma_store(const TensorMap* map, const void* from, int column, int row) {
    asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%0, {%2, %3}], [%1];" ::"l"(map),
                 "r"(shared_address(from)), "r"(column), "r"(row)
                 : "memory");
}
// to[i] += from[i] for `bytes` of floats.
DEVICE void bulk_reduce_add(float* to, const float* from, unsigned bytes) {
    asm volatile("cp.reduce.async.bulk.global.shared::cta.bulk_group.add.f32 [%0], [%1], %2;" ::"l"(to), "r"(shared_address(from)),
                 "r"(bytes)
                 : "memory");
}
// to[i] = from[i] for so many bytes.
DEVICE void bulk_store(float* to, const float* from, unsigned bytes) {
    asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(to), "r"(shared_address(from)), "r"(bytes)
                 : "memory");
}
DEVICE void bulk_commit() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
template <unsigned PENDING>
DEVICE void bulk_wait() {
    asm volatile("cp.async.bulk.wait_group %0;" ::"n"(PENDING) : "memory");
}

// Until `turn` blocks have had theirs; what they wrote by bulk copies comes before the bulk copies of this thread.
DEVICE void wait_for_turn(const uint32_t* turns, uint32_t turn) {
    uint32_t at;
    do {
        asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(at) : "l"(turns) : "memory");
    } while (at != turn);
    asm volatile("fence.proxy.async.global;" ::: "memory");
}
// This thread's bulk copies, which it has waited for, come before those of the block whose turn it is now.
DEVICE void give_turn(uint32_t* turns) {
    asm volatile("fence.proxy.async.global;" ::: "memory");
    asm volatile("red.release.gpu.global.add.u32 [%0], %1;" ::"l"(turns), "r"(1u) : "memory");
}

// Registers of each thread of the warpgroup, taken from or given to the block's others.
template <unsigned REGISTERS>
DEVICE void registers_increase() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(REGISTERS));
}
template <unsigned REGISTERS>
DEVICE void registers_decrease() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(REGISTERS));
}

// The address of a tile, and its offsets between groups of eight rows (`stride`) and, where columns are contiguous, between blocks of 64
// columns (`leading`), for products: 128-byte swizzle.
DEVICE uint64_t product_descriptor(const void* tile, uint32_t leading, uint32_t stride) {
    return static_cast<uint64_t>((shared_address(tile) & 0x3FFFF) >> 4) | static_cast<uint64_t>(leading >> 4) << 16 |
           static_cast<uint64_t>(stride >> 4) << 32 | 1ull << 62;
}

// Before a warpgroup's first product, and after its threads touched accumulators or fragments.
DEVICE void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
DEVICE void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <unsigned PENDING>
DEVICE void wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
}

// sum[64, COLUMNS] (+)= left[64, 16] * right[16, COLUMNS], of which a thread has COLUMNS / 2 numbers: i is of row
// 16 * warp + lane / 4 + 8 * (i / 2 % 2), column 8 * (i / 4) + 2 * (lane % 4) + i % 2. Transposed operands lie with rows of the output
// contiguous.
template <unsigned COLUMNS, bool LEFT_TRANSPOSED = false, bool RIGHT_TRANSPOSED = false>
DEVICE void wgmma(float (&sum)[COLUMNS / 2], uint64_t left, uint64_t right, bool accumulate);
// The same with the left operand in registers, in the layout of mma_m16n8k16.
template <unsigned COLUMNS, bool RIGHT_TRANSPOSED = false>
DEVICE void wgmma_registers(float (&sum)[COLUMNS / 2], const uint32_t (&left)[4], uint64_t right, bool accumulate);

// Operand lists of 8 and of 16 accumulators.
#define EIGHT(at)                                                                                                                         \
    "+f"(sum[at]), "+f"(sum[at + 1]), "+f"(sum[at + 2]), "+f"(sum[at + 3]), "+f"(sum[at + 4]), "+f"(sum[at + 5]), "+f"(sum[at + 6]),      \
        "+f"(sum[at + 7])
#define SIXTEEN(at)                                                                                                                       \
    "+f"(sum[at]), "+f"(sum[at + 1]), "+f"(sum[at + 2]), "+f"(sum[at + 3]), "+f"(sum[at + 4]), "+f"(sum[at + 5]), "+f"(sum[at + 6]),      \
        "+f"(sum[at + 7]), "+f"(sum[at + 8]), "+f"(sum[at + 9]), "+f"(sum[at + 10]), "+f"(sum[at + 11]), "+f"(sum[at + 12]),              \
        "+f"(sum[at + 13]), "+f"(sum[at + 14]), "+f"(sum[at + 15])

#define WGMMA_32_ACCUMULATORS "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"
template <>
DEVICE void wgmma<32, false, false>(float (&sum)[16], uint64_t left, uint64_t right, bool accumulate) {
    asm volatile(
        "{\n.reg .pred add;\nsetp.ne.b32 add, %18, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 {" WGMMA_32_ACCUMULATORS "}, %16, %17, add, 1, 1, 0, 0;\n}"
        : SIXTEEN(0)
        : "l"(left), "l"(right), "r"(static_cast<int>(accumulate)));
}
template <>
DEVICE void wgmma<32, true, true>(float (&sum)[16], uint64_t left, uint64_t right, bool accumulate) {
    asm volatile(
        "{\n.reg .pred add;\nsetp.ne.b32 add, %18, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 {" WGMMA_32_ACCUMULATORS "}, %16, %17, add, 1, 1, 1, 1;\n}"
        : SIXTEEN(0)
        : "l"(left), "l"(right), "r"(static_cast<int>(accumulate)));
}

#define WGMMA_64_ACCUMULATORS \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, " \
    "%24, %25, %26, %27, %28, %29, %30, %31"
template <>
DEVICE void wgmma<64, false, false>(float (&sum)[32], uint64_t left, uint64_t right, bool accumulate) {
    asm volatile(
        "{\n.reg .pred add;\nsetp.ne.b32 add, %34, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" WGMMA_64_ACCUMULATORS "}, %32, %33, add, 1, 1, 0, 0;\n}"
        : SIXTEEN(0), SIXTEEN(16)
        : "l"(left), "l"(right), "r"(static_cast<int>(accumulate)));
}
template <>
DEVICE void wgmma<64, false, true>(float (&sum)[32], uint64_t left, uint64_t right, bool accumulate) {
    asm volatile(
        "{\n.reg .pred add;\nsetp.ne.b32 add, %34, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" WGMMA_64_ACCUMULATORS "}, %32, %33, add, 1, 1, 0, 1;\n}"
        : SIXTEEN(0), SIXTEEN(16)
        : "l"(left), "l"(right), "r"(static_cast<int>(accumulate)));
}
template <>
DEVICE void wgmma<64, true, false>(float (&sum)[32], uint64_t left, uint64_t right, bool accumulate) {
    asm volatile(
        "{\n.reg .pred add;\nsetp.ne.b32 add, %34, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" WGMMA_64_ACCUMULATORS "}, %32, %33, add, 1, 1, 1, 0;\n}"
        : SIXTEEN(0), SIXTEEN(16)
        : "l"(left), "l"(right), "r"(static_cast<int>(accumulate)));
}
template <>
DEVICE void wgmma<64, true, true>(float (&sum)[32], uint64_t left, uint64_t right, bool accumulate) {
    asm volatile(
        "{\n.reg .pred add;\nsetp.ne.b32 add, %34, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" WGMMA_64_ACCUMULATORS "}, %32, %33, add, 1, 1, 1, 1;\n}"
        : SIXTEEN(0), SIXTEEN(16)
        : "l"(left), "l"(right), "r"(static_cast<int>(accumulate)));
}
template <>
DEVICE void wgmma_registers<64, false>(float (&sum)[32], const uint32_t (&left)[4], uint64_t right, bool accumulate) {
    asm volatile(
        "{\n.reg .pred add;\nsetp.ne.b32 add, %37, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" WGMMA_64_ACCUMULATORS "}, "
        "{%32, %33, %34, %35}, %36, add, 1, 1, 0;\n}"
        : SIXTEEN(0), SIXTEEN(16)
        : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "l"(right), "r"(static_cast<int>(accumulate)));
}
template <>
DEVICE void wgmma_registers<64, true>(float (&sum)[32], const uint32_t (&left)[4], uint64_t right, bool accumulate) {
    asm volatile(
        "{\n.reg .pred add;\nsetp.ne.b32 add, %37, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" WGMMA_64_ACCUMULATORS "}, "
        "{%32, %33, %34, %35}, %36, add, 1, 1, 1;\n}"
        : SIXTEEN(0), SIXTEEN(16)
        : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "l"(right), "r"(static_cast<int>(accumulate)));
}

// Of these widths, what attention needs of them.
#define WGMMA_80_ACCUMULATORS \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, " \
    "%23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39"
template <>
DEVICE void wgmma_registers<80, true>(float (&sum)[40], const uint32_t (&left)[4], uint64_t right, bool accumulate) {
    asm volatile(
        "{\n.reg .pred add;\nsetp.ne.b32 add, %45, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n80k16.f32.bf16.bf16 {" WGMMA_80_ACCUMULATORS "}, "
        "{%40, %41, %42, %43}, %44, add, 1, 1, 1;\n}"
        : SIXTEEN(0), SIXTEEN(16), EIGHT(32)
        : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "l"(right), "r"(static_cast<int>(accumulate)));
}

#define WGMMA_96_ACCUMULATORS \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, " \
    "%23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, " \
    "%44, %45, %46, %47"
template <>
DEVICE void wgmma_registers<96, true>(float (&sum)[48], const uint32_t (&left)[4], uint64_t right, bool accumulate) {
    asm volatile(
        "{\n.reg .pred add;\nsetp.ne.b32 add, %53, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n96k16.f32.bf16.bf16 {" WGMMA_96_ACCUMULATORS "}, "
        "{%48, %49, %50, %51}, %52, add, 1, 1, 1;\n}"
        : SIXTEEN(0), SIXTEEN(16), SIXTEEN(32)
        : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "l"(right), "r"(static_cast<int>(accumulate)));
}

#define WGMMA_128_ACCUMULATORS \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, " \
    "%24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, " \
    "%46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
template <>
DEVICE void wgmma<128, false, false>(float (&sum)[64], uint64_t left, uint64_t right, bool accumulate) {
    asm volatile(
        "{\n.reg .pred add;\nsetp.ne.b32 add, %66, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" WGMMA_128_ACCUMULATORS "}, %64, %65, add, 1, 1, 0, 0;\n}"
        : SIXTEEN(0), SIXTEEN(16), SIXTEEN(32), SIXTEEN(48)
        : "l"(left), "l"(right), "r"(static_cast<int>(accumulate)));
}
template <>
DEVICE void wgmma<128, false, true>(float (&sum)[64], uint64_t left, uint64_t right, bool accumulate) {
    asm volatile(
        "{\n.reg .pred add;\nsetp.ne.b32 add, %66, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" WGMMA_128_ACCUMULATORS "}, %64, %65, add, 1, 1, 0, 1;\n}"
        : SIXTEEN(0), SIXTEEN(16), SIXTEEN(32), SIXTEEN(48)
        : "l"(left), "l"(right), "r"(static_cast<int>(accumulate)));
}
template <>
DEVICE void wgmma<128, true, false>(float (&sum)[64], uint64_t left, uint64_t right, bool accumulate) {
    asm volatile(
        "{\n.reg .pred add;\nsetp.ne.b32 add, %66, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" WGMMA_128_ACCUMULATORS "}, %64, %65, add, 1, 1, 1, 0;\n}"
        : SIXTEEN(0), SIXTEEN(16), SIXTEEN(32), SIXTEEN(48)
        : "l"(left), "l"(right), "r"(static_cast<int>(accumulate)));
}
template <>
DEVICE void wgmma<128, true, true>(float (&sum)[64], uint64_t left, uint64_t right, bool accumulate) {
    asm volatile(
        "{\n.reg .pred add;\nsetp.ne.b32 add, %66, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" WGMMA_128_ACCUMULATORS "}, %64, %65, add, 1, 1, 1, 1;\n}"
        : SIXTEEN(0), SIXTEEN(16), SIXTEEN(32), SIXTEEN(48)
        : "l"(left), "l"(right), "r"(static_cast<int>(accumulate)));
}
template <>
DEVICE void wgmma_registers<128, false>(float (&sum)[64], const uint32_t (&left)[4], uint64_t right, bool accumulate) {
    asm volatile(
        "{\n.reg .pred add;\nsetp.ne.b32 add, %69, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" WGMMA_128_ACCUMULATORS "}, "
        "{%64, %65, %66, %67}, %68, add, 1, 1, 0;\n}"
        : SIXTEEN(0), SIXTEEN(16), SIXTEEN(32), SIXTEEN(48)
        : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "l"(right), "r"(static_cast<int>(accumulate)));
}
template <>
DEVICE void wgmma_registers<128, true>(float (&sum)[64], const uint32_t (&left)[4], uint64_t right, bool accumulate) {
    asm volatile(
        "{\n.reg .pred add;\nsetp.ne.b32 add, %69, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" WGMMA_128_ACCUMULATORS "}, "
        "{%64, %65, %66, %67}, %68, add, 1, 1, 1;\n}"
        : SIXTEEN(0), SIXTEEN(16), SIXTEEN(32), SIXTEEN(48)
        : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "l"(right), "r"(static_cast<int>(accumulate)));
}

#define WGMMA_256_ACCUMULATORS \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, " \
    "%24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, " \
    "%46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, %64, %65, %66, %67, " \
    "%68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, " \
    "%90, %91, %92, %93, %94, %95, %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, " \
    "%110, %111, %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
template <>
DEVICE void wgmma<256, false, false>(float (&sum)[128], uint64_t left, uint64_t right, bool accumulate) {
    asm volatile(
        "{\n.reg .pred add;\nsetp.ne.b32 add, %130, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {" WGMMA_256_ACCUMULATORS "}, %128, %129, add, 1, 1, 0, 0;\n}"
        : SIXTEEN(0), SIXTEEN(16), SIXTEEN(32), SIXTEEN(48),
          SIXTEEN(64), SIXTEEN(80), SIXTEEN(96), SIXTEEN(112)
        : "l"(left), "l"(right), "r"(static_cast<int>(accumulate)));
}
template <>
DEVICE void wgmma<256, false, true>(float (&sum)[128], uint64_t left, uint64_t right, bool accumulate) {
    asm volatile(
        "{\n.reg .pred add;\nsetp.ne.b32 add, %130, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {" WGMMA_256_ACCUMULATORS "}, %128, %129, add, 1, 1, 0, 1;\n}"
        : SIXTEEN(0), SIXTEEN(16), SIXTEEN(32), SIXTEEN(48),
          SIXTEEN(64), SIXTEEN(80), SIXTEEN(96), SIXTEEN(112)
        : "l"(left), "l"(right), "r"(static_cast<int>(accumulate)));
}
template <>
DEVICE void wgmma<256, true, false>(float (&sum)[128], uint64_t left, uint64_t right, bool accumulate) {
    asm volatile(
        "{\n.reg .pred add;\nsetp.ne.b32 add, %130, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {" WGMMA_256_ACCUMULATORS "}, %128, %129, add, 1, 1, 1, 0;\n}"
        : SIXTEEN(0), SIXTEEN(16), SIXTEEN(32), SIXTEEN(48),
          SIXTEEN(64), SIXTEEN(80), SIXTEEN(96), SIXTEEN(112)
        : "l"(left), "l"(right), "r"(static_cast<int>(accumulate)));
}
template <>
DEVICE void wgmma<256, true, true>(float (&sum)[128], uint64_t left, uint64_t right, bool accumulate) {
    asm volatile(
        "{\n.reg .pred add;\nsetp.ne.b32 add, %130, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {" WGMMA_256_ACCUMULATORS "}, %128, %129, add, 1, 1, 1, 1;\n}"
        : SIXTEEN(0), SIXTEEN(16), SIXTEEN(32), SIXTEEN(48),
          SIXTEEN(64), SIXTEEN(80), SIXTEEN(96), SIXTEEN(112)
        : "l"(left), "l"(right), "r"(static_cast<int>(accumulate)));
}
template <>
DEVICE void wgmma_registers<256, false>(float (&sum)[128], const uint32_t (&left)[4], uint64_t right, bool accumulate) {
    asm volatile(
        "{\n.reg .pred add;\nsetp.ne.b32 add, %133, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {" WGMMA_256_ACCUMULATORS "}, "
        "{%128, %129, %130, %131}, %132, add, 1, 1, 0;\n}"
        : SIXTEEN(0), SIXTEEN(16), SIXTEEN(32), SIXTEEN(48),
          SIXTEEN(64), SIXTEEN(80), SIXTEEN(96), SIXTEEN(112)
        : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "l"(right), "r"(static_cast<int>(accumulate)));
}
template <>
DEVICE void wgmma_registers<256, true>(float (&sum)[128], const uint32_t (&left)[4], uint64_t right, bool accumulate) {
    asm volatile(
        "{\n.reg .pred add;\nsetp.ne.b32 add, %133, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {" WGMMA_256_ACCUMULATORS "}, "
        "{%128, %129, %130, %131}, %132, add, 1, 1, 1;\n}"
        : SIXTEEN(0), SIXTEEN(16), SIXTEEN(32), SIXTEEN(48),
          SIXTEEN(64), SIXTEEN(80), SIXTEEN(96), SIXTEEN(112)
        : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "l"(right), "r"(static_cast<int>(accumulate)));
}

#endif
