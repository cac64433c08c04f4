/* A process that outlives ours for a moment: see pci_watchdog_abi.h. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "snabb_py/engine/pci_watchdog.h"

enum {
    COMMAND = 4,
    BUS_MASTER = 1 << 2,
    NKEPT = 4, /* file descriptors of the child */
    END_TIMEOUT_MS = 5000,
};

/* ---- in the child: nothing but system calls, since another thread may have held any
 * lock at the fork */

static void keep_only(int kept[NKEPT])
{
    for (int i = 1; i < NKEPT; i++)
        for (int j = i; j > 0 && kept[j] < kept[j - 1]; j--) {
            int fd = kept[j];
            kept[j] = kept[j - 1];
            kept[j - 1] = fd;
        }
    unsigned int first = 0;
    for (int i = 0; i < NKEPT; i++) {
        if (kept[i] < 0)
            continue;
        unsigned int fd = (unsigned int)kept[i];
        if (fd > first)
            syscall(SYS_close_range, first, fd - 1, 0);
        first = fd + 1;
    }
    syscall(SYS_close_range, first, UINT_MAX, 0);
}

/* Returns whether the parent has gone without a word. The end of the pipe tells it, and
 * the parent's pidfd, should another child have inherited the pipe. */
static int is_needed(int pipe_fd, int parent_fd)
{
    struct pollfd fds[2] = {{.fd = pipe_fd, .events = POLLIN},
                            {.fd = parent_fd, .events = POLLIN}};
    while (poll(fds, 2, -1) < 0)
        if (errno != EINTR && errno != EAGAIN)
            return 1;
    char word;
    /* The word may have come just before the end. */
    struct pollfd last = {.fd = pipe_fd, .events = POLLIN};
    if (poll(&last, 1, 0) > 0 && (last.revents & POLLIN))
        return read(pipe_fd, &word, 1) != 1;
    return 1;
}

/* Wait until the parent has ended, and has all its files closed, of which the pipe may
 * have been an early one. What VFIO gave it is stopped and reset by the kernel when it is
 * closed, but only if nobody has the device locked, as an unbind that waits for it does.
 * After an exec it does not end; its files are closed all the same. */
static void wait_for_end(int parent_fd)
{
    struct pollfd fd = {.fd = parent_fd, .events = POLLIN};
    if (parent_fd >= 0)
        poll(&fd, 1, END_TIMEOUT_MS);
}

static void clear_bus_master(int config)
{
    uint16_t command;
    if (pread(config, &command, sizeof(command), COMMAND) != sizeof(command))
        return;
    command &= (uint16_t)~BUS_MASTER;
    ssize_t n = pwrite(config, &command, sizeof(command), COMMAND);
    /* The answer to a read comes after all that the device wrote before it. */
    n = pread(config, &command, sizeof(command), COMMAND);
    (void)n;
}

static void write_to(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return;
    ssize_t n = write(fd, text, strlen(text));
    (void)n;
    close(fd);
}

static void watch(const struct pci_watchdog *watchdog, int pipe_fd, int parent_fd)
{
    /* Out of the way of what is sent to our group, by the terminal or a shell. */
    setsid();
    prctl(PR_SET_NAME, "snabb-watchdog");
    keep_only((int[NKEPT]){watchdog->config, watchdog->lock, pipe_fd, parent_fd});
    if (!is_needed(pipe_fd, parent_fd))
        return;
    if (watchdog->config >= 0)
        clear_bus_master(watchdog->config);
    wait_for_end(parent_fd);
    for (uint32_t i = 0; i < watchdog->nwrites; i++)
        write_to(watchdog->writes[i].path, watchdog->writes[i].text);
}

/* ---- in the parent */

int pci_watchdog_start(const struct pci_watchdog *watchdog, int *done)
{
    int fds[2];
    if (pipe2(fds, O_CLOEXEC) < 0)
        return -errno;
    /* Of the process as a whole, and close-on-exec by itself. Where there is none, the
     * pipe alone will do. */
    int parent_fd = (int)syscall(SYS_pidfd_open, getpid(), 0);
    /* Before the fork: a signal must not find Python's handlers in the child. */
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int pid = fork();
    if (pid == 0) {
        close(fds[1]);
        watch(watchdog, fds[0], parent_fd);
        _exit(0);
    }
    int error = errno;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    close(fds[0]);
    if (parent_fd >= 0)
        close(parent_fd);
    if (pid < 0) {
        close(fds[1]);
        return -error;
    }
    *done = fds[1];
    return pid;
}

int pci_watchdog_stop(int pid, int done)
{
    /* One byte always fits. Nobody may read it any more: then SIGPIPE is not for the
     * program, which did nothing wrong. */
    sigset_t pipe_signal, before;
    sigemptyset(&pipe_signal);
    sigaddset(&pipe_signal, SIGPIPE);
    pthread_sigmask(SIG_BLOCK, &pipe_signal, &before);
    if (write(done, "", 1) < 0 && errno == EPIPE)
        sigtimedwait(&pipe_signal, NULL, &(struct timespec){0});
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    close(done);
    while (waitpid(pid, NULL, 0) < 0)
        if (errno != EINTR)
            return errno == ECHILD ? 0 : -errno;
    return 0;
}
