/* Gathers rows of a batch out of mapped files. Three things that the C library's memcpy does not do for pieces of a few
 * kilobytes make it faster: it writes past the caches, so that the batch's old contents are not read first; it copies
 * all pages of a piece at the same time; and it touches the next piece meanwhile, which no CPU can foresee (copy.h).
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
#define PAGE_BYTES 4096
#define MOST_PIECE_BYTES (4 * PAGE_BYTES) /* more is a run */

/* A way to copy. Where it wants the destination aligned, pieces that are not fall to the next way. */
struct way {
    const char *name;
    size_t alignment;
    void (*piece)(uint8_t *to, const uint8_t *from, size_t size, const uint8_t *next);
    void (*run)(uint8_t *to, const uint8_t *from, size_t size);
};

static void memcpy_piece(uint8_t *to, const uint8_t *from, size_t size, const uint8_t *next) {
    (void)next;
    memcpy(to, from, size);
}

static void memcpy_run(uint8_t *to, const uint8_t *from, size_t size) { memcpy(to, from, size); }

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

static const struct way ways[] = {
    {"avx512", 64, copy_piece_avx512, copy_run_avx512},
    {"avx2", 32, copy_piece_avx2, copy_run_avx2},
    {"sse2", 16, copy_piece_sse2, copy_run_sse2},
    {"memcpy", 1, memcpy_piece, memcpy_run},
};

static int can(const struct way *way) {
    if (way->alignment == 64)
        return __builtin_cpu_supports("avx512f") != 0;
    return way->alignment != 32 || __builtin_cpu_supports("avx2") != 0;
}

/* Stores past the caches are seen by others in their order from here on. */
static void finish(void) { _mm_sfence(); }
#else
static const struct way ways[] = {{"memcpy", 1, memcpy_piece, memcpy_run}};

static int can(const struct way *way) { return way != NULL; }

static void finish(void) {}
#endif

#define NUM_WAYS ((int)(sizeof ways / sizeof *ways))

/* The name of a way to copy, the fastest first; NULL beyond the last, "" where this CPU does not have it. */
EXPORTED const char *reelshard_way(int number) {
    if (number < 0 || number >= NUM_WAYS)
        return NULL;
    return can(&ways[number]) ? ways[number].name : "";
}

struct job {
    const struct way *way;
    uint8_t *out;
    const uint64_t *sources;
    const int64_t *positions;
    size_t num_rows, num_chosen, num_pieces, piece_bytes;
};

/* The first of the ways from `number` on that this CPU has and that `out`, filled in steps of `step` bytes, allows. */
static const struct way *choose(int number, const uint8_t *out, size_t step) {
    for (; number < NUM_WAYS - 1; number++)
        if (can(&ways[number]) && (uintptr_t)out % ways[number].alignment == 0 &&
            step % ways[number].alignment == 0)
            break;
    return &ways[number];
}

/* How many pieces, `most` at most, lie side by side from the first chosen one on, as far as they are copied as one. */
static size_t count_neighbours(const int64_t *chosen, size_t most, size_t size) {
    size_t count = 1;
    while (count < most && (count + 1) * size <= MOST_PIECE_BYTES && chosen[count] == chosen[0] + (int64_t)count)
        count++;
    return count;
}

/* Copies one row; false if it names a piece that does not exist. */
static int copy_row(const struct job *job, size_t row, const uint8_t *source) {
    size_t size = job->piece_bytes;
    uint8_t *to = job->out + row * job->num_chosen * size;
    if (job->positions == NULL) {
        job->way->run(to, source, job->num_pieces * size);
        return 1;
    }
    const int64_t *chosen = job->positions + row * job->num_chosen;
    for (size_t i = 0, count; i < job->num_chosen; i += count, to += count * size) {
        if (chosen[i] < 0 || (size_t)chosen[i] >= job->num_pieces)
            return 0;
        size_t left = job->num_chosen - i, behind = job->num_pieces - (size_t)chosen[i];
        count = count_neighbours(chosen + i, left < behind ? left : behind, size);
        size_t next = (size_t)chosen[i + count < job->num_chosen ? i + count : i];
        const uint8_t *from = source + (size_t)chosen[i] * size;
        if (size == 0 || size > MOST_PIECE_BYTES)
            job->way->run(to, from, size);
        else
            job->way->piece(to, from, count * size, source + (next < job->num_pieces ? next : 0) * size);
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
 * way:       number of the way to copy, or of the first to be considered; 0 is the fastest of this CPU.
 *
 * Returns 0; 1 + the row that names a piece which does not exist; or -1 if SIGBUS cannot be had. */
EXPORTED int reelshard_copy_rows(uint8_t *out, const uint64_t *sources, const int64_t *positions, uint8_t *lost,
                                 size_t num_rows, size_t num_chosen, size_t num_pieces, size_t piece_bytes, int way) {
    const struct way *chosen = choose(way, out, positions == NULL ? num_pieces * piece_bytes : piece_bytes);
    const struct job job = {chosen, out, sources, positions, num_rows, num_chosen, num_pieces, piece_bytes};
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
