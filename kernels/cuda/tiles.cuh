// Tiles of bf16 in shared memory.

// Where rows of WIDTH numbers lie, in chunks of 16 bytes, so that the eight rows of an ldmatrix fall into different banks: chunks are
// exchanged within a row by the row's last three bits, or, where a row is not a multiple of eight chunks, a chunk is left free between
// rows, which makes their distance odd.
template <int WIDTH>
struct Layout {
    static constexpr int CHUNKS = WIDTH / 8;
    static constexpr bool SWIZZLED = CHUNKS % 8 == 0;
    static constexpr int STRIDE = SWIZZLED ? WIDTH : WIDTH + 8;

    static DEVICE unsigned at(unsigned row, unsigned chunk) { return row * STRIDE + 8 * (SWIZZLED ? chunk ^ row % 8 : chunk); }
};
