// The tiles that the products of all experts are cut into. Which there are follows from `segments`, so the host need not know it.

constexpr int EXPERTS_MAX = 256;

// A tile of an expert's product, and the expert's rows.
struct Tile {
    uint32_t expert, first_row, end_row, row, column;
};

DEVICE uint32_t parts_of(uint32_t len, uint32_t each) { return (len + each - 1) / each; }

// Tiles of ROWS x COLUMNS numbers, expert by expert. Expert e has rows segments[e] to before segments[e + 1], of `rows`; its product has
// `columns` and as many rows or, where the rows are what is summed over, `high` (0: they are not). A sum over no rows is `skipped`, or zero.
template <int ROWS, int COLUMNS>
struct Tiles {
    const uint32_t* segments;
    uint32_t experts, rows, columns, high;
    bool skipped;
    // Shared, EXPERTS_MAX + 1: tiles of all experts before each.
    uint32_t* first;

    // By all threads of the block, 256 or more: one for each expert.
    DEVICE void count() const {
        const unsigned expert = threadIdx.x;
        const bool counts = expert < EXPERTS_MAX;
        uint32_t tiles = 0;
        if (expert < experts) {
            const uint32_t len = min(segments[expert + 1], rows) - min(segments[expert], rows);
            tiles = len == 0 && skipped ? 0 : parts_of(high == 0 ? len : high, ROWS) * parts_of(columns, COLUMNS);
        }
        if (expert == 0) first[0] = 0;
        if (counts) first[expert + 1] = tiles;
        __syncthreads();
        for (unsigned distance = 1; distance < EXPERTS_MAX; distance *= 2) {
            const uint32_t before = counts && expert + 1 > distance ? first[expert + 1 - distance] : 0;
            __syncthreads();
            if (counts) first[expert + 1] += before;
            __syncthreads();
        }
    }

    DEVICE uint32_t len() const { return first[experts]; }

    // Where tile `number` is: tiles of an expert go down its rows first, so that neighbours share a weight's columns.
    DEVICE Tile find(uint32_t number) const {
        uint32_t low = 0, past = experts;
        while (past - low > 1) {
            const uint32_t middle = low + (past - low) / 2;
            if (first[middle] <= number) low = middle;
            else past = middle;
        }
        Tile tile;
        tile.expert = low;
        tile.first_row = min(segments[low], rows);
        tile.end_row = min(segments[low + 1], rows);
        const uint32_t below_each_other = parts_of(high == 0 ? tile.end_row - tile.first_row : high, ROWS);
        const uint32_t within = number - first[low];
        tile.row = within % below_each_other * ROWS;
        tile.column = within / below_each_other * COLUMNS;
        return tile;
    }
};

// Two neighbouring numbers of a product, bf16 or f32, added to what is there and rounded once.
DEVICE uint32_t added(uint32_t before, float first, float second) {
    return pack_bf16(first + __uint_as_float(before << 16), second + __uint_as_float(before & 0xFFFF0000u));
}
DEVICE float2 added(float2 before, float first, float second) { return make_float2(before.x + first, before.y + second); }

// Where such pairs go: over what is there, or added to it.
template <typename Number, typename Pair>
struct Pairs {
    Number* product;
    uint32_t columns;
    bool add;

    DEVICE Pair* place(uint32_t row, uint32_t column) const { return reinterpret_cast<Pair*>(product + uint64_t(row) * columns + column); }
    DEVICE Pair load(uint32_t row, uint32_t column) const { return add ? *place(row, column) : Pair(); }
    DEVICE void store(uint32_t row, uint32_t column, Pair before, float first, float second) const {
        *place(row, column) = added(before, first, second);
    }
};
using StoredPairs = Pairs<uint16_t, uint32_t>;
