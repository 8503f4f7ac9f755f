/* The copy that `gather` makes, once for each width of the CPU's registers. No include guard: gather.c defines
 *
 *   NAME(f)                 the function `f` of this width
 *   TARGET                  the attribute that lets the compiler use these registers
 *   COPY_LINE(to, from)     64 bytes, past the caches
 *
 * and includes this file, which leaves none of them defined. */

/* See `copy_rows_memcpy`. What is fetched runs ahead of what is copied, from run to run and row to row: fetching from
 * nowhere does no harm. Not inlined: in a function that calls sigsetjmp, compilers keep loops as they are written. */
TARGET __attribute__((noinline)) static int NAME(copy_rows)(const struct job *job, struct guard *guard,
                                                            volatile size_t *row) {
    struct run run = {.row = *row}, ahead = run;
    int more_ahead = next_run(job, &ahead) == AT_A_RUN;
    size_t lead = 0, fetched = 0; /* bytes fetched and not copied yet; bytes fetched of the run ahead */
    enum step step;
    while ((step = next_run(job, &run)) == AT_A_RUN) {
        uint8_t *to = begin_run(job, &run, guard, row);
        const uint8_t *from = run.from;
        for (size_t left = run.count * job->piece_bytes; left > 0;) {
            while (more_ahead && lead < AHEAD_BYTES) {
                for (size_t i = 0; i < BLOCK_BYTES; i += LINE_BYTES)
                    FETCH(ahead.from + fetched + i);
                fetched += BLOCK_BYTES;
                lead += BLOCK_BYTES;
                if (fetched >= ahead.count * job->piece_bytes) {
                    more_ahead = next_run(job, &ahead) == AT_A_RUN;
                    fetched = 0;
                }
            }
            lead -= lead < BLOCK_BYTES ? lead : BLOCK_BYTES;
            size_t size = left < BLOCK_BYTES ? left : BLOCK_BYTES;
            size_t done = 0;
            for (; done + LINE_BYTES <= size; done += LINE_BYTES)
                COPY_LINE(to + done, from + done);
            memcpy(to + done, from + done, size - done);
            to += size;
            from += size;
            left -= size;
        }
    }
    *row = run.row;
    return step == AT_THE_END;
}

#undef NAME
#undef TARGET
#undef COPY_LINE
