/* Gathers rows of a batch out of mapped files. Two things that the C library's memcpy does not do for pieces of a few
 * kilobytes make it faster: it writes past the caches, so that the batch's old contents are not read first; and it
 * fetches ahead, over the borders of pieces and rows, which no CPU can foresee (copy.h).
 *
 * One binary has the copy in each width of registers; which is taken, the CPU that runs it says.
 *
 * Nothing else in the project reads a mapping: here alone a page that is not there any more is survived (guard.c).
 *
 * Built by hatch_build.py, called through gather.py; without a C compiler files are read, not mapped. */
#define _GNU_SOURCE
#include "guard.h"

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define EXPORTED __attribute__((visibility("default")))
#define LINE_BYTES 64
#define AHEAD_BYTES 8192 /* how far fetching is ahead of copying */
#define BLOCK_BYTES 128  /* what is fetched, then copied, at a time */
/* Into the second cache: more can be under way to it than to the first. */
#define FETCH(from) __builtin_prefetch(from, 0, 2)

struct job {
    uint8_t *out;
    const uint64_t *sources;
    const int64_t *positions;
    size_t num_rows, num_chosen, num_pieces, piece_bytes;
};

/* Pieces of one row that lie side by side where they come from, as they do in the batch. */
struct run {
    size_t row, place, count; /* the place of the first among those chosen of its row */
    const uint8_t *from;
};

enum step { AT_A_RUN, AT_THE_END, AT_A_MISSING_PIECE };

/* Goes on to the run after this one. */
static enum step next_run(const struct job *job, struct run *run) {
    run->place += run->count;
    run->count = 0;
    while (run->row < job->num_rows && (run->place == job->num_chosen || job->sources[run->row] == 0)) {
        run->row++;
        run->place = 0;
    }
    if (run->row == job->num_rows)
        return AT_THE_END;
    const uint8_t *source = (const uint8_t *)(uintptr_t)job->sources[run->row];
    if (job->positions == NULL) {
        run->from = source;
        run->count = job->num_pieces;
        return AT_A_RUN;
    }
    const int64_t *chosen = job->positions + run->row * job->num_chosen + run->place;
    if (chosen[0] < 0 || (size_t)chosen[0] >= job->num_pieces)
        return AT_A_MISSING_PIECE;
    size_t left = job->num_chosen - run->place, behind = job->num_pieces - (size_t)chosen[0];
    size_t most = left < behind ? left : behind, count = 1;
    while (count < most && chosen[count] == chosen[0] + (int64_t)count)
        count++;
    run->from = source + (size_t)chosen[0] * job->piece_bytes;
    run->count = count;
    return AT_A_RUN;
}

/* Where a run comes to lie in the batch, of which it is about to be read. */
static uint8_t *begin_run(const struct job *job, const struct run *run, struct guard *guard, volatile size_t *row) {
    if (run->place == 0) {
        *row = run->row;
        guard_watch(guard, (const uint8_t *)(uintptr_t)job->sources[run->row], job->num_pieces * job->piece_bytes);
    }
    return job->out + (run->row * job->num_chosen + run->place) * job->piece_bytes;
}

/* Copies rows from `*row` on, which always says which row is being read; false if that one names a missing piece. */
__attribute__((noinline)) static int copy_rows_memcpy(const struct job *job, struct guard *guard,
                                                      volatile size_t *row) {
    struct run run = {.row = *row};
    enum step step;
    while ((step = next_run(job, &run)) == AT_A_RUN)
        memcpy(begin_run(job, &run, guard, row), run.from, run.count * job->piece_bytes);
    *row = run.row;
    return step == AT_THE_END;
}

#ifdef __x86_64__
#include <immintrin.h>

#define NAME(function) function##_avx512
#define TARGET __attribute__((target("avx512f")))
#define COPY_LINE(to, from) _mm512_stream_si512((void *)(to), _mm512_loadu_si512((const void *)(from)))
#include "copy.h"

#define NAME(function) function##_avx2
#define TARGET __attribute__((target("avx2")))
#define COPY_LINE(to, from)                                                                                            \
    for (int i = 0; i < LINE_BYTES; i += 32)                                                                           \
    _mm256_stream_si256((__m256i *)((to) + i), _mm256_loadu_si256((const __m256i *)((from) + i)))
#include "copy.h"

#define NAME(function) function##_sse2
#define TARGET
#define COPY_LINE(to, from)                                                                                            \
    for (int i = 0; i < LINE_BYTES; i += 16)                                                                           \
    _mm_stream_si128((__m128i *)((to) + i), _mm_loadu_si128((const __m128i *)((from) + i)))
