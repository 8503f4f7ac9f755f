/* The two copies that `gather` makes, once for each width of the CPU's registers. No include guard: gather.c defines
 *
 *   NAME(f)                 the function `f` of this width
 *   TARGET                  the attribute that lets the compiler use these registers
 *   COPY_LINE(to, from)     64 bytes, past the caches
 *
 * and includes this file, which leaves none of them defined. */

/* Copies a piece of a few pages, all of its pages at the same time, so that as many are on their way from memory as the
 * CPU follows; meanwhile it touches the pages of the next piece, which spares that one the walk through the page tables.
 * Fetching from nowhere does no harm. */
TARGET static void NAME(copy_piece)(uint8_t *to, const uint8_t *from, size_t size, const uint8_t *next) {
    for (size_t page = 0; page < size; page += PAGE_BYTES)
        __builtin_prefetch(next + page);
    size_t num_lanes = (size + PAGE_BYTES - 1) / PAGE_BYTES;
    size_t lane_bytes = size / num_lanes / LINE_BYTES * LINE_BYTES;
    size_t done = num_lanes * lane_bytes;
#define COPY_LANES(count)                                                                                              \
    for (size_t at = 0; at < lane_bytes; at += LINE_BYTES)                                                             \
        for (size_t lane = 0; lane < (count); lane++)                                                                  \
            COPY_LINE(to + lane * lane_bytes + at, from + lane * lane_bytes + at)
    switch (num_lanes) { /* numbers that the compiler knows: it unrolls the inner loop */
    case 2: COPY_LANES(2); break;
    case 3: COPY_LANES(3); break;
    case 4: COPY_LANES(4); break;
    default: COPY_LANES(1); break;
    }
#undef COPY_LANES
    memcpy(to + done, from + done, size - done);
}

/* Copies much, in order: one stream, which the CPU foresees, fetched a page ahead. */
TARGET static void NAME(copy_run)(uint8_t *to, const uint8_t *from, size_t size) {
    size_t done = 0;
    for (; done + LINE_BYTES <= size; done += LINE_BYTES) {
        __builtin_prefetch(from + done + PAGE_BYTES);
        COPY_LINE(to + done, from + done);
    }
    memcpy(to + done, from + done, size - done);
}

#undef NAME
#undef TARGET
#undef COPY_LINE
