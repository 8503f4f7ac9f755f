/* Gathers rows of a batch out of mapped files. Two things that the C library's memcpy does not do for pieces of a few
 * kilobytes make it faster: it writes past the caches, so that the batch's old contents are not read first, and it
 * fetches the next piece while it copies this one, which no hardware prefetcher can foresee.
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
#define AHEAD_BYTES 4096

#ifdef __SSE2__
#include <emmintrin.h>

static void copy_line(uint8_t *to, const uint8_t *from) {
    for (int i = 0; i < LINE_BYTES; i += 16)
        _mm_stream_si128((__m128i *)(to + i), _mm_loadu_si128((const __m128i *)(from + i)));
}

static int can_stream(const uint8_t *to) { return (uintptr_t)to % 16 == 0; }

static void finish(void) { _mm_sfence(); }
#else
static void copy_line(uint8_t *to, const uint8_t *from) { memcpy(to, from, LINE_BYTES); }

static int can_stream(const uint8_t *to) { return to != NULL; }

static void finish(void) {}
#endif

/* Copies `size` bytes while it fetches as many from `next` on into the cache; fetching from nowhere does no harm. */
static void copy(uint8_t *to, const uint8_t *from, size_t size, const uint8_t *next) {
    size_t done = 0;
    if (can_stream(to))
        for (; done + LINE_BYTES <= size; done += LINE_BYTES) {
            __builtin_prefetch(next + done);
            copy_line(to + done, from + done);
        }
    memcpy(to + done, from + done, size - done);
}

struct job {
    uint8_t *out;
    const uint64_t *sources;
    const int64_t *positions;
    size_t num_rows, num_chosen, num_pieces, piece_bytes;
};

/* Copies one row; false if it names a piece that does not exist. */
static int copy_row(const struct job *job, size_t row, const uint8_t *source) {
    uint8_t *to = job->out + row * job->num_chosen * job->piece_bytes;
    if (job->positions == NULL) {
        copy(to, source, job->num_pieces * job->piece_bytes, source + AHEAD_BYTES);
        return 1;
    }
    const int64_t *chosen = job->positions + row * job->num_chosen;
    for (size_t i = 0; i < job->num_chosen; i++, to += job->piece_bytes) {
        if (chosen[i] < 0 || (size_t)chosen[i] >= job->num_pieces)
            return 0;
        size_t next = (size_t)chosen[i + 1 < job->num_chosen ? i + 1 : i];
        const uint8_t *ahead = source + (next < job->num_pieces ? next : 0) * job->piece_bytes;
        copy(to, source + (size_t)chosen[i] * job->piece_bytes, job->piece_bytes, ahead);
    }
    return 1;
}

/* Copies rows from `*row` on, which always says which row is being read; false if that one names a missing piece.
 * Not inlined: in a function that calls sigsetjmp, compilers keep the loops of the copy as they are written. */
__attribute__((noinline)) static int copy_rows(const struct job *job, struct guard *guard, volatile size_t *row) {
    for (; *row < job->num_rows; (*row)++) {
        const uint8_t *source = (const uint8_t *)(uintptr_t)job->sources[*row];
        if (source == NULL)
            continue;
        guard_watch(guard, source, job->num_pieces * job->piece_bytes);
        if (!copy_row(job, *row, source))
            return 0;
    }
    return 1;
}

/* Fills `out`, num_rows x num_chosen x piece_bytes.
 *
 * sources:   address of each row's payload, num_pieces x piece_bytes; 0 leaves the row of `out` as it is.
 * positions: num_rows x num_chosen, which pieces to take; NULL takes all, and num_chosen is num_pieces.
 * lost:      num_rows; set to 1 for each row whose source was not there (SIGBUS), which is then undefined in `out`.
 *
 * Returns 0; 1 + the row that names a piece which does not exist; or -1 if SIGBUS cannot be had. */
EXPORTED int reelshard_copy_rows(uint8_t *out, const uint64_t *sources, const int64_t *positions, uint8_t *lost,
                                 size_t num_rows, size_t num_chosen, size_t num_pieces, size_t piece_bytes) {
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
    int all_exist = copy_rows(&job, guard, &row);
    finish();
    guard_leave(guard);
    return all_exist ? 0 : (int)row + 1;
}

/* Copies `size` bytes through the caches, for somebody who reads them next. Returns 0; 1 if they were not all there; or -1
 * if SIGBUS cannot be had. */
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
    memcpy(out, source, size);
    guard_leave(guard);
    return 0;
}
