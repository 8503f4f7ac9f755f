/* Survives SIGBUS while bytes of a mapped file are copied. See guard.c. */
#ifndef REELSHARD_GUARD_H
#define REELSHARD_GUARD_H

#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>

/* One thread's copy under way. */
struct guard {
    atomic_int taken;
    _Atomic(pthread_t) thread;
    volatile uintptr_t first, last; /* a fault between these addresses is ours */
    sigset_t before;                /* the thread's signal mask outside of the copy */
    sigjmp_buf back;                /* where a fault leads; set with sigsetjmp(back, 0) by the function that copies */
};

/* Begins a copy: SIGBUS reaches our handler and is not blocked. NULL if it cannot be had. */
struct guard *guard_enter(void);

/* Says which bytes are about to be read. */
static inline void guard_watch(struct guard *guard, const uint8_t *from, size_t size) {
    guard->first = (uintptr_t)from;
    guard->last = (uintptr_t)from + size;
    atomic_signal_fence(memory_order_seq_cst); /* no read may move ahead of this */
}

/* After a fault, before anything else is read. */
void guard_again(struct guard *guard);

/* Ends the copy. */
void guard_leave(struct guard *guard);

#endif