#include "copy.h"

/* Stores past the caches are seen by others in their order from here on. */
static void finish(void) { _mm_sfence(); }
#else
static void finish(void) {}
#endif

/* A way to copy. Where it wants the destination aligned, pieces that are not fall to the next way. */
static const struct way {
    const char *name;
    size_t alignment;
    int (*copy_rows)(const struct job *job, struct guard *guard, volatile size_t *row);
} ways[] = {
#ifdef __x86_64__
    {"avx512", 64, copy_rows_avx512},
    {"avx2", 32, copy_rows_avx2},
    {"sse2", 16, copy_rows_sse2},
#endif
    {"memcpy", 1, copy_rows_memcpy},
};

#define NUM_WAYS ((int)(sizeof ways / sizeof *ways))

static int can(const struct way *way) {
#ifdef __x86_64__
    if (way->alignment == 64)
        return __builtin_cpu_supports("avx512f") != 0;
    if (way->alignment == 32)
        return __builtin_cpu_supports("avx2") != 0;
#endif
    return way != NULL;
}

/* The name of a way to copy, the fastest first; NULL beyond the last, "" where this CPU does not have it. */
EXPORTED const char *reelshard_way(int number) {
    if (number < 0 || number >= NUM_WAYS)
        return NULL;
    return can(&ways[number]) ? ways[number].name : "";
}

/* The first of the ways from `number` on that this CPU has and that `out`, filled in steps of `step` bytes, allows. */
static const struct way *choose(int number, const uint8_t *out, size_t step) {
    for (; number < NUM_WAYS - 1; number++)
        if (can(&ways[number]) && (uintptr_t)out % ways[number].alignment == 0 &&
            step % ways[number].alignment == 0)
            break;
    return &ways[number];
}

/* Fills `out`, num_rows x num_chosen x piece_bytes.
 *
 * sources:   address of each row's payload, num_pieces x piece_bytes; 0 leaves the row of `out` as it is.
 * positions: num_rows x num_chosen, which pieces to take; NULL takes all, and num_chosen is num_pieces.
 * lost:      num_rows; set to 1 for each row whose source was not there (SIGBUS), which is then undefined in `out`.
 * way:       number of the way to copy, or of the first to be considered; 0 is the fastest of this CPU.
 *
 * Returns 0; 1 + the row that names a piece which does not exist; or -1 if SIGBUS cannot be had. */
EXPORTED int reelshard_copy_rows(uint8_t *out, const uint64_t *sources, const int64_t *positions, uint8_t *lost,
                                 size_t num_rows, size_t num_chosen, size_t num_pieces, size_t piece_bytes, int way) {
    const struct way *chosen = choose(way, out, positions == NULL ? num_pieces * piece_bytes : piece_bytes);
    const struct job job = {out, sources, positions, num_rows, num_chosen, num_pieces, piece_bytes};
    struct guard *guard = guard_enter();
    if (guard == NULL)
        return -1;
    volatile size_t row = 0;
    if (sigsetjmp(guard->back, 0)) { /* a fault in this row: go on with the next */
        guard_again(guard);
        lost[row] = 1;
        row++;
    }
    int all_exist = chosen->copy_rows(&job, guard, &row);
    finish();
    guard_leave(guard);
    return all_exist ? 0 : (int)row + 1;
}

/* Copies bytes through the caches, fetching ahead. */
static void copy_run(uint8_t *to, const uint8_t *from, size_t size) {
    size_t done = 0;
    for (; done + BLOCK_BYTES <= size; done += BLOCK_BYTES) {
        for (size_t i = 0; i < BLOCK_BYTES; i += LINE_BYTES)
            FETCH(from + done + AHEAD_BYTES + i);
        memcpy(to + done, from + done, BLOCK_BYTES);
    }
    memcpy(to + done, from + done, size - done);
}

/* Copies `size` bytes for somebody who reads them next. Returns 0; 1 if they were not all there; -1 if SIGBUS cannot be
 * had. */
EXPORTED int reelshard_copy_bytes(uint8_t *out, const uint8_t *source, size_t size) {
    struct guard *guard = guard_enter();
    if (guard == NULL)
        return -1;
    if (sigsetjmp(guard->back, 0)) {
        guard_again(guard);
        guard_leave(guard);
        return 1;
    }
    guard_watch(guard, source, size);
    copy_run(out, source, size);
    guard_leave(guard);
    return 0;
}
