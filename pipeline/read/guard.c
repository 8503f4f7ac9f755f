/* A page of a mapped file that is not there any more, since the file was cut, overwritten in place or lies on storage that
 * failed, is SIGBUS, and no check beforehand can exclude it. Here the copy that touched it jumps back and says which row it
 * was in. All that is done in the handler is async-signal-safe: it reads a static table and jumps, or calls who was there
 * before.
 *
 * Whose fault it is. A fault is ours if this thread is in a copy and the address lies in the bytes being read. Everything
 * else (other addresses, other threads, kill) goes to the handler that we found.
 *
 * Who was there before. Others install handlers after us: faulthandler, signal.signal, a debugger's library. So every copy
 * looks first whether the handler is ours (a system call of 0.4 us for some 32 rows) and otherwise puts itself in front
 * again. Such a handler may hold ours as the one before it, and call or restore it. For this there are several entries of
 * our handler, each with one fixed handler behind it: what they restore is the entry they found, which goes on to whom it
 * found, so no chain can run in a circle, and a handler that was removed is never called. */
#define _GNU_SOURCE
#include "guard.h"

#include <sched.h>
#include <stddef.h>
#include <string.h>

#define NUM_GUARDS 256
#define NUM_ENTRIES 16
#define LARGEST_PAGE_BYTES 65536

static struct guard guards[NUM_GUARDS];
static struct sigaction behind[NUM_ENTRIES]; /* by entry; never changed once the entry is in use */
static int num_used;
static pthread_mutex_t installing = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t prepared = PTHREAD_ONCE_INIT;

static struct guard *find(const void *fault) {
    uintptr_t address = (uintptr_t)fault;
    for (int i = 0; i < NUM_GUARDS; i++) {
        struct guard *guard = &guards[i];
        if (!atomic_load(&guard->taken) || !pthread_equal(atomic_load(&guard->thread), pthread_self()))
            continue;
        /* Some machines report only the page. */
        uintptr_t first = guard->first / LARGEST_PAGE_BYTES * LARGEST_PAGE_BYTES;
        if (guard->last != 0 && address >= first && address < guard->last)
            return guard;
    }
    return NULL;
}

/* Does what would have happened without us. */
static void pass_on(const struct sigaction *next, int number, siginfo_t *info, void *context) {
    const struct sigaction plain = {.sa_handler = SIG_DFL};
    int is_fault = info->si_code > 0; /* and not kill or raise */
    if (!(next->sa_flags & SA_SIGINFO) && next->sa_handler == SIG_IGN && !is_fault)
        return;
    if (!(next->sa_flags & SA_SIGINFO) && (next->sa_handler == SIG_DFL || next->sa_handler == SIG_IGN)) {
        sigaction(number, &plain, NULL);
        if (!is_fault)
            raise(number);
        return; /* a fault comes again at once, and ends the process as it should */
    }
    if (next->sa_flags & (int)SA_RESETHAND)
        sigaction(number, &plain, NULL);
    sigset_t blocked = next->sa_mask, mask;
    if (!(next->sa_flags & SA_NODEFER))
        sigaddset(&blocked, number);
    pthread_sigmask(SIG_BLOCK, &blocked, &mask);
    if (next->sa_flags & SA_SIGINFO)
        next->sa_sigaction(number, info, context);
    else
        next->sa_handler(number);
    pthread_sigmask(SIG_SETMASK, &mask, NULL);
}

static void handle(int entry, int number, siginfo_t *info, void *context) {
    struct guard *guard = info->si_code == BUS_ADRERR ? find(info->si_addr) : NULL;
    if (guard != NULL)
        siglongjmp(guard->back, 1);
    pass_on(&behind[entry], number, info, context);
}

#define FOR_EACH_ENTRY(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15)
#define DEFINE(n) \
    static void entry_##n(int number, siginfo_t *info, void *context) { handle(n, number, info, context); }
#define NAME(n) entry_##n,
FOR_EACH_ENTRY(DEFINE)
static void (*const entries[NUM_ENTRIES])(int, siginfo_t *, void *) = {FOR_EACH_ENTRY(NAME)};

static struct sigaction current(void) {
    struct sigaction now;
    memset(&now, 0, sizeof now);
    sigaction(SIGBUS, NULL, &now);
    return now;
}

static int is_ours(const struct sigaction *action) {
    for (int i = 0; action->sa_flags & SA_SIGINFO && i < NUM_ENTRIES; i++)
        if (action->sa_sigaction == entries[i])
            return 1;
    return 0;
}

static int is_same(const struct sigaction *one, const struct sigaction *two) {
    int flags_and_mask = one->sa_flags == two->sa_flags && !memcmp(&one->sa_mask, &two->sa_mask, sizeof one->sa_mask);
    return flags_and_mask && one->sa_sigaction == two->sa_sigaction;
}

/* The entry that goes on to `found`, or -1 when there are no more. */
static int entry_before(const struct sigaction *found) {
    int entry = 0;
    while (entry < num_used && !is_same(&behind[entry], found))
        entry++;
    if (entry == NUM_ENTRIES)
        return -1;
    if (entry == num_used)
        behind[num_used++] = *found;
    return entry;
}

static int install(void) {
    struct sigaction found = current();
    if (is_ours(&found))
        return 1;
    int done = 0;
    pthread_mutex_lock(&installing);
    for (found = current(); !done;) {
        int entry = is_ours(&found) ? 0 : entry_before(&found);
        if (entry < 0)
            break;
        struct sigaction ours = {.sa_sigaction = entries[entry], .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER};
        struct sigaction replaced;
        memset(&replaced, 0, sizeof replaced);
        sigaction(SIGBUS, is_ours(&found) ? &found : &ours, &replaced);
        done = is_ours(&found) || is_same(&replaced, &found);
        found = replaced; /* where somebody came in between, go on to them instead */
    }
    pthread_mutex_unlock(&installing);
    return done;
}

static void before_fork(void) { pthread_mutex_lock(&installing); }

static void after_fork_in_parent(void) { pthread_mutex_unlock(&installing); }

static void after_fork_in_child(void) {
    for (int i = 0; i < NUM_GUARDS; i++) /* the threads that held them are not in the child */
        atomic_store(&guards[i].taken, 0);
    pthread_mutex_unlock(&installing);
}

static void prepare(void) { pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child); }

static sigset_t only_sigbus(void) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGBUS);
    return set;
}

struct guard *guard_enter(void) {
    pthread_once(&prepared, prepare);
    if (!install())
        return NULL;
    size_t place = (size_t)((uintptr_t)pthread_self() >> 12);
    for (;; place++) {
        struct guard *guard = &guards[place % NUM_GUARDS];
        int nobody = 0;
        if (!atomic_compare_exchange_strong(&guard->taken, &nobody, 1)) {
            if (place % NUM_GUARDS == 0)
                sched_yield();
            continue;
        }
        sigset_t bus = only_sigbus();
        atomic_store(&guard->thread, pthread_self());
        pthread_sigmask(SIG_UNBLOCK, &bus, &guard->before); /* blocked, it would end the process */
        return guard;
    }
}

void guard_again(struct guard *guard) {
    sigset_t bus = only_sigbus();
    pthread_sigmask(SIG_SETMASK, &guard->before, NULL);
    pthread_sigmask(SIG_UNBLOCK, &bus, NULL);
}

void guard_leave(struct guard *guard) {
    atomic_signal_fence(memory_order_seq_cst);
    guard->first = guard->last = 0;
    if (sigismember(&guard->before, SIGBUS))
        pthread_sigmask(SIG_SETMASK, &guard->before, NULL);
    atomic_store(&guard->taken, 0);
}
